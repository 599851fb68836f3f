//! Makes [`SpecError`]s whose text is what a kubelet would put on the status.

use std::fmt;
use std::io;
use std::path::Path;

use super::expand::TooLong;
use crate::edged::context::{PodContext, SpecError};
use crate::edged::quantity::BadQuantity;
use crate::metamanager::RequestError;

impl SpecError {
    /// Something in the pod or its surroundings that a retry may find changed.
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self {
            reason: "CreateContainerConfigError",
            message: message.into(),
        }
    }

    pub(super) fn file(action: &str, path: &Path, error: &io::Error) -> Self {
        Self::config(format!("cannot {action} {}: {error}", path.display()))
    }

    pub(super) fn quantity(ctx: &PodContext, resource: &str, error: &BadQuantity) -> Self {
        Self::config(format!("resource {resource} of pod {:?}: {error}", ctx.title()))
    }

    /// The API's own text names the object already; a failure to ask does not.
    pub(super) fn source(kind: &dyn fmt::Display, name: &str, error: &RequestError) -> Self {
        Self::config(source_text(kind, name, error))
    }
}

impl From<TooLong> for SpecError {
    fn from(error: TooLong) -> Self {
        Self::config(error.to_string())
    }
}

/// Why an object cannot be had, for people.
pub(crate) fn source_text(kind: &dyn fmt::Display, name: &str, error: &RequestError) -> String {
    error.status().map_or_else(
        || format!("{kind} {name:?}: {}", common::chain(error)),
        ToString::to_string,
    )
}
