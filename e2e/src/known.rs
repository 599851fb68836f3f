//! What is known of other peoples' programs: scenarios that they fail by themselves, in `e2e/known`.
//!
//! A failure that a row names is reported as known, not as failed, while the programs of that row run. Two programs of ours are
//! never excused: a row names Go on at least one side.

use std::fmt;

use anyhow::{Context as _, Result, ensure};

/// Whose program runs on a side, as its log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Ours.
    Ours,
    /// KubeEdge in Go, of this version.
    Go(String),
}

impl Peer {
    /// By the line with which every KubeEdge program begins; none before there is one.
    #[must_use]
    pub fn of_log(log: &str) -> Option<Self> {
        let (before, version) = log.lines().find_map(|line| line.split_once("Version: v"))?;
        // Go's lines begin with the severity and the day, as I1121.
        let is_go = before
            .strip_prefix('I')
            .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
        Some(if is_go {
            Self::Go(format!("v{}", version.split_whitespace().next().unwrap_or_default()))
        } else {
            Self::Ours
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours => f.write_str("ours"),
            Self::Go(version) => write!(f, "go {version}"),
        }
    }
}

/// The rows of `e2e/known`.
#[derive(Debug)]
pub struct Known(Vec<Row>);

#[derive(Debug)]
struct Row {
    scenario: String,
    cloud: Side,
    edge: Side,
    what: String,
}

/// Which programs a row is about.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Any,
    Ours,
    /// Go's, of versions that begin so; empty for all.
    Go(String),
}

impl Known {
    /// The committed rows.
    pub fn committed() -> Result<Self> {
        Self::parse(include_str!("../known")).context("e2e/known")
    }

    /// Reads rows of four columns; lines that begin with `#` and empty ones are passed over.
    fn parse(text: &str) -> Result<Self> {
        let rows = text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        rows.map(|line| {
            let columns: Vec<&str> = line.split('|').map(str::trim).collect();
            let &[scenario, cloud, edge, what] = &columns[..] else {
                anyhow::bail!("not four columns: {line}");
            };
            let row = Row {
                scenario: scenario.to_owned(),
                cloud: Side::parse(cloud).with_context(|| line.to_owned())?,
                edge: Side::parse(edge).with_context(|| line.to_owned())?,
                what: what.to_owned(),
            };
            ensure!(
                matches!(row.cloud, Side::Go(_)) || matches!(row.edge, Side::Go(_)),
                "a row names Go on one side at least: {line}"
            );
            ensure!(!row.what.is_empty(), "a row says what happens: {line}");
            Ok(row)
        })
        .collect::<Result<_>>()
        .map(Self)
    }

    /// What is known of a scenario with these programs; a side that has not said what it is fits no row that asks.
    #[must_use]
    pub fn of(&self, scenario: &str, cloud: Option<&Peer>, edge: Option<&Peer>) -> Option<&str> {
        let row = self
            .0
            .iter()
            .find(|row| row.scenario == scenario && row.cloud.fits(cloud) && row.edge.fits(edge))?;
        Some(&row.what)
    }
}

impl Side {
    fn parse(text: &str) -> Result<Self> {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("*", "") => Ok(Self::Any),
            ("ours", "") => Ok(Self::Ours),
            ("go", version) => Ok(Self::Go(version.to_owned())),
            _ => anyhow::bail!("{text:?} is neither `*`, `ours`, `go` nor `go VERSION`"),
        }
    }

    fn fits(&self, peer: Option<&Peer>) -> bool {
        match (self, peer) {
            (Self::Any, _) | (Self::Ours, Some(Peer::Ours)) => true,
            (Self::Go(wanted), Some(Peer::Go(version))) => {
                let rest = version.strip_prefix(wanted.as_str());
                wanted.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(version: &str) -> Peer {
        Peer::Go(version.into())
    }

    #[test]
    fn programs_say_what_they_are() {
        let ours = "2026-11-21T03:55:22.866066Z  INFO cloudcore: Version: v1.23.1\nI1121 x";
        assert_eq!(Peer::of_log(ours), Some(Peer::Ours));
        let theirs = "W1121 first\nI1121 03:55:23.048028   29163 server.go:107] Version: v1.12.1\n";
        assert_eq!(Peer::of_log(theirs), Some(go("v1.12.1")));
        assert_eq!(Peer::of_log("nothing yet\n"), None);
    }

    #[test]
    fn rows_are_for_their_programs_only() {
        let known = Known::parse("# a remark\n\na | * | go v1.2 | one\nb | go | ours | two\n").expect("good rows");
        let (ours, theirs) = (Peer::Ours, go("v1.2.9"));
        assert_eq!(known.of("a", Some(&ours), Some(&theirs)), Some("one"));
        assert_eq!(known.of("a", None, Some(&go("v1.23.1"))), None);
        assert_eq!(known.of("a", Some(&ours), Some(&ours)), None);
        assert_eq!(known.of("b", Some(&theirs), Some(&ours)), Some("two"));
        assert_eq!(known.of("b", Some(&theirs), None), None);
        assert_eq!(known.of("ab", Some(&theirs), Some(&ours)), None);
    }

    #[test]
    fn rows_that_excuse_ours_or_say_nothing_are_refused() {
        for text in [
            "a | * | * | x",
            "a | ours | ours | x",
            "a | go | * |",
            "a | go | x",
            "a | gone | go | x",
        ] {
            assert!(Known::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_committed_rows_name_scenarios() {
        let scenarios = crate::scenarios::all();
        for row in Known::committed().expect("e2e/known can be read").0 {
            assert!(
                scenarios.iter().any(|one| one.name == row.scenario),
                "there is no scenario {}",
                row.scenario
            );
        }
    }
}
