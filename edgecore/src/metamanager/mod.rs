//! Desired state of this node, kept in SQLite, and the questions that only the cloud can answer.
//!
//! Owns the database (on a thread of its own). Reads what edgehub hands it. Emits the set of pods of this node, the paths of objects
//! that changed, and acknowledgements (only after commit). Must not know containers. Behaviour: spec 05 §2, §3.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use proto::{Object, Status, Uid};
use thiserror::Error;

use crate::uplink::AskError;

/// A pod that this node is to run.
#[derive(Clone, Debug)]
pub struct DesiredPod {
    /// The object as it came.
    pub object: Object,
    /// A view for reading.
    pub pod: Pod,
}

/// The pods of this node.
#[derive(Clone, Debug, Default)]
pub struct PodSet {
    /// False until the database was read: until then nothing may be removed for being absent here.
    pub ready: bool,
    /// By uid: a pod that was deleted and made again under its name is another pod.
    pub pods: BTreeMap<Uid, Arc<DesiredPod>>,
}

/// Why an object or an answer is not to be had.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The cloud answered with an error.
    #[error("{0}")]
    Refused(Status),
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
