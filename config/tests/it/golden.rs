//! What the Go programs print and what we print.

use std::collections::BTreeMap;

use config::{CloudCore, EdgeCore};

use crate::{CLOUD_DEFAULT, CLOUD_MIN, EDGE_DEFAULT, EDGE_MIN, cloud, edge, host};

#[test]
fn reading_and_writing_the_go_files_changes_no_byte() {
    let cloud = cloud(CLOUD_DEFAULT).expect("cloudcore-default.yaml");
    assert_eq!(cloud.config.to_yaml(), CLOUD_DEFAULT);
    assert_eq!(cloud.warnings, []);
    let edge = edge(EDGE_DEFAULT).expect("edgecore-default.yaml");
    assert_eq!(edge.config.to_yaml(), EDGE_DEFAULT);
    assert_eq!(edge.warnings, []);
}

#[test]
fn defaults_differ_from_go_only_in_the_rows_of_defaults_md() {
    let table = include_str!("../../DEFAULTS.md");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| cloudcore.yaml") || line.starts_with("| edgecore.yaml"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(
        rows.iter().all(|row| row.len() == 5 && !row[4].is_empty()),
        "each row has five cells"
    );
    for (file, ours, go) in [
        ("cloudcore.yaml", CloudCore::default_yaml(&host()), CLOUD_DEFAULT),
        ("edgecore.yaml", EdgeCore::default_yaml(&host()), EDGE_DEFAULT),
    ] {
        let (ours, go) = (leaves(&ours), leaves(go));
        assert_eq!(ours.keys().collect::<Vec<_>>(), go.keys().collect::<Vec<_>>());
        let found: BTreeMap<&str, (&str, &str)> = go
            .iter()
            .filter(|(key, value)| ours.get(*key) != Some(value))
            .map(|(key, value)| (key.as_str(), (value.as_str(), ours[key].as_str())))
            .collect();
        let written: BTreeMap<&str, (&str, &str)> = rows
            .iter()
            .filter(|row| row[0] == file)
            .map(|row| (row[1], (row[2], row[3])))
            .collect();
        assert_eq!(found, written, "{file}");
    }
}

/// The keys that only we have, with their defaults as DEFAULTS.md tells them.
const CLOUD_OURS: &[(&str, &str)] = &[
    ("cloudHub.legacyCertificates", "true"),
    ("cloudHub.edgeCertSigningSeconds", "0"),
    ("cloudStream.streamAuthorization", "true"),
    ("cloudStream.streamCompat", "false"),
    ("cloudStream.streamCertSigner", "cloudhub"),
    ("cloudStream.egress.enable", "false"),
    ("cloudStream.egress.address", "0.0.0.0"),
    ("cloudStream.egress.port", "10005"),
    ("cloudStream.egress.unixSocket", "''"),
    ("cloudStream.egress.clientCAFile", "''"),
    ("cloudStream.egress.clientNames", "[]"),
    ("cloudStream.egress.passThrough", "true"),
    ("cloudStream.egress.folder", "/etc/kubeedge/egress"),
    ("iptablesManager.address", "''"),
    ("iptablesManager.edgeAddressesOnly", "false"),
    ("webhook.enable", "true"),
    ("webhook.address", "0.0.0.0"),
    ("webhook.port", "10006"),
    ("webhook.url", "''"),
    ("deviceController.writesPerDevice", "10"),
    ("deviceController.writesPerNode", "100"),
    ("deviceController.statusOfDevice", "false"),
];
const EDGE_OURS: &[(&str, &str)] = &[
    ("edged.searchRuntime", "false"),
    ("deviceTwin.reportsPerDevice", "10"),
    ("deviceTwin.reportsPerSecond", "100"),
    ("deviceTwin.history.enable", "false"),
    ("deviceTwin.history.maxValues", "10000"),
    ("deviceTwin.history.maxBytes", "33554432"),
    ("deviceTwin.history.maxAge", "0s"),
    ("eventBus.uploadBytes", "16777216"),
    ("eventBus.broker.users", "{}"),
    ("eventBus.broker.passwordFile", "''"),
    ("eventBus.broker.tls.certFile", "''"),
    ("eventBus.broker.tls.keyFile", "''"),
    ("eventBus.broker.tls.clientCAFile", "''"),
    ("eventBus.broker.limits.connections", "1000"),
    ("eventBus.broker.limits.connectSeconds", "10"),
    ("eventBus.broker.limits.packetBytes", "1114112"),
    ("eventBus.broker.limits.inflight", "20"),
    ("eventBus.broker.limits.queueBytes", "4194304"),
    ("eventBus.broker.limits.storeBytes", "33554432"),
    ("eventBus.broker.limits.retained", "10000"),
    ("eventBus.broker.limits.sessions", "1000"),
    ("eventBus.broker.limits.subscriptions", "1000"),
    ("eventBus.broker.limits.topicLevels", "64"),
    ("eventBus.broker.limits.topicBytes", "1024"),
    ("eventBus.broker.limits.clientIDBytes", "256"),
];

/// The YAML that sets one key of a module.
fn setting(key: &str, value: &str) -> String {
    let sections = key.split('.').count();
    format!(
        "modules: {{{}: {value}{}",
        key.replace('.', ": {"),
        "}".repeat(sections)
    )
}

#[test]
fn keys_that_only_we_have_have_the_defaults_of_defaults_md() {
    let table = include_str!("../../DEFAULTS.md");
    for (key, value) in CLOUD_OURS {
        let loaded = cloud(&setting(key, value)).expect(key);
        assert_eq!(
            (loaded.config, loaded.warnings),
            (CloudCore::defaults(&host()), vec![]),
            "{key}"
        );
    }
    for (key, value) in EDGE_OURS {
        let loaded = edge(&setting(key, value)).expect(key);
        assert_eq!(
            (loaded.config, loaded.warnings),
            (EdgeCore::defaults(&host()), vec![]),
            "{key}"
        );
    }
    for (key, value) in CLOUD_OURS.iter().chain(EDGE_OURS) {
        let name = key.rsplit('.').next().unwrap_or_default();
        assert!(table.contains(name), "{key}");
        assert!(matches!(*value, "''" | "[]" | "{}") || table.contains(value), "{key}");
    }
}

#[test]
fn defaults_without_a_file_are_what_is_printed() {
    let cloud = cloud("").expect("nothing set");
    assert_eq!(cloud.config, CloudCore::defaults(&host()));
    let reread = crate::cloud(&CloudCore::default_yaml(&host())).expect("our own form");
    assert_eq!((reread.config, reread.warnings), (cloud.config, vec![]));
    let edge = edge("").expect("nothing set");
    assert_eq!(edge.config, EdgeCore::defaults(&host()));
    let reread = crate::edge(&EdgeCore::default_yaml(&host())).expect("our own form");
    assert_eq!((reread.config, reread.warnings), (edge.config, vec![]));
}

#[test]
fn the_short_form_has_gos_keys_with_their_modules_on() {
    for (ours, go, modules) in [
        (CloudCore::min_yaml(&host()), CLOUD_MIN, ["cloudHub"].as_slice()),
        (
            EdgeCore::min_yaml(&host()),
            EDGE_MIN,
            ["edgeHub", "eventBus", "deviceTwin"].as_slice(),
        ),
    ] {
        let mut expected = leaves(go);
        for module in modules {
            expected.insert(format!("modules.{module}.enable"), "true".to_owned());
        }
        assert_eq!(leaves(&ours), expected);
        assert_eq!(ours.lines().count(), go.lines().count());
    }
    assert!(edge(&EdgeCore::min_yaml(&host())).is_ok());
    assert!(cloud(&CloudCore::min_yaml(&host())).is_ok());
}

#[test]
fn secrets_are_not_in_debug_output() {
    let text = "modules: {edgeHub: {token: tok-en}, eventBus: {mqttPassword: pass-word}}";
    let loaded = edge(text).expect("loads");
    let debug = format!("{loaded:?}");
    assert!(!debug.contains("tok-en") && !debug.contains("pass-word"));
    assert_eq!(loaded.config.modules.edge_hub.token.expose(), "tok-en");
    assert!(loaded.config.to_yaml().contains("mqttPassword: pass-word"));
}

#[test]
fn one_line_says_what_stays_off() {
    let off = edge(EDGE_DEFAULT).expect("loads").config.stays_off();
    assert!(
        off.contains(&"logs, exec, metrics (modules.edgeStream.enable)".to_owned()),
        "{off:?}"
    );
    assert!(
        off.contains(&"edge API (modules.metaManager.metaServer.enable)".to_owned()),
        "{off:?}"
    );
    let off = cloud("").expect("loads").config.stays_off();
    assert_eq!(off.len(), 2, "router and taskManager: {off:?}");
}

#[test]
fn another_line_says_what_is_not_there_yet() {
    let cloud = |text| cloud(text).expect("loads").config.not_yet();
    assert_eq!(cloud(""), ["modules.dynamicController.enable"]);
    let text = "modules: {dynamicController: {enable: false}, router: {enable: true}}";
    assert_eq!(cloud(text), ["modules.router.enable"]);
    let edge = |text| edge(text).expect("loads").config.not_yet();
    assert_eq!(edge(""), ["modules.metaManager.metaServer.enable"]);
    assert_eq!(edge(EDGE_DEFAULT), [""; 0]);
}

#[test]
fn the_bootstrap_token_wins_in_memory() -> std::io::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("bootstrap-edgecore.conf");
    let mut config = EdgeCore::defaults(&host());
    assert!(!config.take_bootstrap_token(&file)?);
    std::fs::write(&file, "abc.def\n")?;
    assert!(config.take_bootstrap_token(&file)?);
    assert_eq!(config.modules.edge_hub.token.expose(), "abc.def");
    Ok(())
}

#[test]
fn the_printed_forms_have_three_comment_lines_and_an_empty_one() {
    for text in [config::cli::default_config("a: 1\n"), config::cli::min_config("a: 1\n")] {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[..3].iter().all(|line| line.starts_with('#')));
        assert_eq!(lines[3..], ["", "a: 1"]);
    }
    assert_eq!(
        config::version::line(),
        format!("KubeEdge v1.23.1 (rust {})", config::version::OWN_VERSION)
    );
}

/// Every scalar of a block YAML text by its path; the forms are only those that the programs print.
pub(crate) fn leaves(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut item = 0;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let body = line.trim_start();
        if let Some(element) = body.strip_prefix("- ") {
            let parent: Vec<&str> = path.iter().map(|(_, key)| key.as_str()).collect();
            found.insert(format!("{}.{item}", parent.join(".")), element.to_owned());
            item += 1;
            continue;
        }
        item = 0;
        path.retain(|(depth, _)| *depth < indent);
        let (key, value) = body.split_once(':').expect("key: value");
        path.push((indent, key.to_owned()));
        if !value.trim().is_empty() {
            let parts: Vec<&str> = path.iter().map(|(_, key)| key.as_str()).collect();
            found.insert(parts.join("."), value.trim().to_owned());
        }
    }
    found
}
