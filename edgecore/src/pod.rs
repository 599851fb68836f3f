//! What is read of a Pod. The library's own type also has what no edge reads, above all 22 kinds of volumes: 0.1 MB of program, and
//! room in memory for each of them in every volume.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, DownwardAPIVolumeSource, EmptyDirVolumeSource, EphemeralContainer, HostAlias,
    HostPathVolumeSource, LocalObjectReference, NodeSelector, PersistentVolumeClaimVolumeSource, PodDNSConfig, PodOS,
    PodReadinessGate, PodSecurityContext, PodStatus, ProjectedVolumeSource, SecretVolumeSource, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::view;
use proto::view::Field;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Unexpected};

view! {
    /// A Pod. Names and meanings are the API's.
    pub struct Pod {
        "apiVersion" api_version: ApiVersion,
        "kind" kind: Kind,
        "metadata" metadata: ObjectMeta,
        "spec" spec: Option<PodSpec>,
        "status" status: Option<PodStatus>,
    }

    /// `spec`.
    #[derive(PartialEq)]
    pub struct PodSpec {
        "activeDeadlineSeconds" active_deadline_seconds: Option<i64>,
        "affinity" affinity: Option<Affinity>,
        "containers" containers: Vec<Container>,
        "dnsConfig" dns_config: Option<PodDNSConfig>,
        "dnsPolicy" dns_policy: Option<String>,
        "ephemeralContainers" ephemeral_containers: Option<Vec<EphemeralContainer>>,
        "hostAliases" host_aliases: Option<Vec<HostAlias>>,
        "hostIPC" host_ipc: Option<bool>,
        "hostNetwork" host_network: Option<bool>,
        "hostPID" host_pid: Option<bool>,
        "hostname" hostname: Option<String>,
        "imagePullSecrets" image_pull_secrets: Option<Vec<LocalObjectReference>>,
        "initContainers" init_containers: Option<Vec<Container>>,
        "nodeName" node_name: Option<String>,
        "nodeSelector" node_selector: Option<BTreeMap<String, String>>,
        "os" os: Option<PodOS>,
        "overhead" overhead: Option<BTreeMap<String, Quantity>>,
        "priorityClassName" priority_class_name: Option<String>,
        "readinessGates" readiness_gates: Option<Vec<PodReadinessGate>>,
        "restartPolicy" restart_policy: Option<String>,
        "runtimeClassName" runtime_class_name: Option<String>,
        "securityContext" security_context: Option<PodSecurityContext>,
        "serviceAccountName" service_account_name: Option<String>,
        "setHostnameAsFQDN" set_hostname_as_fqdn: Option<bool>,
        "shareProcessNamespace" share_process_namespace: Option<bool>,
        "subdomain" subdomain: Option<String>,
        "terminationGracePeriodSeconds" termination_grace_period_seconds: Option<i64>,
        "tolerations" tolerations: Option<Vec<Toleration>>,
        "volumes" volumes: Option<Vec<Volume>>,
    }

    /// Where it may be; preferences and other pods are the scheduler's.
    #[derive(PartialEq)]
    pub struct Affinity {
        "nodeAffinity" node_affinity: Option<NodeAffinity>,
    }

    /// Which nodes.
    #[derive(PartialEq)]
    pub struct NodeAffinity {
        "requiredDuringSchedulingIgnoredDuringExecution"
            required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
    }

    /// A volume. One of another kind has none of its sources.
    #[derive(PartialEq)]
    pub struct Volume {
        "name" name: String,
        "configMap" config_map: Option<ConfigMapVolumeSource>,
        "downwardAPI" downward_api: Option<DownwardAPIVolumeSource>,
        "emptyDir" empty_dir: Option<EmptyDirVolumeSource>,
        /// Its claim is made by the cluster and known by its name.
        "ephemeral" ephemeral: Option<IgnoredAny>,
        "hostPath" host_path: Option<HostPathVolumeSource>,
        "persistentVolumeClaim" persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
        "projected" projected: Option<ProjectedVolumeSource>,
        "secret" secret: Option<SecretVolumeSource>,
    }
}

/// A text that has to be this one where it is given.
macro_rules! fixed {
    ($(#[$about:meta])* $name:ident = $text:literal) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name;

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                only($text, deserializer).map(|()| Self)
            }
        }

        impl Field for $name {
            fn read<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error> {
                map.next_value()
            }
        }
    };
}

fixed!(
    /// The version of the API that Pods are of.
    ApiVersion = "v1"
);
fixed!(
    /// The kind that Pods are of.
    Kind = "Pod"
);

fn only<'de, D: Deserializer<'de>>(text: &'static str, deserializer: D) -> Result<(), D::Error> {
    let found = String::deserialize(deserializer)?;
    if found == text {
        Ok(())
    } else {
        Err(Error::invalid_value(Unexpected::Str(&found), &text))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as library;
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> (Pod, library::Pod) {
        let read = serde_json::from_str(text).expect("a pod");
        (read, serde_json::from_str(text).expect("a pod"))
    }

    macro_rules! same {
        ($ours:expr, $theirs:expr, $($field:ident),*) => {
            $(assert_eq!($ours.$field, $theirs.$field, stringify!($field));)*
        };
    }

    #[test]
    fn as_the_librarys_type() {
        let (ours, theirs) = read(
            r#"{
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": "shop", "uid": "u", "labels": {"a": "b"}, "other": 1},
            "spec": {
                "activeDeadlineSeconds": 5, "dnsConfig": {"searches": ["s"]}, "dnsPolicy": "None",
                "containers": [{"name": "main", "image": "i", "resources": {"limits": {"cpu": "1"}}}],
                "ephemeralContainers": [{"name": "debug", "image": "i"}], "initContainers": [{"name": "init"}],
                "hostAliases": [{"ip": "192.0.2.1"}], "hostIPC": true, "hostNetwork": true, "hostPID": true,
                "hostname": "h", "imagePullSecrets": [{"name": "s"}], "nodeName": "n", "nodeSelector": {"k": "v"},
                "os": {"name": "linux"}, "overhead": {"cpu": "1"}, "priority": 7, "priorityClassName": "c",
                "readinessGates": [{"conditionType": "g"}], "restartPolicy": "Never", "runtimeClassName": "r",
                "securityContext": {"fsGroup": 3}, "serviceAccountName": "a", "setHostnameAsFQDN": true,
                "shareProcessNamespace": true, "subdomain": "d", "terminationGracePeriodSeconds": 9,
                "tolerations": [{"operator": "Exists"}],
                "affinity": {"podAffinity": {}, "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]
                }}},
                "volumes": [{
                    "name": "v", "configMap": {"name": "m"}, "downwardAPI": {"defaultMode": 1},
                    "emptyDir": {"medium": "Memory"}, "hostPath": {"path": "/p"},
                    "persistentVolumeClaim": {"claimName": "c"}, "projected": {"defaultMode": 2},
                    "secret": {"secretName": "s"}, "nfs": {"path": "/", "server": "s"}
                }]
            },
            "status": {"phase": "Running", "podIP": "192.0.2.2"}
            }"#,
        );
        same!(ours, theirs, metadata, status);
        let (ours, theirs) = (ours.spec.expect("a spec"), theirs.spec.expect("a spec"));
        same!(
            ours,
            theirs,
            active_deadline_seconds,
            containers,
            dns_config,
            dns_policy,
            ephemeral_containers,
            host_aliases,
            host_ipc,
            host_network,
            host_pid,
            hostname,
            image_pull_secrets,
            init_containers,
            node_name,
            node_selector,
            os,
            overhead,
            priority_class_name,
            readiness_gates,
            restart_policy,
            runtime_class_name,
            security_context,
            service_account_name,
            set_hostname_as_fqdn,
            share_process_namespace,
            subdomain,
            termination_grace_period_seconds,
            tolerations
        );
        let required = |node: &NodeAffinity| node.required_during_scheduling_ignored_during_execution.clone();
        let node = theirs.affinity.and_then(|affinity| affinity.node_affinity);
        assert_eq!(
            ours.affinity
                .and_then(|affinity| affinity.node_affinity)
                .as_ref()
                .and_then(required),
            node.and_then(|node| node.required_during_scheduling_ignored_during_execution)
        );
        let (ours, theirs) = (ours.volumes.expect("volumes"), theirs.volumes.expect("volumes"));
        same!(
            ours[0],
            theirs[0],
            name,
            config_map,
            downward_api,
            empty_dir,
            host_path,
            persistent_volume_claim,
            projected,
            secret
        );
        assert!(ours[0].ephemeral.is_none());
    }

    #[test]
    fn only_pods_of_version_one() {
        let pod = |value: Value| serde_json::from_value::<Pod>(value);
        assert!(pod(json!({"metadata": null, "spec": {"containers": null}})).is_ok());
        let error = pod(json!({"kind": "Job"})).expect_err("no pod").to_string();
        assert_eq!(error, "invalid value: string \"Job\", expected Pod");
        assert!(pod(json!({"apiVersion": "v2"})).is_err());
        let claim = json!({"spec": {"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {}}}]}});
        let volumes = pod(claim)
            .expect("a pod")
            .spec
            .and_then(|spec| spec.volumes)
            .expect("volumes");
        assert!(volumes[0].ephemeral.is_some());
    }
}
