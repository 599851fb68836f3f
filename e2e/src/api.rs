//! The Kubernetes API as scenarios see it: blocking, objects as JSON. kubectl is used where a user would use it; looking at a
//! status twenty times a second is done here, because a kubectl takes a tenth of a second of CPU to start.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::stream::BoxStream;
use futures::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::Role;

/// A client. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    runtime: Arc<Runtime>,
    client: kube::Client,
    port: u16,
}

impl Api {
    /// A client from a kubeconfig file.
    pub fn new(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let file = Kubeconfig::read_from(kubeconfig).with_context(|| format!("{}", kubeconfig.display()))?;
        let (client, port) = runtime.block_on(async {
            let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            let port = config.cluster_url.port_u16().unwrap_or(443);
            anyhow::Ok((kube::Client::try_from(config)?, port))
        })?;
        Ok(Self {
            runtime: Arc::new(runtime),
            client,
            port,
        })
    }

    /// The API server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// An object, or nothing if there is none.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        self.request("GET", path, "", Vec::new())
    }

    /// An object that must exist.
    pub fn must(&self, path: &str) -> Result<Value> {
        self.get(path)?.with_context(|| format!("{path} does not exist"))
    }

    /// The items of a list.
    pub fn list(&self, path: &str) -> Result<Vec<Value>> {
        match self.must(path)?.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => bail!("{path} is no list"),
        }
    }

    /// The objects of a list, from now on as they change.
    pub fn follow(&self, path: &str) -> Result<Followed> {
        let list = self.must(path)?;
        let version = text(&list, "/metadata/resourceVersion");
        let request = http::Request::get(format!("{path}?watch=1&resourceVersion={version}")).body(Vec::new())?;
        let changes = self.runtime.block_on(self.client.request_events(request))?;
        Ok(Followed {
            runtime: self.runtime.clone(),
            changes: changes.boxed(),
            objects: elements(&list, "/items")
                .map(|object| (name(object).to_owned(), object.clone()))
                .collect(),
        })
    }

    /// Creates an object.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let created = self.request("POST", path, "application/json", object.to_string().into_bytes())?;
        created.with_context(|| format!("{path} does not exist"))
    }

    /// Changes an object by a merge patch.
    pub fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        let body = patch.to_string().into_bytes();
        let changed = self.request("PATCH", path, "application/merge-patch+json", body)?;
        changed.with_context(|| format!("{path} does not exist"))
    }

    /// Deletes an object, or all of a collection; what is gone already is no error.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.request("DELETE", path, "", Vec::new()).map(drop)
    }

    /// Begins an exec or attach as a WebSocket, and leaves it after `hold` without a word.
    pub fn abort_upgrade(&self, path: &str, hold: std::time::Duration) -> Result<()> {
        self.runtime.block_on(async {
            let answer = self.upgrade(path, "v4.channel.k8s.io").await?;
            tokio::time::sleep(hold).await;
            drop(answer);
            Ok(())
        })
    }

    /// Runs a command by a WebSocket of this subprotocol, with `input` for it: its output, and the status that the last channel tells.
    pub fn exec(&self, path: &str, protocol: &str, input: &[u8]) -> Result<(Vec<u8>, Value)> {
        // A frame's first byte is its channel.
        const INPUT: u8 = 0;
        const OUTPUT: u8 = 1;
        const STATUS: u8 = 3;
        let talk = async {
            let answer = self.upgrade(path, protocol).await?;
            let chosen = answer.headers().get("sec-websocket-protocol").cloned();
            anyhow::ensure!(chosen.is_some_and(|chosen| chosen == protocol), "another subprotocol");
            let upgraded = TokioIo::new(hyper::upgrade::on(answer).await?);
            let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
            socket.send(Frame::binary([&[INPUT][..], input].concat())).await?;
            let mut output: Vec<u8> = Vec::new();
            loop {
                let bytes = match socket.next().await {
                    Some(Ok(Frame::Binary(bytes))) => bytes,
                    Some(Ok(Frame::Close(_)) | Err(_)) | None => bail!("{path}: no status after {output:?}"),
                    Some(Ok(_)) => continue,
                };
                match bytes.split_first() {
                    Some((&OUTPUT, rest)) => output.extend_from_slice(rest),
                    // An empty one opens the channel.
                    Some((&STATUS, rest)) if !rest.is_empty() => {
                        return anyhow::Ok((output, serde_json::from_slice::<Value>(rest)?));
                    }
                    _ => {}
                }
            }
        };
        let time = Duration::from_secs(60);
        self.runtime
            .block_on(async { tokio::time::timeout(time, talk).await })
            .with_context(|| format!("{path}: no status in 60 s"))?
    }

    async fn upgrade(&self, path: &str, protocol: &str) -> Result<http::Response<kube::client::Body>> {
        let request = http::Request::get(path)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", protocol)
            .body(kube::client::Body::empty())?;
        let time = Duration::from_secs(40);
        let answer = tokio::time::timeout(time, self.client.send(request))
            .await
            .with_context(|| format!("{path}: no answer in 40 s"))??;
        anyhow::ensure!(answer.status().as_u16() == 101, "{path}: {}", answer.status());
        Ok(answer)
    }

    fn request(&self, method: &str, path: &str, content: &str, body: Vec<u8>) -> Result<Option<Value>> {
        let mut request = http::Request::builder().method(method).uri(path);
        if !content.is_empty() {
            request = request.header("content-type", content);
        }
        let answer = self.runtime.block_on(async {
            let time = std::time::Duration::from_secs(20);
            tokio::time::timeout(time, self.client.request::<Value>(request.body(body)?))
                .await
                .with_context(|| format!("{method} {path}: no answer in 20 s"))
        })?;
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{method} {path}")),
        }
    }
}

/// The objects of a list by name, kept up to date by a watch: unlike looking again and again it costs the API server next to
/// nothing, so that it does not slow down what is measured.
pub struct Followed {
    runtime: Arc<Runtime>,
    changes: BoxStream<'static, kube::Result<WatchEvent<Value>>>,
    objects: BTreeMap<String, Value>,
}

impl Followed {
    /// Waits until the objects are as they should be.
    pub fn until(
        &mut self,
        what: &str,
        limit: Duration,
        enough: impl Fn(&BTreeMap<String, Value>) -> bool,
    ) -> Result<()> {
        let Self {
            runtime,
            changes,
            objects,
        } = self;
        let end = Instant::now() + limit;
        while !enough(objects) {
            let change = runtime
                .block_on(async { timeout_at(end, changes.next()).await })
                .with_context(|| format!("{what}: not within {} s", limit.as_secs()))?;
            match change.with_context(|| format!("{what}: the watch ended"))?? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    objects.insert(name(&object).to_owned(), object);
                }
                WatchEvent::Deleted(object) => {
                    objects.remove(name(&object));
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => bail!("{what}: {}", status.message),
            }
        }
        Ok(())
    }
}

/// A string inside an object, by JSON pointer; empty if there is none.
#[must_use]
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A whole number inside an object; 0 if there is none.
#[must_use]
pub fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The elements of a list inside an object.
pub fn elements<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Status of a condition ("True", "False", "Unknown"); empty if there is no such condition.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    elements(object, "/status/conditions")
        .find(|one| text(one, "/type") == kind)
        .map_or("", |one| text(one, "/status"))
}

/// metadata.name.
#[must_use]
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// Whether a pod is Ready.
#[must_use]
pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == "True" && pod.pointer("/metadata/deletionTimestamp").is_none()
}

/// Sum of the restarts of a pod's containers.
#[must_use]
pub fn restarts(pod: &Value) -> i64 {
    elements(pod, "/status/containerStatuses")
        .map(|one| number(one, "/restartCount"))
        .sum()
}

/// Path of the pods of a namespace.
#[must_use]
pub fn pods_path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// Path of a node.
#[must_use]
pub fn node_path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}
