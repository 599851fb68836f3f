//! Does what [`Waiting`] says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use proto::{NodeName, Object};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::correlator::{Correlator, Event};
use super::waiting::{Action, Outcome, Said, Waiting};
use super::{Note, store};
use crate::edged::api::{Api, Delivery};
use crate::metamanager::{RequestError, Tables};

/// What kubelets call themselves in events.
const COMPONENT: &str = "kubelet";

/// What [`run`] works with.
pub(super) struct Sender {
    pub(super) api: Arc<dyn Api>,
    pub(super) tables: Tables,
    pub(super) node: NodeName,
    pub(super) notes: mpsc::Receiver<Note>,
    /// Notes that found the queue full.
    pub(super) dropped: Arc<AtomicU64>,
}

type Sending = FuturesUnordered<BoxFuture<'static, (String, Result<Delivery, RequestError>)>>;

/// Runs until nobody takes notes any more, or until the stop: what has not arrived by then is written.
pub(super) async fn run(mut sender: Sender, stop: CancellationToken) {
    let mut correlator = Correlator::default();
    let rows = store::load(&sender.tables).await.unwrap_or_else(|error| {
        warn!(%error, "events that waited for a link before the start cannot be read");
        Vec::new()
    });
    let mut replaced = sender.tables.replaced();
    let mut waiting = Waiting::new(Instant::now(), rows);
    let mut link = sender.api.link();
    waiting.link(Instant::now(), link.borrow_and_update().is_up());
    let mut sending = Sending::new();
    loop {
        if std::mem::replace(&mut replaced, sender.tables.replaced()) != replaced {
            waiting.rows_lost(Instant::now());
        }
        let wake = sender.work(&mut waiting, &mut sending).await;
        let pause = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = link.changed() => {
                if changed.is_err() {
                    break;
                }
                sending.clear();
                waiting.link(Instant::now(), link.borrow_and_update().is_up());
            }
            Some((name, outcome)) = sending.next() => waiting.sent(Instant::now(), &name, judged(&name, outcome)),
            note = sender.notes.recv() => {
                let Some(note) = note else { break };
                sender.take(&mut correlator, &mut waiting, note);
            }
            () = pause => {}
        }
    }
    while let Ok(note) = sender.notes.try_recv() {
        sender.take(&mut correlator, &mut waiting, note);
    }
    if let Action::Store { forget, write } = waiting.store()
        && !(write.is_empty() && forget.is_empty())
        && let Err(error) = store::write(&sender.tables, forget, write).await
    {
        debug!(%error, "events that wait for a link are lost by the stop");
    }
}

impl Sender {
    /// Does what is to be done; says when to look again.
    async fn work(&self, waiting: &mut Waiting, sending: &mut Sending) -> Option<Instant> {
        let dropped = waiting.dropped() + self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            info!(
                events = dropped,
                "events of pods were dropped: there were too many while the cloud took none"
            );
        }
        loop {
            match waiting.next(Instant::now()) {
                Action::Wait(until) => return until,
                Action::Send(Said { name, object }) => {
                    let api = self.api.clone();
                    sending.push(Box::pin(async move { (name, api.send_event(&object).await) }));
                }
                Action::Store { forget, write } => match store::write(&self.tables, forget, write).await {
                    Ok(()) => waiting.stored(),
                    Err(error) => {
                        debug!(%error, "events that wait for a link cannot be written");
                        waiting.store_failed(Instant::now());
                    }
                },
            }
        }
    }

    fn take(&self, correlator: &mut Correlator, waiting: &mut Waiting, note: Note) {
        let Some(event) = correlator.observe(note, Timestamp::now()) else {
            return;
        };
        match object(&event, &self.node) {
            Ok(object) => {
                let name = event.name;
                waiting.put(Instant::now(), Said { name, object });
            }
            Err(error) => debug!(event = event.name, %error, "an event cannot be written"),
        }
    }
}

fn judged(name: &str, outcome: Result<Delivery, RequestError>) -> Outcome {
    match outcome {
        Ok(Delivery::Answered) => Outcome::Written,
        Ok(Delivery::Told) => Outcome::Told,
        Err(RequestError::Refused(status)) if status.code < 500 && status.code != 429 => {
            debug!(event = name, error = %status, "the API does not take an event");
            Outcome::Refused
        }
        Err(error) => {
            debug!(event = name, %error, "an event waits");
            Outcome::Later
        }
    }
}

fn object(event: &Event, node: &NodeName) -> Result<Object, proto::object::BadObject> {
    let subject = &event.subject;
    let time = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut about = json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "namespace": subject.namespace,
        "name": subject.pod,
        "uid": subject.uid,
        "resourceVersion": subject.version,
    });
    if !subject.field.is_empty() {
        about["fieldPath"] = json!(subject.field);
    }
    Object::from_value(&json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event.name, "namespace": subject.namespace},
        "involvedObject": about,
        "reason": event.reason,
        "message": event.message,
        "source": {"component": COMPONENT, "host": node},
        "firstTimestamp": time(event.first),
        "lastTimestamp": time(event.last),
        "count": event.count,
        "type": event.severity.word(),
        "eventTime": null,
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
    }))
}
