//! The task that owns the set of pods: everything that changes rows of the cloud's objects passes here, one after the other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use common::{Tasks, order};
use proto::{Kind, Message, Object, ObjectPath, Uid};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::adopt::{self, Fetched};
use super::dispatch::{self, News, Plan, Step};
use super::readiness::Readiness;
use super::store::{Applied, Op, State, StoreError};
use super::{DesiredPod, MetaManager, PodSet, RunningPod};
use crate::uplink::Link;

/// Messages that share one commit.
const BATCH: usize = 64;
/// Pods that went, of which it is known how long they may take.
const LATEST: usize = 256;

/// What the task is told.
#[derive(Debug)]
pub(super) enum Input {
    /// A message that answers nothing.
    Message(Message),
    /// An object that the cloud answered with.
    Answered {
        /// Where it is stored.
        path: ObjectPath,
        /// The object.
        object: Object,
        /// Sent after commit.
        ack: Option<Message>,
        /// Told after commit.
        done: oneshot::Sender<()>,
    },
    /// A pod as it is after a patch of its status.
    PodPatched {
        /// The pod.
        path: ObjectPath,
        /// The object.
        object: Object,
    },
    /// A session began.
    Connected {
        /// Whether the cloud compares inventories.
        inventory: bool,
    },
    /// The cloud compared inventories.
    Compared {
        /// Pods that it sends.
        pods: Vec<Uid>,
    },
    /// The cloud answered about this node or its lease.
    NodeAnswered,
    /// The pods that were found running.
    Adopt(Vec<RunningPod>),
    /// What came of asking for them.
    Fetched(Vec<(RunningPod, Fetched)>),
}

/// Reads the stored pods, then starts the task: who gets the handle finds them in it.
pub(super) async fn start(
    meta: &MetaManager,
    inbox: mpsc::Receiver<Input>,
    pods: watch::Sender<Arc<PodSet>>,
    tasks: &Tasks,
) {
    let state = *meta.shared.store.state().borrow();
    let mut task = Task {
        meta: meta.clone(),
        pods,
        set: BTreeMap::new(),
        gone: VecDeque::new(),
        readiness: Readiness::new(state.filled),
        adoption: Adoption::default(),
        seen: state,
        failure: None,
        tasks: tasks.clone(),
    };
    if !task.load().await {
        task.readiness = Readiness::new(false);
    }
    task.publish();
    tasks.spawn("metamanager", task.run(inbox));
}

struct Task {
    meta: MetaManager,
    pods: watch::Sender<Arc<PodSet>>,
    set: BTreeMap<Uid, Arc<DesiredPod>>,
    /// The latest that went, with the seconds they were given.
    gone: VecDeque<(Uid, i64)>,
    readiness: Readiness,
    adoption: Adoption,
    /// The state of the database that this task has acted on.
    seen: State,
    /// Why changes cannot be stored, as last said.
    failure: Option<String>,
    tasks: Tasks,
}

/// A change with the message it came by and the caller who waits for it.
type Queued = (Step, Option<Message>, Option<oneshot::Sender<()>>);

/// Pods that the cloud has to be asked for.
#[derive(Debug, Default)]
struct Adoption {
    waiting: Option<Vec<RunningPod>>,
    asking: bool,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Input>) {
        let mut link = self.meta.link();
        let mut database = self.meta.shared.store.state();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let deadline = self.readiness.deadline();
            tokio::select! {
                count = inbox.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.take(std::mem::take(&mut batch)).await;
                }
                Ok(()) = link.changed() => {
                    if *link.borrow_and_update() == Link::Down {
                        self.readiness.disconnected();
                    }
                }
                Ok(()) = database.changed() => {
                    let state = *database.borrow_and_update();
                    self.database_changed(state).await;
                }
                () = sleep_until(deadline) => {}
            }
            if self.readiness.check(Instant::now()) {
                self.became_ready().await;
            }
            self.ask_for_running();
        }
    }

    /// Returns whether all of them could be read: the containers of one that could not are no strangers.
    async fn load(&mut self) -> bool {
        let rows = match self.meta.shared.store.rows("pod").await {
            Ok(rows) => rows,
            Err(error) => {
                warn!(%error, "the stored pods cannot be read");
                return false;
            }
        };
        let mut all = true;
        for (key, value) in rows {
            match Object::parse(&value)
                .and_then(|object| dispatch::pod_of_node(&object, &self.meta.shared.settings.node))
            {
                Ok(Some(pod)) => {
                    self.set.insert(pod.object.uid(), pod);
                }
                Ok(None) => {}
                Err(error) => {
                    warn!(pod = key, error = common::chain(&error), "a stored pod cannot be read");
                    all = false;
                }
            }
        }
        all
    }

    fn publish(&self) {
        let set = PodSet {
            ready: self.readiness.is_ready(),
            pods: self.set.clone(),
            grace: order::map(self.gone.iter().cloned()),
        };
        self.pods.send_replace(Arc::new(set));
    }

    async fn became_ready(&mut self) {
        info!(pods = self.set.len(), "all pods of this node are known");
        if let Err(error) = self.meta.shared.store.apply(vec![Op::MarkFilled]).await {
            warn!(%error, "the database cannot be marked as complete; after a restart the cloud is asked again");
        }
        self.publish();
    }

    /// A batch becomes one transaction: the disk is forced to write once for all of its messages.
    async fn take(&mut self, batch: Vec<Input>) {
        let mut steps: Vec<Queued> = Vec::new();
        let mut dirty = false;
        for input in batch {
            match input {
                Input::Message(message) => match dispatch::plan(&message, &self.meta.shared.settings.node) {
                    Plan::Apply(step) => {
                        steps.push((*step, Some(message), None));
                    }
                    Plan::Refuse(reason) => self.refuse(&message, &reason).await,
                    Plan::Ignore(reason) => {
                        debug!(route = %message.route, operation = %message.operation, source = %message.source, reason, "message ignored");
                    }
                },
                Input::Answered {
                    path,
                    object,
                    ack,
                    done,
                } => {
                    let news = if path.kind == Kind::Node {
                        News::None
                    } else {
                        News::Changed(path.clone())
                    };
                    steps.push((
                        Step {
                            ops: vec![Op::Put { path, object }],
                            news,
                            ack,
                        },
                        None,
                        Some(done),
                    ));
                }
                Input::PodPatched { path, object } => {
                    if let Some(step) = self.patched(path, object) {
                        steps.push((step, None, None));
                    }
                }
                Input::Connected { inventory } => self.readiness.connected(inventory),
                Input::Compared { pods } => {
                    let unknown = pods.into_iter().filter(|uid| !self.set.contains_key(uid));
                    self.readiness.compared(order::set(unknown));
                }
                Input::NodeAnswered => self.readiness.node_answered(Instant::now()),
                Input::Adopt(running) => self.adoption.waiting = Some(running),
                Input::Fetched(fetched) => {
                    steps.extend(self.fetched(fetched).into_iter().map(|step| (step, None, None)))
                }
            }
        }
        if steps.is_empty() {
            return;
        }
        let ops: Vec<Op> = steps.iter().flat_map(|(step, _, _)| step.ops.iter().cloned()).collect();
        match self.meta.shared.store.apply(ops).await {
            Ok(applied) => {
                if self.failure.take().is_some() {
                    info!("changes from the cloud are stored again");
                }
                let mut applied = applied.into_iter();
                for (step, _, done) in steps {
                    let outcomes: Vec<Applied> = applied.by_ref().take(step.ops.len()).collect();
                    for op in &step.ops {
                        match op {
                            Op::Put { path, object } if path.kind == Kind::Pod => self.readiness.arrived(object.uid()),
                            Op::Remove { path, uid, .. } if path.kind == Kind::Pod => {
                                self.readiness.arrived(uid.clone())
                            }
                            _ => {}
                        }
                    }
                    dirty |= self.tell(step.news, outcomes.first() == Some(&Applied::Changed));
                    if let Some(ack) = step.ack {
                        // Dropped without a link: the cloud sends the message again.
                        let _ = self.meta.shared.uplink.tell(ack).await;
                    }
                    drop(done);
                }
            }
            Err(error) => dirty |= self.failed(steps, &error).await,
        }
        if dirty {
            self.publish();
        }
    }

    /// Tells listeners of a change; returns whether the set of pods is another.
    fn tell(&mut self, news: News, changed: bool) -> bool {
        match news {
            News::Pod(pod) if changed => {
                let meta = pod.object.meta();
                // A successor takes the row of whoever had its name.
                self.set.retain(|uid, other| {
                    let other = other.object.meta();
                    uid.as_str() == meta.uid || other.name != meta.name || other.namespace != meta.namespace
                });
                self.set.insert(pod.object.uid(), pod);
                true
            }
            News::PodGone { path, uid, grace } => self.forget(&path, &uid, grace),
            News::Changed(path) if changed => {
                // Nobody listens before edged is up.
                let _ = self.meta.shared.changes.send(path);
                false
            }
            News::Pod(_) | News::Changed(_) | News::None => false,
        }
    }

    fn forget(&mut self, path: &ObjectPath, uid: &Uid, grace: Option<i64>) -> bool {
        let before = self.set.len();
        if let Some(grace) = grace {
            self.gone.push_back((uid.clone(), grace));
            if self.gone.len() > LATEST {
                self.gone.pop_front();
            }
        }
        if uid.is_empty() {
            self.set.retain(|_, pod| {
                pod.object.name().as_str() != path.name_str() || pod.object.namespace() != path.namespace
            });
        } else {
            self.set.remove(uid);
        }
        before != self.set.len()
    }

    /// Nothing is acknowledged that is not on the disk. What ends a pod is obeyed all the same: the cloud repeats it until it is stored,
    /// and ending pods may be what frees a full disk.
    async fn failed(&mut self, steps: Vec<Queued>, failure: &StoreError) -> bool {
        let cause = failure.to_string();
        if self.failure.as_deref() != Some(cause.as_str()) {
            warn!(
                error = cause,
                "changes from the cloud cannot be stored and are refused until they can"
            );
            self.failure = Some(cause);
        }
        let mut dirty = false;
        for (step, message, _) in steps {
            match step.news {
                News::PodGone { path, uid, grace } => dirty |= self.forget(&path, &uid, grace),
                News::Pod(pod) if pod.object.is_deleting() && self.set.contains_key(&pod.object.uid()) => {
                    self.set.insert(pod.object.uid(), pod);
                    dirty = true;
                }
                _ => {}
            }
            if let Some(message) = message {
                let reason = format!("cannot be stored: {failure}");
                let _ = self
                    .meta
                    .shared
                    .uplink
                    .tell(dispatch::refusal_of(&message, &reason))
                    .await;
            } else if let Some(ack) = step.ack {
                // An answer is used without being stored; repeating it would help nobody.
                let _ = self.meta.shared.uplink.tell(ack).await;
            }
        }
        dirty
    }

    async fn refuse(&self, message: &Message, reason: &str) {
        warn!(route = %message.route, operation = %message.operation, source = %message.source, reason, "message refused");
        let _ = self
            .meta
            .shared
            .uplink
            .tell(dispatch::refusal_of(message, reason))
            .await;
    }

    /// The answer to a patch is newer than what we have, unless the pod went meanwhile.
    fn patched(&self, path: ObjectPath, object: Object) -> Option<Step> {
        let known = self.set.get(&object.uid())?;
        if known.object.version() >= object.version() {
            // The cloud pushed it before it answered. What was kept for later is out of date all the same.
            return Some(Step {
                ops: vec![Op::DropPatch { path }],
                news: News::None,
                ack: None,
            });
        }
        let pod = dispatch::pod_of_node(&object, &self.meta.shared.settings.node).ok()??;
        Some(Step {
            ops: vec![
                Op::Refresh {
                    path: path.clone(),
                    object,
                },
                Op::DropPatch { path },
            ],
            news: News::Pod(pod),
            ack: None,
        })
    }

    /// After damage at run time the new database gets the pods that are known; ConfigMaps and the like are asked for when needed.
    async fn database_changed(&mut self, state: State) {
        let replaced = state.replaced > self.seen.replaced;
        let opened = state.open && !self.seen.open;
        self.seen = state;
        if replaced {
            let mut ops: Vec<Op> = self
                .set
                .values()
                .map(|pod| {
                    let path = ObjectPath::new(pod.object.namespace(), Kind::Pod, pod.object.name());
                    Op::Put {
                        path,
                        object: pod.object.clone(),
                    }
                })
                .collect();
            if self.readiness.is_ready() {
                ops.push(Op::MarkFilled);
            }
            info!(pods = self.set.len(), "the known pods are written to the new database");
            if let Err(error) = self.meta.shared.store.apply(ops).await {
                error!(%error, "the new database cannot be written");
            }
        } else if opened {
            // It could not be read at the start: what it holds counts from now.
            if self.load().await && state.filled && !self.readiness.is_ready() {
                self.readiness = Readiness::new(true);
            }
            self.publish();
        }
    }

    fn ask_for_running(&mut self) {
        if !self.readiness.wants_adoption() || self.adoption.asking || !self.meta.shared.uplink.is_up() {
            return;
        }
        let Some(running) = &self.adoption.waiting else { return };
        let unknown: Vec<RunningPod> = running
            .iter()
            .filter(|pod| !self.set.contains_key(&pod.uid))
            .cloned()
            .collect();
        if unknown.is_empty() {
            self.readiness.adopted();
            return;
        }
        self.adoption.asking = true;
        let meta = self.meta.clone();
        self.tasks.spawn("adopt", async move {
            let mut fetched = Vec::with_capacity(unknown.len());
            for pod in unknown {
                let outcome = adopt::fetch(&meta, &pod).await;
                let unknown = matches!(outcome, Fetched::Unknown);
                fetched.push((pod, outcome));
                if unknown {
                    // The link does not answer: the other pods are not asked for over it, they stay on the list.
                    tokio::time::sleep(super::readiness::GRACE).await;
                    break;
                }
            }
            let _ = meta.shared.inbox.send(Input::Fetched(fetched)).await;
        });
    }

    fn fetched(&mut self, fetched: Vec<(RunningPod, Fetched)>) -> Vec<Step> {
        self.adoption.asking = false;
        let mut steps = Vec::new();
        for (running, outcome) in fetched {
            if matches!(outcome, Fetched::Unknown) {
                continue;
            }
            if let Some(waiting) = &mut self.adoption.waiting {
                waiting.retain(|pod| *pod != running);
            }
            if let Fetched::Wanted(object) = outcome
                && let Ok(Some(pod)) = dispatch::pod_of_node(&object, &self.meta.shared.settings.node)
            {
                let path = ObjectPath::new(running.namespace, Kind::Pod, running.name);
                steps.push(Step {
                    ops: vec![Op::Put { path, object }],
                    news: News::Pod(pod),
                    ack: None,
                });
            }
        }
        steps
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
