//! The checks of the Go program with its messages, and ours; only enabled modules are looked at.

use std::path::Path;

use super::hub::{STREAM_CERT, STREAM_KEY};
use super::{CloudCore, CloudHub, CloudStream, KubeApiConfig, Webhook};
use crate::HostFacts;
use crate::checks::{Checks, is_sloppy_ip, split_host_port};
use crate::decode::{GoDuration, Value};
use crate::problem::quoted;

/// Keys that no Go or Rust program reads.
const WITHOUT_EFFECT: &[&str] = &[
    "kubeAPIConfig.contentType",
    "commonConfig.tunnelPort",
    "modules.cloudHub.https.enable",
    "modules.cloudStream.tlsStreamCAFile",
];

pub(super) fn check(config: &mut CloudCore, host: &HostFacts, mut to: Checks<'_>) {
    request_rate(config, &to);
    addresses(&mut config.modules.cloud_hub.advertise_address, host);
    kube_api(&config.kube_api_config, &mut to);
    monitor(&config.common_config.monitor_server.bind_address, &mut to);
    let modules = &config.modules;
    if modules.cloud_hub.enable {
        cloud_hub(&modules.cloud_hub, &mut to);
    }
    if modules.edge_controller.enable && modules.edge_controller.node_update_frequency <= 0 {
        let path = "modules.edgeController.nodeUpdateFrequency";
        let value = modules.edge_controller.node_update_frequency.to_string();
        to.invalid("NodeUpdateFrequency", path, value, "NodeUpdateFrequency need > 0");
    }
    if modules.cloud_stream.enable {
        cloud_stream(&modules.cloud_stream, &mut to);
    }
    if modules.webhook.enable {
        webhook(&modules.webhook, &mut to);
    }
    if modules.iptables_manager.addresses().is_none() {
        let path = "modules.iptablesManager.address";
        let value = quoted(&modules.iptables_manager.address);
        to.invalid(
            "Address",
            path,
            value,
            "must be an IP address, or one of IPv4 and one of IPv6 with a comma between",
        );
    }
    to.gates(&config.feature_gates);
    to.without_effect(WITHOUT_EFFECT, &config.tree(), &CloudCore::defaults(host).tree());
}

/// Go forces five requests a second for each edge, ten in a burst, over what the file says; ours only where it says nothing.
fn request_rate(config: &mut CloudCore, to: &Checks<'_>) {
    let edges = config.modules.cloud_hub.node_limit;
    let rate = &mut config.kube_api_config;
    for (path, value, each) in [
        ("kubeAPIConfig.qps", &mut rate.qps, 5),
        ("kubeAPIConfig.burst", &mut rate.burst, 10),
    ] {
        if edges > 0 && !to.reader.lines.contains_key(path) {
            *value = edges.saturating_mul(each);
        }
    }
}

/// The chart asks for the pod's own address with an empty element; an empty string means the same here.
fn addresses(list: &mut Vec<String>, host: &HostFacts) {
    let given = !list.is_empty();
    list.retain(|address| !address.is_empty());
    if given && list.is_empty() {
        list.push(host.local_ip.clone());
    }
}

fn kube_api(section: &KubeApiConfig, to: &mut Checks<'_>) {
    let file = section.kube_config.as_str();
    if file.is_empty() {
        return;
    }
    let path = "kubeAPIConfig.kubeConfig";
    if !Path::new(file).is_absolute() {
        to.invalid("kubeconfig", path, quoted(file), "kubeconfig need abs path");
    }
    if !to.exists(file) {
        to.invalid("kubeconfig", path, quoted(file), "kubeconfig not exist");
    }
}

fn monitor(address: &str, to: &mut Checks<'_>) {
    let field = "monitorServer.bindAddress";
    let path = "commonConfig.monitorServer.bindAddress";
    let Some((ip, port)) = split_host_port(address) else {
        to.invalid(field, path, quoted(address), "must be IP:port");
        return;
    };
    if !is_sloppy_ip(ip) {
        to.invalid(field, path, quoted(ip), "must be a valid IP");
    }
    if port.parse::<u16>().is_err() || port.parse() == Ok(0_u16) {
        to.invalid(field, path, quoted(port), "must be a valid port");
    }
}

fn cloud_hub(hub: &CloudHub, to: &mut Checks<'_>) {
    to.port("modules.cloudHub.https.port", hub.https.port);
    to.port("modules.cloudHub.websocket.port", hub.web_socket.port);
    to.ip("modules.cloudHub.websocket.address", &hub.web_socket.address);
    to.port("modules.cloudHub.quic.port", hub.quic.port);
    to.ip("modules.cloudHub.quic.address", &hub.quic.address);
    unix_socket(&hub.unix_socket.address, to);
    if hub.token_refresh_duration <= 0 {
        let value = GoDuration::from_nanos(hub.token_refresh_duration).to_string();
        let path = "modules.cloudHub.tokenRefreshDuration";
        to.invalid(
            "TokenRefreshDuration",
            path,
            value,
            "TokenRefreshDuration must be positive",
        );
    }
    if hub.advertise_address.is_empty() {
        let path = "modules.cloudHub.advertiseAddress";
        to.invalid("AdvertiseAddress", path, "", "AdvertiseAddress must be specified!");
    }
    to.positive("modules.cloudHub.keepaliveInterval", i64::from(hub.keepalive_interval));
    to.positive(
        "modules.cloudHub.edgeCertSigningDuration",
        hub.edge_cert_signing_duration,
    );
    if to.exists(&hub.tls_ca_file) != to.exists(&hub.tls_ca_key_file) {
        let path = "modules.cloudHub.tlsCAKeyFile";
        to.invalid(
            "tlsCAKeyFile",
            path,
            quoted(&hub.tls_ca_key_file),
            "Both of ca and caKey should be specified!",
        );
    }
    if to.exists(&hub.tls_cert_file) != to.exists(&hub.tls_private_key_file) {
        let path = "modules.cloudHub.tlsPrivateKeyFile";
        let value = quoted(&hub.tls_private_key_file);
        to.invalid(
            "tlsPrivateKeyFile",
            path,
            value,
            "Both of cert and key should be specified!",
        );
    }
}

fn unix_socket(address: &str, to: &mut Checks<'_>) {
    let path = "modules.cloudHub.unixsocket.address";
    if !address.to_lowercase().starts_with("unix://") {
        to.invalid(
            "address",
            path,
            quoted(address),
            "unixSocketAddress must has prefix unix://",
        );
    }
    let Some(dir) = address.split_once("://").and_then(|(_, file)| Path::new(file).parent()) else {
        return;
    };
    if !dir.as_os_str().is_empty()
        && !to.files.exists(dir)
        && let Err(error) = to.files.make_dir(dir)
    {
        let reason = format!(
            "create unixSocketAddress {address} dir {} error: {error}",
            dir.display()
        );
        to.invalid("address", path, quoted(address), reason);
    }
}

/// Go refuses to start when one of the three stream files is missing. Ours issues a certificate then, and takes the files as soon as
/// they are there.
fn cloud_stream(stream: &CloudStream, to: &mut Checks<'_>) {
    for (key, file, default) in [
        ("tlsStreamCertFile", &stream.tls_stream_cert_file, STREAM_CERT),
        (
            "tlsStreamPrivateKeyFile",
            &stream.tls_stream_private_key_file,
            STREAM_KEY,
        ),
    ] {
        let path = format!("modules.cloudStream.{key}");
        let line = to.reader.lines.get(&path).copied();
        if let Some(line) = line
            && file != default
            && !to.exists(file)
        {
            let text = format!("{file} is not there: until it is, a certificate of CloudHub's CA is shown");
            to.reader.warn_at(line, &path, text);
        }
    }
    to.port("modules.cloudStream.streamPort", stream.stream_port);
    to.port("modules.cloudStream.tunnelPort", stream.tunnel_port);
    let egress = &stream.egress;
    if !egress.enable {
        return;
    }
    if !egress.address.is_empty() {
        to.ip("modules.cloudStream.egress.address", &egress.address);
        to.port("modules.cloudStream.egress.port", egress.port);
    } else if egress.unix_socket.is_empty() {
        let path = "modules.cloudStream.egress.address";
        to.invalid("address", path, "", "address or unixSocket must be specified");
    }
    if !egress.client_ca_file.is_empty() && !to.exists(&egress.client_ca_file) {
        let path = "modules.cloudStream.egress.clientCAFile";
        to.invalid("clientCAFile", path, quoted(&egress.client_ca_file), "file not exist");
    }
}

fn webhook(webhook: &Webhook, to: &mut Checks<'_>) {
    to.ip("modules.webhook.address", &webhook.address);
    to.port("modules.webhook.port", webhook.port);
    let url = &webhook.url;
    let host = url.strip_prefix("https://").unwrap_or_default();
    if !url.is_empty() && (host.is_empty() || host.contains(['/', '?', '#', '@'])) {
        to.invalid("url", "modules.webhook.url", quoted(url), "must be https://HOST:PORT");
    }
}
