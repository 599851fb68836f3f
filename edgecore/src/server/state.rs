//! What is asked of this program's own state: health, the pods that are to run, counters.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use common::chain;
use prometheus_client::registry::Registry;
use proto::Content;

use crate::edged::Edged;
use crate::edged::node::NodeView;
use crate::metamanager::MetaManager;

/// What Prometheus expects.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn router(meta: MetaManager, edged: Option<Edged>, registry: Arc<Registry>) -> Router {
    let healthy = || async { "ok" };
    let node = meta.clone();
    Router::new()
        .route("/readyz", get(move || async move { ready(&node).await }))
        .route("/healthz", get(healthy))
        .route("/healthz/ping", get(healthy))
        .route("/healthz/log", get(healthy))
        .route(
            "/healthz/syncloop",
            get(move || async move { sync_loop(edged.as_ref()) }),
        )
        .route("/pods", get(move || async move { pods(&meta) }))
        .route("/metrics", get(move || async move { metrics(&registry) }))
}

/// Whether the runtime's containers are listed in time, which all that is done about pods begins with; a kubelet answers 500 as well.
fn sync_loop(edged: Option<&Edged>) -> Response {
    match edged {
        Some(edged) if !edged.is_listing() => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "the container runtime has not listed its containers within the last 3 minutes",
        )
            .into_response(),
        Some(_) => "ok".into_response(),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "edged is off (modules.edged.enable): no pod runs here",
        )
            .into_response(),
    }
}

/// Whether the node is Ready in the API, as far as is known here. Ours only: `keadm join` waits for it.
async fn ready(meta: &MetaManager) -> Response {
    let node = match meta.node().await {
        Ok(Some(node)) => node.view::<NodeView>().ok(),
        Ok(None) => None,
        Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, chain(&error)).into_response(),
    };
    let Some(node) = node else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node is not registered yet").into_response();
    };
    let conditions = node.status.unwrap_or_default().conditions;
    match conditions.into_iter().find(|one| one.kind == "Ready") {
        Some(condition) if condition.status == "True" => "ok".into_response(),
        Some(condition) => (StatusCode::SERVICE_UNAVAILABLE, condition.message).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the node has reported no state yet").into_response(),
    }
}

fn pods(meta: &MetaManager) -> Response {
    let set = meta.pods().borrow().clone();
    let items: Vec<Content> = set.pods.values().map(|pod| Content::from(&pod.object)).collect();
    let list = Content::json(&serde_json::json!({
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {},
        "items": items,
    }));
    ([(header::CONTENT_TYPE, "application/json")], list.get().to_owned()).into_response()
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_edged_there_is_no_loop_that_is_well() {
        assert_eq!(sync_loop(None).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
