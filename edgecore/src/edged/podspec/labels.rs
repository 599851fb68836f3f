//! Labels, annotations and the hash by which containers are found again, also by a Go edgecore (spec 05 §6, rows 5, 8, 9).

use std::collections::HashMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, ContainerPort, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use crate::edged::context::ContainerRef;
use crate::edged::context::PodContext;

/// The label that names the pod.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// The label that names its namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The label that carries its uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// The label that names the container.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// The annotation that carries [`container_hash`].
pub const HASH: &str = "io.kubernetes.container.hash";
/// The annotation that counts restarts.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// The annotation with the path of the termination message.
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// The annotation with its policy.
const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
const PORTS: &str = "io.kubernetes.container.ports";
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";

/// Tells a container whose definition changed: FNV-1a over the debug form of JSON bytes, as every kubelet since 1.28 computes it.
pub fn container_hash(container: &Container) -> String {
    hash(&container.name, container.image.as_deref().unwrap_or_default())
}

fn hash(name: &str, image: &str) -> String {
    let json = format!("{{\"image\":{},\"name\":{}}}", go_string(image), go_string(name));
    let mut text = String::from("([]uint8)[");
    for (index, byte) in json.bytes().enumerate() {
        let separator = if index == 0 { "" } else { " " };
        let _ = write!(text, "{separator}{byte}");
    }
    text.push(']');
    let mut hash: u32 = 0x811c_9dc5;
    for byte in text.bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    format!("{hash:x}")
}

pub(super) fn pod_labels(ctx: &PodContext) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = ctx
        .pod
        .metadata
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    labels.extend(identity(ctx));
    labels
}

pub(super) fn pod_annotations(ctx: &PodContext) -> HashMap<String, String> {
    ctx.pod
        .metadata
        .annotations
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect()
}

pub(super) fn container_labels(ctx: &PodContext, container: &ContainerRef) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = identity(ctx).into_iter().collect();
    labels.insert(CONTAINER_NAME.into(), container.container.name.clone());
    labels
}

pub(super) fn container_annotations(
    ctx: &PodContext,
    container: &ContainerRef,
    restart_count: u32,
) -> HashMap<String, String> {
    let spec = container.container;
    let mut all = HashMap::new();
    let mut put = |key: &str, value: String| all.insert(key.to_owned(), value);
    put(HASH, container_hash(spec));
    put(RESTART_COUNT, restart_count.to_string());
    put(MESSAGE_PATH, spec.termination_message_path.clone().unwrap_or_default());
    put(
        MESSAGE_POLICY,
        spec.termination_message_policy.clone().unwrap_or_default(),
    );
    if let Some(seconds) = ctx.pod.metadata.deletion_grace_period_seconds {
        put(DELETION_GRACE, seconds.to_string());
    }
    if let Some(seconds) = ctx.spec().termination_grace_period_seconds {
        put(GRACE, seconds.to_string());
    }
    let pre_stop = spec
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(text) = pre_stop.and_then(|handler| serde_json::to_string(&Handler::from(handler)).ok()) {
        put(PRE_STOP, go_escaped(&text));
    }
    if let Some(ports) = spec.ports.as_ref().filter(|ports| !ports.is_empty()) {
        let ports: Vec<Port> = ports.iter().map(Port::from).collect();
        if let Ok(text) = serde_json::to_string(&ports) {
            put(PORTS, go_escaped(&text));
        }
    }
    all
}

fn identity(ctx: &PodContext) -> [(String, String); 3] {
    [
        (POD_NAME.into(), ctx.name().into()),
        (POD_NAMESPACE.into(), ctx.namespace().into()),
        (POD_UID.into(), ctx.uid().to_string()),
    ]
}

fn go_string(text: &str) -> String {
    go_escaped(&serde_json::Value::from(text).to_string())
}

/// Go writes these characters of JSON strings as escapes; they occur nowhere else in JSON text.
fn go_escaped(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// The fields in the order in which Go writes them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Port<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_port: Option<i32>,
    container_port: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    host_ip: Option<&'a str>,
}

impl<'a> From<&'a ContainerPort> for Port<'a> {
    fn from(port: &'a ContainerPort) -> Self {
        Self {
            name: some(port.name.as_ref()),
            host_port: port.host_port.filter(|port| *port != 0),
            container_port: port.container_port,
            protocol: some(port.protocol.as_ref()),
            host_ip: some(port.host_ip.as_ref()),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Handler<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<Exec<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_get: Option<HttpGet<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_socket: Option<Tcp<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sleep: Option<Sleep>,
}

#[derive(Serialize)]
struct Exec<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HttpGet<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    port: &'a IntOrString,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_headers: Option<Vec<Header<'a>>>,
}

#[derive(Serialize)]
struct Header<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct Tcp<'a> {
    port: &'a IntOrString,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
}

#[derive(Serialize)]
struct Sleep {
    seconds: i64,
}

impl<'a> From<&'a LifecycleHandler> for Handler<'a> {
    fn from(handler: &'a LifecycleHandler) -> Self {
        Self {
            exec: handler.exec.as_ref().map(|e| Exec {
                command: e.command.as_ref().filter(|c| !c.is_empty()),
            }),
            http_get: handler.http_get.as_ref().map(|get| HttpGet {
                path: some(get.path.as_ref()),
                port: &get.port,
                host: some(get.host.as_ref()),
                scheme: some(get.scheme.as_ref()),
                http_headers: get
                    .http_headers
                    .as_ref()
                    .filter(|headers| !headers.is_empty())
                    .map(|headers| {
                        headers
                            .iter()
                            .map(|header| Header {
                                name: &header.name,
                                value: &header.value,
                            })
                            .collect()
                    }),
            }),
            tcp_socket: handler.tcp_socket.as_ref().map(|tcp| Tcp {
                port: &tcp.port,
                host: some(tcp.host.as_ref()),
            }),
            sleep: handler.sleep.as_ref().map(|sleep| Sleep { seconds: sleep.seconds }),
        }
    }
}

fn some(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}
