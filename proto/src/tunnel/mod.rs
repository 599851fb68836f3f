//! The stream tunnel: one WebSocket per edge that carries the API server's requests to the kubelet (spec 04 §2-6).
//!
//! [`websocket`] cuts the byte stream into frames, [`message`] reads and writes the tunnel's messages in them, [`connect`] is the JSON
//! that opens a stream, [`upgrade`] the heads before it all. [`Mux`] holds the streams of one tunnel: bytes in, bytes out, no I/O, the
//! time passed in. `common::tunnel` runs it over a socket.

pub mod connect;
pub mod message;
mod mux;
mod queue;
#[cfg(test)]
mod tests;
pub mod upgrade;
mod url;
pub mod websocket;

pub use connect::{BadConnect, Connect, ConnectKind};
pub use message::{Decoder, Encoder, Kind, Message, Part};
pub use mux::{Counts, Event, Key, Mux, MuxSettings, Read, RefusedOpen};
pub use upgrade::{Answer, Upgrade};
pub use websocket::FrameError;

/// Which end of the tunnel this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The server: opens streams.
    Cloud,
    /// The client, which masks what it sends: serves streams.
    Edge,
}

/// The largest payload of a message. Go peers cut a longer one without an error (spec 04 §3), so none is sent and a received one ends
/// the tunnel.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// Bytes that each side may send on a new stream where `credits/1` was negotiated; [`Kind::Credit`] adds to it.
pub const INITIAL_CREDIT: u32 = 64 * 1024;

/// What an edge's ping carries (spec 04 §3).
pub const PING: &[u8] = b"ping you";
