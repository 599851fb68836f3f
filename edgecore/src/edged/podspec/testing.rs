//! A pod and its surroundings for tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestStatus};
use parking_lot::Mutex;
use proto::{Object, ObjectPath, Status, Uid};
use tokio::sync::{broadcast, watch};

use crate::edged::api::{Api, Delivery, Reply, TokenQuestion};
use crate::edged::context::{NodeFacts, PodContext, Settings};
use crate::metamanager::{PodSet, RequestError};
use crate::pod::Pod;
use crate::uplink::{AskError, Link};

/// Objects by path, and a token.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    objects: Mutex<BTreeMap<String, serde_json::Value>>,
    pub(crate) token: Mutex<String>,
    pub(crate) asked: Mutex<Vec<TokenQuestion>>,
}

impl Objects {
    pub(crate) fn put(&self, path: &str, object: serde_json::Value) {
        self.objects.lock().insert(path.to_owned(), object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.objects.lock().remove(path);
    }
}

impl Api for Objects {
    fn pods(&self) -> watch::Receiver<Arc<PodSet>> {
        watch::channel(Arc::default()).1
    }

    fn link(&self) -> watch::Receiver<Link> {
        watch::channel(Link::Down).1
    }

    fn changes(&self) -> broadcast::Receiver<ObjectPath> {
        broadcast::channel(1).1
    }

    fn object<'a>(&'a self, path: &'a ObjectPath) -> Reply<'a, Object> {
        let found = self
            .objects
            .lock()
            .get(&path.to_string())
            .map(|value| Object::from_value(value).expect("object"));
        let kind = format!("{}s", path.kind);
        let missing = move || RequestError::Refused(Box::new(Status::not_found("", &kind, path.name_str())));
        async move { found.ok_or_else(missing) }.boxed()
    }

    fn token<'a>(&'a self, question: &'a TokenQuestion) -> Reply<'a, TokenRequest> {
        self.asked.lock().push(question.clone());
        let token = self.token.lock().clone();
        let status = TokenRequestStatus {
            token,
            expiration_timestamp: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::MAX),
        };
        async move {
            Ok(TokenRequest {
                status: Some(status),
                ..Default::default()
            })
        }
        .boxed()
    }

    fn node(&self) -> Reply<'_, Option<Object>> {
        async { Ok(None) }.boxed()
    }

    fn fresh_node(&self) -> Reply<'_, Object> {
        futures::future::ready(Err(RequestError::Unanswered(AskError::Offline))).boxed()
    }

    fn patch_pod_status<'a>(&'a self, _: &'a str, name: &'a str, _: &'a str) -> Reply<'a, Object> {
        async move { Err(RequestError::Refused(Box::new(Status::not_found("", "pods", name)))) }.boxed()
    }

    fn pod_patch<'a>(&'a self, _: &'a str, _: &'a str) -> Reply<'a, Option<String>> {
        async { Ok(None) }.boxed()
    }

    fn create_pod<'a>(&'a self, _: &'a Object) -> Reply<'a, Object> {
        futures::future::ready(Err(RequestError::Unanswered(AskError::Offline))).boxed()
    }

    fn send_event<'a>(&'a self, _: &'a Object) -> Reply<'a, Delivery> {
        async { Ok(Delivery::Told) }.boxed()
    }

    fn delete_pod<'a>(&'a self, _: &'a str, _: &'a str, _: &'a Uid, _: i64) -> Reply<'a, ()> {
        async { Ok(()) }.boxed()
    }
}

/// A pod `web` in namespace `shop` with this specification, on a node whose files are below `root`.
pub(crate) fn context(root: &Path, spec: serde_json::Value) -> (PodContext, Arc<Objects>) {
    let objects = Arc::<Objects>::default();
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "1-2-3", "labels": {"app": "web"}, "annotations": {"note": "a \"b\""}},
        "spec": spec,
    }))
    .expect("pod");
    let settings = Settings {
        root_directory: root.join("kubelet"),
        pod_logs_directory: root.join("pods"),
        container_logs_directory: root.join("containers"),
        resolv_conf: root.join("resolv.conf"),
        hosts_file: root.join("hosts"),
        ..Settings::default()
    };
    std::fs::write(
        &settings.resolv_conf,
        "nameserver 10.0.0.53\nsearch lan.example\noptions edns0\n",
    )
    .expect("resolv.conf");
    std::fs::write(&settings.hosts_file, "127.0.0.1 localhost\n").expect("hosts");
    let node = NodeFacts {
        name: "edge-1".into(),
        ips: vec!["192.168.1.5".parse().expect("ip")],
        cpu_millis: 2000,
        memory_bytes: 1 << 30,
        allocatable_cpu_millis: 1800,
        allocatable_memory_bytes: 900 << 20,
        allocatable_disk_bytes: 10 << 30,
        cgroups: crate::edged::cgroups::CgroupFacts::default(),
    };
    let ctx = PodContext {
        pod: Arc::new(pod),
        node: Arc::new(node),
        settings: Arc::new(settings),
        api: objects.clone(),
    };
    (ctx, objects)
}
