//! Nodes whose certificates are trusted no more.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use proto::NodeName;

/// The list that an operator keeps. A node whose value is a time (RFC 3339) may not use certificates issued before it, and may join
/// anew with a token; with any other value it is kept out until its line is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    nodes: HashMap<NodeName, Which>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    All,
    /// Unix time.
    IssuedBefore(Duration),
}

impl Revoked {
    /// Reads the list: what cannot be read as a time stands for all certificates, so that a slip of the pen does not let a node in.
    pub fn new(lines: BTreeMap<String, String>) -> Self {
        let which = |text: &str| {
            text.trim()
                .parse::<Timestamp>()
                .ok()
                .and_then(|time| Duration::try_from(time.duration_since(Timestamp::UNIX_EPOCH)).ok())
                .map_or(Which::All, Which::IssuedBefore)
        };
        let nodes = lines
            .iter()
            .map(|(node, text)| (NodeName::from(node.as_str()), which(text)));
        Self { nodes: nodes.collect() }
    }

    /// How many nodes are on the list.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether the node may not use a certificate issued then; `None` is a certificate whose dates cannot be read.
    pub(super) fn refuses(&self, node: &NodeName, issued: Option<Duration>) -> bool {
        match self.nodes.get(node) {
            None => false,
            Some(Which::All) => true,
            Some(Which::IssuedBefore(time)) => issued.is_none_or(|issued| issued < *time),
        }
    }

    /// Whether the node may not join with a token either.
    pub(super) fn refuses_token(&self, node: &NodeName) -> bool {
        self.nodes.get(node) == Some(&Which::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_bars_older_certificates_and_anything_else_bars_all() {
        let lines = [
            ("timed", "1970-01-01T00:01:40Z"),
            ("barred", "stolen"),
            ("slip", "1970-13-01"),
        ];
        let revoked = Revoked::new(lines.map(|(node, text)| (node.to_owned(), text.to_owned())).into());
        let (early, late) = (Some(Duration::from_secs(99)), Some(Duration::from_secs(100)));
        for (node, issued, refused, token_refused) in [
            ("timed", early, true, false),
            ("timed", late, false, false),
            ("timed", None, true, false),
            ("barred", late, true, true),
            ("slip", late, true, true),
            ("other", early, false, false),
        ] {
            let node = NodeName::from(node);
            assert_eq!(revoked.refuses(&node, issued), refused, "{node}");
            assert_eq!(revoked.refuses_token(&node), token_refused, "{node}");
        }
    }
}
