//! `GET /containerLogs/{namespace}/{pod}/{container}`.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;

use super::kubelet::{Kubelet, plain, refused};
use crate::edged::logs::{self, BadOptions, Log, LogOptions, container_with_log};

/// Status and texts as a kubelet's; errors that come after the choice of the container are told in the text (spec 04 §9).
pub(super) async fn container_logs(
    State(kubelet): State<Kubelet>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let options = match LogOptions::parse(query.as_deref().unwrap_or_default()) {
        Ok(options) => options,
        Err(error) => {
            let status = match error {
                BadOptions::Undecodable => StatusCode::BAD_REQUEST,
                BadOptions::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            };
            return plain(status, error.to_string());
        }
    };
    let Some(found) = kubelet.pod(&namespace, &name) else {
        return plain(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"));
    };
    if found.container(&container).is_none() {
        let text = format!("container {container:?} not found in pod {name:?}");
        return plain(StatusCode::NOT_FOUND, text);
    }
    let computed = kubelet.edged.status(&found.uid);
    let stored = found.pod.pod.status.as_ref();
    let Some(status) = computed.as_deref().or(stored) else {
        let text = format!("container {container:?} in pod {name:?} is not available");
        return plain(StatusCode::BAD_REQUEST, text);
    };
    let (id, full_id) = match container_with_log(status, &name, &container, options.previous) {
        Ok(chosen) => chosen,
        Err(error) => return plain(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let runtime = kubelet.edged.runtime();
    match runtime.container_status(&id).await {
        Ok(status) => {
            let log = Log {
                container: id,
                path: status.log_path.into(),
            };
            body(logs::read(runtime.clone(), log, options, &kubelet.tasks))
        }
        // A kubelet has begun its answer by now, and kubectl prints this.
        Err(error) if error.is_not_found() => {
            format!("unable to retrieve container logs for {full_id}").into_response()
        }
        Err(error) => refused(&error),
    }
}

/// Without a content type, as a kubelet's: it may be any bytes.
fn body(pieces: mpsc::Receiver<Bytes>) -> Response {
    let stream = futures::stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        Some((Ok::<_, Infallible>(piece), pieces))
    });
    Response::new(Body::from_stream(stream))
}
