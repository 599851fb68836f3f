//! Brings statuses to the API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{Backoff, Tasks, chain};
use futures::StreamExt;
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
    statuses: Statuses,
}

impl Manager {
    async fn run(mut self, mut queue: mpsc::Receiver<Report>) {
        loop {
            let due = self.entries.values().filter_map(|entry| entry.due).min();
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
                () = sleep_until(due) => {}
            }
            self.send_due().await;
        }
    }

    fn take(&mut self, report: Report) {
        let now = Instant::now();
        let entry = self.entries.entry(report.uid.clone()).or_insert_with(|| Entry {
            report: report.clone(),
            backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
            due: None,
            answer: None,
            deleted: false,
            compared: None,
        });
        entry.report = report;
        entry.due = Some(now);
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

    /// Sends what is due, several pods at a time: over a slow link one after the other would take minutes.
    async fn send_due(&mut self) {
        let now = Instant::now();
        let set = self.pods.borrow().clone();
        let mut sends = Vec::new();
        for (uid, entry) in &mut self.entries {
            if entry.due.is_none_or(|due| due > now) {
                continue;
            }
            entry.due = None;
            // A pod that is not in the set any more has no status. One that is not there yet will be.
            if let Some(pod) = set.pods.get(uid).filter(|pod| !lacks_mirror(pod)) {
                sends.push(send(&*self.api, entry, &pod.object));
            }
        }
        futures::stream::iter(sends)
            .for_each_concurrent(AT_ONCE, |send| send)
            .await;
    }
}

/// Sends what one pod needs: a patch, or its deletion.
async fn send(api: &dyn Api, entry: &mut Entry, stored: &Object) {
    entry.compared = stored.version();
    if entry
        .answer
        .as_ref()
        .is_some_and(|answer| answer.version() <= stored.version() || answer.uid() != stored.uid())
    {
        entry.answer = None;
    }
    let known = entry.answer.as_ref().unwrap_or(stored);
    let Report {
        namespace,
        name,
        status,
        finished,
        ..
    } = &entry.report;
    // Of a pod from a file the API has another one, its mirror.
    let uid = &stored.uid();
    if let Some(patch) = patch::patch(uid, &patch::status_of(known), status) {
        match api.patch_pod_status(namespace, name, &patch).await {
            Ok(object) if object.uid() == *uid => {
                debug!(pod = %format_args!("{namespace}/{name}"), %uid, phase = status.phase, "status sent");
                entry.backoff.reset();
                entry.answer = Some(object);
            }
            // A pod of the same name: this one is gone, the set will say so.
            Ok(_) => return,
            Err(error) => return failed(entry, &error, "the status of the pod was not sent"),
        }
    }
    let known = entry.answer.as_ref().unwrap_or(stored);
    if !finished || entry.deleted || !(known.is_deleting() || stored.is_deleting()) {
        return;
    }
    match api.delete_pod(namespace, name, uid, 0).await {
        Ok(()) => {
            info!(pod = %format_args!("{namespace}/{name}"), %uid, "pod deleted");
            entry.deleted = true;
        }
        Err(error) if error.status().is_some_and(proto::Status::is_not_found) => entry.deleted = true,
        Err(error) => failed(entry, &error, "the pod was not deleted from the API"),
    }
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
const AT_ONCE: usize = 16;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
