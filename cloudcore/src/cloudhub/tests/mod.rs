//! The hub over real sockets, with a cluster in memory and edges made by hand.

pub(in crate::cloudhub) mod edge;
pub(in crate::cloudhub) mod fakes;
mod sessions;

pub(in crate::cloudhub) use fakes::settings;
