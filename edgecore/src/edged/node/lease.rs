//! The node's lease: what keeps the node Ready (spec 05 §5.3).

use std::time::Duration;

use jiff::Timestamp;
use proto::{BadObject, NodeName, Object};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::metamanager::{MetaManager, RequestError};

/// A lease is renewed after this share of its duration.
const RENEWALS: u32 = 4;
/// Pause after a failed renewal.
const RETRY: Duration = Duration::from_secs(2);

/// Renews the lease for as long as there is a link and a Node.
pub(super) async fn keep(meta: MetaManager, node: NodeName, duration: u32, mut uid: watch::Receiver<Option<String>>) {
    let period = Duration::from_secs(u64::from(duration.max(RENEWALS) / RENEWALS));
    let mut link = meta.link();
    let mut known: Option<Object> = None;
    loop {
        // The owner of the lease has to exist, and somebody has to be there to ask.
        let Ok(owner) = uid
            .wait_for(Option::is_some)
            .await
            .map(|uid| uid.clone().unwrap_or_default())
        else {
            return;
        };
        let Ok(session) = link.wait_for(|link| link.is_up()).await.map(|link| *link) else {
            return;
        };
        let pause = match renew(&meta, &node, duration, &owner, known.as_ref()).await {
            Ok(lease) => {
                if known.is_none() {
                    info!(node = %node, "lease held");
                }
                known = Some(lease);
                period
            }
            Err(error) => {
                known = None;
                if error.is_transient() {
                    debug!(node = %node, error = common::chain(&error), "lease not renewed");
                } else {
                    warn!(node = %node, error = common::chain(&error), "lease not renewed");
                }
                RETRY
            }
        };
        // At once after a reconnect: the node may be counted as lost already.
        let reconnected = link.wait_for(|now| now.is_up() && *now != session);
        let _ = tokio::time::timeout(pause, reconnected).await;
    }
}

async fn renew(
    meta: &MetaManager,
    node: &NodeName,
    duration: u32,
    owner: &str,
    known: Option<&Object>,
) -> Result<Object, RequestError> {
    if let Some(lease) = known {
        match meta.update_lease(&renewed(lease, node, duration, owner)?).await {
            Err(RequestError::Refused(status)) if status.is_conflict() || status.is_not_found() => {}
            other => return other,
        }
    }
    match meta.lease().await {
        Ok(lease) => meta.update_lease(&renewed(&lease, node, duration, owner)?).await,
        Err(RequestError::Refused(status)) if status.is_not_found() => {
            meta.create_lease(&fresh(node, duration, owner).map_err(|error| unreadable(node, error))?)
                .await
        }
        Err(error) => Err(error),
    }
}

fn fresh(node: &NodeName, duration: u32, owner: &str) -> Result<Object, BadObject> {
    Object::from_value(&json!({
        "kind": "Lease",
        "apiVersion": "coordination.k8s.io/v1",
        "metadata": {
            "name": node,
            "namespace": "kube-node-lease",
            "ownerReferences": [owner_reference(node, owner)],
        },
        "spec": {"holderIdentity": node, "leaseDurationSeconds": duration, "renewTime": now()},
    }))
}

/// The same lease, renewed: what else stands in it stays.
fn renewed(lease: &Object, node: &NodeName, duration: u32, owner: &str) -> Result<Object, RequestError> {
    let build = || -> Result<Object, BadObject> {
        let mut value: Value = lease.view()?;
        let spec = value
            .as_object_mut()
            .map(|lease| lease.entry("spec").or_insert_with(|| json!({})));
        if let Some(Value::Object(spec)) = spec {
            spec.insert("holderIdentity".into(), json!(node));
            spec.insert("leaseDurationSeconds".into(), duration.into());
            spec.insert("renewTime".into(), now().into());
        }
        if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
            metadata.insert("ownerReferences".into(), json!([owner_reference(node, owner)]));
        }
        Object::from_value(&value)
    };
    build().map_err(|error| unreadable(node, error))
}

fn owner_reference(node: &NodeName, owner: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner})
}

fn unreadable(node: &NodeName, source: BadObject) -> RequestError {
    RequestError::Unreadable {
        what: format!("kube-node-lease/lease/{node}"),
        source,
    }
}

/// MicroTime.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
