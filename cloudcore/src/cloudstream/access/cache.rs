//! Answers of the API server, for a short while.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// How long a yes counts: that long a right may outlive its loss.
const YES: Duration = Duration::from_secs(60);
/// How long a no counts: a right that was given just now is there soon.
const NO: Duration = Duration::from_secs(2);
/// Answers kept.
const CAPACITY: usize = 4096;

/// What stands for a token: tokens themselves are not kept.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

pub(super) struct Cache<K, V> {
    answers: Mutex<HashMap<K, (V, Instant)>>,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self {
            answers: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<V> {
        let answers = self.answers.lock();
        let (value, until) = answers.get(key)?;
        (*until > now).then(|| value.clone())
    }

    pub(super) fn put(&self, key: K, value: V, yes: bool, now: Instant) {
        let mut answers = self.answers.lock();
        if answers.len() >= CAPACITY {
            answers.retain(|_, (_, until)| *until > now);
        }
        if answers.len() >= CAPACITY {
            // All of them count still: better to ask again than to grow.
            answers.clear();
        }
        answers.insert(key, (value, now + if yes { YES } else { NO }));
    }
}
