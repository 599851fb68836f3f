//! containerd's own event service, compiled from `proto/containerd.proto`.
#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]

tonic::include_proto!("containerd.services.events.v1");
