//! What the checks of both files have in common.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::decode::Reader;
use crate::problem::quoted;
use crate::yaml::Tree;
use crate::{Files, Problem};

/// The gates that the Go programs know.
const GATES: &[&str] = &[
    "requireAuthorization",
    "moduleRestart",
    "disableNodeTaskV1alpha2",
    "AllAlpha",
    "AllBeta",
];

pub(crate) const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// Collects problems of checks beside those of decoding.
pub(crate) struct Checks<'a> {
    pub(crate) files: &'a dyn Files,
    pub(crate) reader: &'a mut Reader,
}

impl Checks<'_> {
    /// One refused value: Go's field name, our full path, the value as Go prints it, the message.
    pub(crate) fn invalid(&mut self, field: &str, path: &str, value: impl Into<String>, reason: impl Into<String>) {
        self.reader.problems.push(Problem {
            line: self.reader.lines.get(path).copied(),
            path: path.to_owned(),
            field: field.to_owned(),
            value: value.into(),
            reason: reason.into(),
        });
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.files.exists(Path::new(path))
    }

    pub(crate) fn gates(&mut self, gates: &BTreeMap<String, bool>) {
        for name in gates.keys().filter(|name| !GATES.contains(&name.as_str())) {
            let path = format!("featureGates.{name}");
            self.invalid("featureGates", &path, "", format!("unrecognized feature gate: {name}"));
        }
    }

    pub(crate) fn port(&mut self, path: &str, port: u32) {
        if !(1..=65535).contains(&port) {
            self.invalid("port", path, format!("{port:#x}"), PORT_RANGE);
        }
    }

    pub(crate) fn ip(&mut self, path: &str, address: &str) {
        if address.parse::<IpAddr>().is_err() {
            self.invalid(
                "Address",
                path,
                quoted(address),
                "must be a valid IP address, (e.g. 10.9.8.7)",
            );
        }
    }

    pub(crate) fn positive(&mut self, path: &str, value: i64) {
        if value <= 0 {
            self.invalid(path, path, value.to_string(), "must be greater than 0");
        }
    }

    /// `host:port`, the host a name or an address.
    pub(crate) fn server(&mut self, path: &str, server: &str) {
        let good = split_host_port(server)
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0));
        if !good {
            self.invalid(
                path,
                path,
                quoted(server),
                "must be host:port, the host a name or an address",
            );
        }
    }

    /// Warns about keys that the file sets to something else than the default although nothing reads them.
    pub(crate) fn without_effect(&mut self, paths: &[&str], ours: &Tree, default: &Tree) {
        for path in paths {
            let parts: Vec<&str> = path.split('.').collect();
            if let Some(line) = self.reader.lines.get(*path).copied()
                && ours.at(&parts) != default.at(&parts)
            {
                self.reader.warn_no_effect(line, path, "");
            }
        }
    }
}

/// The host without brackets, and the port; `None` when there is not exactly one port.
pub(crate) fn split_host_port(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        return Some((host, tail.strip_prefix(':')?));
    }
    let (host, port) = text.rsplit_once(':')?;
    (!host.contains(':')).then_some((host, port))
}

/// As Go's older address reader: leading zeros in IPv4 are decimal.
pub(crate) fn is_sloppy_ip(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let dotted = parts.len() == 4
        && parts
            .iter()
            .all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    if !dotted {
        return text.parse::<IpAddr>().is_ok();
    }
    let bare: Vec<&str> = parts
        .iter()
        .map(|p| match p.trim_start_matches('0') {
            "" => "0",
            digits => digits,
        })
        .collect();
    bare.join(".").parse::<Ipv4Addr>().is_ok()
}
