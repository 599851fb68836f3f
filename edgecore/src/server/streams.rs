//! Exec, attach and port-forward: the runtime is asked for a place to stream, and the caller is connected with it.

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use proto::cri;

use super::kubelet::{Found, Kubelet, plain, refused};
use super::relay::relay;

/// `/exec/{namespace}/{pod}[/{uid}]/{container}`.
pub(super) async fn exec(
    State(kubelet): State<Kubelet>,
    Path(segments): Path<Vec<String>>,
    request: Request,
) -> Response {
    let streams = match Streams::parse(&request) {
        Ok(streams) => streams,
        Err(text) => return plain(StatusCode::BAD_REQUEST, text),
    };
    let (found, container) = match target(&kubelet, &segments) {
        Ok(target) => target,
        Err(answer) => return *answer,
    };
    let id = match kubelet.running(&found.uid, container).await {
        Ok(Some(id)) => id,
        Ok(None) => return not_running(container),
        Err(error) => return refused(&error),
    };
    if !is_upgrade(request.headers()) {
        return no_upgrade();
    }
    let asked = cri::ExecRequest {
        container_id: id.to_string(),
        cmd: all(&request, "command"),
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    match kubelet.edged.runtime().exec(asked).await {
        Ok(url) => relay(&url, request, &kubelet.tasks).await,
        Err(error) => refused(&error),
    }
}

/// `/attach/{namespace}/{pod}[/{uid}]/{container}`. Whether there is a terminal was decided when the container was made.
pub(super) async fn attach(
    State(kubelet): State<Kubelet>,
    Path(segments): Path<Vec<String>>,
    request: Request,
) -> Response {
    let streams = match Streams::parse(&request) {
        Ok(streams) => streams,
        Err(text) => return plain(StatusCode::BAD_REQUEST, text),
    };
    let (found, container) = match target(&kubelet, &segments) {
        Ok(target) => target,
        Err(answer) => return *answer,
    };
    let (id, terminal) = match (kubelet.running(&found.uid, container).await, found.container(container)) {
        (Ok(Some(id)), Some(terminal)) => (id, terminal),
        (Ok(_), _) => {
            let pod = format!("{}_{}", found.name(), found.namespace());
            let text = format!("container {container} not found in pod {pod}");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, text);
        }
        (Err(error), _) => return refused(&error),
    };
    if !is_upgrade(request.headers()) {
        return no_upgrade();
    }
    let asked = cri::AttachRequest {
        container_id: id.to_string(),
        tty: terminal.0,
        stdin: streams.stdin,
        stdout: streams.stdout,
        // A terminal is one stream.
        stderr: streams.stderr && !terminal.0,
    };
    match kubelet.edged.runtime().attach(asked).await {
        Ok(url) => relay(&url, request, &kubelet.tasks).await,
        Err(error) => refused(&error),
    }
}

/// `/portForward/{namespace}/{pod}[/{uid}]`. Ports are named in the query by WebSocket clients only.
pub(super) async fn port_forward(
    State(kubelet): State<Kubelet>,
    Path(segments): Path<Vec<String>>,
    request: Request,
) -> Response {
    let ports = match ports(&request) {
        Ok(ports) => ports,
        Err(text) => return plain(StatusCode::BAD_REQUEST, text),
    };
    let (namespace, name, uid) = match segments.as_slice() {
        [namespace, name] => (namespace, name, None),
        [namespace, name, uid] => (namespace, name, Some(uid)),
        _ => return plain(StatusCode::NOT_FOUND, NO_POD),
    };
    let found = match pod(&kubelet, namespace, name, uid.map(String::as_str)) {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    let sandbox = match kubelet.sandbox(&found.uid).await {
        Ok(Some(sandbox)) => sandbox,
        Ok(None) => {
            let text = format!("pod not found (\"{name}_{namespace}\")");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, text);
        }
        Err(error) => return refused(&error),
    };
    if !is_upgrade(request.headers()) {
        return no_upgrade();
    }
    let asked = cri::PortForwardRequest {
        pod_sandbox_id: sandbox.to_string(),
        port: ports,
    };
    match kubelet.edged.runtime().port_forward(asked).await {
        Ok(url) => relay(&url, request, &kubelet.tasks).await,
        Err(error) => refused(&error),
    }
}

const NO_POD: &str = "pod does not exist";

/// Pod and container of a path with or without a uid.
fn target<'a>(kubelet: &Kubelet, segments: &'a [String]) -> Result<(Found, &'a str), Box<Response>> {
    let (namespace, name, uid, container) = match segments {
        [namespace, name, container] => (namespace, name, None, container),
        [namespace, name, uid, container] => (namespace, name, Some(uid.as_str()), container),
        _ => return Err(Box::new(plain(StatusCode::NOT_FOUND, NO_POD))),
    };
    Ok((pod(kubelet, namespace, name, uid)?, container))
}

fn pod(kubelet: &Kubelet, namespace: &str, name: &str, uid: Option<&str>) -> Result<Found, Box<Response>> {
    let not_found = |text| Box::new(plain(StatusCode::NOT_FOUND, text));
    let found = kubelet.pod(namespace, name).ok_or_else(|| not_found(NO_POD))?;
    if uid.is_some_and(|uid| !uid.is_empty() && !found.is(uid)) {
        return Err(not_found("pod not found"));
    }
    Ok(found)
}

fn not_running(container: &str) -> Response {
    plain(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("container not found ({container:?})"),
    )
}

fn no_upgrade() -> Response {
    plain(StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required\n")
}

/// Which streams are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn parse(request: &Request) -> Result<Self, &'static str> {
        let is_on = |name: &str| all(request, name).first().is_some_and(|value| value == "1");
        let tty = is_on("tty");
        let streams = Self {
            stdin: is_on("input"),
            stdout: is_on("output"),
            // A terminal is one stream; the runtime refuses both.
            stderr: is_on("error") && !tty,
            tty,
        };
        if streams.stdin || streams.stdout || streams.stderr {
            Ok(streams)
        } else {
            Err("you must specify at least 1 of stdin, stdout, stderr")
        }
    }
}

/// All values of one name in the query.
fn all(request: &Request, name: &str) -> Vec<String> {
    form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .collect()
}

fn ports(request: &Request) -> Result<Vec<i32>, String> {
    if !has_word(request.headers(), header::UPGRADE, "websocket") {
        return Ok(Vec::new());
    }
    let texts = all(request, "port");
    if texts.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    let mut ports = Vec::new();
    for text in &texts {
        if text.is_empty() {
            return Err("query parameter \"port\" cannot be empty".to_owned());
        }
        for port in text.split(',') {
            match port.parse::<u16>() {
                Ok(0) => return Err(format!("port {text:?} must be > 0")),
                Ok(port) => ports.push(i32::from(port)),
                Err(error) => return Err(format!("unable to parse {text:?} as a port: {error}")),
            }
        }
    }
    Ok(ports)
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    has_word(headers, header::CONNECTION, "upgrade")
}

fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let value = value.to_str().unwrap_or_default();
        value.split(',').any(|found| found.trim().eq_ignore_ascii_case(word))
    })
}
