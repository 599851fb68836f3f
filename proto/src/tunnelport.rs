//! The record of virtual ports: which cloudcore the API server's requests for an edge belong to.
//!
//! The ConfigMap `kubeedge/tunnelport` carries it as JSON in an annotation, shared by all replicas of cloudcore and by the
//! iptables managers, ours and the Go program's: `{"ipTunnelPort":{"10.0.0.5":10351},"port":{"10351":true}}`. Spec 04 §12.
//!
//! A cloudcore of both families has its second address in an annotation of its own, `{"10.0.0.5":"fd00::5"}`, which Go's programs keep
//! and do not read. In `ipTunnelPort` it would harm them: Go's manager takes an entry apart at its first colon, fails on one of
//! IPv6, and leaves out what it had still to do for others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::object::{BadObject, Object};

/// Namespace of the ConfigMap.
pub const NAMESPACE: &str = "kubeedge";
/// Its name.
pub const NAME: &str = "tunnelport";
/// The annotation that holds the record.
pub const ANNOTATION: &str = "tunnelportrecord.kubeedge.io";
/// The annotation with the second addresses. Only ours.
pub const SECOND_ANNOTATION: &str = "kubeedge.io/tunnelport-second-addresses";
/// The lowest virtual port: what the first cloudcore of a cluster gets.
pub const FIRST_PORT: u16 = 10351;
/// A longer record is not read, in bytes: the API server takes 256 KiB of annotations.
const MAX_RECORD: usize = 256 * 1024;

/// Who has which port.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TunnelPortRecord {
    /// By the address of a cloudcore. A Go cloudcore that found no address of its own wrote the empty one.
    #[serde(rename = "ipTunnelPort")]
    ip_tunnel_port: BTreeMap<String, u16>,
    /// The ports that are taken; the value says nothing.
    port: BTreeMap<u16, bool>,
    /// What this release does not know.
    #[serde(flatten)]
    rest: Map<String, Value>,
    /// The other address of a cloudcore that has two, by the one that it is known by.
    #[serde(skip)]
    second: BTreeMap<IpAddr, IpAddr>,
}

/// Why a ConfigMap has no record.
#[derive(Debug, Error)]
pub enum BadRecord {
    /// The annotation is missing.
    #[error("the annotation {ANNOTATION} is missing")]
    Missing,
    /// The annotation is too long.
    #[error("the annotation {ANNOTATION} has {0} bytes, more than {MAX_RECORD}")]
    Long(usize),
    /// The annotation is not a JSON object.
    #[error("the annotation {ANNOTATION} is not a JSON object")]
    Json(#[source] serde_json::Error),
    /// The ConfigMap itself cannot be read.
    #[error("the ConfigMap {NAMESPACE}/{NAME} cannot be read")]
    Object(#[source] BadObject),
}

/// All ports from [`FIRST_PORT`] on are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("all virtual ports from {FIRST_PORT} on are taken in the record of {NAMESPACE}/{NAME}")]
pub struct NoPortLeft;

/// What an address was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The port.
    pub port: u16,
    /// Whether the record had to be changed for it.
    pub changed: bool,
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    metadata: MetadataView,
}

#[derive(Deserialize, Default)]
struct MetadataView {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl TunnelPortRecord {
    /// The record of the ConfigMap.
    pub fn of(config_map: &Object) -> Result<Self, BadRecord> {
        let view: View = config_map.view().map_err(BadRecord::Object)?;
        let annotations = view.metadata.annotations.unwrap_or_default();
        let mut record = Self::parse(annotations.get(ANNOTATION).ok_or(BadRecord::Missing)?)?;
        // Second addresses that cannot be read count as absent: the cloudcores that they belong to write them anew.
        record.second = annotations
            .get(SECOND_ANNOTATION)
            .filter(|text| text.len() <= MAX_RECORD)
            .and_then(|text| crate::json::from_str(text).ok())
            .unwrap_or_default();
        Ok(record)
    }

    /// Reads the annotation that Go's programs know. Either map may be missing or null; entries that name no port are left out,
    /// everything else stays.
    pub fn parse(text: &str) -> Result<Self, BadRecord> {
        if text.len() > MAX_RECORD {
            return Err(BadRecord::Long(text.len()));
        }
        let mut rest: Map<String, Value> = crate::json::from_str(text).map_err(BadRecord::Json)?;
        let mut map = |key| match rest.remove(key) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let (addresses, ports) = (map("ipTunnelPort"), map("port"));
        let ip_tunnel_port = addresses
            .into_iter()
            .filter_map(|(ip, port)| Some((ip, port_of(port.as_u64()?)?)))
            .collect();
        let port = ports
            .into_iter()
            .filter_map(|(port, taken)| Some((port_of(port.parse().ok()?)?, taken.as_bool().unwrap_or(true))))
            .collect();
        Ok(Self {
            ip_tunnel_port,
            port,
            rest,
            second: BTreeMap::new(),
        })
    }

    /// The annotation that Go's programs know.
    #[must_use]
    pub fn render(&self) -> String {
        // Maps with keys of text and numbers always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Both annotations; null where there is nothing for the second.
    fn annotations(&self) -> Value {
        let second = (!self.second.is_empty()).then(|| json!(self.second).to_string());
        json!({ANNOTATION: self.render(), SECOND_ANNOTATION: second})
    }

    /// A ConfigMap with this record, for the first cloudcore of a cluster.
    pub fn config_map(&self) -> Result<Object, BadObject> {
        let mut annotations = self.annotations();
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.retain(|_, value| !value.is_null());
        }
        Object::from_value(&json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "annotations": annotations},
        }))
    }

    /// A merge patch that puts this record into the ConfigMap of that `resourceVersion` and no other: 409 if it changed since.
    #[must_use]
    pub fn patch(&self, resource_version: &str) -> String {
        json!({"metadata": {"resourceVersion": resource_version, "annotations": self.annotations()}}).to_string()
    }

    /// The cloudcores by the addresses that they are known by, without entries whose key is no address.
    pub fn entries(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.ip_tunnel_port
            .iter()
            .filter_map(|(ip, port)| Some((ip.parse().ok()?, *port)))
    }

    /// All addresses of the cloudcores, where the stream server of each is, with its port.
    pub fn reached(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.entries().flat_map(|(ip, port)| {
            let second = self.second.get(&ip).copied();
            [Some(ip), second].into_iter().flatten().map(move |ip| (ip, port))
        })
    }

    /// The port of an address.
    #[must_use]
    pub fn port(&self, ip: IpAddr) -> Option<u16> {
        self.ip_tunnel_port.get(&ip.to_string()).copied()
    }

    /// Gives `ip` its port: the one it has, else the lowest free one from [`FIRST_PORT`] on. With it, ports are freed that no
    /// address has (Go's manager leaves them), and a port that two addresses have stays with the first of them in order.
    pub fn claim(&mut self, ip: IpAddr) -> Result<Claim, NoPortLeft> {
        let key = ip.to_string();
        if let Some(&port) = self.ip_tunnel_port.get(&key)
            && self.owner(port) == Some(key.as_str())
        {
            let changed = self.port.insert(port, true) != Some(true);
            return Ok(Claim { port, changed });
        }
        self.ip_tunnel_port.remove(&key);
        self.port = self.ip_tunnel_port.values().map(|&port| (port, true)).collect();
        let port = (FIRST_PORT..=u16::MAX)
            .find(|port| !self.port.contains_key(port))
            .ok_or(NoPortLeft)?;
        self.port.insert(port, true);
        self.ip_tunnel_port.insert(key, port);
        Ok(Claim { port, changed: true })
    }

    /// Says what other address the cloudcore at `ip` has. With it, those go that belong to no entry any more: Go's manager removes
    /// entries alone. Returns whether that changed anything.
    pub fn set_second(&mut self, ip: IpAddr, second: Option<IpAddr>) -> bool {
        let known: BTreeSet<IpAddr> = self.entries().map(|(ip, _)| ip).collect();
        let mut now = self.second.clone();
        now.retain(|first, _| known.contains(first));
        match second {
            Some(second) => drop(now.insert(ip, second)),
            None => drop(now.remove(&ip)),
        }
        let changed = now != self.second;
        self.second = now;
        changed
    }

    /// Removes an address, its port and its second address. Returns whether it was there.
    pub fn release(&mut self, ip: IpAddr) -> bool {
        self.second.remove(&ip);
        let Some(port) = self.ip_tunnel_port.remove(&ip.to_string()) else {
            return false;
        };
        if self.owner(port).is_none() {
            self.port.remove(&port);
        }
        true
    }

    fn owner(&self, port: u16) -> Option<&str> {
        let owners = self.ip_tunnel_port.iter().filter(|(_, of)| **of == port);
        owners.map(|(ip, _)| ip.as_str()).next()
    }
}

/// Only what can be a TCP port.
fn port_of(number: u64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GO: &str = r#"{"ipTunnelPort":{"10.0.0.5":10351,"10.0.0.6":10352},"port":{"10351":true,"10352":true}}"#;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn parse(text: &str) -> TunnelPortRecord {
        TunnelPortRecord::parse(text).expect("record")
    }

    #[test]
    fn writes_what_the_go_program_writes() {
        assert_eq!(parse(GO).render(), GO);
        let mut record = TunnelPortRecord::default();
        record.claim(ip("10.0.0.5")).expect("free");
        record.claim(ip("10.0.0.6")).expect("free");
        assert_eq!(record.render(), GO);
        assert_eq!(TunnelPortRecord::default().render(), r#"{"ipTunnelPort":{},"port":{}}"#);
    }

    #[test]
    fn an_address_keeps_its_port() {
        let mut record = parse(GO);
        let claim = record.claim(ip("10.0.0.6")).expect("has one");
        assert_eq!(
            claim,
            Claim {
                port: 10352,
                changed: false
            }
        );
        let claim = record.claim(ip("fd00::7")).expect("free");
        assert_eq!(
            claim,
            Claim {
                port: 10353,
                changed: true
            }
        );
        assert_eq!(record.port(ip("fd00:0::7")), Some(10353));
    }

    #[test]
    fn broken_records_are_repaired() {
        for text in [
            "{}",
            r#"{"port":null}"#,
            r#"{"ipTunnelPort":[1],"port":{"x":true,"70000":true}}"#,
        ] {
            let mut record = parse(text);
            assert_eq!(
                record.claim(ip("10.0.0.5")),
                Ok(Claim {
                    port: 10351,
                    changed: true
                }),
                "{text}"
            );
            assert_eq!(
                record.render(),
                r#"{"ipTunnelPort":{"10.0.0.5":10351},"port":{"10351":true}}"#
            );
        }
        let mut lacking = parse(r#"{"ipTunnelPort":{"10.0.0.5":10355,"10.0.0.6":0,"":10351}}"#);
        assert_eq!(
            lacking.claim(ip("10.0.0.5")),
            Ok(Claim {
                port: 10355,
                changed: true
            })
        );
        assert_eq!(
            lacking.claim(ip("10.0.0.6")),
            Ok(Claim {
                port: 10352,
                changed: true
            })
        );
        assert_eq!(
            lacking.entries().count(),
            2,
            "the entry without an address leads nowhere"
        );
        for text in ["", "[]", "{", "null"] {
            assert!(
                matches!(TunnelPortRecord::parse(text), Err(BadRecord::Json(_))),
                "{text}"
            );
        }
        assert!(matches!(
            TunnelPortRecord::parse(&" ".repeat(MAX_RECORD + 1)),
            Err(BadRecord::Long(_))
        ));
    }

    #[test]
    fn ports_without_an_owner_are_used_again() {
        let mut record =
            parse(r#"{"ipTunnelPort":{"10.0.0.6":10352},"port":{"10351":true,"10352":true,"10353":true}}"#);
        assert_eq!(record.claim(ip("10.0.0.7")).map(|claim| claim.port), Ok(10351));
        assert_eq!(
            record.render(),
            r#"{"ipTunnelPort":{"10.0.0.6":10352,"10.0.0.7":10351},"port":{"10351":true,"10352":true}}"#
        );
    }

    #[test]
    fn release_removes_both_entries() {
        let mut record = parse(GO);
        assert!(record.release(ip("10.0.0.5")));
        assert!(!record.release(ip("10.0.0.5")));
        assert_eq!(
            record.render(),
            r#"{"ipTunnelPort":{"10.0.0.6":10352},"port":{"10352":true}}"#
        );
    }

    /// What is in the ConfigMap after a patch of it.
    fn patched(record: &TunnelPortRecord) -> TunnelPortRecord {
        let patch: Value = serde_json::from_str(&record.patch("7")).expect("JSON");
        let mut annotations = patch["metadata"]["annotations"]
            .as_object()
            .expect("annotations")
            .clone();
        annotations.retain(|_, value| !value.is_null());
        let map = json!({"metadata": {"name": NAME, "annotations": annotations}});
        TunnelPortRecord::of(&Object::from_value(&map).expect("object")).expect("record")
    }

    #[test]
    fn second_addresses_are_not_where_go_looks() {
        let mut record = parse(GO);
        assert!(record.set_second(ip("10.0.0.6"), Some(ip("fd00::6"))));
        assert!(!record.set_second(ip("10.0.0.6"), Some(ip("fd00:0::6"))));
        assert_eq!(record.render(), GO);
        let reached: Vec<String> = record.reached().map(|(ip, port)| format!("{ip} {port}")).collect();
        assert_eq!(reached, ["10.0.0.5 10351", "10.0.0.6 10352", "fd00::6 10352"]);
        assert_eq!(record.entries().count(), 2);
        assert_eq!(patched(&record), record);
        let config_map = record.config_map().expect("object");
        assert_eq!(TunnelPortRecord::of(&config_map).expect("record"), record);

        assert!(record.set_second(ip("10.0.0.6"), None));
        assert_eq!(patched(&record), parse(GO));
        let config_map = record.config_map().expect("object");
        assert!(!config_map.raw().get().contains(SECOND_ANNOTATION));
    }

    #[test]
    fn second_addresses_go_with_their_entries() {
        let mut record = parse(GO);
        record.set_second(ip("10.0.0.5"), Some(ip("fd00::5")));
        record.set_second(ip("10.0.0.6"), Some(ip("fd00::6")));
        let mut left = record.clone();
        assert!(left.release(ip("10.0.0.6")));
        assert_eq!(left.reached().count(), 2);

        // As Go's manager leaves it.
        record.ip_tunnel_port.remove("10.0.0.6");
        assert_eq!(record.reached().count(), 2);
        assert!(record.set_second(ip("10.0.0.5"), Some(ip("fd00::5"))));
        assert_eq!(record.second.len(), 1);
    }

    #[test]
    fn a_broken_second_annotation_is_none() {
        for text in ["", "{", "[]", r#"{"10.0.0.5":1}"#, r#"{"here":"fd00::5"}"#] {
            let map = json!({"metadata": {"name": NAME, "annotations": {ANNOTATION: GO, SECOND_ANNOTATION: text}}});
            let record = TunnelPortRecord::of(&Object::from_value(&map).expect("object")).expect("record");
            assert_eq!(record, parse(GO), "{text}");
        }
    }

    #[test]
    fn unknown_fields_stay() {
        let mut record = parse(r#"{"future":{"a":[1]}}"#);
        record.claim(ip("10.0.0.5")).expect("free");
        assert!(record.render().contains(r#""future":{"a":[1]}"#));
    }

    #[test]
    fn the_config_map_is_read_as_it_is_written() {
        let mut record = TunnelPortRecord::default();
        record.claim(ip("10.0.0.5")).expect("free");
        let object = record.config_map().expect("object");
        assert_eq!(TunnelPortRecord::of(&object).expect("record"), record);
        let bare = Object::parse(r#"{"metadata":{"name":"tunnelport","annotations":null}}"#).expect("object");
        assert!(matches!(TunnelPortRecord::of(&bare), Err(BadRecord::Missing)));
    }

    proptest! {
        #[test]
        fn claims_never_collide(addresses in prop::collection::vec(any::<u8>(), 1..40), text in ".{0,60}") {
            let mut record = TunnelPortRecord::parse(&text).unwrap_or_default();
            for last in &addresses {
                let ip = IpAddr::from([10, 0, 0, *last]);
                let claim = record.claim(ip).expect("free");
                prop_assert_eq!(record.claim(ip), Ok(Claim { changed: false, ..claim }));
                prop_assert_eq!(parse(&record.render()), record.clone());
            }
            let mut ports: Vec<u16> = record.entries().map(|(_, port)| port).collect();
            let all = ports.len();
            ports.sort_unstable();
            ports.dedup();
            prop_assert_eq!(ports.len(), all);
        }
    }
}
