//! Brings statuses to the API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{Backoff, Tasks, chain};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::PodStatus;
use parking_lot::Mutex;
use proto::{Object, Uid};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::patch;
use crate::edged::api::Api;
use crate::edged::static_pods::lacks_mirror;
use crate::metamanager::{PodSet, RequestError};
use crate::uplink::{AskError, Link};

/// Reports that wait for the manager; a worker that has more to say waits.
const QUEUE: usize = 256;

/// What a pod's worker tells.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) uid: Uid,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) status: Arc<PodStatus>,
    /// How long it may wait for a newer one that makes it needless.
    pub(crate) patience: Duration,
    /// Nothing of the pod is left on this node: once the API says so too, a pod that is to be deleted may go.
    pub(crate) finished: bool,
}

/// The last status of each pod, for those who ask on this node: it does not wait for the link.
#[derive(Clone, Debug, Default)]
pub(crate) struct Statuses(Arc<Mutex<BTreeMap<Uid, Arc<PodStatus>>>>);

impl Statuses {
    /// Of one pod, once its worker has looked.
    pub(crate) fn get(&self, uid: &Uid) -> Option<Arc<PodStatus>> {
        self.0.lock().get(uid).cloned()
    }
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct StatusManager {
    reports: mpsc::Sender<Report>,
    statuses: Statuses,
}

impl StatusManager {
    /// Starts the manager.
    pub(crate) fn start(
        api: Arc<dyn Api>,
        pods: watch::Receiver<Arc<PodSet>>,
        statuses: Statuses,
        tasks: &Tasks,
    ) -> Self {
        let (reports, queue) = mpsc::channel(QUEUE);
        let manager = Manager {
            pods,
            link: api.link(),
            api,
            entries: BTreeMap::new(),
            sends: FuturesUnordered::new(),
            statuses: statuses.clone(),
        };
        tasks.spawn("edged-status", manager.run(queue));
        Self { reports, statuses }
    }

    /// Takes a status; the newest of a pod wins.
    pub(crate) async fn report(&self, report: Report) {
        let (uid, status) = (report.uid.clone(), report.status.clone());
        self.statuses.0.lock().insert(uid, status);
        let _ = self.reports.send(report).await;
    }
}

/// A pod with something to send, or with something that may have to be sent again.
struct Entry {
    report: Report,
    backoff: Backoff,
    due: Option<Instant>,
    /// Whether something of it is on its way.
    sending: bool,
    /// The answer to the last patch, while the set of pods is older.
    answer: Option<Object>,
    deleted: bool,
    /// Version of the stored object that was last compared with.
    compared: Option<u64>,
}

struct Manager {
    api: Arc<dyn Api>,
    pods: watch::Receiver<Arc<PodSet>>,
    link: watch::Receiver<Link>,
    entries: BTreeMap<Uid, Entry>,
    /// What is on its way, one for each pod.
    sends: FuturesUnordered<BoxFuture<'static, Sent>>,
    statuses: Statuses,
}

impl Manager {
    async fn run(mut self, mut queue: mpsc::Receiver<Report>) {
        loop {
            let due = self.next_due();
            tokio::select! {
                report = queue.recv() => match report {
                    Some(report) => {
                        self.take(report);
                        // Newest wins: what is queued already is taken before anything is sent.
                        while let Ok(report) = queue.try_recv() {
                            self.take(report);
                        }
                    }
                    None => return,
                },
                changed = self.link.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if self.link.borrow_and_update().is_up() {
                        let now = Instant::now();
                        for entry in self.entries.values_mut() {
                            entry.backoff.reset();
                            entry.due = Some(now);
                        }
                    }
                }
                changed = self.pods.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.compare();
                }
                Some(sent) = self.sends.next() => self.sent(sent),
                () = sleep_until(due) => {}
            }
            self.send_due();
        }
    }

    fn take(&mut self, report: Report) {
        let now = Instant::now();
        let entry = self.entries.entry(report.uid.clone()).or_insert_with(|| Entry {
            report: report.clone(),
            backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
            due: None,
            sending: false,
            answer: None,
            deleted: false,
            compared: None,
        });
        let due = now + report.patience;
        entry.due = Some(entry.due.map_or(due, |before| before.min(due)));
        entry.report = report;
    }

    /// After a change of the set: pods that are gone are forgotten, others are compared once more.
    fn compare(&mut self) {
        let set = self.pods.borrow_and_update().clone();
        let now = Instant::now();
        self.entries.retain(|uid, _| !set.ready || set.pods.contains_key(uid));
        self.statuses
            .0
            .lock()
            .retain(|uid, _| !set.ready || set.pods.contains_key(uid));
        for (uid, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.due.is_none()) {
            let version = set.pods.get(uid).and_then(|pod| pod.object.version());
            if version.is_none() || version != entry.compared {
                entry.due = Some(now);
            }
        }
    }

    /// Begins to send what is due, several pods at a time: over a slow link one after the other would take minutes. A pod whose answer
    /// does not come holds nobody but itself.
    fn send_due(&mut self) {
        let now = Instant::now();
        let set = self.pods.borrow().clone();
        for (uid, entry) in &mut self.entries {
            if self.sends.len() >= AT_ONCE {
                return;
            }
            if entry.sending || entry.due.is_none_or(|due| due > now) {
                continue;
            }
            entry.due = None;
            // A pod that is not in the set any more has no status. One that is not there yet will be.
            if let Some(pod) = set.pods.get(uid).filter(|pod| !lacks_mirror(pod)) {
                entry.sending = true;
                self.sends.push(send(self.api.clone(), entry.job(&pod.object)).boxed());
            }
        }
    }

    /// When there is something to do again; while all places are taken, when one is free.
    fn next_due(&self) -> Option<Instant> {
        if self.sends.len() >= AT_ONCE {
            return None;
        }
        let waiting = self.entries.values().filter(|entry| !entry.sending);
        waiting.filter_map(|entry| entry.due).min()
    }

    fn sent(&mut self, sent: Sent) {
        let Some(entry) = self.entries.get_mut(&sent.uid) else {
            return;
        };
        entry.sending = false;
        if let Some(answer) = sent.answer {
            entry.backoff.reset();
            entry.answer = Some(answer);
        }
        entry.deleted |= sent.deleted;
        if let Some((error, what)) = sent.failure {
            failed(entry, &error, what);
        }
    }
}

/// What there is to send of one pod.
struct Job {
    report: Report,
    /// As the API is known to have it.
    known: Object,
    /// Whether its deletion is wanted in the API, and not done yet.
    is_deleting: bool,
}

/// What became of it.
struct Sent {
    uid: Uid,
    answer: Option<Object>,
    deleted: bool,
    failure: Option<(RequestError, &'static str)>,
}

impl Entry {
    fn job(&mut self, stored: &Object) -> Job {
        self.compared = stored.version();
        let is_old = |answer: &Object| answer.version() <= stored.version() || answer.uid() != stored.uid();
        if self.answer.as_ref().is_some_and(is_old) {
            self.answer = None;
        }
        let known = self.answer.as_ref().unwrap_or(stored);
        Job {
            report: self.report.clone(),
            known: known.clone(),
            is_deleting: !self.deleted && (known.is_deleting() || stored.is_deleting()),
        }
    }
}

/// Sends what one pod needs: a patch, or its deletion.
async fn send(api: Arc<dyn Api>, job: Job) -> Sent {
    let Report {
        namespace,
        name,
        status,
        finished,
        ..
    } = &job.report;
    // A pod from a file has another uid in the API: that of its mirror.
    let uid = &job.known.uid();
    let mut sent = Sent {
        uid: job.report.uid.clone(),
        answer: None,
        deleted: false,
        failure: None,
    };
    let mut is_deleting = job.is_deleting;
    if let Some(patch) = patch::patch(uid, &patch::status_of(&job.known), status) {
        match api.patch_pod_status(namespace, name, &patch).await {
            Ok(object) if object.uid() == *uid => {
                debug!(pod = %format_args!("{namespace}/{name}"), %uid, phase = status.phase, "status sent");
                is_deleting |= object.is_deleting();
                sent.answer = Some(object);
            }
            // The answer is about another pod of this name: ours is gone, and the set of pods will say so.
            Ok(_) => return sent,
            Err(error) => {
                sent.failure = Some((error, "the status of the pod was not sent"));
                return sent;
            }
        }
    }
    if !finished || !is_deleting {
        return sent;
    }
    match api.delete_pod(namespace, name, uid, 0).await {
        Ok(()) => {
            info!(pod = %format_args!("{namespace}/{name}"), %uid, "pod deleted");
            sent.deleted = true;
        }
        Err(error) if error.status().is_some_and(proto::Status::is_not_found) => sent.deleted = true,
        Err(error) => sent.failure = Some((error, "the pod was not deleted from the API")),
    }
    sent
}

fn failed(entry: &mut Entry, error: &RequestError, what: &str) {
    let Report {
        uid, namespace, name, ..
    } = &entry.report;
    let pod = format_args!("{namespace}/{name}");
    match error {
        // Once there is a link everything is sent again.
        RequestError::Unanswered(AskError::Offline) => {
            entry.due = None;
            return;
        }
        RequestError::Unanswered(_) => debug!(%pod, %uid, error = chain(error), "{what}"),
        _ => warn!(%pod, %uid, error = chain(error), "{what}"),
    }
    entry.due = Some(Instant::now() + entry.backoff.next_delay());
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Pods whose status is on its way at the same time.
const AT_ONCE: usize = 64;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
