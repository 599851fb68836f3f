//! Things that wait to be dealt with, each once, in the order they came.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// The queue. What is in it already is not put in again.
pub(crate) struct Waiting<T> {
    order: VecDeque<T>,
    known: HashSet<T>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            known: HashSet::new(),
        }
    }
}

impl<T: Clone + Eq + Hash> Waiting<T> {
    pub(crate) fn push(&mut self, item: T) {
        if self.known.insert(item.clone()) {
            self.order.push_back(item);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let item = self.order.pop_front()?;
        self.known.remove(&item);
        Some(item)
    }
}
