//! The modules of cloudcore, from the bottom up: the API ([`kubernetes`]), what it holds ([`informers`], [`objectsync`]), the sessions
//! ([`cloudhub`]) and what they ask of the cluster ([`cluster`]), this host's [`addresses`], the tunnels of kubectl ([`cloudstream`]), the
//! controllers ([`edgecontroller`], [`devicecontroller`], [`synccontroller`]), who is kept out ([`revocation`]), the API server's questions
//! about devices ([`webhook`]) and the monitor server ([`monitor`]). `main.rs` and the files that it names put them together.

pub mod addresses;
pub mod cloudhub;
pub mod cloudstream;
pub mod cluster;
pub mod devicecontroller;
pub mod edgecontroller;
#[cfg(test)]
mod golden;
pub mod informers;
pub mod kubernetes;
mod labels;
pub mod monitor;
pub mod objectsync;
#[cfg(test)]
#[path = "../../fuzz/src/replay.rs"]
mod replay;
pub mod revocation;
pub mod synccontroller;
mod waiting;
pub mod webhook;
