//! The rules in the words of iptables: what is wanted, what was found, which commands lie between them. No I/O.
//!
//! They are KubeEdge's own to the letter (spec 04 §12), so that a Go manager on the same host finds its rules and adds none:
//!
//! ```text
//! -A OUTPUT -m comment --comment "kubeedge tunnel port" -j TUNNEL-PORT        and the same for PREROUTING
//! -A TUNNEL-PORT -p tcp -m tcp --dport 10351 -j DNAT --to-destination 10.0.0.5:10003
//! ```
//!
//! Those of ip6tables are the same with `[fd00::5]:10003`; Go's has none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proto::tunnelport::TunnelPortRecord;

/// The chain, which is KubeEdge's alone: whatever is in it and not wanted is removed.
pub(super) const CHAIN: &str = "TUNNEL-PORT";
/// The chains that lead there, for connections of this host and for those that pass through it.
pub(super) const ENTRIES: [&str; 2] = ["OUTPUT", "PREROUTING"];
/// What marks the jumps.
pub(super) const COMMENT: &str = "kubeedge tunnel port";

/// Which program family and which addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

/// One redirect: connections to `port` of the edges go to `to`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Redirect {
    /// The virtual port of a cloudcore.
    pub(super) port: u16,
    /// Its stream server.
    pub(super) to: SocketAddr,
    /// The only destination that is redirected; all of them without.
    pub(super) edge: Option<IpAddr>,
}

/// The arguments of one run of iptables, without program, lock and table.
pub(super) type Command = Vec<String>;

impl Redirect {
    /// What the rule says, in the order in which iptables prints it.
    fn specification(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(edge) = self.edge {
            let bits = if edge.is_ipv4() { 32 } else { 128 };
            words.extend(["-d".to_owned(), format!("{edge}/{bits}")]);
        }
        let (port, to) = (self.port.to_string(), self.to.to_string());
        words.extend(
            [
                "-p",
                "tcp",
                "-m",
                "tcp",
                "--dport",
                &port,
                "-j",
                "DNAT",
                "--to-destination",
                &to,
            ]
            .map(str::to_owned),
        );
        words
    }
}

/// The redirects of one family: the cloudcores that have an address of it, each at its own port, all with their stream server on
/// `stream_port`. With `edges`, only connections to these addresses.
pub(super) fn wanted(
    record: &TunnelPortRecord,
    stream_port: u16,
    edges: Option<&BTreeSet<IpAddr>>,
    family: Family,
) -> BTreeSet<Redirect> {
    let here = |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4);
    let mut all = BTreeSet::new();
    for (ip, port) in record.reached().filter(|(ip, _)| here(ip)) {
        let to = SocketAddr::new(ip, stream_port);
        match edges {
            None => drop(all.insert(Redirect { port, to, edge: None })),
            Some(edges) => all.extend(edges.iter().filter(|edge| here(edge)).map(|&edge| Redirect {
                port,
                to,
                edge: Some(edge),
            })),
        }
    }
    all
}

/// Our part of what is installed on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Whether the chain is there.
    chain: bool,
    /// The rules that lead to the chain: the chain they are in, and what they say.
    jumps: Vec<(String, Vec<String>)>,
    /// What the rules of the chain say, in order.
    rules: Vec<Vec<String>>,
}

impl Found {
    /// Reads what `iptables -S` or `iptables-save` printed; lines that are not about the chain are passed over.
    pub(super) fn read(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let words = words(line);
            let mut rest = words.iter().map(String::as_str);
            match (rest.next(), rest.next()) {
                (Some("-N"), Some(CHAIN)) => found.chain = true,
                (Some(first), Some(_)) if first.strip_prefix(':') == Some(CHAIN) => found.chain = true,
                (Some("-A"), Some(CHAIN)) => {
                    found.chain = true;
                    found.rules.push(rest.map(str::to_owned).collect());
                }
                (Some("-A"), Some(chain)) => {
                    let said: Vec<String> = rest.map(str::to_owned).collect();
                    if leads_here(&said) {
                        found.jumps.push((chain.to_owned(), said));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Whether nothing of ours is there.
    pub(super) fn is_empty(&self) -> bool {
        !self.chain && self.jumps.is_empty()
    }
}

/// The commands that make `found` what is wanted. What is missing is added before anything is removed: no connection meets a gap.
/// With nothing wanted, chain and jumps go too.
pub(super) fn plan(wanted: &BTreeSet<Redirect>, found: &Found) -> Vec<Command> {
    if wanted.is_empty() {
        return removal(found);
    }
    let mut commands = Vec::new();
    let (mut surplus, mut missing): (Vec<&Vec<String>>, BTreeSet<Vec<String>>) =
        (Vec::new(), wanted.iter().map(Redirect::specification).collect());
    for rule in &found.rules {
        if !missing.remove(rule) {
            surplus.push(rule);
        }
    }
    if !found.chain {
        commands.push(vec!["-N".to_owned(), CHAIN.to_owned()]);
    }
    // In the order of the redirects, not of their text.
    let added = wanted
        .iter()
        .map(Redirect::specification)
        .filter(|rule| missing.contains(rule));
    commands.extend(added.map(|rule| command("-A", CHAIN, &rule)));
    let jump = jump();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for (chain, said) in &found.jumps {
        if *said == jump {
            *count.entry(chain).or_default() += 1;
        }
    }
    for chain in ENTRIES {
        if !count.contains_key(chain) {
            commands.push(command("-A", chain, &jump));
        }
    }
    commands.extend(surplus.into_iter().map(|rule| command("-D", CHAIN, rule)));
    for (chain, times) in count {
        commands.extend((1..times).map(|_| command("-D", chain, &jump)));
    }
    commands
}

fn removal(found: &Found) -> Vec<Command> {
    let jumps = found.jumps.iter().map(|(chain, said)| command("-D", chain, said));
    let rules = found.rules.iter().map(|rule| command("-D", CHAIN, rule));
    let chain = found.chain.then(|| vec!["-X".to_owned(), CHAIN.to_owned()]);
    jumps.chain(rules).chain(chain).collect()
}

fn command(action: &str, chain: &str, rest: &[String]) -> Command {
    let mut command = vec![action.to_owned(), chain.to_owned()];
    command.extend_from_slice(rest);
    command
}

fn jump() -> Vec<String> {
    ["-m", "comment", "--comment", COMMENT, "-j", CHAIN]
        .map(str::to_owned)
        .into()
}

fn leads_here(said: &[String]) -> bool {
    said.windows(2)
        .any(|pair| matches!(pair, [option, target] if (option == "-j" || option == "-g") && target == CHAIN))
}

/// Splits a line as a shell would: iptables quotes words with spaces and puts a backslash before quotes and backslashes in them.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(letters.next()),
            ' ' if !quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}
