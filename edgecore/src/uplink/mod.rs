//! The only way out of the edge.
//!
//! Owns nothing but the queue towards edgehub. Reads whether the link is up. Every report and every question of the edge leaves
//! through here, so that order, limits and classes live in one place (ARCHITECTURE.md, "Classes of messages"):
//!
//! - *state* is not queued: its owner asks again after each connect ([`Uplink::link`] tells of connects);
//! - *questions* ([`Uplink::ask`]) wait for one answer and fail at once while the link is down;
//! - what is urgent ([`proto::Lane`]) has a queue of its own, so that it never waits behind the rest;
//! - *acknowledgements* ([`Uplink::tell`]) are dropped while the link is down: the cloud sends the message again.

use std::time::Duration;

use proto::{Features, Lane, Message};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

/// Messages that wait for the socket; a full queue makes senders wait.
pub const QUEUE: usize = 256;

/// Whether the cloud can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// No session.
    Down,
    /// A session; the number grows with each, so that nobody misses a reconnect.
    Up(u64),
}

impl Link {
    /// Whether there is a session.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up(_))
    }
}

/// Why a question has no answer.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum AskError {
    /// There is no link, or it was lost before the answer came.
    #[error("no connection to cloudcore")]
    Offline,
    /// The cloud did not answer in time.
    #[error("cloudcore did not answer within {0:?}")]
    Timeout(Duration),
    /// The process stops.
    #[error("edgecore is stopping")]
    Stopped,
}

/// What edgehub takes from the queue.
#[derive(Debug)]
pub enum Outgoing {
    /// Send, and hand the message with this one's id as parent to `answer`. Dropping `answer` means that there is none to come.
    Ask {
        /// The question.
        message: Message,
        /// Where the answer goes.
        answer: oneshot::Sender<Message>,
    },
    /// Send; nobody waits.
    Tell(Message),
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Uplink {
    urgent: mpsc::Sender<Outgoing>,
    outgoing: mpsc::Sender<Outgoing>,
    link: watch::Receiver<Link>,
    features: watch::Receiver<Features>,
}

/// The other end, held by edgehub (and by tests).
#[derive(Debug)]
pub struct UplinkEnd {
    /// What is to be sent before all else.
    pub urgent: mpsc::Receiver<Outgoing>,
    /// What is to be sent.
    pub outgoing: mpsc::Receiver<Outgoing>,
    /// Tells all holders whether the link is up.
    pub link: watch::Sender<Link>,
    /// The features that the cloud of this session has, told before the link is up.
    pub features: watch::Sender<Features>,
}

impl UplinkEnd {
    /// The next of both queues, the urgent one first; `None` when nobody can send any more.
    pub async fn recv(&mut self) -> Option<Outgoing> {
        tokio::select! {
            biased;
            Some(outgoing) = self.urgent.recv() => Some(outgoing),
            Some(outgoing) = self.outgoing.recv() => Some(outgoing),
            else => None,
        }
    }
}

impl Uplink {
    /// A pair of ends; the link is down.
    pub fn channel() -> (Self, UplinkEnd) {
        let (urgent, urgent_end) = mpsc::channel(QUEUE);
        let (outgoing, outgoing_end) = mpsc::channel(QUEUE);
        let (link_end, link) = watch::channel(Link::Down);
        let (features_end, features) = watch::channel(Features::default());
        (
            Self {
                urgent,
                outgoing,
                link,
                features,
            },
            UplinkEnd {
                urgent: urgent_end,
                outgoing: outgoing_end,
                link: link_end,
                features: features_end,
            },
        )
    }

    /// Follows the link.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// The extras that the cloud of the present session has too, or of the last one.
    pub fn features(&self) -> Features {
        *self.features.borrow()
    }

    /// Whether the link is up now.
    pub fn is_up(&self) -> bool {
        self.link.borrow().is_up()
    }

    /// Sends a question and waits for its answer.
    pub async fn ask(&self, message: Message, timeout: Duration) -> Result<Message, AskError> {
        if !self.is_up() {
            return Err(AskError::Offline);
        }
        let (answer, waiting) = oneshot::channel();
        let exchange = async {
            self.queue(message.lane())
                .send(Outgoing::Ask { message, answer })
                .await
                .map_err(|_| AskError::Stopped)?;
            waiting.await.map_err(|_| AskError::Offline)
        };
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or(Err(AskError::Timeout(timeout)))
    }

    /// Sends a message that nobody answers. Dropped while the link is down.
    pub async fn tell(&self, message: Message) -> Result<(), AskError> {
        if !self.is_up() {
            return Err(AskError::Offline);
        }
        self.queue(message.lane())
            .send(Outgoing::Tell(message))
            .await
            .map_err(|_| AskError::Stopped)
    }

    const fn queue(&self, lane: Lane) -> &mpsc::Sender<Outgoing> {
        match lane {
            Lane::Urgent => &self.urgent,
            Lane::Bulk => &self.outgoing,
        }
    }
}
