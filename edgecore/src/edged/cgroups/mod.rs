//! The tree of cgroups that pods live in (spec 05 §6, row 21).
//!
//! Owns `kubepods` below the configured root: its levels of service and one folder per pod. Reads the pods' requests and limits.
//! Emits nothing. Must not touch the folders of containers: those are the runtime's.

mod facts;
mod names;

pub use facts::CgroupFacts;
pub use names::CgroupNames;
