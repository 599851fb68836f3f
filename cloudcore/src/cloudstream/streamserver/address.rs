//! Whom an address means, of those that say that it is theirs.
//!
//! A node's certificate proves its name, not its address: the tunnel claims what the edge says, and the status of a Node is the edge's
//! word as well, but one that the whole cluster sees, and by which API servers dial.

use std::collections::HashSet;
use std::net::IpAddr;

use parking_lot::Mutex;
use proto::NodeName;
use proto::tunnelport::FIRST_PORT;
use tracing::warn;

use crate::informers::Listed;

/// One node, or several of which nobody knows which is meant: a wrong one would be handed another's requests.
///
/// Who dials takes address and port from the Node, so those that list the address go first, and of several those whose cloudcore has
/// the port: private networks with the same addresses are told apart by it. What is left is that of the Node that was there first, if
/// the tunnel is here and claims it, and no other one does. A claim by itself counts where no Node lists the address.
pub(super) fn meant<'a>(listed: &'a [Listed], claimed: &'a [NodeName], port: Option<u16>) -> Vec<&'a NodeName> {
    if listed.is_empty() {
        return claimed.iter().collect();
    }
    let is_there = |one: &Listed| port == Some(one.port) && one.port >= FIRST_PORT;
    let any_there = listed.iter().any(is_there);
    let left: Vec<&Listed> = listed.iter().filter(|one| !any_there || is_there(one)).collect();
    let mut claims = left.iter().filter(|one| claimed.contains(&one.node));
    if let (Some(alone), None) = (claims.next(), claims.next())
        && left.iter().all(|one| one.node == alone.node || is_before(alone, one))
    {
        return vec![&alone.node];
    }
    left.into_iter().map(|one| &one.node).collect()
}

/// Without those that are gone, where the tunnel of another one that lists the address is here: boards that left it to a new one, and
/// whose Nodes nobody deleted.
pub(super) fn without_gone(
    mut listed: Vec<Listed>,
    claimed: &[NodeName],
    gone: impl Fn(&NodeName) -> bool,
) -> Vec<Listed> {
    if listed.iter().any(|one| claimed.contains(&one.node)) {
        listed.retain(|one| claimed.contains(&one.node) || !gone(&one.node));
    }
    listed
}

fn is_before(one: &Listed, other: &Listed) -> bool {
    let times = one.created.zip(other.created);
    times.is_some_and(|(one, other)| one < other)
}

/// Nodes that say that they have the same address, as far as it was told.
#[derive(Default)]
pub(in crate::cloudstream) struct Rivals {
    told: Mutex<HashSet<(NodeName, NodeName)>>,
}

impl Rivals {
    /// Warns of those that were not told yet.
    pub(super) fn tell(&self, address: IpAddr, listed: &[Listed], claimed: &[NodeName]) {
        for (node, other) in self.news(listed, claimed) {
            warn!(
                %address, %node, %other,
                "two edge nodes say that they have the same address: requests that name no more than it are for the one whose Node lists it, or for neither"
            );
        }
    }

    /// Each pair once. The first node by name stands in all pairs of an address.
    fn news(&self, listed: &[Listed], claimed: &[NodeName]) -> Vec<(NodeName, NodeName)> {
        let mut all: Vec<&NodeName> = listed.iter().map(|one| &one.node).chain(claimed).collect();
        all.sort();
        all.dedup();
        let Some((first, others)) = all.split_first().filter(|(_, others)| !others.is_empty()) else {
            return Vec::new();
        };
        let mut told = self.told.lock();
        let mut news = Vec::new();
        for other in others {
            let pair = ((*first).clone(), (*other).clone());
            if told.len() < PAIRS && told.insert(pair.clone()) {
                news.push(pair);
            }
        }
        news
    }
}

/// Pairs that are told of until the next start.
const PAIRS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// A Node that lists the address, by its name, port and year.
    fn node(name: &str, port: u16, year: u16) -> Listed {
        Listed {
            node: name.into(),
            port,
            created: format!("{year}-01-01T00:00:00Z").parse().ok(),
        }
    }

    #[test]
    fn an_address_is_its_nodes_and_no_claims() {
        let (a, b) = (node("a", 10351, 2025), node("b", 10351, 2026));
        let (elsewhere, own_port) = (node("b", 10352, 2026), node("a", 10250, 2025));
        let timeless = Listed {
            created: None,
            ..a.clone()
        };
        let both = || vec![a.clone(), b.clone()];
        let apart = || vec![a.clone(), elsewhere.clone()];
        for (what, listed, claimed, port, expected) in [
            ("nobody", vec![], "", 10351, ""),
            ("its Node is not there yet", vec![], "b", 10351, "b"),
            ("two such", vec![], "b a", 10351, "b a"),
            ("another one claims it", vec![a.clone()], "b", 10351, "a"),
            ("another one claims it, too", vec![a.clone()], "b a", 10351, "a"),
            ("its tunnel is elsewhere", vec![elsewhere.clone()], "", 10351, "b"),
            ("two networks", both(), "a b", 10351, "a b"),
            ("neither is here", both(), "", 10351, "a b"),
            ("the first one is here alone", both(), "a", 10351, "a"),
            ("the later one is here alone", both(), "b", 10351, "a b"),
            (
                "who was first is not known",
                vec![timeless, b.clone()],
                "a",
                10351,
                "a b",
            ),
            ("at the other cloudcore", apart(), "a", 10352, "b"),
            ("at this one", apart(), "a b", 10351, "a"),
            ("at no cloudcore's port", apart(), "a b", 10250, "a b"),
            (
                "at a port that edges may write",
                vec![own_port, b.clone()],
                "",
                10250,
                "a b",
            ),
        ] {
            let claimed: Vec<NodeName> = claimed.split_whitespace().map(NodeName::from).collect();
            let found: Vec<&str> = meant(&listed, &claimed, Some(port))
                .into_iter()
                .map(NodeName::as_str)
                .collect();
            assert_eq!(found.join(" "), expected, "{what}");
        }
    }

    #[test]
    fn an_address_goes_over_to_the_board_that_is_there() {
        let both = || vec![node("a", 10351, 2025), node("b", 10351, 2026)];
        for (claimed, gone, expected) in [
            ("b", "a", "b"),
            ("b", "", "a b"),
            ("a", "b", "a"),
            ("a b", "a", "a b"),
            ("", "a b", "a b"),
            ("c", "a", "a b"),
        ] {
            let claimed: Vec<NodeName> = claimed.split_whitespace().map(NodeName::from).collect();
            let left = without_gone(both(), &claimed, |node| gone.contains(node.as_str()));
            let left: Vec<&str> = left.iter().map(|one| one.node.as_str()).collect();
            assert_eq!(left.join(" "), expected, "{claimed:?}");
        }
    }

    #[test]
    fn each_pair_is_told_once() {
        let (rivals, listed) = (Rivals::default(), [node("b", 10351, 2026)]);
        let news = |claimed: &[&str]| {
            let claimed: Vec<NodeName> = claimed.iter().map(|name| NodeName::from(*name)).collect();
            let news = rivals.news(&listed, &claimed).into_iter();
            news.map(|(one, other)| format!("{one} {other}")).collect::<Vec<_>>()
        };
        assert_eq!(news(&["b"]), [""; 0]);
        assert_eq!(news(&["b", "c"]), ["b c"]);
        assert_eq!(news(&["c"]), [""; 0]);
        assert_eq!(news(&["c", "a"]), ["a b", "a c"]);
        assert_eq!(news(&["a", "c", "b"]), [""; 0]);
    }
}
