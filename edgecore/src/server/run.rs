//! `/run`: a command, waited for, with its output as the answer. `/runningpods/`: what the runtime runs.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use proto::cri::ContainerState;
use serde_json::{Value, json};

use super::kubelet::{Kubelet, plain, refused};
use crate::edged::runtime::{LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID};

/// A kubelet sets no limit; whoever waits longer is gone.
const LIMIT: Duration = Duration::from_secs(4 * 3600);
/// Whatever it is, a kubelet calls it so.
const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

/// `POST /run/{namespace}/{pod}[/{uid}]/{container}?cmd=words`.
pub(super) async fn run(
    State(kubelet): State<Kubelet>,
    Path(segments): Path<Vec<String>>,
    RawQuery(query): RawQuery,
) -> Response {
    let failed = |text| plain(StatusCode::INTERNAL_SERVER_ERROR, text);
    let [namespace, name, .., container] = segments.as_slice() else {
        return plain(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let Some(found) = kubelet.pod(namespace, name) else {
        return plain(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let id = match kubelet.running(&found.uid, container).await {
        Ok(Some(id)) => id,
        Ok(None) => return failed(format!("container not found ({container:?})")),
        Err(error) => return refused(&error),
    };
    let query = query.unwrap_or_default();
    let command = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "cmd");
    let command = command.map(|(_, command)| command.into_owned()).unwrap_or_default();
    let words = command.split(' ').map(str::to_owned).collect();
    match kubelet.edged.runtime().exec_sync(&id, words, LIMIT).await {
        Ok(output) if output.exit_code == 0 => (JSON, [output.stdout, output.stderr].concat()).into_response(),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            failed(format!("command '{command}' exited with {}: {said}", output.exit_code))
        }
        Err(error) => refused(&error),
    }
}

/// The pods that have a container that runs, as far as the runtime knows them.
pub(super) async fn running_pods(State(kubelet): State<Kubelet>) -> Response {
    let containers = match kubelet.edged.runtime().list_containers(None).await {
        Ok(containers) => containers,
        Err(error) => return refused(&error),
    };
    let mut pods: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for container in containers {
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        if container.state != ContainerState::ContainerRunning as i32 || label(LABEL_POD_UID).is_empty() {
            continue;
        }
        let metadata = json!({
            "name": label(LABEL_POD_NAME), "namespace": label(LABEL_POD_NAMESPACE), "uid": label(LABEL_POD_UID),
            "creationTimestamp": null,
        });
        let (_, containers) = pods.entry(label(LABEL_POD_UID)).or_insert((metadata, Vec::new()));
        let image = container.image.map(|image| image.image).unwrap_or_default();
        containers.push(json!({"name": label(LABEL_CONTAINER_NAME), "image": image, "resources": {}}));
    }
    let items: Vec<Value> = pods
        .into_values()
        .map(|(metadata, containers)| json!({"metadata": metadata, "spec": {"containers": containers}, "status": {}}))
        .collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    (JSON, list.to_string()).into_response()
}
