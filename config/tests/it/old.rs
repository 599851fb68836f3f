//! Files of older releases.

use config::{EdgeCore, Loaded, Warning};

use crate::golden::leaves;
use crate::{Disk, cloud, edge, host};

const CLOUD_8: &str = include_str!("../../golden/cloudcore-v1.8-default.yaml");
const CLOUD_12: &str = include_str!("../../golden/cloudcore-v1.12-default.yaml");
const CHART_12: &str = include_str!("../../golden/cloudcore-v1.12-chart.yaml");
const CHART_23: &str = include_str!("../../golden/cloudcore-v1.23-chart.yaml");
const EDGE_8: &str = include_str!("../../golden/edgecore-v1.8-default.yaml");
const EDGE_10: &str = include_str!("../../golden/edgecore-v1.10-default.yaml");
const EDGE_12: &str = include_str!("../../golden/edgecore-v1.12-default.yaml");
const EDGE_12_7: &str = include_str!("../../golden/edgecore-v1.12.7-default.yaml");
const EDGE_13: &str = include_str!("../../golden/edgecore-v1.13-default.yaml");
const EDGE_17: &str = include_str!("../../golden/edgecore-v1.17-default.yaml");
const EDGE_22: &str = include_str!("../../golden/edgecore-v1.22-default.yaml");

/// Each key is named once, and none of them as merely unknown.
fn one_warning_each(warnings: &[Warning]) {
    let mut paths: Vec<&str> = warnings.iter().map(|w| w.path.as_str()).collect();
    paths.sort_unstable();
    let all = paths.len();
    paths.dedup();
    assert_eq!(paths.len(), all, "{paths:?}");
    let unknown: Vec<&Warning> = warnings.iter().filter(|w| w.reason.starts_with("unknown")).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Nothing in the file is passed over in silence, and nothing that arrives is warned about.
fn every_key_arrives_or_is_warned_about<T>(text: &str, loaded: &Loaded<T>) {
    one_warning_each(&loaded.warnings);
    for path in leaves(text).into_keys() {
        // Items of a list arrive as one.
        let mut key = path.as_str();
        while let Some((list, item)) = key.rsplit_once('.')
            && item.bytes().all(|byte| byte.is_ascii_digit())
        {
            key = list;
        }
        let warned = loaded
            .warnings
            .iter()
            .any(|w| key == w.path || key.starts_with(&format!("{}.", w.path)));
        assert!(warned != loaded.is_set(key), "{key}: warned {warned}");
    }
}

#[test]
fn printed_defaults_of_old_edges_load() {
    for (version, text, search, folder) in [
        ("v1.8", EDGE_8, true, "/var/lib/kubelet"),
        ("v1.10", EDGE_10, true, "/var/lib/kubelet"),
        ("v1.12.0", EDGE_12, true, "/var/lib/kubelet"),
        ("v1.12.7", EDGE_12_7, true, "/var/lib/edged"),
        ("v1.13", EDGE_13, false, "/var/lib/edged"),
        ("v1.17", EDGE_17, false, "/var/lib/edged"),
        ("v1.22", EDGE_22, false, "/var/lib/kubelet"),
    ] {
        let loaded = edge(text).unwrap_or_else(|problems| panic!("{version}: {problems}"));
        every_key_arrives_or_is_warned_about(text, &loaded);
        let edged = &loaded.config.modules.edged;
        assert_eq!(edged.hostname_override, "vm");
        assert_eq!(edged.search_runtime, search, "{version}");
        assert_eq!(edged.root_directory, folder, "{version}");
        let kubelet = &edged.tailored_kubelet_config;
        assert_eq!(
            kubelet.container_runtime_endpoint, "unix:///run/containerd/containerd.sock",
            "{version}"
        );
        assert_eq!(kubelet.register_node, Some(true));
        assert_eq!(kubelet.node_status_update_frequency.to_string(), "10s");
        assert_eq!(kubelet.runtime_request_timeout.to_string(), "2m0s");
        assert_eq!(
            loaded
                .config
                .modules
                .device_twin
                .dmi_folder()
                .to_str()
                .map(|p| p.trim_end_matches('/')),
            Some("/etc/kubeedge")
        );
        assert_eq!(loaded.config.modules.event_bus.mqtt_mode, 2);
    }
}

#[test]
fn values_of_v1alpha1_arrive_where_they_are_today() {
    let text = "modules:
  edged:
    hostnameOverride: edge-1
    runtimeType: remote
    remoteRuntimeEndpoint: unix:///var/run/crio/crio.sock
    taints:
    - {key: a, value: b, effect: NoSchedule}
    labels: {zone: east}
    cgroupDriver: systemd
    clusterDNS: 10.96.0.10
    clusterDomain: edge.local
    edgeCoreCgroups: /edge
    nodeStatusUpdateFrequency: 20
    runtimeRequestTimeout: 3
    volumeStatsAggPeriod: 60000000000
    imageGCHighThreshold: 70
    imageGCLowThreshold: 30
    maximumDeadContainersPerPod: 2
    interfaceName: eth1
    registerNode: false
";
    let loaded = edge(text).expect("loads");
    one_warning_each(&loaded.warnings);
    assert_eq!(loaded.warnings.len(), 16);
    let edged = &loaded.config.modules.edged;
    let kubelet = &edged.tailored_kubelet_config;
    assert_eq!(kubelet.container_runtime_endpoint, "unix:///var/run/crio/crio.sock");
    assert_eq!(kubelet.image_service_endpoint, "unix:///var/run/crio/crio.sock");
    assert_eq!(kubelet.register_with_taints[0].key, "a");
    assert_eq!(edged.node_labels["zone"], "east");
    assert_eq!(kubelet.cgroup_driver, "systemd");
    assert_eq!(kubelet.cluster_dns, ["10.96.0.10"]);
    assert_eq!(kubelet.cluster_domain, "edge.local");
    assert_eq!(kubelet.kubelet_cgroups, "/edge");
    assert_eq!(kubelet.node_status_update_frequency.to_string(), "20s");
    assert_eq!(kubelet.runtime_request_timeout.to_string(), "3m0s");
    assert_eq!(kubelet.volume_stats_agg_period.to_string(), "1m0s");
    assert_eq!(kubelet.image_gc_high_threshold_percent, Some(70));
    assert_eq!(kubelet.image_gc_low_threshold_percent, Some(30));
    assert_eq!(edged.max_per_pod_container_count, 2);
    assert_eq!(edged.custom_interface_name, "eth1");
    assert_eq!(kubelet.register_node, Some(false));
    assert!(!edged.search_runtime);
}

#[test]
fn wrong_values_of_old_keys_are_reported_with_their_line() {
    let problems = edge("modules:\n  edged:\n    registerNode: maybe\n    runtimeRequestTimeout: [2]\n")
        .expect_err("wrong")
        .0;
    assert_eq!(problems.iter().map(|p| p.line).collect::<Vec<_>>(), [Some(3), Some(4)]);
}

#[test]
fn todays_key_wins_over_the_old_one() {
    let text = "modules: {edged: {remoteRuntimeEndpoint: \"unix:///old\", tailoredKubeletConfig: {containerRuntimeEndpoint: \"unix:///new\"}}}";
    let loaded = edge(text).expect("loads");
    assert_eq!(
        loaded
            .config
            .modules
            .edged
            .tailored_kubelet_config
            .container_runtime_endpoint,
        "unix:///new"
    );
    assert!(loaded.warnings[0].reason.contains("ignored"));
}

#[test]
fn docker_asks_for_a_search_and_keeps_a_named_endpoint() {
    let text = "modules: {edged: {containerRuntime: docker, remoteRuntimeEndpoint: \"unix:///run/cri-dockerd.sock\"}}";
    let edged = edge(text).expect("loads").config.modules.edged;
    assert!(edged.search_runtime);
    assert_eq!(
        edged.tailored_kubelet_config.container_runtime_endpoint,
        "unix:///run/cri-dockerd.sock"
    );
}

#[test]
fn printed_defaults_of_old_clouds_load() {
    let files = Disk::with(&["/root/.kube/config"]);
    let loaded = config::CloudCore::parse(CLOUD_8, &host(), &files).expect("v1.8");
    every_key_arrives_or_is_warned_about(CLOUD_8, &loaded);
    assert_eq!(loaded.config.modules.cloud_hub.node_limit, 1000);
    assert_eq!(loaded.config.kube_api_config.kube_config, "/root/.kube/config");
    assert!(!loaded.config.modules.cloud_stream.enable, "what a file sets is obeyed");
    let loaded = cloud(CLOUD_12).expect("v1.12");
    every_key_arrives_or_is_warned_about(CLOUD_12, &loaded);
}

#[test]
fn node_upgrade_jobs_became_the_task_manager() {
    let text = "modules: {nodeUpgradeJobController: {enable: true, buffer: {updateNodeUpgradeJobStatus: 9, nodeUpgradeJobEvent: 8}, load: {nodeUpgradeJobWorkers: 7}}}";
    let tasks = cloud(text).expect("loads").config.modules.task_manager;
    assert_eq!(
        (
            tasks.enable,
            tasks.buffer.task_status,
            tasks.buffer.task_event,
            tasks.load.task_workers
        ),
        (true, 9, 8, 7)
    );
}

#[test]
fn charts_ask_for_the_pods_own_address_with_an_empty_element() {
    // What the chart mounts: the stream certificates, and no others.
    let files = Disk::with(&[
        "/etc/kubeedge/ca/streamCA.crt",
        "/etc/kubeedge/certs/stream.crt",
        "/etc/kubeedge/certs/stream.key",
    ]);
    for text in [CHART_12, CHART_23] {
        let loaded = config::CloudCore::parse(text, &host(), &files).expect("loads");
        let hub = &loaded.config.modules.cloud_hub;
        assert_eq!(hub.advertise_address, ["192.0.2.2"]);
        assert_eq!(hub.dns_names, [""]);
        assert_eq!(hub.node_limit, 1000);
        assert_eq!(loaded.warnings, []);
        assert!(loaded.config.modules.cloud_stream.enable && !loaded.config.modules.dynamic_controller.enable);
    }
}

#[test]
fn an_old_file_printed_again_is_todays_form() {
    for text in [EDGE_8, EDGE_12, EDGE_17] {
        let first = edge(text).expect("loads").config;
        let again = EdgeCore::parse(&first.to_yaml(), &host(), &Disk::default()).expect("loads again");
        assert_eq!(again.warnings, []);
        assert_eq!(again.config, first);
    }
}

#[test]
fn a_first_schema_file_that_names_no_runtime_meant_docker() {
    let text = "apiVersion: edgecore.config.kubeedge.io/v1alpha1\nmodules: {edged: {hostnameOverride: a}}";
    assert!(edge(text).expect("loads").config.modules.edged.search_runtime);
    assert!(
        !edge(&text.replace("v1alpha1", "v1alpha2"))
            .expect("loads")
            .config
            .modules
            .edged
            .search_runtime
    );
}
