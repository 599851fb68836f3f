//! Messages of one session that wait for the connection, encoded.

use std::collections::VecDeque;

use proto::{Lane, Message};

/// Bulk messages that wait; with so many nothing more is taken from the uplink's queue for them …
const BULK: usize = 32;
/// … nor with so many bytes.
const BYTES: usize = 1024 * 1024;
/// Urgent messages that wait. They are small, and only a connection that takes nothing lets so many gather.
const URGENT: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Queues {
    urgent: VecDeque<String>,
    bulk: VecDeque<String>,
    bytes: usize,
}

impl Queues {
    /// Whether another message of the lane may be offered.
    pub(super) fn has_room(&self, lane: Lane) -> bool {
        match lane {
            Lane::Urgent => self.urgent.len() < URGENT,
            Lane::Bulk => self.bulk.len() < BULK && self.bytes < BYTES,
        }
    }

    /// Takes a message, unless its lane is full.
    pub(super) fn push(&mut self, message: &Message) -> bool {
        let lane = message.lane();
        if !self.has_room(lane) {
            return false;
        }
        let text = message.encode();
        match lane {
            Lane::Urgent => self.urgent.push_back(text),
            Lane::Bulk => {
                self.bytes += text.len();
                self.bulk.push_back(text);
            }
        }
        true
    }

    /// The next message of a lane.
    pub(super) fn pop(&mut self, lane: Lane) -> Option<String> {
        match lane {
            Lane::Urgent => self.urgent.pop_front(),
            Lane::Bulk => {
                let text = self.bulk.pop_front()?;
                self.bytes = self.bytes.saturating_sub(text.len());
                Some(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::{Content, Group, Kind, ObjectPath, Operation, Source};

    use super::*;

    fn message(text: &str) -> Message {
        let path = ObjectPath::new("a", Kind::Pod, "b");
        Message::new(Source::Edged, Group::Meta, Operation::Patch, path, Content::text(text))
    }

    #[test]
    fn a_full_bulk_lane_leaves_room_for_what_is_urgent() {
        let mut queues = Queues::default();
        while queues.push(&message("x")) {}
        assert_eq!(queues.bulk.len(), BULK);
        assert!(queues.push(&Message::ack_of(&message("x"))));
        assert!(queues.pop(Lane::Urgent).is_some() && queues.pop(Lane::Urgent).is_none());
        assert!(queues.pop(Lane::Bulk).is_some() && queues.has_room(Lane::Bulk));
        while queues.pop(Lane::Bulk).is_some() {}
        assert!(queues.push(&message(&"x".repeat(BYTES))));
        assert!(!queues.push(&message("y")));
    }
}
