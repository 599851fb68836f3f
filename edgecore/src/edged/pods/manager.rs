//! The list of workers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use parking_lot::Mutex;
use proto::Uid;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use super::worker::{Shared, Wanted, Worker};
use crate::edged::context::PodContext;
use crate::edged::runtime::{LABEL_POD_UID, RuntimeError};
use crate::metamanager::{DesiredPod, PodSet};

/// Workers that ended and wait to be taken off the list; a worker that ends waits.
const ENDED: usize = 64;
/// How often pods that nobody knows are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

struct Entry {
    wanted: watch::Sender<Wanted>,
    wake: Arc<Notify>,
}

type Workers = Arc<Mutex<BTreeMap<Uid, Entry>>>;

/// Wakes workers when the runtime's state changed.
#[derive(Clone)]
pub(crate) struct Waker {
    workers: Workers,
    strangers: Arc<Notify>,
}

impl Waker {
    /// A pod's containers or sandboxes changed.
    pub(crate) fn wake(&self, uid: &Uid) {
        match self.workers.lock().get(uid) {
            Some(entry) => entry.wake.notify_one(),
            None => self.strangers.notify_one(),
        }
    }

    /// Everything may have changed.
    pub(crate) fn wake_all(&self) {
        for entry in self.workers.lock().values() {
            entry.wake.notify_one();
        }
    }
}

/// Starts and ends workers.
pub(crate) struct PodManager {
    shared: Arc<Shared>,
    tasks: Tasks,
    workers: Workers,
    strangers: Arc<Notify>,
    ended: (mpsc::Sender<Uid>, mpsc::Receiver<Uid>),
}

impl PodManager {
    pub(crate) fn new(shared: Arc<Shared>, tasks: &Tasks) -> Self {
        Self {
            shared,
            tasks: tasks.clone(),
            workers: Workers::default(),
            strangers: Arc::default(),
            ended: mpsc::channel(ENDED),
        }
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker {
            workers: self.workers.clone(),
            strangers: self.strangers.clone(),
        }
    }

    /// Follows the set of pods until the process stops.
    pub(crate) async fn run(mut self) {
        let mut pods = self.shared.api.pods();
        let mut changes = self.shared.api.changes();
        let mut housekeeping = tokio::time::interval_at(Instant::now() + HOUSEKEEPING, HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_ready = false;
        let mut balanced = Vec::new();
        loop {
            let set = pods.borrow_and_update().clone();
            self.apply(&set);
            let uids: Vec<Uid> = set.pods.keys().cloned().collect();
            if uids != balanced {
                balanced = uids;
                self.balance(&set).await;
            }
            if set.ready && !was_ready {
                was_ready = true;
                self.find_strangers(&set).await;
            }
            tokio::select! {
                changed = pods.changed() => if changed.is_err() { return },
                uid = self.ended.1.recv() => if let Some(uid) = uid { self.forget(&uid) },
                path = changes.recv() => match path {
                    Ok(path) => self.object_changed(&set, path.namespace.as_str()),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.waker().wake_all(),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = self.strangers.notified(), if set.ready => self.find_strangers(&set).await,
                _ = housekeeping.tick(), if set.ready => self.find_strangers(&set).await,
            }
        }
    }

    /// Hands every worker its newest pod. Until the set is ready nothing is removed for being absent.
    fn apply(&self, set: &PodSet) {
        for (uid, desired) in &set.pods {
            let pod = Arc::new(desired.pod.clone());
            self.want(uid, Wanted::Pod(pod));
        }
        if !set.ready {
            return;
        }
        for (uid, entry) in &*self.workers.lock() {
            if !set.pods.contains_key(uid) {
                entry.wanted.send_if_modified(|wanted| {
                    let known = matches!(wanted, Wanted::Pod(_));
                    *wanted = Wanted::Gone;
                    known
                });
            }
        }
    }

    async fn balance(&self, set: &PodSet) {
        let node = self.shared.node.borrow().clone();
        let context = |pod: &Arc<DesiredPod>| PodContext {
            pod: Arc::new(pod.pod.clone()),
            node: node.clone(),
            settings: self.shared.settings.clone(),
            api: self.shared.api.clone(),
        };
        let pods: Vec<PodContext> = set.pods.values().map(context).collect();
        self.shared.parts.balance(&pods).await;
    }

    fn want(&self, uid: &Uid, wanted: Wanted) {
        let mut workers = self.workers.lock();
        if let Some(entry) = workers.get(uid) {
            entry.wanted.send_if_modified(|old| {
                let same = match (&*old, &wanted) {
                    (Wanted::Pod(old), Wanted::Pod(new)) => old == new,
                    (Wanted::Gone, Wanted::Gone) => true,
                    _ => false,
                };
                if !same {
                    *old = wanted;
                }
                !same
            });
            return;
        }
        let (sender, receiver) = watch::channel(wanted);
        let wake = Arc::new(Notify::new());
        let worker = Worker::new(self.shared.clone(), uid.clone(), receiver, wake.clone());
        workers.insert(uid.clone(), Entry { wanted: sender, wake });
        let (ended, uid) = (self.ended.0.clone(), uid.clone());
        self.tasks.spawn("pod", async move {
            worker.run().await;
            let _ = ended.send(uid).await;
        });
    }

    fn forget(&self, uid: &Uid) {
        self.workers.lock().remove(uid);
    }

    /// A ConfigMap, Secret or the like: pods beside it look whether they use it.
    fn object_changed(&self, set: &PodSet, namespace: &str) {
        let workers = self.workers.lock();
        for (uid, desired) in &set.pods {
            if desired.pod.metadata.namespace.as_deref() == Some(namespace)
                && let Some(entry) = workers.get(uid)
            {
                entry.wake.notify_one();
            }
        }
    }

    /// Pods in the runtime, and folders, that belong to no pod of this node are removed.
    async fn find_strangers(&self, set: &PodSet) {
        let mut uids = match self.uids_in_runtime().await {
            Ok(uids) => uids,
            Err(error) => {
                warn!(%error, "pods that nobody knows cannot be looked for");
                return;
            }
        };
        uids.extend(self.shared.parts.orphans().await);
        uids.sort();
        uids.dedup();
        for uid in uids {
            if !uid.is_empty() && !set.pods.contains_key(&uid) && !self.workers.lock().contains_key(&uid) {
                info!(%uid, "pod that nobody knows is removed");
                self.want(&uid, Wanted::Gone);
            }
        }
    }

    async fn uids_in_runtime(&self) -> Result<Vec<Uid>, RuntimeError> {
        let runtime = &self.shared.runtime;
        let (sandboxes, containers) = futures::try_join!(runtime.list_sandboxes(None), runtime.list_containers(None))?;
        let labels = sandboxes
            .into_iter()
            .map(|s| s.labels)
            .chain(containers.into_iter().map(|c| c.labels));
        Ok(labels
            .filter_map(|labels| labels.get(LABEL_POD_UID).map(Uid::new))
            .collect())
    }
}
