//! What the host has for redirects: iptables in one of its two variants, or nft alone.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use thiserror::Error;
use tracing::debug;

use super::nftables;
use super::rules::{CHAIN, Command, ENTRIES, Family, Found, Redirect, plan};
use super::run::{RunError, find, run};

/// The host has neither program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("this host has neither iptables nor nft")]
pub(super) struct NothingInstalled;

/// The programs of the host that keep the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// `iptables` and `ip6tables` of one variant; a host without IPv6 may lack the second.
    Iptables { v4: PathBuf, v6: Option<PathBuf> },
    /// `nft`.
    Nft(PathBuf),
}

impl Backend {
    /// Chooses: the variant of iptables whose nat table has the chain already; else the legacy one where its nat table is in use;
    /// else the host's own choice. nft, with a table of its own, is for hosts without iptables.
    pub(super) async fn probe() -> Result<Self, NothingInstalled> {
        let path = std::env::var_os("PATH");
        let variant = |suffix: &str| {
            Some(Self::Iptables {
                v4: find(&format!("iptables{suffix}"), path.clone())?,
                v6: find(&format!("ip6tables{suffix}"), path.clone()),
            })
        };
        // The kernel's list of tables is read instead of asking iptables-legacy, because asking it would load the modules of the legacy
        // variant.
        let tables = std::fs::read_to_string(LEGACY_TABLES).unwrap_or_default();
        let legacy_in_use = tables.lines().any(|table| table == "nat");
        let legacy = if legacy_in_use { variant("-legacy") } else { None };
        let candidates: Vec<Self> = legacy.into_iter().chain(variant("")).chain(variant("-nft")).collect();
        for candidate in &candidates {
            if candidate.found(Family::V4).await.is_ok_and(|found| !found.is_empty()) {
                return Ok(candidate.clone());
            }
        }
        let nft = || find("nft", path.clone()).map(Self::Nft);
        candidates.into_iter().next().or_else(nft).ok_or(NothingInstalled)
    }

    /// Brings the host's rules to what is wanted. Returns how many commands it took; none when all was right.
    pub(super) async fn apply(&self, wanted: &BTreeSet<Redirect>, family: Family) -> Result<usize, RunError> {
        match self {
            Self::Iptables { .. } => {
                let Some(program) = self.iptables(family) else {
                    return if wanted.is_empty() {
                        Ok(0)
                    } else {
                        Err(RunError::Missing)
                    };
                };
                let commands = plan(wanted, &self.found(family).await?);
                for command in &commands {
                    debug!(command = command.join(" "), "redirect rules");
                    run(program, &with_table(command), "").await?;
                }
                Ok(commands.len())
            }
            Self::Nft(program) => {
                let listing = match run(program, &nftables::listing(family), "").await {
                    Ok(listing) => listing,
                    // The table does not exist. If the failure has another cause, the next command fails by it as well.
                    Err(error) if error.has_code(1) => String::new(),
                    Err(error) => return Err(error),
                };
                if nftables::is_current(&listing, wanted) {
                    return Ok(0);
                }
                run(program, &["-f", "-"], &nftables::script(wanted, family)).await?;
                Ok(1)
            }
        }
    }

    fn iptables(&self, family: Family) -> Option<&PathBuf> {
        match (self, family) {
            (Self::Iptables { v4, .. }, Family::V4) => Some(v4),
            (Self::Iptables { v6, .. }, Family::V6) => v6.as_ref(),
            (Self::Nft(_), _) => None,
        }
    }

    /// The chain and the two that lead to it; all others, which may hold 100,000 rules of kube-proxy, are not printed.
    async fn found(&self, family: Family) -> Result<Found, RunError> {
        let Some(program) = self.iptables(family) else {
            return Ok(Found::default());
        };
        let mut text = String::new();
        for chain in [CHAIN].into_iter().chain(ENTRIES) {
            match run(program, &with_table(&["-S".to_owned(), chain.to_owned()]), "").await {
                Ok(printed) => text.push_str(&printed),
                Err(error) if error.has_code(1) && chain == CHAIN => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Found::read(&text))
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iptables { v4: program, .. } | Self::Nft(program) => program.display().fmt(f),
        }
    }
}

/// Waits for the lock as Go's manager does.
fn with_table(command: &[String]) -> Command {
    let mut all: Command = ["-w", "5", "-t", "nat"].map(str::to_owned).into();
    all.extend_from_slice(command);
    all
}

/// The tables of the legacy variant that are in use in this network namespace.
const LEGACY_TABLES: &str = "/proc/net/ip_tables_names";
