//! Statuses of pods: computed as a kubelet does, and brought to the API.
//!
//! `compute` is pure; the manager's task owns what is still to be sent. One patch per change against what the API is known to have,
//! newest wins, everything again after each connect, nothing when nothing changed. Behaviour: spec 05 §5.4 and §6 rows 11 to 13.

mod compute;
mod conditions;
mod containers;
mod manager;
mod patch;
mod phase;

#[cfg(test)]
mod tests;

pub(crate) use compute::{DEADLINE, Input, never_ran, pod_status, refused, same_beside_ours, terminated};
pub(crate) use containers::ephemeral_containers;
pub(crate) use manager::{Report, StatusManager, Statuses};
#[cfg(test)]
pub(crate) use patch::apply;
pub(crate) use patch::with_kept;
pub(crate) use phase::is_terminal;
