//! What edges say before the devices are known, as right after a start: an edge would repeat it only after its time-out. Bounded.

use std::collections::VecDeque;

use crate::cloudhub::Upstream;

/// Messages that are kept at once.
const MESSAGES: usize = 4096;
/// The bytes of their contents.
const BYTES: usize = 4 * 1024 * 1024;

#[derive(Default)]
pub(super) struct Early {
    messages: VecDeque<Upstream>,
    bytes: usize,
}

impl Early {
    /// Keeps a message; false where there is no room, and the edge has to repeat it.
    pub(super) fn keep(&mut self, message: Upstream) -> bool {
        let bytes = self.bytes + message.message.content.get().len();
        let fits = self.messages.len() < MESSAGES && bytes <= BYTES;
        if fits {
            self.bytes = bytes;
            self.messages.push_back(message);
        }
        fits
    }

    /// All of them, in the order they came.
    pub(super) fn take(&mut self) -> VecDeque<Upstream> {
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proto::{Content, Group, Message, Operation, Route, Source};

    use super::*;

    fn message(text: &str) -> Upstream {
        let route = Route::Other("device/ns/d/twin/edge_updated".into());
        Upstream {
            node: "n".into(),
            message: Message::new(
                Source::Twin,
                Group::Resource,
                Operation::Update,
                route,
                Content::text(text),
            ),
        }
    }

    #[test]
    fn messages_are_kept_in_order_and_within_bounds() {
        let mut early = Early::default();
        let kept = (0..MESSAGES + 10).filter(|number| early.keep(message(&number.to_string())));
        assert_eq!(kept.count(), MESSAGES);
        let texts = early.take();
        assert_eq!(texts[1].message.content.as_text().as_deref(), Some("1"));
        assert!(early.is_empty());
        let long = "x".repeat(BYTES / 3);
        let kept = (0..5).filter(|_| early.keep(message(&long)));
        assert_eq!(kept.count(), 2);
        early.take();
        assert!(early.keep(message(&long)), "there is room again");
    }
}
