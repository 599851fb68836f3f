//! The hub over real sockets, with a cluster in memory and edges made by hand.

mod edge;
mod fakes;
mod sessions;

pub(in crate::cloudhub) use fakes::settings;
