//! Questions to the cloud, and the rows that save asking.

use std::sync::Arc;
use std::time::Duration;

use proto::{
    Answer, Content, Group, Kind, Message, Namespace, Object, ObjectName, ObjectPath, Operation, Route, Source, Uid,
};
use serde_json::json;
use tracing::warn;

use super::dispatch::typed;
use super::store::{Op, StoreError, patch_key};
use super::task::Input;
use super::{Delivery, MetaManager, RequestError};

/// How long an answer about this node, its lease or a pod's status may take: they are asked again every 10 s anyway.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer about an event may take.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Where the leases of nodes live.
const LEASE_NAMESPACE: &str = "kube-node-lease";

impl MetaManager {
    /// A ConfigMap, Secret, volume or claim: the stored row, or else the cloud's answer, which is stored.
    /// `Refused` with `NotFound` when the API has none.
    pub async fn object(&self, path: &ObjectPath) -> Result<Object, RequestError> {
        if let Some(object) = self.stored(path).await? {
            return Ok(object);
        }
        let _turn = self.turn(&path.to_string()).await;
        if let Some(object) = self.stored(path).await? {
            return Ok(object);
        }
        let request = self.question(Operation::Query, path.clone(), Content::null());
        let answer = self.ask(request, self.shared.settings.remote_timeout).await?;
        let object = match self.read(&answer, &path.to_string()) {
            Ok(object) => typed(&path.kind, object),
            Err(error) => {
                self.acknowledge(&answer).await;
                return Err(error);
            }
        };
        self.store_answer(path.clone(), object.clone(), Some(Message::ack_of(&answer)))
            .await;
        Ok(object)
    }

    /// The stored row of an object; the cloud is not asked.
    pub async fn local(&self, path: &ObjectPath) -> Result<Option<Object>, RequestError> {
        let row = self.shared.store.get(path.to_string()).await;
        let row = row.map_err(|error| RequestError::Store(error.to_string()))?;
        Ok(row.and_then(|text| readable(path, text)))
    }

    /// All stored objects of a kind, without asking the cloud. `None` for a row that is no object of its key's name: it is damaged and
    /// says nothing of what it was, or a Go edgecore left it behind (`<namespace>/device/updated`, spec 03 §7) and nobody knows it.
    pub async fn local_all(&self, kind: Kind) -> Result<Vec<(ObjectPath, Option<Object>)>, RequestError> {
        let rows = self.shared.store.rows(kind.as_str().to_owned()).await;
        let rows = rows.map_err(|error| RequestError::Store(error.to_string()))?;
        let objects = rows.into_iter().filter_map(|(key, text)| {
            let Route::Object(path) = Route::parse(&Group::Resource, &key) else {
                return None;
            };
            let object = readable(&path, text);
            Some((path, object))
        });
        Ok(objects.collect())
    }

    /// The stored row of this node, or else the cloud's answer; `None` when there is no such Node.
    pub async fn node(&self) -> Result<Option<Object>, RequestError> {
        let name = ObjectName::new(self.shared.settings.node.as_str());
        let mut newest: Option<Object> = None;
        // Releases up to v1.22 keep it under the other prefix.
        for namespace in [Namespace::CLUSTER, "default"] {
            let row = self
                .stored(&ObjectPath::new(namespace, Kind::Node, name.clone()))
                .await?;
            if row.as_ref().and_then(Object::version) > newest.as_ref().and_then(Object::version) || newest.is_none() {
                newest = row.or(newest);
            }
        }
        if newest.is_some() {
            return Ok(newest);
        }
        match self.fetch_node().await {
            Ok(node) => Ok(Some(node)),
            Err(RequestError::Refused(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// This node as the cloud has it now.
    pub async fn fetch_node(&self) -> Result<Object, RequestError> {
        let request = self.question(Operation::Query, self.node_path(Kind::Node), Content::null());
        let answer = self.ask(request, STATUS_TIMEOUT).await?;
        self.node_answer(&answer, true).await
    }

    /// Registers this node. `Refused` with `AlreadyExists` when the API has it.
    pub async fn create_node(&self, node: &Object) -> Result<Object, RequestError> {
        let request = self.question(Operation::Insert, self.node_path(Kind::Node), node.into());
        let answer = self.ask(request, self.shared.settings.remote_timeout).await?;
        self.node_answer(&answer, true).await
    }

    /// Sends a strategic merge patch of this node's metadata and status.
    pub async fn patch_node_status(&self, patch: &str) -> Result<Object, RequestError> {
        let request = self.question(Operation::Patch, self.node_path(Kind::NodePatch), Content::text(patch));
        let answer = self.ask(request, STATUS_TIMEOUT).await?;
        self.node_answer(&answer, false).await
    }

    /// Sends a strategic merge patch of a pod's status. What cannot be sent is kept beside the pod, for those who read the
    /// database of a node that is offline.
    pub async fn patch_pod_status(
        &self,
        namespace: &Namespace,
        name: &ObjectName,
        patch: &str,
    ) -> Result<Object, RequestError> {
        let path = ObjectPath::new(namespace.clone(), Kind::Pod, name.clone());
        match self.ask_pod_patch(namespace, name, patch).await {
            Ok(object) => {
                let _ = self
                    .shared
                    .inbox
                    .send(Input::PodPatched {
                        path,
                        object: object.clone(),
                    })
                    .await;
                Ok(object)
            }
            Err(error) => {
                if matches!(error, RequestError::Unanswered(_)) {
                    let kept = Op::PutText {
                        key: patch_key(&path),
                        kind: "podpatch".into(),
                        value: patch.to_owned(),
                    };
                    if let Err(failure) = self.shared.store.apply(vec![kept]).await {
                        warn!(pod = %path, error = %failure, "the pod's status cannot be kept on disk");
                    }
                }
                Err(error)
            }
        }
    }

    /// The status of a pod that waits to be sent, if there is one.
    pub async fn pod_patch(&self, namespace: &Namespace, name: &ObjectName) -> Result<Option<String>, RequestError> {
        let path = ObjectPath::new(namespace.clone(), Kind::Pod, name.clone());
        self.shared
            .store
            .get(patch_key(&path))
            .await
            .map_err(|error| RequestError::Store(error.to_string()))
    }

    pub(super) async fn ask_pod_patch(
        &self,
        namespace: &Namespace,
        name: &ObjectName,
        patch: &str,
    ) -> Result<Object, RequestError> {
        let path = ObjectPath::new(namespace.clone(), Kind::PodPatch, name.clone());
        let what = path.to_string();
        let request = self.question(Operation::Patch, path, Content::text(patch));
        let answer = self.ask(request, STATUS_TIMEOUT).await?;
        Ok(typed(&Kind::Pod, self.read(&answer, &what)?))
    }

    /// Tells the API that a pod has ended here; with the uid as precondition, so that a successor is not hit.
    pub async fn delete_pod(
        &self,
        namespace: &Namespace,
        name: &ObjectName,
        uid: &Uid,
        grace: i64,
    ) -> Result<(), RequestError> {
        let path = ObjectPath::new(namespace.clone(), Kind::Pod, name.clone());
        let options = Content::json(&json!({"gracePeriodSeconds": grace, "preconditions": {"uid": uid}}));
        let answer = self
            .ask(self.question(Operation::Delete, path, options), STATUS_TIMEOUT)
            .await?;
        match answer.content.answer() {
            Answer::Failed(status) => Err(RequestError::Refused(status.into())),
            _ => Ok(()),
        }
    }

    /// Sends an event. As an update, which creates what is not there (as the API does for events): one that comes twice does no harm.
    /// Refused only where the cloud answers events.
    pub async fn send_event(&self, event: &Object) -> Result<Delivery, RequestError> {
        let path = ObjectPath::new(event.namespace(), Kind::Event, event.name());
        let message = self.question(Operation::Update, path, event.into());
        if !self.shared.uplink.features().has_events() {
            let told = self.shared.uplink.tell(message).await;
            return told.map(|()| Delivery::Told).map_err(RequestError::Unanswered);
        }
        match self.ask(message, EVENT_TIMEOUT).await?.content.answer() {
            Answer::Failed(status) => Err(RequestError::Refused(status.into())),
            _ => Ok(Delivery::Answered),
        }
    }

    /// Creates the mirror of a static pod.
    pub async fn create_pod(&self, pod: &Object) -> Result<Object, RequestError> {
        let path = ObjectPath::new(pod.namespace(), Kind::Pod, pod.name());
        let answer = self
            .ask(
                self.question(Operation::Insert, path.clone(), pod.into()),
                STATUS_TIMEOUT,
            )
            .await?;
        let created = self
            .read(&answer, &path.to_string())
            .map(|object| typed(&Kind::Pod, object));
        self.acknowledge(&answer).await;
        created
    }

    /// This node's lease in the API.
    pub async fn lease(&self) -> Result<Object, RequestError> {
        self.ask_lease(Operation::Query, Content::null()).await
    }

    /// Creates this node's lease.
    pub async fn create_lease(&self, lease: &Object) -> Result<Object, RequestError> {
        self.ask_lease(Operation::Insert, lease.into()).await
    }

    /// Renews this node's lease.
    pub async fn update_lease(&self, lease: &Object) -> Result<Object, RequestError> {
        self.ask_lease(Operation::Update, lease.into()).await
    }

    /// Sends an event; nobody answers. A patch carries the event and the patch in one object, as the cloud reads it.
    pub async fn event(&self, operation: Operation, event: &Object) -> Result<(), RequestError> {
        let path = ObjectPath::new(event.namespace(), Kind::Event, event.name());
        let message = self.question(operation, path, event.into());
        self.shared.uplink.tell(message).await.map_err(RequestError::Unanswered)
    }

    async fn ask_lease(&self, operation: Operation, content: Content) -> Result<Object, RequestError> {
        let path = ObjectPath::new(LEASE_NAMESPACE, Kind::Lease, self.shared.settings.node.as_str());
        let what = path.to_string();
        let answer = self
            .ask(self.question(operation, path, content), STATUS_TIMEOUT)
            .await?;
        self.acknowledge(&answer).await;
        let lease = self.read(&answer, &what)?;
        let _ = self.shared.inbox.send(Input::NodeAnswered).await;
        Ok(lease)
    }

    async fn node_answer(&self, answer: &Message, acknowledged: bool) -> Result<Object, RequestError> {
        let path = self.node_path(Kind::Node);
        let node = self
            .read(answer, &path.to_string())
            .map(|object| typed(&Kind::Node, object));
        let _ = self.shared.inbox.send(Input::NodeAnswered).await;
        match node {
            Ok(node) => {
                let ack = acknowledged.then(|| Message::ack_of(answer));
                self.store_answer(path, node.clone(), ack).await;
                Ok(node)
            }
            Err(error) => {
                if acknowledged {
                    self.acknowledge(answer).await;
                }
                Err(error)
            }
        }
    }

    /// Errors that look like success are found here: nothing of them is stored (spec 05 §3.4).
    fn read(&self, answer: &Message, what: &str) -> Result<Object, RequestError> {
        let unreadable = |source| RequestError::Unreadable {
            what: what.to_owned(),
            source,
        };
        match answer.content.answer() {
            Answer::Failed(status) => Err(RequestError::Refused(status.into())),
            Answer::Envelope(Some(content)) | Answer::Plain(content) => content.object().map_err(unreadable),
            Answer::Envelope(None) | Answer::Ok => Content::null().object().map_err(unreadable),
        }
    }

    pub(super) async fn ask(&self, request: Message, timeout: Duration) -> Result<Message, RequestError> {
        self.shared
            .uplink
            .ask(request, timeout)
            .await
            .map_err(RequestError::Unanswered)
    }

    /// A cloud repeats an answer that is not acknowledged; one that cannot be sent is repeated then.
    pub(super) async fn acknowledge(&self, answer: &Message) {
        let _ = self.shared.uplink.tell(Message::ack_of(answer)).await;
    }

    pub(super) fn question(&self, operation: Operation, route: impl Into<Route>, content: Content) -> Message {
        Message::new(Source::Edged, Group::Meta, operation, route, content)
    }

    /// Waits until the answer is on the disk, so that the next one who asks finds it there.
    async fn store_answer(&self, path: ObjectPath, object: Object, ack: Option<Message>) {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self
            .shared
            .inbox
            .send(Input::Answered {
                path,
                object,
                ack,
                done,
            })
            .await
            .is_ok()
        {
            let _ = wait.await;
        }
    }

    async fn stored(&self, path: &ObjectPath) -> Result<Option<Object>, RequestError> {
        let row = match self.shared.store.get(path.to_string()).await {
            Ok(row) => row,
            // A database that cannot be read must not keep pods from starting while the cloud answers.
            Err(StoreError::Failed(error)) if self.shared.uplink.is_up() => {
                warn!(object = %path, %error, "the database cannot be read, the cloud is asked");
                None
            }
            Err(error) => return Err(RequestError::Store(error.to_string())),
        };
        Ok(row.and_then(object_of))
    }

    fn node_path(&self, kind: Kind) -> ObjectPath {
        ObjectPath::cluster(kind, self.shared.settings.node.as_str())
    }

    /// One question at a time for a key.
    pub(super) async fn turn(&self, key: &str) -> Turn<'_> {
        let lock = self.shared.asking.lock().entry(key.to_owned()).or_default().clone();
        let guard = lock.clone().lock_owned().await;
        Turn {
            meta: self,
            key: key.to_owned(),
            lock,
            guard: Some(guard),
        }
    }
}

/// The object in a row. A Go edgecore may have stored an error there after our start-up sweep ran on another file of it.
fn object_of(text: String) -> Option<Object> {
    match Content::from_json_text(text).ok()?.answer() {
        Answer::Plain(content) => content.object().ok().filter(|object| !object.meta().name.is_empty()),
        _ => None,
    }
}

/// The object in a row, if it is the one that the row's key names.
fn readable(path: &ObjectPath, text: String) -> Option<Object> {
    object_of(text).filter(|object| object.meta().name == path.name_str())
}

/// The right to ask for a key; the last one to leave forgets it.
pub(super) struct Turn<'a> {
    meta: &'a MetaManager,
    key: String,
    lock: Arc<tokio::sync::Mutex<()>>,
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guard.take();
        let mut asking = self.meta.shared.asking.lock();
        // Two references are left, the map's and this one: nobody else waits for the key.
        if Arc::strong_count(&self.lock) <= 2 {
            asking.remove(&self.key);
        }
    }
}
