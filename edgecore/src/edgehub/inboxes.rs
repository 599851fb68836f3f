//! Who gets what the cloud sends without having been asked.

use proto::Message;
use tokio::sync::mpsc;

use crate::metamanager::MetaManager;

/// The receivers; an absent one is a module that is turned off. A full queue makes edgehub stop reading the socket.
#[derive(Clone, Debug)]
pub struct Inboxes {
    /// Objects.
    pub meta: MetaManager,
    /// Messages of the group `twin` for DeviceTwin.
    pub twin: Option<mpsc::Sender<Message>>,
    /// Messages of the cloud's rules for EventBus.
    pub bus: Option<mpsc::Sender<Message>>,
}

/// A module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Meta,
    Twin,
    Bus,
}

/// A message on its way to its receiver.
#[derive(Debug)]
pub(super) struct Pending {
    to: To,
    message: Option<Message>,
}

impl Pending {
    pub(super) const fn new(to: To, message: Message) -> Self {
        Self {
            to,
            message: Some(message),
        }
    }
}

impl Inboxes {
    /// Whether the module is turned on.
    pub(super) const fn has(&self, to: To) -> bool {
        match to {
            To::Meta => true,
            To::Twin => self.twin.is_some(),
            To::Bus => self.bus.is_some(),
        }
    }

    /// Hands a message over when there is room. Nothing is lost when this is dropped before.
    pub(super) async fn deliver(&self, pending: &mut Option<Pending>) {
        if let Some(Pending { to, message }) = pending {
            match to {
                To::Meta => self.meta.deliver(message).await,
                To::Twin => queue(self.twin.as_ref(), message).await,
                To::Bus => queue(self.bus.as_ref(), message).await,
            }
        }
        *pending = None;
    }
}

async fn queue(inbox: Option<&mpsc::Sender<Message>>, message: &mut Option<Message>) {
    let Some(inbox) = inbox else { return };
    let slot = inbox.reserve().await;
    if let (Ok(slot), Some(message)) = (slot, message.take()) {
        slot.send(message);
    }
}
