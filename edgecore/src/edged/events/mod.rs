//! Events of pods, which `kubectl describe pod` and `kubectl get events` show (`edged.reportEvent`).
//!
//! Owns what repeats, and what is still to be sent. Takes notes from workers without making them wait. Emits Events through MetaManager,
//! each as the whole object under its name: a repeated one replaces the last, so that one that arrives twice does no harm. They are
//! *records* (ARCHITECTURE.md, "The classes of messages"): `waiting` keeps them until the cloud has answered, in the database after a
//! second. Go's cloud answers none. Behaviour: spec 05 §5.5, spec 02 §1.4.

mod correlator;
mod store;
mod task;
#[cfg(test)]
mod tests;
mod waiting;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::Tasks;
use proto::NodeName;
use tokio::sync::mpsc;

use super::api::Api;
use super::context::ContainerKind;
use crate::metamanager::Tables;
use crate::pod::Pod;

/// Notes that wait for the task; more are dropped and counted.
const QUEUE: usize = 256;
/// Bytes of a message: some outputs of probes are long.
const MESSAGE: usize = 1024;

/// Whether something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

impl Severity {
    const fn word(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    namespace: String,
    pod: String,
    uid: String,
    version: String,
    /// `spec.containers{name}`, empty for the pod as a whole.
    field: String,
}

/// Something that happened.
#[derive(Clone, Debug)]
struct Note {
    subject: Subject,
    severity: Severity,
    reason: Cow<'static, str>,
    message: String,
}

/// Takes notes. Cheap to clone; turned off it costs nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    notes: Option<mpsc::Sender<Note>>,
    dropped: Arc<AtomicU64>,
}

impl Events {
    /// Starts the task that sends them.
    pub(crate) fn start(api: Arc<dyn Api>, tables: Tables, node: &NodeName, tasks: &Tasks) -> Self {
        let (notes, queue) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let sender = task::Sender {
            api,
            tables,
            node: node.clone(),
            notes: queue,
            dropped: dropped.clone(),
        };
        tasks.spawn_draining("edged-events", |stop| task::run(sender, stop));
        Self {
            notes: Some(notes),
            dropped,
        }
    }

    /// Of the pod as a whole.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.note(pod, String::new, severity, reason, message);
    }

    /// Of one of its containers.
    pub(crate) fn container(
        &self,
        pod: &Pod,
        (kind, name): (ContainerKind, &str),
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        let list = match kind {
            ContainerKind::Init | ContainerKind::Sidecar => "initContainers",
            ContainerKind::Main => "containers",
            ContainerKind::Ephemeral => "ephemeralContainers",
        };
        self.note(pod, || format!("spec.{list}{{{name}}}"), severity, reason, message);
    }

    fn note(
        &self,
        pod: &Pod,
        field: impl FnOnce() -> String,
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        let Some(notes) = &self.notes else { return };
        let meta = &pod.metadata;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let note = Note {
            subject: Subject {
                namespace: meta.namespace.clone().unwrap_or_else(|| "default".to_owned()),
                pod: text(&meta.name),
                uid: text(&meta.uid),
                version: text(&meta.resource_version),
                field: field(),
            },
            severity,
            reason: reason.into(),
            message: shortened(message.into()),
        };
        if notes.try_send(note).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE {
        let end = message.floor_char_boundary(MESSAGE);
        message.truncate(end);
    }
    message
}
