//! The list of workers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Tasks, chain, order};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use proto::Uid;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use super::sightings::Sightings;
use super::worker::{Calls, Shared, Wanted, Worker};
use crate::edged::admission::{Refusal, admit, is_static};
use crate::edged::context::PodContext;
use crate::edged::node::NodeView;
use crate::edged::runtime::{LABEL_POD_UID, RuntimeError};
use crate::edged::status::{is_terminal, same_beside_ours};
use crate::metamanager::{DesiredPod, PodSet};
use crate::pod::Pod;

/// Workers that ended and wait to be taken off the list; a worker that ends waits.
const ENDED: usize = 64;
/// How often pods that nobody knows are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

struct Entry {
    wanted: watch::Sender<Wanted>,
    wake: Arc<Notify>,
    sightings: Arc<Sightings>,
    /// Whether the pod holds what it asked for: from its admission until its containers are gone.
    holds: Arc<AtomicBool>,
    /// Where it is known.
    name: Option<FullName>,
}

/// Namespace and name.
type FullName = (Option<String>, Option<String>);

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

    /// One of a pod's containers or sandboxes is in this state now, or gone. A worker that knows it is left alone.
    pub(crate) fn saw(&self, uid: &Uid, id: &str, state: Option<i32>) {
        match self.workers.lock().get(uid) {
            Some(entry) => entry.sightings.saw(id, state),
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
        let mut pods = self.shared.pods.clone();
        let mut changes = self.shared.api.changes();
        let mut node = self.shared.node.clone();
        let mut housekeeping = tokio::time::interval_at(Instant::now() + HOUSEKEEPING, HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_ready = false;
        let mut balanced = Vec::new();
        loop {
            let set = pods.borrow_and_update().clone();
            self.apply(&set).await;
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
                // Statuses and the probes of pods on its network have the node's address.
                Ok(()) = node.changed() => self.waker().wake_all(),
                () = self.strangers.notified(), if set.ready => self.find_strangers(&set).await,
                _ = housekeeping.tick(), if set.ready => self.find_strangers(&set).await,
            }
        }
    }

    /// Hands every worker its newest pod. Until the set is ready nothing is removed for being absent.
    async fn apply(&self, set: &PodSet) {
        let mut refused = self.refused(set).await;
        for (uid, desired) in &set.pods {
            if self.waits(set, uid, &desired.pod) {
                continue;
            }
            self.want(uid, Wanted::Pod(desired.pod.clone()), refused.remove(uid));
        }
        if !set.ready {
            return;
        }
        for (uid, entry) in &*self.workers.lock() {
            if !set.pods.contains_key(uid) {
                entry.wanted.send_if_modified(|wanted| {
                    let known = matches!(wanted, Wanted::Pod(_));
                    if known {
                        *wanted = Wanted::Gone(set.grace.get(uid).copied());
                    }
                    known
                });
            }
        }
    }

    /// Whether a pod of a file has to wait for the one that the file held before.
    fn waits(&self, set: &PodSet, uid: &Uid, pod: &Pod) -> bool {
        let workers = self.workers.lock();
        if !is_static(pod) || workers.contains_key(uid) {
            return false;
        }
        let name = full_name(pod);
        let mut gone = workers.iter().filter(|(uid, _)| !set.pods.contains_key(*uid));
        gone.any(|(_, entry)| entry.name.as_ref() == Some(&name))
    }

    /// The newcomers that get no place on this node.
    async fn refused(&self, set: &PodSet) -> BTreeMap<Uid, Refusal> {
        let (mut there, mut newcomers) = (Vec::new(), Vec::new());
        {
            let workers = self.workers.lock();
            for (uid, desired) in &set.pods {
                match workers.get(uid) {
                    Some(entry) if entry.holds.load(Ordering::Relaxed) => there.push(self.context(desired)),
                    Some(_) => {}
                    None if is_over(&desired.pod) => {}
                    None if was_admitted(&desired.pod) => there.push(self.context(desired)),
                    None => newcomers.push(self.context(desired)),
                }
            }
        }
        if newcomers.is_empty() {
            return BTreeMap::new();
        }
        let node = match self
            .shared
            .api
            .node()
            .await
            .map(|node| node.map(|node| node.view::<NodeView>()))
        {
            Ok(Some(Ok(node))) => node,
            // Without a Node there is nothing to compare with, and pods of a node that is offline must come up.
            Ok(_) => return BTreeMap::new(),
            Err(error) => {
                debug!(error = chain(&error), "pods are admitted without knowing the node");
                return BTreeMap::new();
            }
        };
        order::sort_by(&mut newcomers, |a, b| arrival(a).cmp(&arrival(b)));
        let mut asked = None;
        let mut refused = BTreeMap::new();
        for pod in newcomers {
            let mut verdict = admit(asked.as_ref().unwrap_or(&node), &there, &pod);
            if verdict.is_err() && asked.is_none() {
                // The stored Node may be older than what the scheduler saw.
                asked = self
                    .shared
                    .api
                    .fresh_node()
                    .await
                    .ok()
                    .and_then(|node| node.view().ok());
                if let Some(fresh) = &asked {
                    verdict = admit(fresh, &there, &pod);
                }
            }
            match verdict {
                Ok(()) => there.push(pod),
                Err(refusal) => {
                    let (reason, message) = (&refusal.reason, &refusal.message);
                    let key = format_args!("{}/{}", pod.namespace(), pod.name());
                    warn!(pod = %key, uid = %pod.uid(), reason, message, "pod is refused, it has failed");
                    refused.insert(pod.uid(), refusal);
                }
            }
        }
        refused
    }

    fn context(&self, desired: &DesiredPod) -> PodContext {
        PodContext {
            pod: desired.pod.clone(),
            node: self.shared.node.borrow().clone(),
            settings: self.shared.settings.clone(),
            api: self.shared.api.clone(),
        }
    }

    async fn balance(&self, set: &PodSet) {
        let pods: Vec<PodContext> = set.pods.values().map(|desired| self.context(desired)).collect();
        self.shared.parts.balance(&pods).await;
    }

    fn want(&self, uid: &Uid, wanted: Wanted, refusal: Option<Refusal>) {
        let mut workers = self.workers.lock();
        if let Some(entry) = workers.get(uid) {
            entry.wanted.send_if_modified(|old| {
                let concerns = match (&*old, &wanted) {
                    (Wanted::Pod(old), Wanted::Pod(new)) => !Arc::ptr_eq(old, new) && concerns(old, new),
                    (Wanted::Gone(_), Wanted::Gone(_)) => false,
                    _ => true,
                };
                *old = wanted;
                concerns
            });
            return;
        }
        let name = match &wanted {
            Wanted::Pod(pod) => Some(full_name(pod)),
            Wanted::Gone(_) => None,
        };
        let (sender, receiver) = watch::channel(wanted);
        let wake = Arc::new(Notify::new());
        let sightings = Arc::new(Sightings::default());
        let holds = Arc::new(AtomicBool::new(refusal.is_none()));
        let calls = Calls {
            wanted: receiver,
            wake: wake.clone(),
            sightings: sightings.clone(),
            holds: holds.clone(),
        };
        let worker = Worker::new(self.shared.clone(), uid.clone(), calls, refusal);
        let entry = Entry {
            wanted: sender,
            wake,
            sightings,
            holds,
            name,
        };
        workers.insert(uid.clone(), entry);
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
        order::sort(&mut uids);
        uids.dedup();
        for uid in uids {
            if !uid.is_empty() && !set.pods.contains_key(&uid) && !self.workers.lock().contains_key(&uid) {
                info!(%uid, "pod that nobody knows is removed");
                self.want(&uid, Wanted::Gone(None), None);
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

/// Whether the pod asks for nothing any more, as far as is known before it was looked at.
fn is_over(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() || is_terminal(pod.status.as_ref().and_then(|s| s.phase.as_deref()))
}

/// Whether a worker has anything to do about a change: its own reports, which come back in the object, are none.
fn concerns(old: &Pod, new: &Pod) -> bool {
    let asked = |pod: &Pod| ObjectMeta {
        resource_version: None,
        managed_fields: None,
        ..pod.metadata.clone()
    };
    old.spec != new.spec || asked(old) != asked(new) || !same_beside_ours(old.status.as_ref(), new.status.as_ref())
}

/// Whether the pod was given a place before edgecore started: only then it has a start time.
fn was_admitted(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

fn full_name(pod: &Pod) -> FullName {
    (pod.metadata.namespace.clone(), pod.metadata.name.clone())
}

/// First come, first served.
fn arrival(pod: &PodContext) -> (Option<jiff::Timestamp>, &str, &str) {
    let created = pod.pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created, pod.namespace(), pod.name())
}
