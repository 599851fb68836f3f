//! What MQTT clients of the edges send to the cloud's rules.
//!
//! An edge of ours keeps an upload until it is acknowledged and sends it again under the same id: it is taken once, as far back as the
//! ids are remembered. Rules are not there yet; uploads are counted.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use proto::{Content, Group, Message, NodeName, Operation, Source};

/// Uploads of all nodes that are remembered: more than all edges of a small site have under way, and 200 KB.
const REMEMBERED: usize = 8192;

/// One per process.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    taken: Counter,
    repeated: Counter,
    recent: Mutex<Recent>,
}

/// Hashes of the last ids: two that are alike by chance cost one upload in 10^15.
#[derive(Debug, Default)]
struct Recent {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

/// Whether a message is an upload of EventBus.
pub(super) fn is_upload(message: &Message) -> bool {
    message.operation == Operation::Upload && message.group == Group::User && message.source == Source::Bus
}

impl Uploads {
    pub(super) fn register(&self, registry: &mut Registry) {
        let hub = registry.sub_registry_with_prefix("cloudcore_hub");
        hub.register(
            "uploads",
            "Messages of MQTT clients of the edges that were taken",
            self.taken.clone(),
        );
        hub.register(
            "uploads_repeated",
            "The same that came again and were only acknowledged",
            self.repeated.clone(),
        );
    }

    /// Takes an upload and returns its acknowledgement.
    pub(super) fn take(&self, node: &NodeName, message: &Message) -> Message {
        if self.recent.lock().is_new(node, message) {
            self.taken.inc();
        } else {
            self.repeated.inc();
        }
        let mut ack = Message::ack_of(message);
        ack.source = Source::RouterEventBus;
        ack.content = Content::ok();
        ack
    }
}

impl Recent {
    fn is_new(&mut self, node: &NodeName, message: &Message) -> bool {
        let mut hasher = DefaultHasher::new();
        (node.as_str(), message.id.as_str()).hash(&mut hasher);
        let hash = hasher.finish();
        if !self.known.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proto::bus::Upload;

    use super::*;

    fn upload() -> Message {
        let upload = Upload {
            topic: "default/user/x".to_owned(),
            payload: "21".into(),
        };
        upload.message(true)
    }

    #[test]
    fn an_upload_that_comes_again_is_acknowledged_and_taken_once() {
        let (uploads, message) = (Uploads::default(), upload());
        assert!(is_upload(&message));
        for _ in 0..2 {
            let ack = uploads.take(&"n".into(), &message);
            assert_eq!(ack.parent.as_ref(), Some(&message.id));
            assert_eq!(ack.lane(), proto::Lane::Urgent);
        }
        uploads.take(&"m".into(), &message);
        assert_eq!((uploads.taken.get(), uploads.repeated.get()), (2, 1));
    }

    #[test]
    fn memory_of_uploads_is_bounded() {
        let uploads = Uploads::default();
        for _ in 0..REMEMBERED + 10 {
            uploads.take(&"n".into(), &upload());
        }
        let recent = uploads.recent.lock();
        assert_eq!((recent.known.len(), recent.order.len()), (REMEMBERED, REMEMBERED));
    }
}
