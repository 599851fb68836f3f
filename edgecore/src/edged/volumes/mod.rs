//! Volumes of pods (spec 05 §6, row 28).
//!
//! Owns the folders below `pods/<uid>/volumes` and what is mounted there, laid out as a kubelet does, so that either finds what the
//! other left. Reads pods and the objects that their volumes name. Emits the paths to mount into containers. Must not follow a mount
//! or a link when it deletes.

mod mounts;
mod subpath;

pub(super) use subpath::{SubPath, prepare_sub_path};
