//! An API that applies patches, and the pods of the node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::authentication::v1::TokenRequest;
use parking_lot::Mutex;
use proto::{Object, ObjectPath, Status, Uid};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use crate::edged::api::{Api, Delivery, Reply, TokenQuestion};
use crate::edged::status;
use crate::metamanager::{DesiredPod, PodSet, RequestError};
use crate::pod::Pod;
use crate::uplink::{AskError, Link};

/// The API and MetaManager in one.
#[derive(Debug)]
pub(crate) struct FakeApi {
    pods: watch::Sender<Arc<PodSet>>,
    link: watch::Sender<Link>,
    changes: broadcast::Sender<ObjectPath>,
    sent: Mutex<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    version: u64,
    patches: Vec<Value>,
    deleted: Vec<String>,
    created: Vec<Value>,
    events: Vec<Value>,
    /// Names of pods whose patches nobody answers.
    unanswered: BTreeSet<String>,
    /// The patch of the only pod of a test that is offline.
    kept: Option<String>,
    /// This node as stored, and as the cloud has it.
    node: Option<Object>,
    fresh_node: Option<Object>,
    /// What else the API has.
    objects: HashMap<ObjectPath, Object>,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        let pods = watch::channel(Arc::new(PodSet {
            ready: true,
            ..PodSet::default()
        }))
        .0;
        let link = watch::channel(Link::Up(1)).0;
        Self {
            pods,
            link,
            changes: broadcast::channel(16).0,
            sent: Mutex::default(),
        }
    }

    /// Stores a pod as the cloud sends it.
    pub(crate) fn put(&self, pod: &Value) {
        let mut pod = pod.clone();
        self.sent.lock().version += 1;
        pod["metadata"]["resourceVersion"] = json!(self.sent.lock().version.to_string());
        let object = Object::parse(&pod.to_string()).expect("an object");
        let view = Arc::new(object.view::<Pod>().expect("a pod"));
        self.pods.send_modify(|set| {
            let mut next = (**set).clone();
            next.pods
                .insert(object.uid(), Arc::new(DesiredPod { pod: view, object }));
            *set = Arc::new(next);
        });
    }

    /// Removes its row.
    pub(crate) fn remove(&self, uid: &str) {
        self.remove_within(uid, None);
    }

    /// Removes its row; the deletion gave it these seconds.
    pub(crate) fn remove_within(&self, uid: &str, grace: Option<i64>) {
        self.pods.send_modify(|set| {
            let mut next = (**set).clone();
            next.pods.remove(&Uid::new(uid));
            next.grace.extend(grace.map(|grace| (Uid::new(uid), grace)));
            *set = Arc::new(next);
        });
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.pods.send_modify(|set| {
            *set = Arc::new(PodSet {
                ready,
                ..(**set).clone()
            })
        });
    }

    /// Stores a Node, and what the cloud answers when it is asked for it.
    pub(crate) fn set_node(&self, stored: &Value, fresh: Option<&Value>) {
        let object = |value: &Value| Object::from_value(value).expect("a node");
        let mut sent = self.sent.lock();
        sent.node = Some(object(stored));
        sent.fresh_node = fresh.map(object);
    }

    /// Stores an object that is neither a pod nor a node.
    pub(crate) fn set_object(&self, path: ObjectPath, value: &Value) {
        let object = Object::from_value(value).expect("an object");
        self.sent.lock().objects.insert(path, object);
    }

    /// The events that were sent.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.sent.lock().events.clone()
    }

    /// Answers no patch of that pod's status any more.
    pub(crate) fn leave_unanswered(&self, name: &str) {
        self.sent.lock().unanswered.insert(name.to_owned());
    }

    pub(crate) fn set_link(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// Changes what is stored of a pod.
    pub(crate) fn edit(&self, uid: &str, edit: impl FnOnce(&mut Value)) {
        let mut value = self.stored(uid);
        edit(&mut value);
        self.put(&value);
    }

    pub(crate) fn stored(&self, uid: &str) -> Value {
        let set = self.pods.borrow();
        let pod = set.pods.get(&Uid::new(uid)).expect("the pod is stored");
        pod.object.view().expect("JSON")
    }

    /// The typed pod as the API has it.
    pub(crate) fn pod(&self, uid: &str) -> Pod {
        serde_json::from_value(self.stored(uid)).expect("a pod")
    }

    pub(crate) fn phase(&self, uid: &str) -> String {
        if !self.pods.borrow().pods.contains_key(&Uid::new(uid)) {
            return String::new();
        }
        self.pod(uid).status.and_then(|s| s.phase).unwrap_or_default()
    }

    pub(crate) fn patches(&self) -> Vec<Value> {
        self.sent.lock().patches.clone()
    }

    pub(crate) fn created(&self) -> Vec<Value> {
        self.sent.lock().created.clone()
    }

    pub(crate) fn deleted(&self) -> Vec<String> {
        self.sent.lock().deleted.clone()
    }
}

impl Api for FakeApi {
    fn pods(&self) -> watch::Receiver<Arc<PodSet>> {
        self.pods.subscribe()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn changes(&self) -> broadcast::Receiver<ObjectPath> {
        self.changes.subscribe()
    }

    fn object<'a>(&'a self, path: &'a ObjectPath) -> Reply<'a, Object> {
        let stored = self.sent.lock().objects.get(path).cloned();
        let missing = || RequestError::Refused(Box::new(Status::not_found("", path.kind.as_str(), path.name_str())));
        futures::future::ready(stored.ok_or_else(missing)).boxed()
    }

    fn token<'a>(&'a self, _: &'a TokenQuestion) -> Reply<'a, TokenRequest> {
        futures::future::ready(Err(RequestError::Unanswered(AskError::Offline))).boxed()
    }

    fn node(&self) -> Reply<'_, Option<Object>> {
        futures::future::ready(Ok(self.sent.lock().node.clone())).boxed()
    }

    fn fresh_node(&self) -> Reply<'_, Object> {
        let offline = RequestError::Unanswered(AskError::Offline);
        let fresh = self.sent.lock().fresh_node.clone().ok_or(offline);
        futures::future::ready(fresh).boxed()
    }

    fn patch_pod_status<'a>(&'a self, _: &'a str, name: &'a str, patch: &'a str) -> Reply<'a, Object> {
        if self.sent.lock().unanswered.contains(name) {
            return futures::future::pending().boxed();
        }
        if !self.link.borrow().is_up() {
            self.sent.lock().kept = Some(patch.to_owned());
            return futures::future::ready(Err(RequestError::Unanswered(AskError::Offline))).boxed();
        }
        self.sent.lock().kept = None;
        let patch: Value = serde_json::from_str(patch).expect("a patch is JSON");
        let uid = patch["metadata"]["uid"].as_str().expect("a patch has a uid").to_owned();
        self.sent.lock().patches.push(patch.clone());
        if !self.pods.borrow().pods.contains_key(&Uid::new(&uid)) {
            let error = RequestError::Refused(Box::new(Status::not_found("", "pods", "gone")));
            return futures::future::ready(Err(error)).boxed();
        }
        self.edit(&uid, |pod| status::apply(&mut pod["status"], &patch["status"]));
        let object = self.pods.borrow().pods[&Uid::new(&uid)].object.clone();
        futures::future::ready(Ok(object)).boxed()
    }

    fn pod_patch<'a>(&'a self, _: &'a str, _: &'a str) -> Reply<'a, Option<String>> {
        futures::future::ready(Ok(self.sent.lock().kept.clone())).boxed()
    }

    fn send_event<'a>(&'a self, event: &'a Object) -> Reply<'a, Delivery> {
        let outcome = if self.link.borrow().is_up() {
            self.sent.lock().events.push(event.view().expect("JSON"));
            Ok(Delivery::Told)
        } else {
            Err(RequestError::Unanswered(AskError::Offline))
        };
        futures::future::ready(outcome).boxed()
    }

    fn create_pod<'a>(&'a self, pod: &'a Object) -> Reply<'a, Object> {
        let mut value: Value = pod.view().expect("JSON");
        let uid = {
            let mut sent = self.sent.lock();
            sent.created.push(value.clone());
            format!("m-{}", sent.created.len())
        };
        value["metadata"]["uid"] = json!(uid);
        self.put(&value);
        let object = self.pods.borrow().pods[&Uid::new(&uid)].object.clone();
        futures::future::ready(Ok(object)).boxed()
    }

    fn delete_pod<'a>(&'a self, _: &'a str, _: &'a str, uid: &'a Uid, _: i64) -> Reply<'a, ()> {
        if !self.link.borrow().is_up() {
            return futures::future::ready(Err(RequestError::Unanswered(AskError::Offline))).boxed();
        }
        self.sent.lock().deleted.push(uid.to_string());
        self.remove(uid.as_str());
        futures::future::ready(Ok(())).boxed()
    }
}
