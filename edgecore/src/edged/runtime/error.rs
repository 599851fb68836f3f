//! Errors of the runtime.

use thiserror::Error;
use tonic::Code;

/// A call of the runtime that failed.
#[derive(Clone, Debug, Error)]
#[error("{call} {subject}: {message}")]
pub struct RuntimeError {
    /// The call, `RunPodSandbox` for example.
    pub call: &'static str,
    /// What it was about: an id, an image; empty when about nothing.
    pub subject: String,
    /// What kind of error it is.
    pub code: Code,
    /// The runtime's text, or why it was not reached.
    pub message: String,
}

impl RuntimeError {
    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// The runtime does not know the call.
    pub fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }

    /// The runtime was not reached, or gave no answer in time: nobody knows whether the call had an effect.
    pub fn is_unavailable(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
    }
}
