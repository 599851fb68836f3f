//! Verdicts of Kubernetes, for a short while.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use proto::NodeName;
use tokio::time::Instant;

use super::request::ReviewRequest;

/// How long a node keeps a right that it had: the time in which a pod's Secrets may still be read after it left.
const ALLOWED: Duration = Duration::from_secs(60);

/// A pod that was bound just now needs its Secrets soon.
const REFUSED: Duration = Duration::from_secs(2);

/// Verdicts kept; when there are more, the oldest half of their time goes.
const CAPACITY: usize = 16_384;

#[derive(Default)]
pub(super) struct Cache {
    verdicts: Mutex<HashMap<(NodeName, ReviewRequest), (bool, Instant)>>,
}

impl Cache {
    pub(super) fn get(&self, node: &NodeName, request: &ReviewRequest, now: Instant) -> Option<bool> {
        let verdicts = self.verdicts.lock();
        let (allowed, until) = verdicts.get(&(node.clone(), request.clone()))?;
        (*until > now).then_some(*allowed)
    }

    pub(super) fn put(&self, node: &NodeName, request: ReviewRequest, allowed: bool, now: Instant) {
        let mut verdicts = self.verdicts.lock();
        if verdicts.len() >= CAPACITY {
            verdicts.retain(|_, (_, until)| *until > now + ALLOWED / 2);
        }
        if verdicts.len() >= CAPACITY {
            // All of them are young: better to ask again than to grow.
            verdicts.clear();
        }
        verdicts.insert(
            (node.clone(), request),
            (allowed, now + if allowed { ALLOWED } else { REFUSED }),
        );
    }
}
