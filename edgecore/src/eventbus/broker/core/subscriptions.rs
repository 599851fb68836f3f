//! Who subscribed what: a tree by the levels of the filters.

use std::collections::HashMap;

use proto::mqtt::Qos;

/// Filters of many subscribers. A level of the tree is a level of a filter, so what looks or falls into it goes as deep as the longest
/// filter: callers bound that.
#[derive(Debug)]
pub(crate) struct Tree<K> {
    root: Node<K>,
    count: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Node<K> {
    children: HashMap<Box<str>, Self>,
    here: Vec<(K, Qos)>,
}

impl<K> Default for Tree<K> {
    fn default() -> Self {
        Self {
            root: Node::default(),
            count: 0,
            bytes: 0,
        }
    }
}

impl<K> Default for Node<K> {
    fn default() -> Self {
        Self {
            children: HashMap::new(),
            here: Vec::new(),
        }
    }
}

impl<K: PartialEq> Tree<K> {
    /// Adds a subscription; one that is there gets the new QoS.
    pub(crate) fn insert(&mut self, filter: &str, key: K, qos: Qos) {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            if !node.children.contains_key(level) {
                node.children.insert(level.into(), Node::default());
            }
            let Some(child) = node.children.get_mut(level) else {
                return;
            };
            node = child;
        }
        match node.here.iter_mut().find(|(there, _)| *there == key) {
            Some((_, old)) => *old = qos,
            None => {
                node.here.push((key, qos));
                self.count += 1;
                self.bytes += bytes(filter);
            }
        }
    }

    /// Removes a subscription, and branches that lead nowhere then. Says whether it was there.
    pub(crate) fn remove(&mut self, filter: &str, key: &K) -> bool {
        let removed = self.root.remove(filter.split('/'), key);
        if removed {
            self.count -= 1;
            self.bytes -= bytes(filter);
        }
        removed
    }

    /// Calls for each subscription that a message to this topic is for.
    pub(crate) fn matches(&self, topic: &str, found: &mut impl FnMut(&K, Qos)) {
        self.root.matches(topic.split('/'), !topic.starts_with('$'), found);
    }

    /// Whether there is one.
    pub(crate) fn any(&self, topic: &str) -> bool {
        let mut any = false;
        self.matches(topic, &mut |_, _| any = true);
        any
    }

    /// Whether a filter begins with this level.
    pub(crate) fn has_first(&self, level: &str) -> bool {
        self.root.children.contains_key(level)
    }

    /// Subscriptions.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// About what they take.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// About what a filter takes that shares no level with another.
fn bytes(filter: &str) -> usize {
    filter.len() + proto::mqtt::topic::depth(filter) * LEVEL
}

const LEVEL: usize = 256;

impl<K: PartialEq> Node<K> {
    fn remove<'a>(&mut self, mut levels: impl Iterator<Item = &'a str> + Clone, key: &K) -> bool {
        let Some(level) = levels.next() else {
            let before = self.here.len();
            self.here.retain(|(there, _)| there != key);
            return self.here.len() < before;
        };
        let Some(child) = self.children.get_mut(level) else {
            return false;
        };
        let removed = child.remove(levels, key);
        if child.here.is_empty() && child.children.is_empty() {
            self.children.remove(level);
        }
        removed
    }

    fn matches<'a>(
        &self,
        mut levels: impl Iterator<Item = &'a str> + Clone,
        wildcards: bool,
        found: &mut impl FnMut(&K, Qos),
    ) {
        if wildcards && let Some(rest) = self.children.get("#") {
            rest.here.iter().for_each(|(key, qos)| found(key, *qos));
        }
        let Some(level) = levels.next() else {
            self.here.iter().for_each(|(key, qos)| found(key, *qos));
            return;
        };
        if let Some(child) = self.children.get(level) {
            child.matches(levels.clone(), true, found);
        }
        if wildcards && let Some(child) = self.children.get("+") {
            child.matches(levels, true, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_removed_filter_leaves_no_branch() {
        let mut tree = Tree::default();
        tree.insert("a/b/#", 1, Qos::AtMostOnce);
        tree.insert("a/b/#", 1, Qos::AtLeastOnce);
        tree.insert("a", 2, Qos::AtMostOnce);
        assert_eq!((tree.len(), tree.bytes()), (2, 5 + 1 + 4 * LEVEL));
        assert!(tree.remove("a/b/#", &1) && !tree.remove("a/b/#", &1));
        assert!(tree.any("a") && !tree.any("a/b"));
        assert!(tree.remove("a", &2));
        assert!(tree.root.children.is_empty());
        assert_eq!(tree.bytes(), 0);
    }

    proptest! {
        /// The tree finds what the rule of `proto::mqtt::topic` says, each once.
        #[test]
        fn as_the_rule(
            filters in proptest::collection::vec("([$a-b+]?/){0,3}([a-b+#]?)", 1..20),
            topic in "[$]?([a-b]?/){0,3}[a-b]?",
        ) {
            let mut tree = Tree::default();
            let filters: Vec<_> = filters.into_iter().filter(|filter| proto::mqtt::topic::is_filter(filter)).collect();
            for (key, filter) in filters.iter().enumerate() {
                tree.insert(filter, key, Qos::AtMostOnce);
            }
            let mut found = Vec::new();
            tree.matches(&topic, &mut |key, _| found.push(*key));
            found.sort_unstable();
            let expected: Vec<_> = (0..filters.len())
                .filter(|key| proto::mqtt::topic::matches(&filters[*key], &topic))
                .collect();
            prop_assert_eq!(found, expected, "{:?} {}", filters, topic);
        }
    }
}
