//! TLS of the programs: configurations for both sides.
//!
//! Everything speaks TLS 1.2 and 1.3 by aws-lc-rs. Peers of all ages are served: Go offers ECDSA and AES-128-GCM (spec 01 §3.3).

mod anybody;
pub mod client;
mod cloud;
pub mod server;
pub mod stream;
