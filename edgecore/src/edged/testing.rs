//! A node in memory for tests: a fake runtime, an API that applies patches, nothing around containers.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::Container;
use parking_lot::Mutex;
use proto::{Object, ObjectPath, Status, Uid, cri};
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc, watch};

use super::api::{Api, Delivery, Reply, TokenQuestion};
use super::context::{
    ContainerRef, MountedVolumes, NodeFacts, PodContext, ProbeEvent, ResolvedImage, Settings, SpecError, VolumeError,
};
use super::pods::{Parts, ProbeGuard, decide};
use super::runtime::fake::Fake;
use super::runtime::{ContainerId, LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID};
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
        self.edit(&uid, |pod| super::status::apply(&mut pod["status"], &patch["status"]));
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

/// Nothing around containers; probes are sent by the test.
#[derive(Debug, Default)]
pub(crate) struct FakeParts {
    probes: Mutex<Vec<(String, ContainerId, mpsc::Sender<ProbeEvent>)>>,
    pub(crate) mount_error: Mutex<Option<String>>,
    pub(crate) unmounted: Mutex<Vec<Uid>>,
}

impl FakeParts {
    /// The newest container of that name and where its probes report.
    pub(crate) fn probe(&self, container: &str) -> Option<(ContainerId, mpsc::Sender<ProbeEvent>)> {
        let probes = self.probes.lock();
        probes
            .iter()
            .rev()
            .find(|(name, _, _)| name == container)
            .map(|(_, id, sender)| (id.clone(), sender.clone()))
    }

    /// How often probes were started.
    pub(crate) fn probes_started(&self) -> usize {
        self.probes.lock().len()
    }
}

fn labels(ctx: &PodContext) -> HashMap<String, String> {
    [
        (LABEL_POD_UID.to_owned(), ctx.uid().to_string()),
        (LABEL_POD_NAME.to_owned(), ctx.name().to_owned()),
        (LABEL_POD_NAMESPACE.to_owned(), ctx.namespace().to_owned()),
    ]
    .into()
}

impl Parts for FakeParts {
    fn sandbox_config<'a>(
        &'a self,
        ctx: &'a PodContext,
        attempt: u32,
    ) -> BoxFuture<'a, Result<cri::PodSandboxConfig, SpecError>> {
        let metadata = Some(cri::PodSandboxMetadata {
            name: ctx.name().to_owned(),
            uid: ctx.uid().to_string(),
            namespace: ctx.namespace().to_owned(),
            attempt,
        });
        let network = if decide::is_host_network(&ctx.pod) {
            cri::NamespaceMode::Node
        } else {
            cri::NamespaceMode::Pod
        };
        let namespace_options = Some(cri::NamespaceOption {
            network: network.into(),
            ..Default::default()
        });
        let security_context = Some(cri::LinuxSandboxSecurityContext {
            namespace_options,
            ..Default::default()
        });
        let config = cri::PodSandboxConfig {
            metadata,
            labels: labels(ctx),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context,
                ..Default::default()
            }),
            ..Default::default()
        };
        futures::future::ready(Ok(config)).boxed()
    }

    fn container_config<'a>(
        &'a self,
        ctx: &'a PodContext,
        container: ContainerRef<'a>,
        restart_count: u32,
        _: &'a ResolvedImage,
        _: &'a [IpAddr],
        _: &'a MountedVolumes,
    ) -> BoxFuture<'a, Result<cri::ContainerConfig, SpecError>> {
        let container = container.container;
        let mut labels = labels(ctx);
        labels.insert(LABEL_CONTAINER_NAME.to_owned(), container.name.clone());
        let annotations = [
            (
                "io.kubernetes.container.hash".to_owned(),
                self.container_hash(container),
            ),
            (
                "io.kubernetes.container.restartCount".to_owned(),
                restart_count.to_string(),
            ),
        ];
        let image = container.image.clone().unwrap_or_default();
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: container.name.clone(),
                attempt: restart_count,
            }),
            image: Some(cri::ImageSpec {
                image,
                ..Default::default()
            }),
            labels,
            annotations: annotations.into(),
            ..Default::default()
        };
        futures::future::ready(Ok(config)).boxed()
    }

    fn container_hash(&self, container: &Container) -> String {
        super::podspec::container_hash(container)
    }

    fn qos_class(&self, _: &PodContext) -> String {
        "BestEffort".to_owned()
    }

    fn credentials<'a>(&'a self, ctx: &'a PodContext, image: &'a str) -> BoxFuture<'a, Vec<cri::AuthConfig>> {
        super::podspec::pull_credentials(ctx, image).boxed()
    }

    fn termination_message(&self, _: &Container, _: &cri::ContainerStatus, _: usize) -> String {
        String::new()
    }

    fn create_cgroup<'a>(&'a self, _: &'a PodContext) -> BoxFuture<'a, Result<(), String>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn remove_cgroup<'a>(&'a self, _: &'a Uid) -> BoxFuture<'a, Result<(), String>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn balance<'a>(&'a self, _: &'a [PodContext]) -> BoxFuture<'a, ()> {
        futures::future::ready(()).boxed()
    }

    fn mount<'a>(&'a self, _: &'a PodContext) -> BoxFuture<'a, Result<MountedVolumes, VolumeError>> {
        let error = self.mount_error.lock().clone();
        let mounted = error.map_or_else(
            || Ok(MountedVolumes::default()),
            |message| {
                Err(VolumeError {
                    volume: "data".into(),
                    message,
                })
            },
        );
        futures::future::ready(mounted).boxed()
    }

    fn refresh<'a>(&'a self, _: &'a PodContext) -> BoxFuture<'a, Result<(), VolumeError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn unmount<'a>(&'a self, uid: &'a Uid) -> BoxFuture<'a, Result<(), VolumeError>> {
        self.unmounted.lock().push(uid.clone());
        futures::future::ready(Ok(())).boxed()
    }

    fn orphans(&self) -> BoxFuture<'_, Vec<Uid>> {
        futures::future::ready(Vec::new()).boxed()
    }

    fn start_probes(
        &self,
        _: &PodContext,
        container: ContainerRef<'_>,
        id: &ContainerId,
        _: i64,
        _: Option<IpAddr>,
        findings: mpsc::Sender<ProbeEvent>,
    ) -> ProbeGuard {
        self.probes
            .lock()
            .push((container.container.name.clone(), id.clone(), findings));
        Box::new(())
    }

    fn post_start<'a>(
        &'a self,
        _: &'a PodContext,
        _: &'a Container,
        _: &'a ContainerId,
        _: Option<IpAddr>,
    ) -> BoxFuture<'a, Result<(), String>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn pre_stop<'a>(
        &'a self,
        _: &'a PodContext,
        _: &'a Container,
        _: &'a ContainerId,
        _: Option<IpAddr>,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), String>> {
        tokio::time::sleep(Duration::from_secs(3)).map(Ok).boxed()
    }

    fn link_log<'a>(&'a self, _: &'a PodContext, _: &'a str, _: u32, _: &'a ContainerId) -> BoxFuture<'a, ()> {
        futures::future::ready(()).boxed()
    }

    fn remove_logs<'a>(&'a self, _: &'a str, _: &'a str, _: &'a Uid) -> BoxFuture<'a, ()> {
        futures::future::ready(()).boxed()
    }

    fn last_log_number(&self, _: &PodContext, _: &str) -> Option<u32> {
        None
    }
}

/// A node with everything in it.
pub(crate) struct World {
    pub(crate) runtime: Arc<Fake>,
    pub(crate) api: Arc<FakeApi>,
    pub(crate) parts: Arc<FakeParts>,
    pub(crate) edged: Option<super::Edged>,
    /// The node's.
    pub(crate) address: watch::Sender<IpAddr>,
    settings: Settings,
    tasks: Tasks,
}

pub(crate) const IMAGE: &str = "docker.io/library/busybox:1.36";

impl World {
    /// With one image, and edged started.
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    /// With a folder of manifests, too.
    pub(crate) fn with_static_pods(folder: &std::path::Path) -> Self {
        Self::with(Settings {
            static_pod_path: Some(folder.to_owned()),
            ..Settings::default()
        })
    }

    fn with(settings: Settings) -> Self {
        let mut world = Self {
            runtime: Arc::new(Fake::new(&[IMAGE])),
            api: Arc::new(FakeApi::new()),
            parts: Arc::default(),
            edged: None,
            address: watch::channel(IpAddr::from([192, 0, 2, 7])).0,
            settings,
            tasks: Tasks::new(),
        };
        world.start();
        world
    }

    /// As after `kill -9`: nothing of edged's memory is left.
    pub(crate) async fn restart(&mut self) {
        self.tasks.stop(Duration::from_secs(1)).await;
        self.start();
    }

    /// Lets time pass while edged does not run.
    pub(crate) async fn stop(&self) {
        self.tasks.stop(Duration::from_secs(1)).await;
    }

    pub(crate) fn start(&mut self) {
        self.tasks = Tasks::new();
        let facts = NodeFacts {
            name: "edge1".into(),
            ips: vec![*self.address.borrow()],
            cpu_millis: 2000,
            memory_bytes: 1 << 32,
            allocatable_cpu_millis: 2000,
            allocatable_memory_bytes: 1 << 32,
            allocatable_disk_bytes: 1 << 36,
            cgroups: super::cgroups::CgroupFacts::default(),
        };
        let (facts, node) = watch::channel(Arc::new(facts));
        self.tasks
            .spawn("address", super::follow_address(self.address.subscribe(), facts));
        let runtime = self.runtime.clone();
        let clock_source = self.runtime.clone();
        let clock: super::pods::Clock =
            Arc::new(move || Timestamp::from_nanosecond(i128::from(clock_source.now())).expect("a time"));
        let channels = super::Channels::new();
        self.edged = Some(super::Edged::new(runtime.clone(), &channels));
        let health = super::health::run(
            runtime.clone(),
            channels.state.clone(),
            channels.network.clone(),
            channels.name.clone(),
        );
        self.tasks.spawn("health", health);
        let outside = super::Outside {
            runtime,
            parts: self.parts.clone(),
            api: self.api.clone(),
            events: super::events::Events::default(),
            clock,
        };
        super::assemble(outside, &channels, Arc::new(self.settings.clone()), node, &self.tasks);
    }

    /// Waits until something holds; a test that waits for more than an hour has failed.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..36_000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!(
            "never: {what}\nruntime: {:?}\nlast patches: {:#?}",
            self.runtime.calls(),
            self.api.patches().iter().rev().take(3).collect::<Vec<_>>()
        );
    }
}

/// A pod with one container `main`.
pub(crate) fn pod(uid: &str, restart_policy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": "web", "uid": uid},
        "spec": {
            "nodeName": "edge1", "restartPolicy": restart_policy, "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}]
        },
        "status": {"phase": "Pending", "qosClass": "BestEffort"}
    })
}
