//! Pods: one worker for each uid, in charge from the first container to the last trace.
//!
//! The manager owns the list of workers; a worker owns everything about its pod. Workers read the newest desired state (what came
//! between is skipped) and are woken when the runtime's state changes. They tell the status manager. Behaviour: spec 05 §6 rows 3, 5,
//! 8, 9, 12 to 18 and 34, and §7.

mod backoff;
pub(crate) mod decide;
mod kill;
mod manager;
pub(crate) mod observed;
mod parts;
mod sightings;
mod start;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use manager::{PodManager, Waker};
pub(crate) use parts::{Parts, ProbeGuard};
pub(crate) use worker::{Clock, Shared};
