//! How a file is laid over the defaults, row by row.

use crate::{cloud, edge, places};

#[test]
fn keys_in_any_letter_case() {
    let loaded = cloud("Modules:\n  cloudHub:\n    tlsCaFile: /ca\n    NODELIMIT: 7\n").expect("loads");
    assert_eq!(loaded.config.modules.cloud_hub.tls_ca_file, "/ca");
    assert_eq!(loaded.config.modules.cloud_hub.node_limit, 7);
    assert_eq!(loaded.warnings, []);
    // Of two spellings the later one in code point order wins.
    let loaded = edge("modules: {edgeHub: {tlsCaFile: /low, tlsCAFile: /high}}").expect("loads");
    assert_eq!(loaded.config.modules.edge_hub.tls_ca_file, "/low");
}

#[test]
fn unknown_keys_and_duplicates_are_warned_about_with_path_and_line() {
    let text =
        "kind: CloudCore\nfoo: 1\nmodules:\n  cloudHub:\n    bar:\n      baz: 2\n    nodeLimit: 1\n    nodeLimit: 2\n";
    let loaded = cloud(text).expect("loads");
    assert_eq!(loaded.config.modules.cloud_hub.node_limit, 2);
    let mut found = places(&loaded.warnings);
    found.sort_unstable();
    let expected = [
        ("foo", Some(2)),
        ("modules.cloudHub.bar", Some(5)),
        ("modules.cloudHub.nodeLimit", Some(8)),
    ];
    assert_eq!(found, expected);
}

#[test]
fn yaml_1_1_booleans() {
    for (text, expected) in [
        ("yes", true),
        ("no", false),
        ("on", true),
        ("OFF", false),
        ("True", true),
        ("y", true),
    ] {
        let loaded = edge(&format!("modules: {{serviceBus: {{enable: {text}}}}}")).expect("loads");
        assert_eq!(loaded.config.modules.service_bus.enable, expected, "{text}");
    }
    assert!(edge("modules: {serviceBus: {enable: \"true\"}}").is_err());
    assert!(edge("modules: {serviceBus: {enable: 1}}").is_err());
}

#[test]
fn numbers_and_booleans_become_strings() {
    let text = "modules:\n  edged: {hostnameOverride: 42}\n  edgeHub: {projectID: 1.5}\n  eventBus: {mqttUsername: yes, mqttPassword: 7}\n";
    let config = edge(text).expect("loads").config;
    assert_eq!(config.modules.edged.hostname_override, "42");
    assert_eq!(config.modules.edge_hub.project_id, "1.5");
    assert_eq!(config.modules.event_bus.mqtt_username, "true");
    assert_eq!(config.modules.event_bus.mqtt_password.expose(), "7");
}

#[test]
fn strings_do_not_become_numbers() {
    let problems = cloud("modules:\n  cloudHub:\n    https: {port: \"10000\"}\n    nodeLimit: ten\n")
        .expect_err("wrong")
        .0;
    let found: Vec<(&str, Option<usize>, &str)> = problems
        .iter()
        .map(|p| (p.path.as_str(), p.line, p.value.as_str()))
        .collect();
    let expected = [
        ("modules.cloudHub.https.port", Some(3), "\"10000\""),
        ("modules.cloudHub.nodeLimit", Some(4), "\"ten\""),
    ];
    assert_eq!(found, expected);
}

#[test]
fn numbers_keep_within_their_types() {
    for wrong in [
        "-1",
        "4294967296",
        "1.5",
        "[1]",
        "{a: 1}",
        "0x1ffffffff",
        ".inf",
        "99999999999999999999",
    ] {
        assert!(
            cloud(&format!("modules: {{cloudHub: {{https: {{port: {wrong}}}}}}}")).is_err(),
            "{wrong}"
        );
    }
    for (right, value) in [("1e3", 1000), ("0x10", 16), ("010", 8), ("2_0", 20), ("30.0", 30)] {
        let config = cloud(&format!("modules: {{cloudHub: {{https: {{port: {right}}}}}}}"))
            .expect("loads")
            .config;
        assert_eq!(config.modules.cloud_hub.https.port, value, "{right}");
    }
}

#[test]
fn null_keeps_scalars_and_is_refused_for_sections() {
    let text = "modules:\n  cloudHub:\n    nodeLimit:\n    tlsCAFile: ~\n    writeTimeout: null\ncommonConfig:\n  monitorServer:\n";
    let loaded = cloud(text).expect("loads");
    assert_eq!(loaded.config.modules.cloud_hub.node_limit, 500);
    assert_eq!(
        loaded.config.common_config.monitor_server.bind_address,
        "127.0.0.1:9091"
    );
    let problems = edge("modules:\n  edgeHub:\n    quic:\n  edged: [1]\n")
        .expect_err("wrong")
        .0;
    let found: Vec<(&str, Option<usize>)> = problems.iter().map(|p| (p.path.as_str(), p.line)).collect();
    assert_eq!(found, [("modules.edgeHub.quic", Some(3)), ("modules.edged", Some(4))]);
}

#[test]
fn maps_are_merged_and_cleared_by_null() {
    let kubelet = |text: &str| {
        let text = format!("modules: {{edged: {{tailoredKubeletConfig: {{evictionHard: {text}}}}}}}");
        edge(&text)
            .expect("loads")
            .config
            .modules
            .edged
            .tailored_kubelet_config
            .eviction_hard
    };
    let merged = kubelet("{memory.available: 50Mi}");
    assert_eq!(merged.len(), 5);
    assert_eq!(merged.get("memory.available").map(String::as_str), Some("50Mi"));
    assert_eq!(kubelet("null").len(), 0);
    assert_eq!(kubelet("{}").len(), 5);
}

#[test]
fn lists_are_laid_over_index_by_index() {
    let addresses = |text: &str| {
        let config = cloud(&format!("modules:\n  cloudHub:\n    advertiseAddress:{text}"))
            .expect("loads")
            .config;
        config.modules.cloud_hub.advertise_address.join(",")
    };
    // What the chart renders for its default value.
    assert_eq!(addresses("\n    - \n"), "192.0.2.2");
    assert_eq!(addresses(" [\"\"]"), "192.0.2.2");
    assert_eq!(addresses(" [~, 198.51.100.7]"), "192.0.2.2,198.51.100.7");
    assert_eq!(addresses(" [198.51.100.7, \"\"]"), "198.51.100.7");
    let text = "modules: {cloudHub: {authorization: {modes: [{node: {}}, {}]}}}";
    let modes = cloud(text).expect("loads").config.modules.cloud_hub.authorization.modes;
    assert_eq!(modes.len(), 2);
    assert!(modes[0].node.as_ref().is_some_and(|node| node.enable) && modes[1].node.is_none());
}

#[test]
fn durations_are_go_strings_and_certificate_times_plain_numbers() {
    let text = "modules: {edged: {minimumGCAge: 1m30s, tailoredKubeletConfig: {syncFrequency: 90s}}}";
    let edged = edge(text).expect("loads").config.modules.edged;
    assert_eq!(edged.minimum_gc_age.to_string(), "1m30s");
    assert_eq!(edged.tailored_kubelet_config.sync_frequency.to_std().as_secs(), 90);
    assert!(edge("modules: {edged: {minimumGCAge: 60}}").is_err());
    assert!(edge("modules: {edged: {minimumGCAge: soon}}").is_err());
    assert!(cloud("modules: {cloudHub: {edgeCertSigningDuration: 365d}}").is_err());
    let config = cloud("modules: {cloudHub: {edgeCertSigningDuration: 30}}")
        .expect("loads")
        .config;
    assert_eq!(config.modules.cloud_hub.edge_cert_signing_duration, 30);
}

#[test]
fn identity_is_not_checked() {
    assert!(cloud("apiVersion: cloudcore.config.kubeedge.io/v1alpha2\nkind: Other\n").is_ok());
    assert!(edge("apiVersion: 7\n").is_ok());
}

#[test]
fn anchors_merge_keys_and_documents() {
    let text = "base: &b {enable: true, port: 1}\nmodules:\n  serviceBus:\n    <<: *b\n    port: 2\n---\nmodules: 3\n";
    let bus = edge(text).expect("loads").config.modules.service_bus;
    assert_eq!((bus.enable, bus.port), (true, 2));
}

#[test]
fn hostile_texts_are_refused_within_limits() {
    let deep = format!("a: {}{}", "[".repeat(200), "]".repeat(200));
    let bomb = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, level| {
        let uses = vec![format!("*a{}", level - 1); 10].join(",");
        format!("{text}a{level}: &a{level} [{uses}]\n")
    });
    for text in [
        deep,
        bomb,
        "x".repeat(2 << 20),
        "a: *a\n".into(),
        "a: &a [*a]\n".into(),
        "? [1]\n: 2\n".into(),
    ] {
        let problems = cloud(&text).expect_err("refused").0;
        assert_eq!(problems.len(), 1);
    }
    for text in ["- 1\n", "text", "3"] {
        assert!(cloud(text).is_err(), "{text}");
    }
    assert!(cloud("null").is_ok());
}

#[test]
fn what_a_file_sets_can_be_asked() {
    let loaded = cloud("kubeAPIConfig: {QPS: 10}\nmodules: {cloudHub: {quic: {enable: false}}}").expect("loads");
    assert!(loaded.is_set("kubeAPIConfig.qps") && loaded.is_set("modules.cloudHub.quic.enable"));
    assert!(!loaded.is_set("kubeAPIConfig.burst"));
}

#[test]
fn the_file_of_a_join_leaves_the_edge_api_to_the_default() {
    let key = "modules.metaManager.metaServer.enable";
    for (text, is_set) in [
        ("{}", false),
        ("modules: {metaManager: {metaServer: {enable: false}}}", true),
    ] {
        let config = edge(text).expect("loads").config;
        let joined = edge(&config.to_join_yaml()).expect("loads again");
        assert_eq!(joined.is_set(key), is_set, "{text}");
        assert_eq!(joined.config, config);
    }
}

#[test]
fn values_follow_from_others_that_are_set() {
    let text = "modules: {edgeHub: {websocket: {server: \"cloud.example:10000\"}}, edged: {tailoredKubeletConfig: {containerRuntimeEndpoint: \"unix:///x.sock\"}}}";
    let modules = edge(text).expect("loads").config.modules;
    assert_eq!(modules.edge_stream.server, "cloud.example:10004");
    assert_eq!(
        modules.edged.tailored_kubelet_config.image_service_endpoint,
        "unix:///x.sock"
    );
}

#[test]
fn the_request_rate_follows_the_number_of_edges_unless_it_is_set() {
    let rate = cloud("modules: {cloudHub: {nodeLimit: 1000}}\nkubeAPIConfig: {burst: 7}")
        .expect("loads")
        .config;
    assert_eq!((rate.kube_api_config.qps, rate.kube_api_config.burst), (5000, 7));
}
