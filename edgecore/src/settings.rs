//! From edgecore.yaml to what each module needs to know; what no check of the file can find is found here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use config::{EdgeCore, GoDuration};
use proto::NodeName;
use thiserror::Error;
use tokio::sync::watch;

use crate::edged;
use crate::edged::cgroups::CgroupFacts;
use crate::edged::context::{CgroupDriver, ImageGc, Reserved};
use crate::edged::log_rotation;
use crate::edged::node::{self, Taint};
use crate::edged::quantity::Quantity;
use crate::eventbus::broker;
use crate::{address, devicetwin, dmi, edgehub, edgestream, eventbus, history, metamanager, stats};

/// A value that the program cannot work with.
#[derive(Debug, Error)]
pub enum BadSetting {
    /// It is no address.
    #[error("{key}: {value:?} is not an IP address")]
    Address {
        /// Its key.
        key: &'static str,
        /// As written.
        value: String,
    },
    /// It is no amount of bytes.
    #[error("{key}: {value:?} is not an amount like 10Mi")]
    Amount {
        /// Its key.
        key: &'static str,
        /// As written.
        value: String,
    },
    /// The network interface has no address.
    #[error("modules.edged.customInterfaceName: the interface {0:?} has no address")]
    Interface(String),
}

/// For the address that the API and the cloud know this node by.
pub fn address(config: &EdgeCore) -> Result<address::Source, BadSetting> {
    let edged = &config.modules.edged;
    if !edged.custom_interface_name.is_empty() {
        return Ok(address::Source::Interface(edged.custom_interface_name.clone()));
    }
    if edged.node_ip.is_empty() {
        return Ok(address::Source::Host);
    }
    parse("modules.edged.nodeIP", &edged.node_ip).map(address::Source::Fixed)
}

/// For MetaManager.
pub fn metamanager(config: &EdgeCore) -> metamanager::Settings {
    metamanager::Settings {
        node: node_name(config),
        database: config.database.data_source.clone().into(),
        remote_timeout: seconds(config.modules.meta_manager.remote_query_timeout, 60),
    }
}

/// For DeviceTwin.
pub fn devicetwin(config: &EdgeCore) -> devicetwin::Settings {
    let twin = &config.modules.device_twin;
    let rate = |value: i32, default: u32| u32::try_from(value).ok().filter(|rate| *rate > 0).unwrap_or(default);
    devicetwin::Settings {
        node: node_name(config),
        reports_per_device: rate(twin.reports_per_device, 10),
        reports_per_second: rate(twin.reports_per_second, 100),
    }
}

/// For EventBus; `None` where it is turned off.
pub fn eventbus(config: &EdgeCore) -> Option<eventbus::Settings> {
    let bus = &config.modules.event_bus;
    // An own broker alone with 0, both with 1, an external one alone with 2.
    let external = (bus.mqtt_mode >= 1).then(|| eventbus::External {
        node: node_name(config),
        server: bus.mqtt_server_external.clone(),
        subscriber: bus.mqtt_sub_client_id.clone(),
        publisher: bus.mqtt_pub_client_id.clone(),
        login: (!bus.mqtt_username.is_empty()).then(|| eventbus::Login {
            name: bus.mqtt_username.clone(),
            password: bus.mqtt_password.expose().to_owned(),
        }),
        tls: bus.tls.enable.then(|| eventbus::TlsFiles {
            ca: bus.tls.tls_mqtt_ca_file.clone().into(),
            certificate: bus.tls.tls_mqtt_cert_file.clone().into(),
            key: bus.tls.tls_mqtt_private_key_file.clone().into(),
        }),
    });
    let internal = (bus.mqtt_mode <= 1).then(|| eventbus::Internal {
        broker: own_broker(config),
        qos: bus.mqtt_qos,
        retain: bus.mqtt_retain,
    });
    bus.enable.then(|| eventbus::Settings {
        internal,
        external,
        upload_bytes: u64::try_from(bus.upload_bytes).unwrap_or_default(),
    })
}

/// For EdgeHub.
pub fn edgehub(config: &EdgeCore) -> edgehub::Settings {
    let hub = &config.modules.edge_hub;
    edgehub::Settings {
        node: node_name(config),
        project: hub.project_id.clone(),
        websocket: hub.web_socket.enable.then(|| hub.web_socket.server.clone()),
        quic: hub.quic.enable.then(|| hub.quic.server.clone()),
        handshake_timeout: seconds(hub.web_socket.handshake_timeout, 30),
        write_deadline: seconds(hub.web_socket.write_deadline, 15),
        heartbeat: seconds(hub.heartbeat, 15),
        rate: u32::try_from(hub.message_qps).unwrap_or(0),
        burst: u32::try_from(hub.message_burst).unwrap_or(0),
        certificate: edgehub::CertificateSettings {
            node: node_name(config),
            paths: edgehub::Paths {
                ca: hub.tls_ca_file.clone().into(),
                certificate: hub.tls_cert_file.clone().into(),
                key: hub.tls_private_key_file.clone().into(),
            },
            server: hub.http_server.clone(),
            token: hub.token.expose().to_owned(),
            rotate: hub.rotate_certificates,
        },
    }
}

/// For the history of devices; `None` where it is turned off.
pub fn history(config: &EdgeCore) -> Option<history::Settings> {
    let wanted = &config.modules.device_twin.history;
    let unsigned = |value: i64| u64::try_from(value).unwrap_or_default();
    wanted.enable.then(|| history::Settings {
        database: PathBuf::from(&config.database.data_source).with_file_name("history.db"),
        bounds: history::Bounds {
            values: unsigned(wanted.max_values),
            bytes: unsigned(wanted.max_bytes),
            age: Some(wanted.max_age.to_std()).filter(|age| !age.is_zero()),
        },
    })
}

/// For mappers.
pub fn dmi(config: &EdgeCore) -> dmi::Settings {
    dmi::Settings {
        folder: config.modules.device_twin.dmi_folder().to_owned(),
    }
}

/// For EdgeStream; `None` where it is turned off.
pub fn edgestream(config: &EdgeCore, address: &watch::Receiver<IpAddr>) -> Option<edgestream::Settings> {
    let stream = &config.modules.edge_stream;
    if !stream.enable {
        return None;
    }
    let own = edgehub::Paths {
        ca: stream.tls_tunnel_ca_file.clone().into(),
        certificate: stream.tls_tunnel_cert_file.clone().into(),
        key: stream.tls_tunnel_private_key_file.clone().into(),
    };
    Some(edgestream::Settings {
        node: node_name(config),
        server: stream.server.clone(),
        handshake_timeout: seconds(stream.handshake_timeout, 30),
        // A file that moves the hub's certificate and says nothing of the tunnel's means the same one.
        paths: vec![own, edgehub(config).certificate.paths],
        address: address.clone(),
    })
}

/// For the node's registration.
pub fn node(config: &EdgeCore) -> node::Settings {
    let edged = &config.modules.edged;
    let kubelet = &edged.tailored_kubelet_config;
    let taints = kubelet.register_with_taints.iter().map(|taint| Taint {
        key: taint.key.clone(),
        value: taint.value.clone(),
        effect: taint.effect.clone(),
    });
    node::Settings {
        node: node_name(config),
        hostname: edged.hostname_override.clone(),
        port: u16::try_from(kubelet.read_only_port).unwrap_or(0),
        kubelet_version: config::version::KUBELET_VERSION.to_owned(),
        labels: edged.node_labels.clone(),
        taints: taints.collect(),
        schedulable: edged.register_schedulable,
        max_pods: kubelet.max_pods,
        kube_reserved: kubelet.kube_reserved.clone().into_iter().collect(),
        system_reserved: kubelet.system_reserved.clone().into_iter().collect(),
        eviction_hard: kubelet.eviction_hard.clone().into_iter().collect(),
        look: period(kubelet.node_status_update_frequency, 10),
        report: period(kubelet.node_status_report_frequency, 300),
        pressure_hold: kubelet.eviction_pressure_transition_period.to_std(),
        lease_seconds: u32::try_from(kubelet.node_lease_duration_seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .unwrap_or(40),
    }
}

/// For `stats`, which tells of usage.
pub fn stats(config: &EdgeCore) -> Result<stats::Settings, BadSetting> {
    Ok(stats::Settings {
        node: node_name(config).to_string(),
        edged: edged(config)?,
    })
}

/// For pods.
pub fn edged(config: &EdgeCore) -> Result<edged::context::Settings, BadSetting> {
    let edged = &config.modules.edged;
    let kubelet = &edged.tailored_kubelet_config;
    let default = edged::context::Settings::default();
    let positive =
        |duration: GoDuration, default: Duration| Some(duration.to_std()).filter(|d| !d.is_zero()).unwrap_or(default);
    let socket = |endpoint: &str| PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    let runtime_socket = socket(&kubelet.container_runtime_endpoint);
    let dns = kubelet
        .cluster_dns
        .iter()
        .map(|ip| parse("modules.edged.tailoredKubeletConfig.clusterDNS", ip));
    let percent = |value: Option<i32>, default| value.and_then(|v| u8::try_from(v).ok()).unwrap_or(default);
    let count = |value: Option<i32>| value.and_then(|v| usize::try_from(v).ok()).filter(|v| *v > 0);
    Ok(edged::context::Settings {
        root_directory: edged.root_directory.clone().into(),
        pod_logs_directory: kubelet.pod_logs_dir.clone().into(),
        image_socket: match kubelet.image_service_endpoint.as_str() {
            "" => runtime_socket.clone(),
            endpoint => socket(endpoint),
        },
        runtime_socket,
        runtime_timeout: positive(kubelet.runtime_request_timeout, default.runtime_timeout),
        sync_frequency: positive(kubelet.sync_frequency, default.sync_frequency),
        serialize_image_pulls: kubelet.serialize_image_pulls.unwrap_or(true),
        max_parallel_image_pulls: count(kubelet.max_parallel_image_pulls),
        image_gc: ImageGc {
            high_percent: percent(kubelet.image_gc_high_threshold_percent, default.image_gc.high_percent),
            low_percent: percent(kubelet.image_gc_low_threshold_percent, default.image_gc.low_percent),
            min_age: kubelet.image_minimum_gc_age.to_std(),
        },
        dead_containers_per_container: usize::try_from(edged.max_per_pod_container_count).unwrap_or(usize::MAX),
        cgroup_driver: match kubelet.cgroup_driver.as_str() {
            "systemd" => CgroupDriver::Systemd,
            _ => CgroupDriver::Cgroupfs,
        },
        cgroups_per_qos: kubelet.cgroups_per_qos.unwrap_or(true),
        cgroup_root: match kubelet.cgroup_root.as_str() {
            "" => default.cgroup_root.clone(),
            root => root.to_owned(),
        },
        reserved: reserved(kubelet),
        cpu_cfs_quota: kubelet.cpu_cfs_quota.unwrap_or(true),
        cpu_cfs_quota_period: kubelet
            .cpu_cfs_quota_period
            .map_or(default.cpu_cfs_quota_period, |period| {
                positive(period, default.cpu_cfs_quota_period)
            }),
        pod_pids_limit: kubelet.pod_pids_limit.filter(|limit| *limit > 0),
        cluster_domain: kubelet.cluster_domain.clone(),
        cluster_dns: dns.collect::<Result<_, _>>()?,
        resolv_conf: kubelet
            .resolv_conf
            .clone()
            .map_or_else(|| default.resolv_conf.clone(), PathBuf::from),
        seccomp_default: edged.seccomp_default || kubelet.seccomp_default.unwrap_or(false),
        seccomp_profiles: PathBuf::from(&edged.root_directory).join("seccomp"),
        static_pod_path: Some(kubelet.static_pod_path.clone())
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        single_process_oom_kill: kubelet.single_process_oom_kill,
        log_rotation: log_rotation(kubelet)?,
        report_event: edged.report_event,
        ..default
    })
}

/// A negative size turns it off, as with a kubelet.
fn log_rotation(kubelet: &config::edgecore::KubeletConfig) -> Result<Option<log_rotation::Policy>, BadSetting> {
    let size = Quantity::parse(&kubelet.container_log_max_size).map_err(|_| BadSetting::Amount {
        key: "modules.edged.tailoredKubeletConfig.containerLogMaxSize",
        value: kubelet.container_log_max_size.clone(),
    })?;
    let files = kubelet.container_log_max_files.unwrap_or(5);
    Ok(u64::try_from(size.value()).ok().map(|max_size| log_rotation::Policy {
        max_size,
        max_files: usize::try_from(files).unwrap_or_default().max(2),
        period: period(kubelet.container_log_monitor_interval.unwrap_or_default(), 10),
    }))
}

/// What pods together may not use. Amounts that cannot be read count as nothing, as they do in the Node's allocatable.
fn reserved(kubelet: &config::edgecore::KubeletConfig) -> Option<Reserved> {
    if !kubelet.enforce_node_allocatable.iter().any(|on| on == "pods") {
        return None;
    }
    let sum = |resource: &str| -> Quantity {
        [&kubelet.kube_reserved, &kubelet.system_reserved]
            .into_iter()
            .filter_map(|amounts| Quantity::parse(amounts.get(resource)?).ok())
            .sum()
    };
    Some(Reserved {
        cpu_millis: sum("cpu").milli_value(),
        memory_bytes: sum("memory").value(),
    })
}

/// What this machine tells pods.
pub fn node_facts(node: &node::Settings, address: IpAddr, facts: &dyn node::NodeFacts) -> edged::context::NodeFacts {
    let (machine, usage) = (facts.machine(), facts.usage());
    let cpu_millis = machine.processors.saturating_mul(1000);
    edged::context::NodeFacts {
        name: node.node.clone(),
        ips: vec![address],
        cpu_millis,
        memory_bytes: machine.memory,
        allocatable_cpu_millis: cpu_millis,
        allocatable_memory_bytes: machine.memory,
        allocatable_disk_bytes: usage.disk_total,
        cgroups: CgroupFacts::detect(),
    }
}

/// The own MQTT broker. Its database lies beside the edge's.
fn own_broker(config: &EdgeCore) -> broker::Settings {
    let bus = &config.modules.event_bus;
    let (own, limits) = (&bus.broker, &bus.broker.limits);
    let count = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
    let path = |name: &str| (!name.is_empty()).then(|| PathBuf::from(name));
    broker::Settings {
        listen: bus.mqtt_server_internal.clone(),
        database: PathBuf::from(&config.database.data_source).with_file_name("mqtt.db"),
        users: own.users.clone(),
        password_file: path(&own.password_file),
        tls: broker::TlsSettings {
            certificate: own.tls.cert_file.clone().into(),
            key: own.tls.key_file.clone().into(),
            client_ca: path(&own.tls.client_ca_file),
        },
        connections: count(limits.connections),
        packet: count(limits.packet_bytes),
        connect_deadline: Duration::from_secs(limits.connect_seconds.into()),
        limits: broker::Limits {
            inflight: count(limits.inflight),
            // The bytes of the longest packet, so that one packet is always allowed, whatever its size.
            inflight_bytes: count(limits.packet_bytes),
            queue: usize::try_from(bus.mqtt_session_queue_size).unwrap_or(0),
            queue_bytes: count(limits.queue_bytes),
            store_bytes: count(limits.store_bytes),
            subscriptions: count(limits.subscriptions),
            topic_levels: count(limits.topic_levels),
            topic_bytes: count(limits.topic_bytes),
            client_bytes: count(limits.client_id_bytes),
            sessions: count(limits.sessions),
            retained: count(limits.retained),
            ..broker::Limits::default()
        },
    }
}

/// Where the local server listens; `None` where it is turned off by port 0.
pub fn server(config: &EdgeCore) -> Result<Option<SocketAddr>, BadSetting> {
    let kubelet = &config.modules.edged.tailored_kubelet_config;
    let port = u16::try_from(kubelet.read_only_port).unwrap_or(0);
    let address = parse("modules.edged.tailoredKubeletConfig.address", &kubelet.address)?;
    Ok((port != 0).then_some(SocketAddr::new(address, port)))
}

/// Whether logs, exec and the like are served.
pub fn debugging(config: &EdgeCore) -> bool {
    let kubelet = &config.modules.edged.tailored_kubelet_config;
    kubelet.enable_debugging_handlers.unwrap_or(true)
}

/// What `/configz` tells: the kubelet's part of the configuration.
pub fn configz(config: &EdgeCore) -> String {
    let all = config::json(&config.to_yaml()).unwrap_or_default();
    let kubelet = all.pointer("/modules/edged/tailoredKubeletConfig");
    serde_json::json!({ "kubeletconfig": kubelet }).to_string()
}

/// The name of this node.
pub fn node_name(config: &EdgeCore) -> NodeName {
    NodeName::new(&config.modules.edged.hostname_override)
}

fn parse(key: &'static str, value: &str) -> Result<IpAddr, BadSetting> {
    value.parse().map_err(|_| BadSetting::Address {
        key,
        value: value.to_owned(),
    })
}

fn seconds(value: i32, default: u64) -> Duration {
    Duration::from_secs(
        u64::try_from(value)
            .ok()
            .filter(|seconds| *seconds > 0)
            .unwrap_or(default),
    )
}

fn period(value: GoDuration, default: u64) -> Duration {
    let value = value.to_std();
    if value.is_zero() {
        Duration::from_secs(default)
    } else {
        value
    }
}
