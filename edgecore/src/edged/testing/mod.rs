//! A node in memory for tests: a fake runtime, an API that applies patches, nothing around containers.

mod api;
mod parts;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) use api::FakeApi;
use parts::FakeParts;

use super::context::{NodeFacts, Settings};
use super::runtime::fake::Fake;

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
