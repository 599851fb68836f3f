//! The last message of each topic that somebody wanted kept.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use proto::mqtt::{Publish, topic};

use super::Limits;
use super::ops::own;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Retained {
    messages: BTreeMap<Arc<str>, Publish>,
    bytes: usize,
}

/// What came of a message that was to be kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It replaces what was there.
    New(Publish),
    /// The very same is there.
    Same,
    /// It was empty: the topic has none any more.
    Cleared(Arc<str>),
    /// There is no room. What the topic had is not its last message any more and is forgotten (MQTT 3.1.1 §3.3.1.3).
    Full(Option<Arc<str>>),
}

impl Retained {
    /// Keeps a message, or with an empty one forgets.
    pub(super) fn set(&mut self, publish: &Publish, limits: &Limits) -> Kept {
        let before = self.messages.get(&publish.topic);
        if publish.payload.is_empty() {
            return self.remove(&publish.topic).map_or(Kept::Same, Kept::Cleared);
        }
        if before.is_some_and(|before| before.payload == publish.payload && before.qos == publish.qos) {
            return Kept::Same;
        }
        let bytes = self.bytes - before.map_or(0, size) + size(publish);
        if (before.is_none() && self.messages.len() >= limits.retained) || bytes > limits.store_bytes {
            return Kept::Full(self.remove(&publish.topic));
        }
        let kept = Publish {
            payload: own(&publish.payload),
            retain: true,
            dup: false,
            id: None,
            ..publish.clone()
        };
        self.bytes = bytes;
        self.messages.insert(kept.topic.clone(), kept.clone());
        Kept::New(kept)
    }

    fn remove(&mut self, topic: &str) -> Option<Arc<str>> {
        let removed = self.messages.remove(topic)?;
        self.bytes -= size(&removed);
        Some(removed.topic)
    }

    /// Those that a filter matches, by topic.
    pub(super) fn matching<'a>(&'a self, filter: &'a str) -> impl Iterator<Item = &'a Publish> {
        // All of them begin with what stands before the first wildcard; `a/#` is for `a` too.
        let fixed = filter.split(['+', '#']).next().unwrap_or_default();
        let fixed = if fixed.len() < filter.len() {
            fixed.trim_end_matches('/')
        } else {
            fixed
        };
        self.messages
            .range::<str, _>((Bound::Included(fixed), Bound::Unbounded))
            .take_while(move |(topic, _)| topic.starts_with(fixed))
            .filter(move |(topic, _)| topic::matches(filter, topic))
            .map(|(_, publish)| publish)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Publish> {
        self.messages.values()
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }
}

fn size(publish: &Publish) -> usize {
    publish.topic.len() + publish.payload.len()
}
