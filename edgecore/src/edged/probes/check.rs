//! One question to a container.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tracing::{debug, warn};

use super::grpc;
use super::metrics::ContainerMetrics;
use super::worker::{Check, Kind, seconds};
use crate::edged::context::ContainerKind;
use crate::edged::events::{Events, Severity};
use crate::edged::http_get::{HttpError, http_get, resolve_port, wants_tls};
use crate::edged::podspec::expand_static;
use crate::edged::runtime::{ContainerId, Runtime};
use crate::pod::Pod;

/// What asking needs.
pub(super) struct Checker {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) pod: String,
    pub(super) metrics: ContainerMetrics,
    pub(super) object: Arc<Pod>,
    pub(super) events: Events,
    pub(super) kind: ContainerKind,
    pub(super) container: Container,
    pub(super) id: ContainerId,
    pub(super) pod_ip: Option<IpAddr>,
}

/// An answer.
enum Answer {
    Yes,
    /// A redirect to elsewhere: nobody can tell, so it counts as yes.
    Elsewhere,
    No(String),
    /// The question could not be put.
    None(String),
}

impl Check for Checker {
    fn check<'a>(&'a self, kind: Kind, probe: &'a Probe) -> BoxFuture<'a, Option<bool>> {
        async move {
            let asked = Instant::now();
            let outcome = self.check_again(kind, probe).await;
            self.metrics.note(kind, outcome, asked.elapsed());
            outcome
        }
        .boxed()
    }
}

impl Checker {
    /// Asks until there is an answer, a few times.
    async fn check_again(&self, kind: Kind, probe: &Probe) -> Option<bool> {
        let (pod, container, probed) = (&self.pod, &self.container.name, kind.word());
        for _ in 0..TRIES {
            match self.ask(probe).await {
                Answer::Yes => return Some(true),
                Answer::Elsewhere => {
                    debug!(pod, container, probe = probed, "probe was redirected to another host");
                    return Some(true);
                }
                Answer::No(why) => {
                    warn!(pod, container, probe = probed, why, "probe failed");
                    let message = format!("{} probe failed: {why}", kind.title());
                    let place = (self.kind, container.as_str());
                    self.events
                        .container(&self.object, place, Severity::Warning, "Unhealthy", message);
                    return Some(false);
                }
                Answer::None(why) => debug!(pod, container, probe = probed, why, "probe errored"),
            }
        }
        None
    }

    async fn ask(&self, probe: &Probe) -> Answer {
        let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
        if let Some(exec) = &probe.exec {
            let words = exec.command.as_deref().unwrap_or_default();
            return match expand_static(words, &self.container) {
                Ok(command) => self.exec(command, limit).await,
                Err(error) => Answer::None(format!("command: {error}")),
            };
        }
        let asked = if let Some(get) = &probe.http_get {
            let request = http_get(get, &self.container, self.pod_ip, "probe", wants_tls(get));
            timeout(limit, request).await.map(|answer| match answer {
                Ok(status) if status.is_success() => Answer::Yes,
                Ok(status) if status.is_redirection() => Answer::Elsewhere,
                Ok(status) => Answer::No(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
                Err(HttpError::Request(why)) => Answer::None(why),
                Err(error) => Answer::No(common::chain(&error)),
            })
        } else if let Some(tcp) = &probe.tcp_socket {
            let own = tcp.host.clone().filter(|host| !host.is_empty());
            let Some(host) = own.or_else(|| self.pod_ip.map(|ip| ip.to_string())) else {
                return no_address();
            };
            let port = match resolve_port(&tcp.port, &self.container) {
                Ok(port) => port,
                Err(why) => return Answer::None(why),
            };
            timeout(limit, TcpStream::connect((host.as_str(), port)))
                .await
                .map(|connected| match connected {
                    Ok(_) => Answer::Yes,
                    Err(error) => Answer::No(format!("dial tcp {host}:{port}: {error}")),
                })
        } else if let Some(health) = &probe.grpc {
            let Some(ip) = self.pod_ip else { return no_address() };
            let service = health.service.clone().unwrap_or_default();
            timeout(limit, grpc::check(ip, health.port, service))
                .await
                .map(|healthy| match healthy {
                    Ok(()) => Answer::Yes,
                    Err(why) => Answer::No(why),
                })
        } else {
            return Answer::None("the probe says not what to ask".into());
        };
        asked.unwrap_or_else(|_| Answer::No(format!("no answer within {} s", limit.as_secs())))
    }

    async fn exec(&self, command: Vec<String>, limit: Duration) -> Answer {
        match self.runtime.exec_sync(&self.id, command, limit).await {
            Ok(output) if output.exit_code == 0 => Answer::Yes,
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                let text = text.get(..MAX_OUTPUT).unwrap_or(&text);
                Answer::No(String::from_utf8_lossy(text).into_owned())
            }
            Err(error) if error.code == Code::DeadlineExceeded => {
                Answer::No(format!("command timed out after {} s", limit.as_secs()))
            }
            Err(error) => Answer::None(error.to_string()),
        }
    }
}

fn no_address() -> Answer {
    Answer::None("the pod has no address".into())
}

const TRIES: usize = 3;
/// Bytes of a command's output in the log.
const MAX_OUTPUT: usize = 1024;
