//! The routes, with Go's texts and codes.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, FromRequest as _, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use proto::join::MAX_REQUEST;
use proto::{Content, NodeName};
use rustls::server::danger::ClientCertVerifier;
use tracing::{info, warn};

use super::Caller;
use super::certificate::{self, Denied};
use crate::cloudhub::{Shared, TaskReport};

/// A report on a task.
const MAX_REPORT: usize = 3 * 1024 * 1024;

#[derive(Clone)]
struct Server {
    shared: Arc<Shared>,
    verifier: Arc<dyn ClientCertVerifier>,
}

pub(super) fn router(shared: Arc<Shared>, verifier: Arc<dyn ClientCertVerifier>) -> Router {
    Router::new()
        .route("/ca.crt", get(ca))
        .route("/edge.crt", get(edge))
        .route("/node/{name}", get(node))
        .route("/nodeupgrade", post(node_upgrade))
        .route("/task/{task_type}/name/{task_id}/node/{node}/status", post(task_status))
        .route("/healthz", get(healthy))
        .route("/readyz", get(healthy))
        .method_not_allowed_fallback(|| async { text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed") })
        .fallback(|| async { text(StatusCode::NOT_FOUND, "404: Page Not Found") })
        .layer(DefaultBodyLimit::max(MAX_REPORT))
        .with_state(Server { shared, verifier })
}

async fn healthy() -> Response {
    text(StatusCode::OK, "ok")
}

async fn ca(State(server): State<Server>) -> Response {
    binary(server.shared.identity.ca().to_vec())
}

async fn edge(
    State(server): State<Server>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let node = NodeName::from(header(&headers, "NodeName"));
    let refuse = |status, reason: String| {
        warn!(%node, reason, "no certificate issued");
        text(status, &reason)
    };
    let proof = certificate::Proof {
        shown: caller.shown.as_ref(),
        authorization: headers.get("Authorization"),
    };
    if let Err(Denied(reason)) = proof.check(
        &server.shared.identity,
        &*server.verifier,
        &node,
        server.shared.settings.legacy_certificates,
    ) {
        return refuse(StatusCode::UNAUTHORIZED, reason);
    }
    if proof.is_revoked(&server.shared.revoked.read(), &node) {
        let reason = format!("the certificate of node {node} is revoked (ConfigMap kubeedge/revokednodes)");
        return refuse(StatusCode::UNAUTHORIZED, reason);
    }
    caller.place.keep();
    let failed = |reason: String| refuse(StatusCode::INTERNAL_SERVER_ERROR, not_signed(&node, &reason));
    let Ok(body) = axum::body::to_bytes(request.into_body(), MAX_REQUEST).await else {
        return failed("fail to read file when signing the cert, err: http: request body too large".into());
    };
    match certificate::issue(&server.shared, &node, &proof, headers.get("ExtKeyUsages"), &body) {
        Ok(der) => {
            info!(%node, "certificate issued");
            binary(der)
        }
        // keadm asks what the token is worth before it changes anything on its machine.
        Err(reason) if body.is_empty() => {
            info!(%node, "token is good, nothing was to be signed: somebody is about to join");
            text(StatusCode::INTERNAL_SERVER_ERROR, &not_signed(&node, &reason))
        }
        Err(reason) => failed(reason),
    }
}

fn not_signed(node: &NodeName, reason: &str) -> String {
    format!("failed to sign certs for edgenode {node}, err: {reason}")
}

async fn node(State(server): State<Server>, Path(name): Path<String>) -> Response {
    match server.shared.cluster.node_exists(&NodeName::from(name)).await {
        Ok(true) => text(StatusCode::OK, "Node found"),
        Ok(false) => text(StatusCode::NOT_FOUND, "Node not found"),
        Err(error) => {
            warn!(%error, "cannot look up a node for keadm");
            text(StatusCode::INTERNAL_SERVER_ERROR, "Failed to query node information")
        }
    }
}

async fn node_upgrade(
    State(server): State<Server>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let body = match report(request).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let Some((node, task_id)) = upgrade_of(&body) else {
        return text(
            StatusCode::BAD_REQUEST,
            "failed to marshal task info: no UpgradeID and NodeName in the report",
        );
    };
    accept_report(&server, &caller, node, "upgrade".into(), task_id, body)
}

async fn task_status(
    State(server): State<Server>,
    Extension(caller): Extension<Caller>,
    Path((task_type, task_id, node)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    match report(request).await {
        Ok(body) => accept_report(&server, &caller, node.into(), task_type, task_id, body),
        Err(response) => response,
    }
}

async fn report(request: Request) -> Result<String, Response> {
    let malformed = |error: &str| {
        text(
            StatusCode::BAD_REQUEST,
            &format!("failed to marshal task info: {error}"),
        )
    };
    let body = Bytes::from_request(request, &())
        .await
        .map_err(|error| malformed(&error.to_string()))?;
    let body = String::from_utf8(body.to_vec()).map_err(|_| malformed("not UTF-8"))?;
    Content::from_json_text(body.clone()).map_err(|error| malformed(&error.to_string()))?;
    Ok(body)
}

/// Anybody could report to Go; ours wants the node's certificate, which keadm shows (spec 01 §7.1).
fn accept_report(
    server: &Server,
    caller: &Caller,
    node: NodeName,
    task_type: String,
    task_id: String,
    body: String,
) -> Response {
    let Some(shown) = &caller.shown else {
        return text(
            StatusCode::UNAUTHORIZED,
            "the client certificate of the node is required",
        );
    };
    let legacy = server.shared.settings.legacy_certificates;
    if let Err(Denied(reason)) = certificate::verify(shown, &*server.verifier, &node, legacy) {
        return text(StatusCode::UNAUTHORIZED, &reason);
    }
    caller.place.keep();
    server.shared.cluster.task_report(TaskReport {
        node,
        task_type,
        task_id,
        body,
    });
    text(StatusCode::OK, "ok")
}

fn upgrade_of(body: &str) -> Option<(NodeName, String)> {
    let report = Content::from_json_text(body.to_owned())
        .ok()?
        .parse::<proto::join::UpgradeReport>()
        .ok()?;
    (!report.node_name.is_empty()).then(|| (report.node_name.as_str().into(), report.upgrade_id))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn text(status: StatusCode, text: &str) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], text.to_owned()).into_response()
}

fn binary(bytes: Vec<u8>) -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}
