//! Every check with its text, and all problems at once.

use config::{CloudCore, EdgeCore, LoadError, LookOnly, Problems};

use crate::{Disk, cloud, edge, host};

fn lines(problems: &Problems) -> Vec<String> {
    let text = problems.to_string();
    let inner = text
        .strip_prefix("[\n")
        .and_then(|t| t.strip_suffix("]"))
        .expect("in brackets");
    inner
        .lines()
        .map(|line| line.strip_prefix("  ").expect("indented").to_owned())
        .collect()
}

#[test]
fn cloudcore_rows() {
    const PORT: &str = "must be between 1 and 65535, inclusive";
    const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7)";
    for (text, expected) in [
        ("cloudHub: {https: {port: 0}}", format!("port: Invalid value: 0x0: {PORT} (modules.cloudHub.https.port, line 2)")),
        ("cloudHub: {websocket: {port: 65536}}", format!("port: Invalid value: 0x10000: {PORT} (modules.cloudHub.websocket.port, line 2)")),
        ("cloudHub: {quic: {port: 0}}", format!("port: Invalid value: 0x0: {PORT} (modules.cloudHub.quic.port, line 2)")),
        ("cloudHub: {websocket: {address: localhost}}", format!("Address: Invalid value: \"localhost\": {IP} (modules.cloudHub.websocket.address, line 2)")),
        ("cloudHub: {quic: {address: \"\"}}", format!("Address: Invalid value: \"\": {IP} (modules.cloudHub.quic.address, line 2)")),
        ("cloudHub: {unixsocket: {address: /x}}", "address: Invalid value: \"/x\": unixSocketAddress must has prefix unix:// (modules.cloudHub.unixsocket.address, line 2)".into()),
        ("cloudHub: {tokenRefreshDuration: 0}", "TokenRefreshDuration: Invalid value: 0s: TokenRefreshDuration must be positive (modules.cloudHub.tokenRefreshDuration, line 2)".into()),
        ("cloudHub: {advertiseAddress: []}", "AdvertiseAddress: AdvertiseAddress must be specified! (modules.cloudHub.advertiseAddress, line 2)".into()),
        ("edgeController: {nodeUpdateFrequency: 0}", "NodeUpdateFrequency: Invalid value: 0: NodeUpdateFrequency need > 0 (modules.edgeController.nodeUpdateFrequency, line 2)".into()),
        ("cloudStream: {streamCertSigner: me}", "modules.cloudStream.streamCertSigner: Invalid value: \"me\": must be cloudhub or kubelet-serving (line 2)".into()),
        ("cloudStream: {egress: {enable: true, address: \"\"}}", "address: address or unixSocket must be specified (modules.cloudStream.egress.address, line 2)".into()),
        ("cloudStream: {egress: {enable: true, clientCAFile: /no}}", "clientCAFile: Invalid value: \"/no\": file not exist (modules.cloudStream.egress.clientCAFile, line 2)".into()),
        ("webhook: {url: \"http://cloud.example\"}", "url: Invalid value: \"http://cloud.example\": must be https://HOST:PORT (modules.webhook.url, line 2)".into()),
        ("webhook: {url: \"https://cloud.example/path\"}", "url: Invalid value: \"https://cloud.example/path\": must be https://HOST:PORT (modules.webhook.url, line 2)".into()),
        ("iptablesManager: {mode: \"\"}", "modules.iptablesManager.mode: Invalid value: \"\": invalid value for iptablesmgr mode: must be internal or external (line 2)".into()),
        ("iptablesManager: {address: \"10.0.0.5,10.0.0.6\"}", "Address: Invalid value: \"10.0.0.5,10.0.0.6\": must be an IP address, or one of IPv4 and one of IPv6 with a comma between (modules.iptablesManager.address, line 2)".into()),
    ] {
        let problems = cloud(&format!("modules:\n  {text}\n")).expect_err(text);
        assert_eq!(lines(&problems), [expected], "{text}");
    }
}

#[test]
fn cloudcore_rows_outside_of_modules() {
    let field = "monitorServer.bindAddress: Invalid value:";
    let place = "(commonConfig.monitorServer.bindAddress, line 1)";
    for (address, expected) in [
        (
            "localhost:9091",
            format!("{field} \"localhost\": must be a valid IP {place}"),
        ),
        ("127.0.0.1", format!("{field} \"127.0.0.1\": must be IP:port {place}")),
        ("127.0.0.1:0", format!("{field} \"0\": must be a valid port {place}")),
        ("127.0.0.1:x", format!("{field} \"x\": must be a valid port {place}")),
    ] {
        let problems = cloud(&format!(
            "commonConfig: {{monitorServer: {{bindAddress: \"{address}\"}}}}"
        ))
        .expect_err(address);
        assert_eq!(lines(&problems), [expected]);
    }
    assert!(cloud("commonConfig: {monitorServer: {bindAddress: \"[::1]:9091\"}}").is_ok());
    assert!(cloud("commonConfig: {monitorServer: {bindAddress: \"127.000.0.1:9091\"}}").is_ok());
    let problems = cloud("kubeAPIConfig: {kubeConfig: a/b}").expect_err("relative");
    assert_eq!(
        lines(&problems),
        [
            "kubeconfig: Invalid value: \"a/b\": kubeconfig need abs path (kubeAPIConfig.kubeConfig, line 1)",
            "kubeconfig: Invalid value: \"a/b\": kubeconfig not exist (kubeAPIConfig.kubeConfig, line 1)",
        ]
    );
    let problems = cloud("featureGates: {foo: true, requireAuthorization: true}").expect_err("gate");
    assert_eq!(
        lines(&problems),
        ["featureGates: unrecognized feature gate: foo (featureGates.foo, line 1)"]
    );
    for gate in [
        "requireAuthorization",
        "moduleRestart",
        "disableNodeTaskV1alpha2",
        "AllAlpha",
        "AllBeta",
    ] {
        assert!(edge(&format!("featureGates: {{{gate}: true}}")).is_ok(), "{gate}");
    }
}

#[test]
fn certificates_come_in_pairs() {
    let parse = |files: &[&str]| CloudCore::parse("", &host(), &Disk::with(files));
    let ca = ["/etc/kubeedge/ca/rootCA.crt", "/etc/kubeedge/ca/rootCA.key"];
    let server = ["/etc/kubeedge/certs/server.crt", "/etc/kubeedge/certs/server.key"];
    assert!(parse(&ca).is_ok() && parse(&server).is_ok());
    for (files, text) in [
        (&ca[..1], "Both of ca and caKey should be specified!"),
        (&server[1..], "Both of cert and key should be specified!"),
    ] {
        assert!(parse(files).expect_err("half a pair").to_string().contains(text));
    }
    let stream = [
        "/etc/kubeedge/ca/streamCA.crt",
        "/etc/kubeedge/certs/stream.crt",
        "/etc/kubeedge/certs/stream.key",
    ];
    for files in [&stream[..], &stream[..2], &stream[1..], &[]] {
        assert!(parse(files).is_ok(), "what is missing is issued: {files:?}");
    }
    let own = "modules: {cloudStream: {tlsStreamCertFile: /no}}";
    let loaded = CloudCore::parse(own, &host(), &Disk::with(&[])).expect("it may come later");
    assert!(
        loaded
            .warnings
            .iter()
            .any(|warning| warning.to_string().contains("/no is not there"))
    );
}

#[test]
fn disabled_modules_are_not_checked() {
    let text = "modules: {cloudHub: {enable: false, https: {port: 0}}, edgeController: {enable: false, nodeUpdateFrequency: 0}}";
    assert!(cloud(text).is_ok());
    assert!(
        edge("modules: {eventBus: {enable: false, mqttMode: 9}, edged: {enable: false, hostnameOverride: A}}").is_ok()
    );
}

/// Go's libraries take such URLs: a board that comes from there keeps its pods, and is told why it has no MQTT.
#[test]
fn mqtt_over_web_socket_is_warned_about() {
    let warnings = |text: &str| -> Vec<String> {
        let text = format!("modules:\n  eventBus: {{{text}}}\n");
        let loaded = edge(&text).expect("it starts");
        loaded.warnings.iter().map(ToString::to_string).collect()
    };
    let expected = |key: &str, url: &str| {
        format!(
            "modules.eventBus.{key}: \"{url}\": MQTT over WebSocket is not supported, there is no MQTT here until this is tcp:// or \
             tls:// (line 2)"
        )
    };
    let (internal, external) = (
        expected("mqttServerInternal", "ws://0.0.0.0:1884"),
        expected("mqttServerExternal", "WSS://broker"),
    );
    let both = "mqttServerInternal: \"ws://0.0.0.0:1884\", mqttServerExternal: \"WSS://broker\"";
    assert_eq!(warnings(&format!("mqttMode: 0, {both}")), [internal.as_str()]);
    assert_eq!(warnings(&format!("mqttMode: 1, {both}")), [internal, external.clone()]);
    assert_eq!(warnings(&format!("mqttMode: 2, {both}")), [external]);
    assert_eq!(warnings(&format!("enable: false, {both}")), [""; 0]);
    assert_eq!(
        warnings("mqttMode: 1, mqttServerInternal: \"tls://127.0.0.1:8883\""),
        [""; 0]
    );
}

#[test]
fn edgecore_rows() {
    for (text, expected) in [
        (
            "deviceTwin: {history: {enable: true, maxBytes: 100}}",
            "modules.deviceTwin.history.maxBytes: Invalid value: 100: must be at least 131072 (line 2)",
        ),
        (
            "edged: {tailoredKubeletConfig: {cgroupDriver: x}}",
            "CGroupDriver: Invalid value: \"x\": CGroupDriver value error (modules.edged.tailoredKubeletConfig.cgroupDriver, line 2)",
        ),
        (
            "edgeHub: {websocket: {enable: false}}",
            "enable: Invalid value: false: websocket.enable or quic.enable must be true (modules.edgeHub.websocket.enable, line 2)",
        ),
        (
            "edgeHub: {messageQPS: -1}",
            "messageQPS: Invalid value: -1: MessageQPS must not be a negative number (modules.edgeHub.messageQPS, line 2)",
        ),
        (
            "edgeHub: {messageBurst: -1}",
            "messageBurst: Invalid value: -1: MessageBurst must not be a negative number (modules.edgeHub.messageBurst, line 2)",
        ),
        (
            "eventBus: {mqttMode: 3}",
            "Mode: Invalid value: 3: Mode need in [0,2] range (modules.eventBus.mqttMode, line 2)",
        ),
        (
            "edgeHub: {websocket: {server: cloud}}",
            "modules.edgeHub.websocket.server: Invalid value: \"cloud\": must be host:port, the host a name or an address (line 2)",
        ),
        (
            "edgeHub: {heartbeat: 0}",
            "modules.edgeHub.heartbeat: Invalid value: 0: must be greater than 0 (line 2)",
        ),
        (
            "serviceBus: {enable: true, tlsCertFile: /c}",
            "modules.serviceBus.tlsPrivateKeyFile: Invalid value: \"\": tlsCertFile and tlsPrivateKeyFile: both or none (modules.serviceBus.tlsPrivateKeyFile, not set in the file)",
        ),
    ] {
        let expected = expected.replace(
            "none (modules.serviceBus.tlsPrivateKeyFile, not set in the file)",
            "none",
        );
        let problems = edge(&format!("modules:\n  {text}\n")).expect_err(text);
        assert_eq!(lines(&problems), [expected], "{text}");
    }
    let problems = edge("modules: {edged: {hostnameOverride: Edge_1}}")
        .expect_err("name")
        .to_string();
    assert!(
        problems
            .contains("HostnameOverride: Invalid value: \"Edge_1\": a lowercase RFC 1123 subdomain must consist of")
    );
    let disk = Disk {
        read_only: true,
        ..Disk::default()
    };
    let problems = EdgeCore::parse("database: {dataSource: /a/b.db}", &host(), &disk).expect_err("no folder");
    let text = "DataSource: Invalid value: \"/a/b.db\": create DataSoure dir /a error  (database.dataSource, line 1)";
    assert_eq!(lines(&problems), [text]);
}

#[test]
fn all_problems_at_once_in_file_order() {
    let text =
        "modules:\n  edged:\n    hostnameOverride: A\n    maxContainerCount: many\n  edgeHub:\n    messageQPS: -1\n";
    let found: Vec<Option<usize>> = edge(text).expect_err("wrong").0.iter().map(|p| p.line).collect();
    assert_eq!(found, [Some(3), Some(4), Some(6)]);
}

#[test]
fn keys_without_effect_are_named_when_they_differ() {
    let loaded = edge("modules: {edged: {tailoredKubeletConfig: {hairpinMode: none, cpuManagerPolicy: static, contentType: application/json, readOnlyPort: 0}}}").expect("loads");
    let mut found = crate::places(&loaded.warnings);
    found.sort_unstable();
    let base = "modules.edged.tailoredKubeletConfig";
    let expected = ["cpuManagerPolicy", "hairpinMode", "readOnlyPort"].map(|key| format!("{base}.{key}"));
    assert_eq!(found.iter().map(|(path, _)| *path).collect::<Vec<_>>(), expected);
}

#[test]
fn signals_of_eviction_without_effect_are_named_in_one_line() {
    let warnings = |signals: &str| {
        let text = format!("modules: {{edged: {{tailoredKubeletConfig: {{evictionHard: {{{signals}}}}}}}}}");
        edge(&text).expect("loads").warnings
    };
    assert_eq!(edge("").expect("loads").warnings, []);
    assert_eq!(
        warnings("imagefs.available: 15%, pid.available: 10%, memory.available: 1Mi"),
        []
    );
    let found = warnings("imagefs.available: 1%, imagefs.inodesFree: 1%, nodefs.available: 1%");
    let [warning] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(warning.path, "modules.edged.tailoredKubeletConfig.evictionHard");
    let named = "no effect: imagefs.available, imagefs.inodesFree; looked at";
    assert!(warning.reason.contains(named), "{warning}");
}

#[test]
fn files_that_cannot_be_read_say_so() -> std::io::Result<()> {
    let dir = tempfile::tempdir()?;
    let none = dir.path().join("cloudcore.yaml");
    let error = CloudCore::load(&none, &host(), &LookOnly).expect_err("absent");
    let text = format!(
        "  config: Required value: config file {} not exist. For the configuration file format, please refer to --minconfig and --defaultconfig command\n",
        none.display()
    );
    assert!(error.to_string().contains(&text), "{error}");
    assert!(matches!(
        EdgeCore::load(dir.path(), &host(), &LookOnly),
        Err(LoadError::Read(..))
    ));
    std::fs::write(&none, b"kind: a\nb: \xff\n")?;
    let Err(LoadError::Wrong(_, problems)) = CloudCore::load(&none, &host(), &LookOnly) else {
        panic!("not UTF-8")
    };
    assert_eq!(problems.0[0].line, Some(2));
    std::fs::write(&none, "kind: [\n")?;
    assert!(matches!(
        CloudCore::load(&none, &host(), &LookOnly),
        Err(LoadError::Wrong(..))
    ));
    Ok(())
}
