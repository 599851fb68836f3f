//! edgecore.yaml as joining writes it.

use anyhow::{Context as _, bail};
use config::{EdgeCore, HostFacts, LookOnly};
use serde_json::{Map, Value};

use super::preflight::CloudAddress;
use super::runtime::Runtime;
use crate::cli::Join;
use crate::steps::Steps;

/// The defaults with what the command line and the host say. The token is not in it: it goes into a file of its own.
pub(super) fn build(
    options: &Join,
    host: &HostFacts,
    address: &CloudAddress,
    runtime: &Runtime,
    other_broker: bool,
) -> anyhow::Result<EdgeCore> {
    let mut all = EdgeCore::defaults(host);
    all.edgecore_version = config::version::KUBEEDGE_VERSION.to_owned();
    let edged = &mut all.modules.edged;
    if !options.edgenode_name.is_empty() {
        edged.hostname_override.clone_from(&options.edgenode_name);
    }
    for label in &options.labels {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        if !key.is_empty() {
            edged.node_labels.insert(key.to_owned(), value.to_owned());
        }
    }
    let kubelet = &mut edged.tailored_kubelet_config;
    kubelet.cgroup_driver.clone_from(&runtime.cgroup_driver);
    kubelet.container_runtime_endpoint.clone_from(&runtime.endpoint);
    kubelet.image_service_endpoint.clone_from(&runtime.endpoint);

    let hub = &mut all.modules.edge_hub;
    hub.http_server = format!("https://{}", address.with(options.certport));
    let (websocket, quic) = match options.hub_protocol.as_str() {
        "websocket" => (address.port, QUIC),
        "quic" => (WEBSOCKET, address.port),
        other => bail!("unsupported hub of protocol: {other}"),
    };
    hub.web_socket.server = address.with(websocket);
    hub.quic.server = address.with(quic);
    // WebSocket stays on beside QUIC, as its fall-back.
    hub.quic.enable = options.hub_protocol == "quic";
    all.modules.edge_stream.server = address.with(TUNNEL);

    let bus = &mut all.modules.event_bus;
    // A port takes one broker: where one runs already, edgecore uses that (mode 2) instead of its own (mode 0).
    bus.mqtt_mode = if other_broker { 2 } else { 0 };
    bus.mqtt_server_internal = format!("tcp://{MQTT}");
    bus.mqtt_server_external = format!("tcp://{MQTT}");

    for assignments in &options.set {
        for assignment in assignments.split(',') {
            all = set(all, host, assignment)?;
        }
    }
    // The checks of a file that edgecore will make at its start, here before anything is written.
    let text = all.to_join_yaml();
    EdgeCore::parse(&text, host, &LookOnly)
        .map_err(|problems| anyhow::anyhow!("{problems}"))
        .context("edgecore.yaml would be wrong")?;
    Ok(all)
}

/// `path.to.key=value` over the configuration; a key that does not exist is refused, one that nothing reads is told of.
fn set(config: EdgeCore, host: &HostFacts, assignment: &str) -> anyhow::Result<EdgeCore> {
    let Some((path, value)) = assignment.split_once('=').filter(|(path, _)| !path.is_empty()) else {
        bail!("Unsupported sets flag: {assignment}");
    };
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    let tree = path.rsplit('.').fold(value, |value, key| {
        Value::Object(Map::from_iter([(key.to_owned(), value)]))
    });
    let loaded = config
        .overlay(&tree.to_string(), host, &LookOnly)
        .map_err(|problems| anyhow::anyhow!("--set {assignment}: {problems}"))?;
    for warning in &loaded.warnings {
        if !warning.has_no_effect {
            bail!("--set {assignment}: {warning}");
        }
        Steps::warn(&format!("--set {assignment}: {warning}"));
    }
    Ok(loaded.config)
}

const WEBSOCKET: u16 = 10000;
const QUIC: u16 = 10001;
const TUNNEL: u16 = 10004;
/// Where MQTT clients of a board look for a broker.
pub(super) const MQTT: &str = "127.0.0.1:1883";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::join::preflight::address;

    fn build_from(line: &str) -> anyhow::Result<EdgeCore> {
        let words = ["keadm", "join", "-e", "203.0.113.10:10000"]
            .into_iter()
            .chain(line.split_whitespace());
        let Command::Join(options) = Cli::try_parse_from(words)?.command else {
            bail!("not join")
        };
        let host = HostFacts {
            hostname: "board".into(),
            local_ip: "192.0.2.2".into(),
        };
        let runtime = Runtime {
            endpoint: "unix:///run/x.sock".into(),
            cgroup_driver: "systemd".into(),
        };
        let other_broker = options.with_mqtt == Some(true);
        build(
            &options,
            &host,
            &address(&options.cloudcore_ipport)?,
            &runtime,
            other_broker,
        )
    }

    #[test]
    fn what_joining_sets() -> anyhow::Result<()> {
        let config = build_from("--token SECRET -i edge-1 -l a=b,c -s 11002")?;
        let hub = &config.modules.edge_hub;
        assert_eq!(hub.http_server, "https://203.0.113.10:11002");
        assert_eq!(
            (hub.web_socket.server.as_str(), hub.quic.server.as_str()),
            ("203.0.113.10:10000", "203.0.113.10:10001")
        );
        assert!(hub.web_socket.enable && !hub.quic.enable && hub.token.is_empty());
        let edged = &config.modules.edged;
        assert_eq!(edged.hostname_override, "edge-1");
        assert_eq!(edged.node_labels.get("c").map(String::as_str), Some(""));
        assert_eq!(edged.tailored_kubelet_config.cgroup_driver, "systemd");
        let bus = &config.modules.event_bus;
        assert_eq!(
            (bus.mqtt_mode, bus.mqtt_server_internal.as_str()),
            (0, "tcp://127.0.0.1:1883")
        );
        assert_eq!(build_from("--with-mqtt")?.modules.event_bus.mqtt_mode, 2);
        assert!(!config.to_join_yaml().contains("SECRET"));
        Ok(())
    }

    #[test]
    fn the_host_names_the_node() -> anyhow::Result<()> {
        assert_eq!(build_from("")?.modules.edged.hostname_override, "board");
        assert!(build_from("-i Bad_Name").is_err());
        Ok(())
    }

    #[test]
    fn single_values() -> anyhow::Result<()> {
        let config = build_from(
            "--set modules.edged.nodeIP=192.0.2.9,modules.edgeHub.heartbeat=20 --set modules.eventBus.mqttMode=2",
        )?;
        assert_eq!(config.modules.edged.node_ip, "192.0.2.9");
        assert_eq!(config.modules.edge_hub.heartbeat, 20);
        assert_eq!(config.modules.event_bus.mqtt_mode, 2);
        let idle = build_from("--set modules.edged.tailoredKubeletConfig.containerLogMaxWorkers=7")?;
        let kubelet = &idle.modules.edged.tailored_kubelet_config;
        assert_eq!(kubelet.container_log_max_workers, Some(7));
        for bad in [
            "--set modules.edged.nosuch=1",
            "--set x",
            "--set =1",
            "--hub-protocol=tcp",
            "--set modules.edgeHub.heartbeat=x",
        ] {
            assert!(build_from(bad).is_err(), "{bad}");
        }
        Ok(())
    }
}
