//! The hub over real sockets, with a cluster in memory and edges made by hand.

pub(crate) mod edge;
pub(crate) mod fakes;
mod sessions;
mod upgrades;

pub(crate) use super::identity::tests::Memory;
pub(crate) use fakes::settings;
