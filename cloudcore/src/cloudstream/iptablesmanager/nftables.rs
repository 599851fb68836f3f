//! The same redirects in a table of their own, for hosts that have `nft` and no iptables. One transaction replaces all of it, so there
//! is no moment without rules. No I/O.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::rules::{CHAIN, COMMENT, Family, Redirect};

/// The table, of each family.
const TABLE: &str = "kubeedge";
/// The chains with hooks; priority -100 is where destinations are translated.
const HOOKS: [(&str, &str); 2] = [("OUTPUT", "output"), ("PREROUTING", "prerouting")];

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The arguments of `nft` that print what is installed.
pub(super) fn listing(family: Family) -> [&'static str; 5] {
    ["-nn", "list", "table", family_name(family), TABLE]
}

/// The input of `nft -f -` that puts exactly the wanted rules in the place of whatever is in the table; nothing wanted, no table.
pub(super) fn script(wanted: &BTreeSet<Redirect>, family: Family) -> String {
    let table = format!("{} {TABLE}", family_name(family));
    // Deleting what is not there is an error: it is added first.
    let mut script = format!("add table {table}\ndelete table {table}\n");
    if wanted.is_empty() {
        return script;
    }
    let mut line = |text: &str| writeln!(script, "add {text}").unwrap_or_default();
    line(&format!("table {table}"));
    line(&format!("chain {table} {CHAIN}"));
    for redirect in wanted {
        line(&format!("rule {table} {CHAIN} {}", rule(redirect)));
    }
    for (chain, hook) in HOOKS {
        line(&format!(
            "chain {table} {chain} {{ type nat hook {hook} priority -100; }}"
        ));
        line(&format!("rule {table} {chain} {}", jump()));
    }
    script
}

/// Whether the listing shows exactly the wanted rules.
pub(super) fn is_current(listing: &str, wanted: &BTreeSet<Redirect>) -> bool {
    let is_rule = |line: &&str| line.contains(" dnat to ") || line.starts_with("jump ");
    let mut shown: Vec<&str> = listing.lines().map(str::trim).filter(is_rule).collect();
    let mut right: Vec<String> = wanted.iter().map(rule).collect();
    if !wanted.is_empty() {
        right.extend([jump(), jump()]);
    }
    shown.sort_unstable();
    right.sort_unstable();
    shown == right
}

fn rule(redirect: &Redirect) -> String {
    let edge = match redirect.edge {
        None => String::new(),
        Some(IpAddr::V4(ip)) => format!("ip daddr {ip} "),
        Some(IpAddr::V6(ip)) => format!("ip6 daddr {ip} "),
    };
    format!("{edge}tcp dport {} dnat to {}", redirect.port, redirect.to)
}

fn jump() -> String {
    format!("jump {CHAIN} comment \"{COMMENT}\"")
}
