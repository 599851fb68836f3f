//! Desired state of this node, kept in SQLite, and the questions that only the cloud can answer.
//!
//! Owns the database (on a thread of its own). Reads what edgehub hands it. Emits the set of pods of this node, the paths of objects
//! that changed, and acknowledgements (only after commit). Must not know containers. Behaviour: spec 05 §2, §3.
//!
//! A database without this node's pods (new, or replaced because it was damaged) proves nothing about running containers:
//! [`PodSet::ready`] stays false until the cloud has told all it wants here. Where the cloud has no inventory (Go), it never tells
//! again what it believes delivered: edged names the pods it finds running once ([`MetaManager::adopt`]), and the cloud is asked for
//! each of them.

mod adopt;
mod database;
mod dispatch;
mod owner;
mod readiness;
mod requests;
mod rows;
mod store;
mod tables;
mod task;
#[cfg(test)]
mod tests;
mod token;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use parking_lot::Mutex;
use proto::Features;
use proto::inventory::Item;
use proto::{Message, Namespace, NodeName, Object, ObjectName, ObjectPath, Status, Uid};
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, watch};

use crate::pod::Pod;
use crate::uplink::{AskError, Link, Uplink};
use store::Store;
use task::Input;

pub use tables::Tables;
pub use token::TokenKey;

/// Messages from the cloud and answers to store that wait for the task; a full queue makes edgehub stop reading the socket.
const INBOX: usize = 128;
/// Changed paths that a slow listener may be behind before it is told that it missed some.
const CHANGES: usize = 256;

/// A pod that this node is to run.
#[derive(Clone, Debug)]
pub struct DesiredPod {
    /// The object as it came.
    pub object: Object,
    /// A view for reading; shared, as every change of the set is handed to everybody.
    pub pod: Arc<Pod>,
}

/// The pods of this node.
#[derive(Clone, Debug, Default)]
pub struct PodSet {
    /// False until all pods of this node are known: until then nothing may be removed for being absent here.
    pub ready: bool,
    /// By uid: a pod that was deleted and made again under its name is another pod.
    pub pods: BTreeMap<Uid, Arc<DesiredPod>>,
    /// Seconds that the latest of those that went had been given to end. A deletion by force shortens them and removes the pod at once.
    pub grace: BTreeMap<Uid, i64>,
}

/// A pod that was found running, as its containers' labels tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningPod {
    /// `io.kubernetes.pod.namespace`.
    pub namespace: Namespace,
    /// `io.kubernetes.pod.name`.
    pub name: ObjectName,
    /// `io.kubernetes.pod.uid`.
    pub uid: Uid,
}

/// What this module needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeName,
    /// `database.dataSource`.
    pub database: PathBuf,
    /// `modules.metaManager.remoteQueryTimeout`.
    pub remote_timeout: Duration,
}

/// Why an object or an answer is not to be had.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The cloud answered with an error.
    #[error("{0}")]
    Refused(Box<Status>),
    /// No answer.
    #[error("cannot ask the cloud")]
    Unanswered(#[source] AskError),
    /// The answer, or a stored row, cannot be read.
    #[error("unreadable {what}")]
    Unreadable {
        /// The path of the object.
        what: String,
        /// What is wrong with it.
        #[source]
        source: proto::BadObject,
    },
    /// The database failed.
    #[error("the database cannot be used: {0}")]
    Store(String),
}

/// How far something went that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The cloud has done with it what it should.
    Answered,
    /// It was handed to the connection, to a cloud that does not answer.
    Told,
}

impl RequestError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unanswered(_) | Self::Store(_))
    }

    /// The API's error, if it is one.
    pub const fn status(&self) -> Option<&Status> {
        match self {
            Self::Refused(status) => Some(status),
            _ => None,
        }
    }
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MetaManager {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    store: Store,
    uplink: Uplink,
    inbox: mpsc::Sender<Input>,
    pods: watch::Receiver<Arc<PodSet>>,
    changes: broadcast::Sender<ObjectPath>,
    /// One question at a time for each key, so that thirty pods ask once for the ConfigMap that they share.
    asking: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl MetaManager {
    /// Opens the database and starts the task. A database that cannot be opened is no error: it is tried again while running.
    pub async fn start(settings: Settings, uplink: Uplink, tasks: &Tasks) -> std::io::Result<Self> {
        let store = Store::start(&settings.database).await?;
        let (inbox, messages) = mpsc::channel(INBOX);
        let (changes, _) = broadcast::channel(CHANGES);
        let (pods_end, pods) = watch::channel(Arc::new(PodSet::default()));
        let shared = Shared {
            settings,
            store,
            uplink,
            inbox,
            pods,
            changes,
            asking: Mutex::new(HashMap::new()),
        };
        let handle = Self {
            shared: Arc::new(shared),
        };
        task::start(&handle, messages, pods_end, tasks).await;
        Ok(handle)
    }

    /// The pods of this node, newest state first; see [`PodSet::ready`].
    pub fn pods(&self) -> watch::Receiver<Arc<PodSet>> {
        self.shared.pods.clone()
    }

    /// Paths of ConfigMaps, Secrets and all other objects but pods and this node that were stored or removed.
    pub fn changes(&self) -> broadcast::Receiver<ObjectPath> {
        self.shared.changes.subscribe()
    }

    /// Follows the link to the cloud.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.shared.uplink.link()
    }

    /// The extras that the cloud has too, those of the last session while there is none.
    pub fn features(&self) -> Features {
        self.shared.uplink.features()
    }

    /// Names the pods that were found running, once after the start of edged, whatever [`PodSet::ready`] says. A database that lost
    /// its rows gets them back by it; without this call such a database never becomes ready.
    pub async fn adopt(&self, running: Vec<RunningPod>) {
        let _ = self.shared.inbox.send(Input::Adopt(running)).await;
    }

    /// For edgehub: a message of the cloud that answers nothing, taken when there is room. Nothing is lost when it is dropped before.
    pub async fn deliver(&self, message: &mut Option<Message>) {
        let slot = self.shared.inbox.reserve().await;
        if let (Ok(slot), Some(message)) = (slot, message.take()) {
            slot.send(Input::Message(message));
        }
    }

    /// For edgehub: a session begins; `inventory` says whether this cloud compares inventories.
    pub async fn connected(&self, inventory: bool) {
        let _ = self.shared.inbox.send(Input::Connected { inventory }).await;
    }

    /// For edgehub: the cloud compared inventories and sends these pods, among others.
    pub async fn compared(&self, pods: Vec<Uid>) {
        let _ = self.shared.inbox.send(Input::Compared { pods }).await;
    }

    /// For edgehub: what the cloud is asked to compare with the API.
    pub async fn inventory(&self) -> Result<Vec<Item>, RequestError> {
        self.shared
            .store
            .inventory()
            .await
            .map_err(|error| RequestError::Store(error.to_string()))
    }

    /// Whether the database can be read.
    pub fn is_open(&self) -> bool {
        self.shared.store.state().borrow().open
    }
}
