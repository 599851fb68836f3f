//! What the Go programs print and what we print.

use config::{CloudCore, EdgeCore, HostFacts, LookOnly};

pub(crate) const CLOUD_DEFAULT: &str = include_str!("../../golden/cloudcore-default.yaml");
pub(crate) const CLOUD_MIN: &str = include_str!("../../golden/cloudcore-min.yaml");
pub(crate) const EDGE_DEFAULT: &str = include_str!("../../golden/edgecore-default.yaml");
pub(crate) const EDGE_MIN: &str = include_str!("../../golden/edgecore-min.yaml");

/// The machine the golden files come from.
pub(crate) fn host() -> HostFacts {
    HostFacts {
        hostname: "vm".into(),
        local_ip: "192.0.2.2".into(),
    }
}

#[test]
fn reading_and_writing_the_go_files_changes_no_byte() {
    let cloud = CloudCore::parse(CLOUD_DEFAULT, &host(), &LookOnly).expect("cloudcore-default.yaml");
    assert_eq!(cloud.config.to_yaml(), CLOUD_DEFAULT);
    assert_eq!(cloud.warnings, []);
    let edge = EdgeCore::parse(EDGE_DEFAULT, &host(), &LookOnly).expect("edgecore-default.yaml");
    assert_eq!(edge.config.to_yaml(), EDGE_DEFAULT);
    assert_eq!(edge.warnings, []);
}
