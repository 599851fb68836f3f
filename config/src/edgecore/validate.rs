//! The checks of the Go program with its messages, and ours; only enabled modules are looked at.

use std::path::Path;

use super::{DeviceHistory, EdgeCore, EdgeHub, Edged, EventBus, KubeletConfig, MetaManager, ServiceBus};
use crate::HostFacts;
use crate::checks::{Checks, split_host_port};
use crate::decode::Value;
use crate::facts::node_name_problems;
use crate::problem::quoted;

const KUBELET: &str = "modules.edged.tailoredKubeletConfig";
/// Bytes below which a history is all overhead.
const LEAST_HISTORY: i64 = 131_072;

/// Signals of `evictionHard` that the node's conditions follow.
const SIGNALS: &[&str] = &[
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "pid.available",
];

/// Keys that nothing reads: a file that sets them to something else is told so.
const WITHOUT_EFFECT: &[&str] = &[
    "database.driverName",
    "database.aliasName",
    "modules.metaManager.contextSendGroup",
    "modules.metaManager.contextSendModule",
    "modules.dbTest.enable",
    "modules.edgeStream.readDeadline",
    "modules.edgeStream.writeDeadline",
    "modules.edged.windowsService",
    "modules.edged.windowsPriorityClass",
    "modules.edged.experimentalMounterPath",
    "modules.edged.experimentalNodeAllocatableIgnoreEvictionThreshold",
    "modules.edged.tailoredKubeletConfig.contentType",
    "modules.edged.tailoredKubeletConfig.logging",
    "modules.edged.tailoredKubeletConfig.hairpinMode",
    "modules.edged.tailoredKubeletConfig.makeIPTablesUtilChains",
    "modules.edged.tailoredKubeletConfig.iptablesMasqueradeBit",
    "modules.edged.tailoredKubeletConfig.iptablesDropBit",
    "modules.edged.tailoredKubeletConfig.showHiddenMetricsForVersion",
    "modules.edged.tailoredKubeletConfig.cpuManagerPolicy",
    "modules.edged.tailoredKubeletConfig.cpuManagerPolicyOptions",
    "modules.edged.tailoredKubeletConfig.memoryManagerPolicy",
    "modules.edged.tailoredKubeletConfig.reservedMemory",
    "modules.edged.tailoredKubeletConfig.topologyManagerPolicy",
    "modules.edged.tailoredKubeletConfig.topologyManagerPolicyOptions",
    "modules.edged.tailoredKubeletConfig.topologyManagerScope",
    "modules.edged.tailoredKubeletConfig.qosReserved",
    "modules.edged.tailoredKubeletConfig.evictionSoft",
    "modules.edged.tailoredKubeletConfig.evictionSoftGracePeriod",
    "modules.edged.tailoredKubeletConfig.evictionMaxPodGracePeriod",
    "modules.edged.tailoredKubeletConfig.evictionMinimumReclaim",
    "modules.edged.tailoredKubeletConfig.memorySwap",
    "modules.edged.tailoredKubeletConfig.crashLoopBackOff",
    "modules.edged.tailoredKubeletConfig.containerLogMaxWorkers",
    "modules.edged.tailoredKubeletConfig.featureGates",
    "modules.edged.tailoredKubeletConfig.protectKernelDefaults",
    "modules.edged.tailoredKubeletConfig.kernelMemcgNotification",
    "modules.edged.tailoredKubeletConfig.enableContentionProfiling",
    "modules.edged.tailoredKubeletConfig.enableSystemLogHandler",
    "modules.edged.tailoredKubeletConfig.enableSystemLogQuery",
    "modules.edged.tailoredKubeletConfig.streamingConnectionIdleTimeout",
];

pub(super) fn check(config: &mut EdgeCore, host: &HostFacts, mut to: Checks<'_>) {
    complete(config, &to);
    database(&config.database.data_source, &mut to);
    let modules = &config.modules;
    if modules.edged.enable {
        edged(&modules.edged, &mut to);
    }
    if modules.edge_hub.enable {
        edge_hub(&modules.edge_hub, &mut to);
    }
    if modules.event_bus.enable {
        event_bus(&modules.event_bus, &mut to);
    }
    if modules.device_twin.enable && modules.device_twin.history.enable {
        history(&modules.device_twin.history, &mut to);
    }
    if modules.meta_manager.enable {
        meta_manager(&modules.meta_manager, &mut to);
    }
    if modules.service_bus.enable {
        service_bus(&modules.service_bus, &mut to);
    }
    if modules.edge_stream.enable {
        to.server("modules.edgeStream.server", &modules.edge_stream.server);
    }
    to.gates(&config.feature_gates);
    to.without_effect(WITHOUT_EFFECT, &config.tree(), &EdgeCore::defaults(host).tree());
}

/// Values that follow from others which the file does set.
fn complete(config: &mut EdgeCore, to: &Checks<'_>) {
    let set = |path: &str| to.reader.lines.contains_key(path);
    let kubelet = &mut config.modules.edged.tailored_kubelet_config;
    // Both are served by the same socket nearly everywhere; with Go's default the two would be different runtimes.
    if set(&format!("{KUBELET}.containerRuntimeEndpoint")) && !set(&format!("{KUBELET}.imageServiceEndpoint")) {
        kubelet.image_service_endpoint = kubelet.container_runtime_endpoint.clone();
    }
    // Go's defaults name this host, where no cloud listens; without the keys QUIC and the tunnel go where the hub is.
    if set("modules.edgeHub.websocket.server")
        && let Some((cloud, _)) = split_host_port(&config.modules.edge_hub.web_socket.server)
    {
        let cloud = if cloud.contains(':') {
            format!("[{cloud}]")
        } else {
            cloud.to_owned()
        };
        if !set("modules.edgeStream.server") {
            config.modules.edge_stream.server = format!("{cloud}:10004");
        }
        if !set("modules.edgeHub.quic.server") {
            config.modules.edge_hub.quic.server = format!("{cloud}:10001");
        }
    }
}

fn database(source: &str, to: &mut Checks<'_>) {
    let dir = Path::new(source).parent().filter(|dir| !dir.as_os_str().is_empty());
    if let Some(dir) = dir
        && !to.files.exists(dir)
        && to.files.make_dir(dir).is_err()
    {
        let reason = format!("create DataSoure dir {} error ", dir.display());
        to.invalid("DataSource", "database.dataSource", quoted(source), reason);
    }
}

fn edged(edged: &Edged, to: &mut Checks<'_>) {
    for message in node_name_problems(&edged.hostname_override) {
        let path = "modules.edged.hostnameOverride";
        to.invalid("HostnameOverride", path, quoted(&edged.hostname_override), message);
    }
    let kubelet = &edged.tailored_kubelet_config;
    if !matches!(kubelet.cgroup_driver.as_str(), "cgroupfs" | "systemd") {
        let path = format!("{KUBELET}.cgroupDriver");
        to.invalid(
            "CGroupDriver",
            &path,
            quoted(&kubelet.cgroup_driver),
            "CGroupDriver value error",
        );
    }
    to.positive(
        &format!("{KUBELET}.nodeLeaseDurationSeconds"),
        i64::from(kubelet.node_lease_duration_seconds),
    );
    for (key, value) in [
        ("nodeStatusUpdateFrequency", kubelet.node_status_update_frequency),
        ("syncFrequency", kubelet.sync_frequency),
    ] {
        if value.as_nanos() <= 0 {
            let path = format!("{KUBELET}.{key}");
            to.invalid(&path, &path, quoted(&value.to_string()), "must be greater than 0");
        }
    }
    if !(0..=65535).contains(&kubelet.read_only_port) {
        let path = format!("{KUBELET}.readOnlyPort");
        to.invalid(
            &path,
            &path,
            kubelet.read_only_port.to_string(),
            "must be between 0 and 65535, inclusive",
        );
    }
    if kubelet.read_only_port == 0
        && let Some(line) = to.reader.lines.get(&format!("{KUBELET}.readOnlyPort")).copied()
    {
        let path = format!("{KUBELET}.readOnlyPort");
        to.reader.warn_at(
            line,
            &path,
            "0 turns logs, exec and metrics of this node off".to_owned(),
        );
    }
    if let Some(files) = kubelet.container_log_max_files
        && files < 2
    {
        let path = format!("{KUBELET}.containerLogMaxFiles");
        to.invalid(&path, &path, files.to_string(), "must be greater than 1");
    }
    image_thresholds(
        kubelet.image_gc_high_threshold_percent,
        kubelet.image_gc_low_threshold_percent,
        to,
    );
    eviction_signals(kubelet, to);
}

/// One line for all signals that the file sets to something else than the default although nothing looks at them.
fn eviction_signals(kubelet: &KubeletConfig, to: &mut Checks<'_>) {
    let default = KubeletConfig::default().eviction_hard;
    let ours = kubelet.eviction_hard.iter();
    let idle: Vec<&str> = ours
        .filter(|(signal, amount)| !SIGNALS.contains(&signal.as_str()) && default.get(*signal) != Some(*amount))
        .map(|(signal, _)| signal.as_str())
        .collect();
    let path = format!("{KUBELET}.evictionHard");
    if !idle.is_empty()
        && let Some(line) = to.reader.lines.get(&path).copied()
    {
        let signals = format!(": {}; looked at are {}", idle.join(", "), SIGNALS.join(", "));
        to.reader.warn_no_effect(line, &path, &signals);
    }
}

fn image_thresholds(high: Option<i32>, low: Option<i32>, to: &mut Checks<'_>) {
    for (key, value) in [
        ("imageGCHighThresholdPercent", high),
        ("imageGCLowThresholdPercent", low),
    ] {
        if let Some(value) = value
            && !(0..=100).contains(&value)
        {
            let path = format!("{KUBELET}.{key}");
            to.invalid(&path, &path, value.to_string(), "must be between 0 and 100, inclusive");
        }
    }
    if let (Some(high), Some(low)) = (high, low)
        && low >= high
    {
        let path = format!("{KUBELET}.imageGCLowThresholdPercent");
        to.invalid(
            &path,
            &path,
            low.to_string(),
            format!("must be less than imageGCHighThresholdPercent {high}"),
        );
    }
}

fn edge_hub(hub: &EdgeHub, to: &mut Checks<'_>) {
    // Go takes exactly one of them. With both, ours takes QUIC first and keeps WebSocket to fall back on.
    if !hub.web_socket.enable && !hub.quic.enable {
        let path = "modules.edgeHub.websocket.enable";
        to.invalid("enable", path, "false", "websocket.enable or quic.enable must be true");
    }
    if hub.message_qps < 0 {
        let path = "modules.edgeHub.messageQPS";
        to.invalid(
            "messageQPS",
            path,
            hub.message_qps.to_string(),
            "MessageQPS must not be a negative number",
        );
    }
    if hub.message_burst < 0 {
        let path = "modules.edgeHub.messageBurst";
        to.invalid(
            "messageBurst",
            path,
            hub.message_burst.to_string(),
            "MessageBurst must not be a negative number",
        );
    }
    to.positive("modules.edgeHub.heartbeat", i64::from(hub.heartbeat));
    if hub.web_socket.enable {
        to.server("modules.edgeHub.websocket.server", &hub.web_socket.server);
    }
    if hub.quic.enable {
        to.server("modules.edgeHub.quic.server", &hub.quic.server);
    }
    if !hub.http_server.starts_with("https://") {
        let path = "modules.edgeHub.httpServer";
        to.invalid(
            path,
            path,
            quoted(&hub.http_server),
            "must be a URL that starts with https://",
        );
    }
}

fn event_bus(bus: &EventBus, to: &mut Checks<'_>) {
    if !(0..=2).contains(&bus.mqtt_mode) {
        to.invalid(
            "Mode",
            "modules.eventBus.mqttMode",
            bus.mqtt_mode.to_string(),
            "Mode need in [0,2] range",
        );
    }
    if bus.mqtt_qos > 2 {
        let path = "modules.eventBus.mqttQOS";
        to.invalid(path, path, bus.mqtt_qos.to_string(), "must be 0, 1 or 2");
    }
    if bus.mqtt_mode != 2 {
        no_web_socket("modules.eventBus.mqttServerInternal", &bus.mqtt_server_internal, to);
    }
    if bus.mqtt_mode != 0 {
        no_web_socket("modules.eventBus.mqttServerExternal", &bus.mqtt_server_external, to);
    }
    let limits = &bus.broker.limits;
    for (key, value, most) in [
        ("packetBytes", limits.packet_bytes, 268_435_455),
        ("topicLevels", limits.topic_levels, 200),
        ("topicBytes", limits.topic_bytes, 65_535),
        ("clientIDBytes", limits.client_id_bytes, 65_535),
        ("inflight", limits.inflight, 65_535),
        ("connections", limits.connections, u32::MAX),
        ("connectSeconds", limits.connect_seconds, 3600),
    ] {
        if value == 0 || value > most {
            let path = format!("modules.eventBus.broker.limits.{key}");
            to.invalid(&path, &path, value.to_string(), format!("must be between 1 and {most}"));
        }
    }
}

/// Go's MQTT libraries serve and dial WebSockets too. Only a warning: the rest of the edge runs without this broker.
fn no_web_socket(path: &str, url: &str, to: &mut Checks<'_>) {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    if ["ws", "wss"].iter().any(|one| scheme.eq_ignore_ascii_case(one))
        && let Some(line) = to.reader.lines.get(path).copied()
    {
        let reason = format!(
            "{}: MQTT over WebSocket is not supported, there is no MQTT here until this is tcp:// or tls://",
            quoted(url)
        );
        to.reader.warn_at(line, path, reason);
    }
}

fn history(history: &DeviceHistory, to: &mut Checks<'_>) {
    to.positive("modules.deviceTwin.history.maxValues", history.max_values);
    let path = "modules.deviceTwin.history.maxBytes";
    if history.max_bytes < LEAST_HISTORY {
        to.invalid(path, path, history.max_bytes.to_string(), "must be at least 131072");
    }
    let path = "modules.deviceTwin.history.maxAge";
    if history.max_age.as_nanos() < 0 {
        to.invalid(path, path, quoted(&history.max_age.to_string()), "must not be negative");
    }
}

fn meta_manager(meta: &MetaManager, to: &mut Checks<'_>) {
    if meta.meta_server.enable {
        to.server("modules.metaManager.metaServer.server", &meta.meta_server.server);
    }
}

fn service_bus(bus: &ServiceBus, to: &mut Checks<'_>) {
    if bus.tls_cert_file.is_empty() != bus.tls_private_key_file.is_empty() {
        let path = "modules.serviceBus.tlsPrivateKeyFile";
        to.invalid(
            path,
            path,
            quoted(&bus.tls_private_key_file),
            "tlsCertFile and tlsPrivateKeyFile: both or none",
        );
    }
    if !(1..=65535).contains(&bus.port) {
        to.invalid(
            "port",
            "modules.serviceBus.port",
            bus.port.to_string(),
            crate::checks::PORT_RANGE,
        );
    }
}
