//! MQTT 3.1 and 3.1.1 on the wire, as a broker reads and writes it.
//!
//! A codec of our own and not the client crate's: that one is for clients, which believe their broker. It reads no 3.1, which old mappers
//! speak, lets a filled PINGREQ and a will on `a/#` pass, and has one limit for packets of strangers and of clients that have named
//! themselves. Here the packet's length is held against the caller's limit before anything is allocated, and what the standard calls
//! malformed is an error whose text says which rule was broken.

mod decode;
mod encode;
#[cfg(test)]
mod tests;
pub mod topic;

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

pub use decode::decode;

/// The longest packet that the length field of a header can tell: 256 MiB less one byte.
pub const MAX_PACKET: usize = 268_435_455;

/// Quality of service: how often a message may arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// 0: once or never.
    AtMostOnce = 0,
    /// 1: once or more.
    AtLeastOnce = 1,
    /// 2: once.
    ExactlyOnce = 2,
}

impl Qos {
    /// By its number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }
}

/// The number of a packet that waits for its answer; never 0.
pub type PacketId = std::num::NonZeroU16;

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A client names itself.
    Connect(Connect),
    /// The answer.
    ConnAck {
        /// Whether the broker still knows the client's session.
        session_present: bool,
        /// 0 is accepted.
        code: ConnectCode,
    },
    /// A message.
    Publish(Publish),
    /// QoS 1: received.
    PubAck(PacketId),
    /// QoS 2: received.
    PubRec(PacketId),
    /// QoS 2: released.
    PubRel(PacketId),
    /// QoS 2: done.
    PubComp(PacketId),
    /// A client wants topics.
    Subscribe {
        /// To be answered with.
        id: PacketId,
        /// Filters and the most that each may be sent with.
        filters: Vec<(Arc<str>, Qos)>,
    },
    /// The answer, in the order of the filters; `None` is a refusal.
    SubAck {
        /// Of the SUBSCRIBE.
        id: PacketId,
        /// The granted QoS.
        granted: Vec<Option<Qos>>,
    },
    /// A client wants topics no more.
    Unsubscribe {
        /// To be answered with.
        id: PacketId,
        /// Filters as they were subscribed.
        filters: Vec<Arc<str>>,
    },
    /// The answer.
    UnsubAck(PacketId),
    /// Are you there?
    PingReq,
    /// Yes.
    PingResp,
    /// A client goes, and its will with it.
    Disconnect,
}

/// What a client says of itself first.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Whether it speaks 3.1 and not 3.1.1.
    pub old: bool,
    /// Its name, empty for any.
    pub client: Arc<str>,
    /// Whether its session ends with the connection.
    pub clean: bool,
    /// Seconds within which it says something, 0 for never.
    pub keep_alive: u16,
    /// What is published for it when it is lost.
    pub will: Option<Will>,
    /// Who it says it is.
    pub user: Option<Arc<str>>,
    /// And the proof.
    pub password: Option<Bytes>,
}

/// A password is nothing to print.
impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect")
            .field("client", &self.client)
            .field("clean", &self.clean)
            .field("keep_alive", &self.keep_alive)
            .field("will", &self.will)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A client's last message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Where to.
    pub topic: Arc<str>,
    /// What.
    pub payload: Bytes,
    /// How.
    pub qos: Qos,
    /// Whether it is kept for later subscribers.
    pub retain: bool,
}

/// How a broker answers a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectCode {
    /// 0.
    Accepted = 0,
    /// 1: no 3.1.1.
    BadProtocol = 1,
    /// 2: the client's name is not taken.
    BadClient = 2,
    /// 3: not now.
    Unavailable = 3,
    /// 4: user name or password.
    BadCredentials = 4,
    /// 5: not for this one.
    NotAuthorized = 5,
}

/// A message in a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where to.
    pub topic: Arc<str>,
    /// What.
    pub payload: Bytes,
    /// How.
    pub qos: Qos,
    /// From a client: keep it. To a client: it was kept.
    pub retain: bool,
    /// Whether it may have been sent before.
    pub dup: bool,
    /// With QoS 1 and 2.
    pub id: Option<PacketId>,
}

/// Why bytes are no packet. The connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadPacket {
    /// Longer than allowed.
    #[error("a packet of {length} bytes, {limit} are allowed")]
    TooLong {
        /// As its header says.
        length: usize,
        /// The caller's.
        limit: usize,
    },
    /// A CONNECT of another protocol, for which there is an answer.
    #[error("protocol {name:?} level {level}: MQTT 3.1.1 and 3.1 are spoken here")]
    Protocol {
        /// As it says.
        name: String,
        /// As it says.
        level: u8,
    },
    /// It breaks a rule.
    #[error("malformed {packet}: {rule}")]
    Malformed {
        /// Its name.
        packet: &'static str,
        /// What is wrong with it.
        rule: &'static str,
    },
}
