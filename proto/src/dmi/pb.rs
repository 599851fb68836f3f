//! The messages and services of v1beta1, compiled from `proto/dmi.proto`.
#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]

tonic::include_proto!("v1beta1");
