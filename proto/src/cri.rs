//! The container runtime interface, `runtime.v1`, compiled from `proto/cri.proto`.
#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]

tonic::include_proto!("runtime.v1");
