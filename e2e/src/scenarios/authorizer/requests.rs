//! What the node made by hand asks for, and the objects it asks about.

use anyhow::Result;
use proto::{Content, Group, Message, Operation, Route, Source};
use serde_json::{Value, json};

use crate::api::{self, text};
use crate::hub::encoded_request;

pub(super) fn request(operation: Operation, resource: &str, content: &Value) -> Message {
    let route = Route::parse(&Group::Meta, resource);
    Message::new(Source::Edged, Group::Meta, operation, route, Content::json(content))
}

pub(super) fn registration(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {label: "", "node-role.kubernetes.io/edge": ""}},
        "spec": {}, "status": {"capacity": {"cpu": "2", "memory": "1Gi", "pods": "10"}, "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}}})
}

pub(super) fn event(namespace: &str, kind: &str, about: &str) -> Value {
    json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": format!("{about}.17"), "namespace": namespace},
        "involvedObject": {"kind": kind, "name": about, "namespace": namespace, "apiVersion": "v1"},
        "reason": "Tried", "message": "by hand", "type": "Normal", "source": {"component": "e2e"}})
}

pub(super) fn lease(name: &str) -> Value {
    json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}})
}

pub(super) fn token(pod: &Value) -> Value {
    json!({"spec": {"audiences": [], "expirationSeconds": 3600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": api::name(pod), "uid": text(pod, "/metadata/uid")}}})
}

pub(super) fn signing(name: &str) -> Result<Value> {
    Ok(
        json!({"kind": "CertificateSigningRequest", "apiVersion": "certificates.k8s.io/v1", "metadata": {"name": format!("guard-{name}")},
        "spec": {"request": encoded_request(name)?, "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"]}}),
    )
}

pub(super) fn mirror(namespace: &str, name: &str, node: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "annotations": {"kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "file"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}], "tolerations": [{"operator": "Exists"}]}})
}

/// Secrets, ConfigMaps, accounts and claims, each once used by a pod of the node made by hand and once not.
pub(super) fn objects(namespace: &str) -> String {
    let mut all = String::new();
    for name in ["used", "unused"] {
        all += &format!(
            r#"apiVersion: v1
kind: Secret
metadata: {{name: {name}}}
stringData: {{word: "sesame of {name}"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: {name}}}
data: {{word: "sesame of {name}"}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {namespace}-{name}}}
spec:
  capacity: {{storage: 1Mi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: none
  claimRef: {{namespace: {namespace}, name: {name}}}
  hostPath: {{path: /nowhere}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: none
  volumeName: {namespace}-{name}
  resources: {{requests: {{storage: 1Mi}}}}
---
"#
        );
    }
    all
}

pub(super) const MINE: &str = "  serviceAccountName: used
  volumes:
  - {name: s, secret: {secretName: used}}
  - {name: c, configMap: {name: used}}
  - {name: p, persistentVolumeClaim: {claimName: used}}";
