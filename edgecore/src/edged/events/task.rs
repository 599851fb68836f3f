//! Sends events while there is a link.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use proto::{NodeName, Object};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info};

use super::correlator::{Correlator, Event};
use super::{Note, WAITING};
use crate::edged::api::Api;
use crate::uplink::Link;

/// What was sent this long before a link was lost may have been lost with it.
const DOUBTFUL: Duration = Duration::from_secs(30);
/// What kubelets call themselves in events.
const COMPONENT: &str = "kubelet";

struct Sender {
    api: Arc<dyn Api>,
    node: NodeName,
    link: watch::Receiver<Link>,
    waiting: VecDeque<Event>,
    sent: VecDeque<(Instant, Event)>,
    dropped: Arc<AtomicU64>,
}

/// Runs until nobody takes notes any more.
pub(super) async fn run(api: Arc<dyn Api>, node: NodeName, mut notes: mpsc::Receiver<Note>, dropped: Arc<AtomicU64>) {
    let mut correlator = Correlator::default();
    let mut sender = Sender {
        link: api.link(),
        api,
        node,
        waiting: VecDeque::new(),
        sent: VecDeque::new(),
        dropped,
    };
    loop {
        tokio::select! {
            note = notes.recv() => {
                let Some(note) = note else { return };
                if let Some(event) = correlator.observe(note, Timestamp::now()) {
                    sender.put(event);
                }
            }
            changed = sender.link.changed() => {
                if changed.is_err() {
                    return;
                }
                sender.doubt();
            }
        }
        sender.send().await;
    }
}

impl Sender {
    /// The newest of a name wins; the oldest gives way.
    fn put(&mut self, event: Event) {
        self.waiting.retain(|other| other.name != event.name);
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.waiting.push_back(event);
    }

    /// A link ended or another began: what was sent last is sent again.
    fn doubt(&mut self) {
        while let Some((at, event)) = self.sent.pop_back() {
            let is_newer = self.waiting.iter().any(|other| other.name == event.name);
            if at.elapsed() < DOUBTFUL && !is_newer && self.waiting.len() < WAITING {
                self.waiting.push_front(event);
            }
        }
    }

    async fn send(&mut self) {
        if !self.link.borrow().is_up() {
            return;
        }
        while let Some(event) = self.waiting.pop_front() {
            let object = match object(&event, &self.node) {
                Ok(object) => object,
                Err(error) => {
                    debug!(event = event.name, %error, "an event cannot be written");
                    continue;
                }
            };
            if let Err(error) = self.api.tell_event(&object).await {
                debug!(event = event.name, %error, "an event waits for a link");
                self.waiting.push_front(event);
                return;
            }
            let now = Instant::now();
            self.sent.retain(|(at, _)| now - *at < DOUBTFUL);
            if self.sent.len() >= WAITING {
                self.sent.pop_front();
            }
            self.sent.push_back((now, event));
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            info!(
                events = dropped,
                "events of pods were not sent: there were too many while there was no link"
            );
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
