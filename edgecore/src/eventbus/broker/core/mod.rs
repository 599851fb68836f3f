//! The broker without I/O.
mod subscriptions;
pub(super) use subscriptions::Tree;
