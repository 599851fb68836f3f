//! Whole systems, started and broken on one machine: a real Kubernetes control plane, real containerd, and cloudcore and
//! edgecore as programs, ours or anybody's (`KE_CLOUD`, `KE_EDGE`).
//!
//! Owns everything it starts: each run has one folder ([`run::Run`]) from which every process, network namespace, mount and
//! cgroup of the run can be found and removed, also by a later process. Reads the programs and the cache that `e2e/setup`
//! fills. Must not reach into the cores that it tests: it sees them as an operator does, through files, processes, sockets and
//! the Kubernetes API, and as nodes do ([`hub`], [`fleet`], by the crate `proto`).
//!
//! The code is blocking: a scenario is a list of steps that wait for conditions with a deadline.

pub mod api;
pub mod balancer;
pub mod bench;
pub mod cloud;
pub mod cluster;
pub mod containers;
pub mod demo;
pub mod edge;
pub mod fleet;
pub mod hosts;
pub mod hub;
pub mod known;
pub mod lanes;
pub mod link;
pub mod load;
pub mod mqtt;
pub mod oracle;
pub mod process;
pub mod run;
pub mod scenarios;
pub mod settings;
pub mod system;
pub mod talker;
mod tun;
pub mod wait;
pub mod way_in;
