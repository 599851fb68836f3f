//! Forms of older releases of edgecore.yaml, turned into today's; one warning for each key.

use crate::decode::{GoDuration, Reader};
use crate::legacy::{Rule, rename};
use crate::yaml::{Kind, Node};

const KUBELET: &str = "tailoredKubeletConfig";

/// What became of the keys of `modules.edged`.
const EDGED: &[(&str, Rule)] = &[
    (
        "remoteRuntimeEndpoint",
        Rule::Into(KUBELET, "containerRuntimeEndpoint", same),
    ),
    ("remoteImageEndpoint", Rule::Into(KUBELET, "imageServiceEndpoint", same)),
    ("registerNode", Rule::Into(KUBELET, "registerNode", same)),
    ("registerWithTaints", Rule::Into(KUBELET, "registerWithTaints", same)),
    ("taints", Rule::Into(KUBELET, "registerWithTaints", same)),
    ("labels", Rule::Beside("nodeLabels")),
    ("cgroupDriver", Rule::Into(KUBELET, "cgroupDriver", same)),
    ("cgroupsPerQOS", Rule::Into(KUBELET, "cgroupsPerQOS", same)),
    ("cgroupRoot", Rule::Into(KUBELET, "cgroupRoot", same)),
    ("systemCgroups", Rule::Into(KUBELET, "systemCgroups", same)),
    ("edgeCoreCgroups", Rule::Into(KUBELET, "kubeletCgroups", same)),
    ("clusterDomain", Rule::Into(KUBELET, "clusterDomain", same)),
    ("clusterDNS", Rule::Into(KUBELET, "clusterDNS", list)),
    (
        "nodeStatusUpdateFrequency",
        Rule::Into(KUBELET, "nodeStatusUpdateFrequency", seconds),
    ),
    (
        "runtimeRequestTimeout",
        Rule::Into(KUBELET, "runtimeRequestTimeout", minutes),
    ),
    (
        "volumeStatsAggPeriod",
        Rule::Into(KUBELET, "volumeStatsAggPeriod", nanoseconds),
    ),
    (
        "imageGCHighThreshold",
        Rule::Into(KUBELET, "imageGCHighThresholdPercent", same),
    ),
    (
        "imageGCLowThreshold",
        Rule::Into(KUBELET, "imageGCLowThresholdPercent", same),
    ),
    ("maximumDeadContainersPerPod", Rule::Beside("maxPerPodContainerCount")),
    ("interfaceName", Rule::Beside("customInterfaceName")),
    ("dockerAddress", Rule::Drop),
    ("dockerEndpoint", Rule::Drop),
    ("dockershimRootDirectory", Rule::Drop),
    ("networkPluginName", Rule::Drop),
    ("networkPluginMTU", Rule::Drop),
    ("cniConfDir", Rule::Drop),
    ("cniBinDir", Rule::Drop),
    ("cniCacheDir", Rule::Drop),
    ("cniCacheDirs", Rule::Drop),
    ("imagePullProgressDeadline", Rule::Drop),
    ("imageCredentialProviderConfigFile", Rule::Drop),
    ("imageCredentialProviderBinDir", Rule::Drop),
    ("annotations", Rule::Drop),
    ("devicePluginEnabled", Rule::Drop),
    ("gpuPluginEnabled", Rule::Drop),
    ("concurrentConsumers", Rule::Drop),
    ("edgedMemoryCapacity", Rule::Drop),
    ("enableMetrics", Rule::Drop),
    ("kubeConfig", Rule::Drop),
    ("certDirectory", Rule::Drop),
    ("kubeletConfigFile", Rule::Drop),
    ("lockFilePath", Rule::Drop),
    ("exitOnLockContention", Rule::Drop),
    ("seccompProfileRoot", Rule::Drop),
    ("masterServiceNamespace", Rule::Drop),
    ("nonMasqueradeCidr", Rule::Drop),
    ("keepTerminatedPodVolumes", Rule::Drop),
    ("experimentalCheckNodeCapabilitiesBeforeMount", Rule::Drop),
];

/// Keys of `modules.edged.tailoredKubeletConfig` that only v1.12 printed.
const KUBELET_DROPPED: &[&str] = &[
    "enableServer",
    "httpCheckFrequency",
    "port",
    "authentication",
    "authorization",
    "healthzPort",
    "healthzBindAddress",
    "kubeAPIQPS",
    "kubeAPIBurst",
    "rotateCertificates",
    "serverTLSBootstrap",
    "providerID",
    "runOnce",
];

pub(super) fn translate(node: &mut Node, reader: &mut Reader) {
    let first_schema = node
        .get("apiVersion")
        .and_then(Node::coerced)
        .is_some_and(|version| version.ends_with("/v1alpha1"));
    let Some(modules) = node.get_mut("modules") else { return };
    if let Some(edged) = modules.get_mut("edged") {
        let names_runtime = [
            "runtimeType",
            "containerRuntime",
            "remoteRuntimeEndpoint",
            KUBELET,
            "searchRuntime",
        ];
        if first_schema && names_runtime.iter().all(|key| edged.get(key).is_none()) {
            // Up to v1.12 the runtime was docker where a file said nothing.
            edged.insert("searchRuntime", edged.line, Node::new(edged.line, Kind::Bool(true)));
        }
        runtime_type(edged, reader);
        for (key, rule) in EDGED {
            rename(edged, &["modules", "edged"], key, rule, reader);
        }
        if let Some(kubelet) = edged.get_mut(KUBELET) {
            for key in KUBELET_DROPPED {
                rename(kubelet, &["modules", "edged", KUBELET], key, &Rule::Drop, reader);
            }
            if let Some(logging) = kubelet.get_mut("logging") {
                rename(
                    logging,
                    &["modules", "edged", KUBELET, "logging"],
                    "sanitization",
                    &Rule::Drop,
                    reader,
                );
            }
        }
    }
    if let Some(meta) = modules.get_mut("metaManager") {
        rename(
            meta,
            &["modules", "metaManager"],
            "podStatusSyncInterval",
            &Rule::Drop,
            reader,
        );
        if let Some(server) = meta.get_mut("metaServer") {
            rename(
                server,
                &["modules", "metaManager", "metaServer"],
                "debug",
                &Rule::Drop,
                reader,
            );
        }
    }
}

/// `runtimeType` (up to v1.11) and `containerRuntime` (v1.12 to v1.17): `docker` asks for a search of the runtime's socket,
/// because the socket that such a file names belonged to the docker shim inside of the old programs.
fn runtime_type(edged: &mut Node, reader: &mut Reader) {
    for key in ["runtimeType", "containerRuntime"] {
        let Some(old) = edged.take(key) else { continue };
        let path = format!("modules.edged.{key}");
        if !matches!(&old.value.kind, Kind::Str(text) if text.eq_ignore_ascii_case("docker")) {
            reader.warn_at(
                old.line,
                &path,
                "key of an older release, dropped: the runtime is always spoken to over CRI".to_owned(),
            );
            continue;
        }
        let reason = "docker is reached over CRI: the socket of cri-dockerd is used if it answers, else containerd's; \
                      set modules.edged.tailoredKubeletConfig.containerRuntimeEndpoint to name another";
        reader.warn_at(old.line, &path, reason.to_owned());
        for endpoint in ["remoteRuntimeEndpoint", "remoteImageEndpoint"] {
            let shim = edged
                .get(endpoint)
                .and_then(Node::coerced)
                .is_some_and(|text| text.ends_with("/dockershim.sock"));
            if shim && let Some(entry) = edged.take(endpoint) {
                let path = format!("modules.edged.{endpoint}");
                reader.warn_at(
                    entry.line,
                    &path,
                    "key of an older release, dropped: no docker shim any more".to_owned(),
                );
            }
        }
        if edged.get("searchRuntime").is_none() {
            edged.insert("searchRuntime", old.line, Node::new(old.line, Kind::Bool(true)));
        }
    }
}

fn same(node: Node) -> Option<Node> {
    let empty = match &node.kind {
        Kind::Null => true,
        Kind::Str(text) => text.is_empty(),
        Kind::List(items) => items.is_empty(),
        _ => false,
    };
    (!empty).then_some(node)
}

fn list(node: Node) -> Option<Node> {
    let Kind::Str(text) = &node.kind else { return same(node) };
    let items: Vec<Node> = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| Node::new(node.line, Kind::Str(part.to_owned())))
        .collect();
    same(Node::new(node.line, Kind::List(items)))
}

fn seconds(node: Node) -> Option<Node> {
    scaled(node, 1_000_000_000)
}

fn minutes(node: Node) -> Option<Node> {
    scaled(node, 60_000_000_000)
}

fn nanoseconds(node: Node) -> Option<Node> {
    scaled(node, 1)
}

/// A bare number becomes a duration; anything else is left for the decoder to judge.
fn scaled(node: Node, unit: i128) -> Option<Node> {
    let Kind::Int(value) = node.kind else { return same(node) };
    let nanos = value.checked_mul(unit).and_then(|n| i64::try_from(n).ok());
    match nanos {
        Some(nanos) => Some(Node::new(
            node.line,
            Kind::Str(GoDuration::from_nanos(nanos).to_string()),
        )),
        None => Some(node),
    }
}
