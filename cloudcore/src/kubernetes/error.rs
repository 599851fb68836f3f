//! Why a request to the API server failed.

use std::time::Duration;

use proto::{BadObject, Status};
use thiserror::Error;

/// A failed request.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The API server refused; its own words.
    #[error("the API server refused {verb} of {path}")]
    Refused {
        /// The HTTP method.
        verb: &'static str,
        /// The URL path.
        path: String,
        /// What it said.
        #[source]
        status: Box<Status>,
    },
    /// No answer: the connection failed.
    #[error("no answer from the API server to {verb} of {path}")]
    Unreachable {
        /// The HTTP method.
        verb: &'static str,
        /// The URL path.
        path: String,
        /// The connection's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("no answer from the API server to {verb} of {path} within {limit:?}")]
    Late {
        /// The HTTP method.
        verb: &'static str,
        /// The URL path.
        path: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The answer is no object.
    #[error("the API server answered {path} with something else than an object")]
    Malformed {
        /// The URL path.
        path: String,
        /// What is wrong with it.
        #[source]
        source: BadObject,
    },
    /// A name that cannot be one of the API's.
    #[error("{name:?} is no name of an object or namespace")]
    BadName {
        /// The name.
        name: String,
    },
}

impl ApiError {
    /// What the API server said, if it said anything.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Refused { status, .. } => Some(status),
            _ => None,
        }
    }

    /// The status for an edge: the API server's own, or a full one made of this error (spec 02 §3.2: never `{}`).
    pub fn into_status(self) -> Status {
        match self {
            Self::Refused { status, .. } => *status,
            Self::BadName { .. } => Status::failure(400, "BadRequest", self.to_string()),
            Self::Late { .. } => Status::failure(504, "Timeout", self.to_string()),
            Self::Unreachable { .. } | Self::Malformed { .. } => Status::internal(common::chain(&self)),
        }
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(Status::is_not_found)
    }

    /// Whether the object changed meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(Status::is_conflict)
    }

    /// Whether the object exists already.
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(Status::is_already_exists)
    }

    /// Whether nothing can be created because the namespace is being deleted.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(Status::is_namespace_terminating)
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { status, .. } => status.code == 429 || status.code >= 500,
            Self::Unreachable { .. } | Self::Late { .. } => true,
            Self::Malformed { .. } | Self::BadName { .. } => false,
        }
    }
}
