//! The container runtime: which socket answers, and which cgroup driver it uses.

use std::time::Duration;

use anyhow::bail;
use hyper_util::rt::TokioIo;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use proto::cri::{CgroupDriver, RuntimeConfigRequest, StatusRequest, VersionRequest};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::cli::Join;
use crate::steps::Steps;

/// The runtime that edgecore will use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runtime {
    /// `unix:///…`
    pub(super) endpoint: String,
    /// `cgroupfs` or `systemd`.
    pub(super) cgroup_driver: String,
}

/// Finds a runtime that answers; refuses where none does.
pub(super) async fn find(options: &Join) -> anyhow::Result<Runtime> {
    let docker = options.runtimetype.as_deref() == Some("docker");
    let given = options.remote_runtime_endpoint.as_str();
    let endpoint = |path: &str| {
        if path.contains("://") {
            path.to_owned()
        } else {
            format!("unix://{path}")
        }
    };
    let candidates: Vec<String> = if given.is_empty() {
        let order: &[&str] = if docker { &DOCKER_FIRST } else { &CONTAINERD_FIRST };
        order.iter().map(|path| (*path).to_owned()).collect()
    } else {
        vec![endpoint(given)]
    };
    let mut refusals = Vec::new();
    for candidate in &candidates {
        match Cri::dial(candidate).await {
            Ok(mut cri) => {
                if docker {
                    Steps::warn(&format!("edgecore speaks CRI, not docker: it uses {candidate}"));
                }
                let cgroup_driver = driver(options, &mut cri).await?;
                return Ok(Runtime {
                    endpoint: candidate.clone(),
                    cgroup_driver,
                });
            }
            Err(error) => refusals.push(format!("{candidate}: {error}")),
        }
    }
    bail!(
        "no container runtime answers ({}). Start containerd with CRI switched on (docker's containerd package ships \
         disabled_plugins = [\"cri\"] in /etc/containerd/config.toml: remove it and restart containerd), or install cri-dockerd \
         for docker; --remote-runtime-endpoint names another socket",
        refusals.join("; ")
    )
}

async fn driver(options: &Join, cri: &mut Cri) -> anyhow::Result<String> {
    let found = cri.cgroup_driver().await;
    match (options.cgroupdriver.as_str(), found) {
        ("", found) => Ok(found.unwrap_or("cgroupfs").to_owned()),
        (given @ ("cgroupfs" | "systemd"), Some(found)) if given != found => {
            Steps::warn(&format!(
                "the runtime's cgroup driver is {found}, pods are made with --cgroupdriver={given}: they should be the same"
            ));
            Ok(given.to_owned())
        }
        (given @ ("cgroupfs" | "systemd"), _) => Ok(given.to_owned()),
        (other, _) => bail!("unsupported CGroupDriver: {other}"),
    }
}

struct Cri(RuntimeServiceClient<Channel>);

impl Cri {
    async fn dial(endpoint: &str) -> anyhow::Result<Self> {
        let Some(path) = endpoint.strip_prefix("unix://").map(str::to_owned) else {
            bail!("not a unix:// address")
        };
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used: the socket is. Go's servers want a name without a path in it.
        let channel = Endpoint::from_static("http://localhost")
            .timeout(PATIENCE)
            .connect_with_connector(connect)
            .await
            .map_err(innermost)?;
        let mut client = RuntimeServiceClient::new(channel);
        client
            .version(VersionRequest::default())
            .await
            .map_err(|status| anyhow::anyhow!("{}", status.message()))?;
        Ok(Self(client))
    }

    /// What the runtime says about itself; `None` when it does not.
    async fn cgroup_driver(&mut self) -> Option<&'static str> {
        if let Ok(answer) = self.0.runtime_config(RuntimeConfigRequest {}).await
            && let Some(linux) = answer.into_inner().linux
        {
            return Some(match linux.cgroup_driver() {
                CgroupDriver::Systemd => "systemd",
                CgroupDriver::Cgroupfs => "cgroupfs",
            });
        }
        let status = self.0.status(StatusRequest { verbose: true }).await.ok()?.into_inner();
        from_containerd(status.info.get("config")?)
    }
}

/// From the configuration that containerd before 2.0 shows in its status.
fn from_containerd(config: &str) -> Option<&'static str> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let containerd = config.get("containerd")?;
    let runtime = containerd
        .get("defaultRuntimeName")
        .and_then(serde_json::Value::as_str)
        .unwrap_or("runc");
    let systemd = containerd
        .get("runtimes")?
        .get(runtime)?
        .get("options")?
        .get("SystemdCgroup")?
        .as_bool()?;
    Some(if systemd { "systemd" } else { "cgroupfs" })
}

/// The transport's own words say nothing; its cause does.
fn innermost(error: tonic::transport::Error) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    anyhow::anyhow!("{}", error.root_cause())
}

const PATIENCE: Duration = Duration::from_secs(5);
const CONTAINERD_FIRST: [&str; 3] = [
    "unix:///run/containerd/containerd.sock",
    "unix:///run/crio/crio.sock",
    "unix:///run/cri-dockerd.sock",
];
const DOCKER_FIRST: [&str; 3] = [
    "unix:///run/cri-dockerd.sock",
    "unix:///run/containerd/containerd.sock",
    "unix:///run/crio/crio.sock",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_driver_of_containerd() {
        let config = |value: &str| {
            format!(r#"{{"containerd":{{"defaultRuntimeName":"runc","runtimes":{{"runc":{{"options":{value}}}}}}}}}"#)
        };
        assert_eq!(from_containerd(&config(r#"{"SystemdCgroup":true}"#)), Some("systemd"));
        assert_eq!(from_containerd(&config(r#"{"SystemdCgroup":false}"#)), Some("cgroupfs"));
        assert_eq!(from_containerd(&config("{}")), None);
        assert_eq!(from_containerd("x"), None);
    }

    #[tokio::test]
    async fn an_absent_socket_is_named() {
        let error = Cri::dial("unix:///nonexistent/x.sock")
            .await
            .err()
            .expect("nothing is there");
        assert!(format!("{error:#}").contains("No such file"), "{error:#}");
    }
}
