//! The configuration files of both cores: read as the Go programs read them, checked, printed as they print them.
//!
//! Owns: the trees of cloudcore.yaml and edgecore.yaml, their defaults and checks, the forms of older releases, the flags'
//! texts, the change of one key in an existing file, the version constants. Reads: text and files that a caller names, the
//! host's name and address when asked for [`HostFacts`]. Emits: checked objects with warnings, or all problems at once. Must
//! not: start anything, read the environment on its own, write a file that the caller did not name.
//! Source: spec 06 §1; the samples in `golden/` are what the Go programs print.
#![warn(missing_docs)]

mod checks;
pub mod cli;
pub mod cloudcore;
mod decode;
pub mod edgecore;
mod facts;
mod legacy;
mod load;
mod problem;
pub mod stamp;
pub mod version;
mod yaml;

pub use cloudcore::CloudCore;
pub use decode::{GoDuration, Secret};
pub use edgecore::EdgeCore;
pub use facts::HostFacts;
pub use load::{Files, LoadError, Loaded, LookOnly, RealFiles};
pub use problem::{Problem, Problems, Warning};
pub use yaml::json;
