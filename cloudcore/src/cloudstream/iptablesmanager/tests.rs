use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use proto::tunnelport::TunnelPortRecord;

use super::backend::Backend;
use super::nftables;
use super::rules::{CHAIN, Command, ENTRIES, Family, Found, Redirect, plan, wanted};
use super::run::RunError;

/// What the Go manager installs for this record, printed by both variants of iptables 1.8.9 among rules of others.
const RECORD: &str = r#"{"ipTunnelPort":{"10.0.0.5":10351,"10.0.0.6":10352,"fd00::5":10353,"":10354},"port":{}}"#;
const PRINTED: [&str; 4] = [
    include_str!("golden/iptables-nft-save.txt"),
    include_str!("golden/iptables-legacy-save.txt"),
    include_str!("golden/iptables-nft-S.txt"),
    include_str!("golden/iptables-legacy-S.txt"),
];

fn record() -> TunnelPortRecord {
    TunnelPortRecord::parse(RECORD).expect("record")
}

fn redirect(port: u16, to: &str) -> Redirect {
    Redirect {
        port,
        to: to.parse().expect("address"),
        edge: None,
    }
}

fn lines(commands: &[Command]) -> Vec<String> {
    commands.iter().map(|command| command.join(" ")).collect()
}

#[test]
fn rules_of_a_go_manager_are_right_as_they_are() {
    let wanted = wanted(&record(), 10003, None, Family::V4);
    assert_eq!(wanted.len(), 2);
    for text in PRINTED {
        assert_eq!(lines(&plan(&wanted, &Found::read(text))), [""; 0], "{text}");
    }
}

#[test]
fn the_first_rules_are_those_of_the_specification() {
    let wanted = BTreeSet::from([redirect(10351, "10.0.0.5:10003")]);
    assert_eq!(
        lines(&plan(&wanted, &Found::default())),
        [
            "-N TUNNEL-PORT",
            "-A TUNNEL-PORT -p tcp -m tcp --dport 10351 -j DNAT --to-destination 10.0.0.5:10003",
            "-A OUTPUT -m comment --comment kubeedge tunnel port -j TUNNEL-PORT",
            "-A PREROUTING -m comment --comment kubeedge tunnel port -j TUNNEL-PORT",
        ]
    );
    assert_eq!(plan(&BTreeSet::new(), &Found::default()), [[""; 0]; 0]);
}

#[test]
fn a_changed_address_is_added_before_the_old_rule_goes() {
    let wanted = BTreeSet::from([redirect(10351, "10.0.0.5:10003"), redirect(10352, "10.0.0.7:10003")]);
    for text in PRINTED {
        assert_eq!(
            lines(&plan(&wanted, &Found::read(text))),
            [
                "-A TUNNEL-PORT -p tcp -m tcp --dport 10352 -j DNAT --to-destination 10.0.0.7:10003",
                "-D TUNNEL-PORT -p tcp -m tcp --dport 10352 -j DNAT --to-destination 10.0.0.6:10003",
            ]
        );
    }
}

#[test]
fn at_the_end_all_of_it_goes_and_nothing_else() {
    for text in PRINTED {
        let commands = plan(&BTreeSet::new(), &Found::read(text));
        assert_eq!(commands.len(), 5);
        assert_eq!(commands.last().expect("some").join(" "), "-X TUNNEL-PORT");
    }
}

#[test]
fn a_cloudcore_of_both_families_has_rules_in_both() {
    let mut record =
        TunnelPortRecord::parse(r#"{"ipTunnelPort":{"10.0.0.5":10351,"10.0.0.6":10352}}"#).expect("record");
    let ip = |text: &str| text.parse::<IpAddr>().expect("address");
    record.set_second(ip("10.0.0.5"), Some(ip("fd00::5")));
    let of = |family| wanted(&record, 10003, None, family);
    assert_eq!(
        of(Family::V4),
        BTreeSet::from([redirect(10351, "10.0.0.5:10003"), redirect(10352, "10.0.0.6:10003")])
    );
    assert_eq!(of(Family::V6), BTreeSet::from([redirect(10351, "[fd00::5]:10003")]));
    let script = nftables::script(&of(Family::V6), Family::V6);
    assert!(
        script.contains("\nadd rule ip6 kubeedge TUNNEL-PORT tcp dport 10351 dnat to [fd00::5]:10003\n"),
        "{script}"
    );
}

#[tokio::test]
async fn without_ip6tables_nothing_is_pretended() {
    let backend = Backend::Iptables {
        v4: "/nowhere/iptables".into(),
        v6: None,
    };
    let wanted = BTreeSet::from([redirect(10351, "[fd00::5]:10003")]);
    assert!(matches!(
        backend.apply(&wanted, Family::V6).await,
        Err(RunError::Missing)
    ));
    assert!(matches!(backend.apply(&BTreeSet::new(), Family::V6).await, Ok(0)));
}

#[test]
fn one_address_of_an_edge_is_matched_on_request() {
    let edges: BTreeSet<IpAddr> = ["fd00:1::2", "192.168.7.9"]
        .map(|ip| ip.parse().expect("address"))
        .into();
    let six = TunnelPortRecord::parse(r#"{"ipTunnelPort":{"fd00::5":10351}}"#).expect("record");
    let six = wanted(&six, 10003, Some(&edges), Family::V6);
    let commands = plan(&six, &Found::read(include_str!("golden/ip6tables-save.txt")));
    assert!(
        lines(&commands).iter().all(|line| line.contains("-j TUNNEL-PORT")),
        "{commands:?}"
    );
    let four = wanted(&record(), 10003, Some(&edges), Family::V4);
    assert_eq!(
        lines(&plan(&four, &Found::default()))[1],
        "-A TUNNEL-PORT -d 192.168.7.9/32 -p tcp -m tcp --dport 10351 -j DNAT --to-destination 10.0.0.5:10003"
    );
    assert!(wanted(&record(), 10003, Some(&BTreeSet::new()), Family::V4).is_empty());
}

#[test]
fn quoted_words_are_read_whole() {
    let text = r#"-A OUTPUT -m comment --comment "a \"b\" \\ c" -j TUNNEL-PORT"#;
    let commands = plan(&BTreeSet::new(), &Found::read(text));
    assert_eq!(
        commands,
        [[
            "-D",
            "OUTPUT",
            "-m",
            "comment",
            "--comment",
            r#"a "b" \ c"#,
            "-j",
            "TUNNEL-PORT"
        ]]
    );
}

#[test]
fn nft_shows_what_it_was_told() {
    let listing = include_str!("golden/nft-list.txt");
    let mut right = BTreeSet::from([redirect(10351, "10.0.0.5:10003"), redirect(10352, "10.0.0.6:10003")]);
    assert!(
        !nftables::is_current(listing, &right),
        "the second one has a destination"
    );
    right.remove(&redirect(10352, "10.0.0.6:10003"));
    right.insert(Redirect {
        edge: Some("192.168.7.9".parse().expect("address")),
        ..redirect(10352, "10.0.0.6:10003")
    });
    assert!(nftables::is_current(listing, &right));
    assert!(!nftables::is_current(&listing.replace("jump", "return"), &right));
    assert!(nftables::is_current("", &BTreeSet::new()));
    let script = nftables::script(&right, Family::V4);
    assert!(
        script.contains("\nadd rule ip kubeedge TUNNEL-PORT tcp dport 10351 dnat to 10.0.0.5:10003\n"),
        "{script}"
    );
    assert_eq!(
        nftables::script(&BTreeSet::new(), Family::V6),
        "add table ip6 kubeedge\ndelete table ip6 kubeedge\n"
    );
}

/// A nat table: rules in order, as `iptables -S` prints them.
#[derive(Clone, Debug, PartialEq)]
struct Table(Vec<String>);

impl Table {
    /// As iptables does it; an error where it would complain.
    fn run(&mut self, command: &Command) -> Result<(), String> {
        let word = |index: usize| command.get(index).map_or("", String::as_str);
        let line = format!("-A {}", quoted(&command[1..]));
        let chain = |name: &str| format!("-N {name}");
        match word(0) {
            "-N" if !self.0.contains(&chain(word(1))) => self.0.insert(0, chain(word(1))),
            "-A" if word(1) != CHAIN || self.0.contains(&chain(CHAIN)) => self.0.push(line),
            "-D" => {
                let at = self
                    .0
                    .iter()
                    .position(|rule| *rule == line)
                    .ok_or_else(|| format!("no {line}"))?;
                self.0.remove(at);
            }
            "-X" if !self
                .0
                .iter()
                .any(|rule| rule.starts_with("-A") && rule.contains(word(1))) =>
            {
                self.0.retain(|rule| *rule != chain(word(1)));
            }
            _ => return Err(format!("refused {command:?}")),
        }
        Ok(())
    }

    fn of_others(&self) -> Vec<&String> {
        self.0.iter().filter(|rule| !rule.contains(CHAIN)).collect()
    }
}

fn quoted(words: &[String]) -> String {
    let quote = |word: &String| {
        if word.contains(' ') {
            format!("{word:?}")
        } else {
            word.clone()
        }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn redirects() -> impl Strategy<Value = BTreeSet<Redirect>> {
    let one = (10351..10355_u16, 1..4_u8, prop::option::of(1..3_u8));
    let one = one.prop_map(|(port, host, edge)| Redirect {
        port,
        to: SocketAddr::from(([10, 0, 0, host], 10003)),
        edge: edge.map(|last| IpAddr::from([192, 168, 0, last])),
    });
    prop::collection::btree_set(one, 0..6)
}

fn table() -> impl Strategy<Value = Table> {
    let lines = prop::sample::select(vec![
        "-A OUTPUT -m comment --comment \"kubeedge tunnel port\" -j TUNNEL-PORT",
        "-A PREROUTING -m comment --comment \"kubeedge tunnel port\" -j TUNNEL-PORT",
        "-A PREROUTING -j TUNNEL-PORT",
        "-A OUTPUT -d 10.96.0.1/32 -j KUBE-SERVICES",
        "-A TUNNEL-PORT -p tcp -m tcp --dport 10351 -j DNAT --to-destination 10.0.0.1:10003",
        "-A TUNNEL-PORT -p tcp -m tcp --dport 10352 -j DNAT --to-destination 10.0.0.2:10003",
        "-A TUNNEL-PORT -j RETURN",
        "-A POSTROUTING -s 10.244.0.0/16 -j MASQUERADE",
    ]);
    prop::collection::vec(lines, 0..12).prop_map(|lines| {
        let mut table: Vec<String> = lines.into_iter().map(str::to_owned).collect();
        if table.iter().any(|line| line.contains(CHAIN)) {
            table.insert(0, format!("-N {CHAIN}"));
        }
        Table(table)
    })
}

proptest! {
    /// From any table to any wanted rules: nothing is left to do, no rule that stays is missing at any moment, others see nothing.
    #[test]
    fn plans_lead_where_they_should(mut table in table(), wanted in redirects()) {
        let before = table.clone();
        let wanted_lines: Vec<String> = plan(&wanted, &Found::default())
            .iter()
            .filter(|command| command[0] == "-A")
            .map(|command| format!("-A {}", quoted(&command[1..])))
            .collect();
        let kept: Vec<&String> = wanted_lines.iter().filter(|line| before.0.contains(line)).collect();
        for command in plan(&wanted, &Found::read(&table.0.join("\n"))) {
            table.run(&command).map_err(TestCaseError::fail)?;
            prop_assert!(kept.iter().all(|line| table.0.contains(line)), "a gap after {command:?}");
        }
        prop_assert_eq!(plan(&wanted, &Found::read(&table.0.join("\n"))), Vec::<Command>::new());
        prop_assert_eq!(table.of_others(), before.of_others());
        for line in &wanted_lines {
            prop_assert_eq!(table.0.iter().filter(|rule| *rule == line).count(), 1);
        }
        if wanted.is_empty() {
            prop_assert!(Found::read(&table.0.join("\n")).is_empty());
        } else {
            prop_assert_eq!(wanted_lines.len(), wanted.len() + ENTRIES.len());
        }
    }

    #[test]
    fn any_text_can_be_read(text in "[-A: \"\\\\TUNEL-PORT\n]{0,80}") {
        let _ = plan(&BTreeSet::new(), &Found::read(&text));
        let _ = nftables::is_current(&text, &BTreeSet::new());
    }
}
