//! Pods as a kubelet turns them into runtime requests.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use proto::cri::{self, NamespaceMode};
use serde_json::{Value, json};

use super::testing::context;
use super::*;
use crate::edged::context::{
    ContainerKind, ContainerRef, MountedVolume, MountedVolumes, PodContext, ResolvedImage, SpecError,
};

fn ip() -> Vec<IpAddr> {
    vec!["10.244.1.7".parse().expect("ip")]
}

fn image() -> ResolvedImage {
    ResolvedImage {
        name: "nginx:latest".into(),
        id: "sha256:1".into(),
        uid: Some(0),
        username: String::new(),
    }
}

async fn described(ctx: &PodContext, image: &ResolvedImage) -> Result<cri::ContainerConfig, SpecError> {
    let container = ctx.spec().containers.first().expect("container");
    let container = ContainerRef {
        kind: ContainerKind::Main,
        container,
    };
    let volume = MountedVolume {
        host_path: "/data".into(),
        read_only: false,
        selinux_relabel: false,
    };
    let volumes = MountedVolumes {
        volumes: [("data".to_owned(), volume)].into(),
    };
    container_config(ctx, container, 2, image, &ip(), &volumes).await
}

async fn environment_of(
    root: &Path,
    container: Value,
    objects: &[(&str, Value)],
) -> Result<Vec<(String, String)>, SpecError> {
    let mut container = container;
    container["name"] = "app".into();
    let (ctx, known) = context(
        root,
        json!({"containers": [container], "serviceAccountName": "robot", "nodeName": "edge-1"}),
    );
    for (path, object) in objects {
        known.put(path, object.clone());
    }
    let config = described(&ctx, &image()).await?;
    Ok(config.envs.into_iter().map(|pair| (pair.key, pair.value)).collect())
}

#[test]
fn the_hash_is_that_of_every_kubelet() {
    let container = |name: &str, image: &str| k8s_openapi::api::core::v1::Container {
        name: name.into(),
        image: Some(image.into()),
        ..Default::default()
    };
    assert_eq!(container_hash(&container("test_container", "foo/image:v1")), "8e45cbd0");
    assert_ne!(
        container_hash(&container("a", "<&>")),
        container_hash(&container("a", "<&"))
    );
}

#[test]
fn quality_of_service_follows_from_the_containers() {
    let of = |containers: Value| {
        let root = tempfile::tempdir().expect("tempdir");
        context(root.path(), json!({"containers": containers})).0.qos()
    };
    let resources =
        |requests: Value, limits: Value| json!({"name": "a", "resources": {"requests": requests, "limits": limits}});
    let full = json!({"cpu": "100m", "memory": "100Mi"});
    assert_eq!(of(json!([{"name": "a"}])), QosClass::BestEffort);
    assert_eq!(
        of(json!([resources(json!({"cpu": "0"}), json!({}))])),
        QosClass::BestEffort
    );
    assert_eq!(of(json!([resources(full.clone(), full.clone())])), QosClass::Guaranteed);
    assert_eq!(
        of(json!([resources(
            json!({"cpu": "0.1", "memory": "104857600"}),
            full.clone()
        )])),
        QosClass::Guaranteed
    );
    assert_eq!(
        of(json!([resources(full.clone(), full.clone()), {"name": "b"}])),
        QosClass::Burstable
    );
    assert_eq!(
        of(json!([resources(json!({"cpu": "50m", "memory": "100Mi"}), full)])),
        QosClass::Burstable
    );
    assert_eq!(
        of(json!([resources(json!({"ephemeral-storage": "1Gi"}), json!({}))])),
        QosClass::BestEffort
    );
}

#[test]
fn requests_of_a_pod_count_its_init_steps() {
    let root = tempfile::tempdir().expect("tempdir");
    let asks = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let (ctx, _) = context(
        root.path(),
        json!({
            "overhead": {"cpu": "10m"},
            "initContainers": [
                {"name": "i1", "resources": asks("500m")},
                {"name": "s", "restartPolicy": "Always", "resources": asks("100m")},
                {"name": "i2", "resources": asks("450m")},
            ],
            "containers": [{"name": "a", "resources": asks("200m")}, {"name": "b", "resources": asks("200m")}],
        }),
    );
    // Beside the sidecar, the second step needs more than the containers do.
    assert_eq!(
        pod_requests(&ctx)
            .expect("requests")
            .get("cpu")
            .expect("cpu")
            .milli_value(),
        560
    );
}

#[tokio::test]
async fn a_sandbox() {
    let root = tempfile::tempdir().expect("tempdir");
    let (ctx, _) = context(
        root.path(),
        json!({
            "dnsPolicy": "ClusterFirst",
            "hostname": "front",
            "subdomain": "pool",
            "setHostnameAsFQDN": true,
            "shareProcessNamespace": true,
            "securityContext": {
                "runAsUser": 1000, "fsGroup": 2000, "supplementalGroups": [3000], "sysctls": [{"name": "net.x", "value": "1"}],
            },
            "containers": [{
                "name": "a",
                "securityContext": {"privileged": true},
                "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
                "ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP", "name": "d"},
                          {"containerPort": 54, "protocol": "UDP", "name": "d"}],
            }],
        }),
    );
    let config = sandbox_config(&ctx, 3).await.expect("sandbox");
    assert_eq!(
        config
            .metadata
            .as_ref()
            .map(|m| (m.name.as_str(), m.uid.as_str(), m.attempt)),
        Some(("web", "1-2-3", 3))
    );
    assert_eq!(config.hostname, "front.pool.shop.svc.cluster.local");
    assert_eq!(
        config.log_directory,
        root.path().join("pods/shop_web_1-2-3").to_string_lossy()
    );
    assert_eq!(config.labels.get("app").map(String::as_str), Some("web"));
    assert_eq!(
        config.labels.get("io.kubernetes.pod.uid").map(String::as_str),
        Some("1-2-3")
    );
    assert_eq!(config.annotations.len(), 1);
    // No name server of the cluster, as at the edge by default.
    let dns = config.dns_config.expect("dns");
    assert_eq!(
        (dns.servers, dns.searches),
        (vec!["10.0.0.53".to_owned()], vec!["lan.example".to_owned()])
    );
    let ports: Vec<_> = config
        .port_mappings
        .iter()
        .map(|p| (p.container_port, p.host_port, p.protocol))
        .collect();
    assert_eq!(ports, [(80, 8080, 0), (53, 0, 1)]);
    let linux = config.linux.expect("linux");
    assert_eq!(linux.cgroup_parent, "/kubepods/burstable/pod1-2-3");
    let resources = linux.resources.expect("resources");
    assert_eq!(
        (
            resources.cpu_shares,
            resources.cpu_quota,
            resources.memory_limit_in_bytes
        ),
        (256, 50_000, 64 << 20)
    );
    let security = linux.security_context.expect("security");
    assert!(security.privileged);
    assert_eq!(security.supplemental_groups, [2000, 3000]);
    let namespaces = security.namespace_options.expect("namespaces");
    assert_eq!(namespaces.pid, i32::from(NamespaceMode::Pod));
}

#[tokio::test]
async fn name_servers_of_the_cluster_come_first() {
    let root = tempfile::tempdir().expect("tempdir");
    let (mut ctx, _) = context(
        root.path(),
        json!({
            "dnsPolicy": "ClusterFirst",
            "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["own.example"], "options": [{"name": "ndots", "value": "2"}, {"name": "single"}]},
            "containers": [],
        }),
    );
    assert!(is_cluster_dns_missing(&ctx));
    let mut settings = (*ctx.settings).clone();
    settings.cluster_dns = vec!["169.254.96.16".parse().expect("ip")];
    ctx.settings = settings.into();
    assert!(!is_cluster_dns_missing(&ctx));
    let dns = sandbox_config(&ctx, 0).await.expect("sandbox").dns_config.expect("dns");
    assert_eq!(dns.servers, ["169.254.96.16", "1.1.1.1"]);
    assert_eq!(
        dns.searches,
        [
            "shop.svc.cluster.local",
            "svc.cluster.local",
            "cluster.local",
            "lan.example",
            "own.example"
        ]
    );
    assert_eq!(dns.options, ["ndots:2", "single"]);
}

#[tokio::test]
async fn a_container() {
    let root = tempfile::tempdir().expect("tempdir");
    let (ctx, _) = context(
        root.path(),
        json!({
            "hostAliases": [{"ip": "10.1.1.1", "hostnames": ["a", "b"]}],
            "terminationGracePeriodSeconds": 30,
            "containers": [{
                "name": "app", "image": "nginx", "command": ["sh", "$(GREETING)"], "args": ["$$(GREETING)", "$(NONE)"], "tty": true,
                "env": [{"name": "GREETING", "value": "hello"}],
                "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}],
                "lifecycle": {"preStop": {"httpGet": {"path": "/bye?a<b", "port": 80, "scheme": "HTTP"}}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "volumeMounts": [{"name": "data", "mountPath": "srv", "readOnly": true, "mountPropagation": "HostToContainer"}],
                "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                                    "seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"}},
            }],
        }),
    );
    let config = described(&ctx, &image()).await.expect("container");
    assert_eq!(config.command, ["sh", "hello"]);
    assert_eq!(config.args, ["$(GREETING)", "$(NONE)"]);
    assert_eq!(config.log_path, "app/2.log");
    assert!(root.path().join("pods/shop_web_1-2-3/app").is_dir());
    assert_eq!(config.labels.len(), 4);
    let annotations: BTreeMap<_, _> = config
        .annotations
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    let expected = [
        (
            "io.kubernetes.container.hash",
            container_hash(&ctx.spec().containers[0]),
        ),
        (
            "io.kubernetes.container.ports",
            r#"[{"name":"http","containerPort":80,"protocol":"TCP"}]"#.into(),
        ),
        (
            "io.kubernetes.container.preStopHandler",
            r#"{"httpGet":{"path":"/bye?a\u003cb","port":80,"scheme":"HTTP"}}"#.into(),
        ),
        ("io.kubernetes.container.restartCount", "2".into()),
        (
            "io.kubernetes.container.terminationMessagePath",
            "/dev/termination-log".into(),
        ),
        ("io.kubernetes.container.terminationMessagePolicy", "File".into()),
        ("io.kubernetes.pod.terminationGracePeriod", "30".into()),
    ];
    assert_eq!(annotations, expected.iter().map(|(k, v)| (*k, v.as_str())).collect());

    let mounts: Vec<_> = config
        .mounts
        .iter()
        .map(|m| (m.container_path.as_str(), m.readonly, m.propagation))
        .collect();
    assert_eq!(
        mounts,
        [
            ("/srv", true, 1),
            ("/etc/hosts", false, 0),
            ("/dev/termination-log", false, 0)
        ]
    );
    let hosts = std::fs::read_to_string(ctx.dir().join("etc-hosts")).expect("hosts");
    assert_eq!(
        hosts,
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
         10.244.1.7\tweb\n\n# Entries added by HostAliases.\n10.1.1.1\ta\tb\n"
    );

    let linux = config.linux.expect("linux");
    let resources = linux.resources.expect("resources");
    assert_eq!(
        (resources.cpu_shares, resources.cpu_quota, resources.cpu_period),
        (102, 0, 100_000)
    );
    assert_eq!(
        (resources.memory_limit_in_bytes, resources.oom_score_adj),
        (512 << 20, 750)
    );
    let security = linux.security_context.expect("security");
    assert!(security.no_new_privs);
    assert_eq!(security.run_as_user.map(|user| user.value), Some(0));
    assert_eq!(
        security.capabilities.map(|c| c.drop_capabilities),
        Some(vec!["ALL".to_owned()])
    );
    assert_eq!(
        security.seccomp.map(|s| s.localhost_ref),
        Some("/var/lib/kubelet/seccomp/p.json".to_owned())
    );
    assert_eq!(security.masked_paths.len(), 11);
}

#[tokio::test]
async fn environments() {
    let root = tempfile::tempdir().expect("tempdir");
    let map = json!({"metadata": {"name": "m"}, "data": {"A": "1", "B": "2", "": "x"}});
    let secret = json!({"metadata": {"name": "s"}, "data": {"PASSWORD": "c2VjcmV0"}});
    let objects = [("shop/configmap/m", map), ("shop/secret/s", secret)];
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let amount =
        |resource: &str, divisor: &str| json!({"resourceFieldRef": {"resource": resource, "divisor": divisor}});
    let env = environment_of(
        root.path(),
        json!({
            "envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "S_", "secretRef": {"name": "s"}},
                        {"configMapRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "A", "value": "own $(B) $(S_PASSWORD) $(LATER)"},
                {"name": "LATER", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "B"}}},
                {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "none", "optional": true}}},
                {"name": "NAME", "valueFrom": field("metadata.name")},
                {"name": "UID", "valueFrom": field("metadata.uid")},
                {"name": "APP", "valueFrom": field("metadata.labels['app']")},
                {"name": "NOTES", "valueFrom": field("metadata.annotations")},
                {"name": "ACCOUNT", "valueFrom": field("spec.serviceAccountName")},
                {"name": "HOST", "valueFrom": field("status.hostIP")},
                {"name": "IPS", "valueFrom": field("status.podIPs")},
                {"name": "CPU", "valueFrom": amount("requests.cpu", "1")},
                {"name": "MCPU", "valueFrom": amount("requests.cpu", "1m")},
                {"name": "CPU_LIMIT", "valueFrom": amount("limits.cpu", "1m")},
                {"name": "MEMORY", "valueFrom": amount("limits.memory", "1Mi")},
                {"name": "DEFAULT", "valueFrom": amount("limits.memory", "0")},
            ],
            "resources": {"requests": {"cpu": "250m"}},
        }),
        &objects,
    )
    .await
    .expect("environment");
    let memory = (900_u64 << 20).to_string();
    let expected = [
        ("A", "own 2 secret $(LATER)"),
        ("B", "2"),
        ("S_PASSWORD", "secret"),
        ("LATER", "2"),
        ("NAME", "web"),
        ("UID", "1-2-3"),
        ("APP", "web"),
        ("NOTES", "note=\"a \\\"b\\\"\""),
        ("ACCOUNT", "robot"),
        ("HOST", "192.168.1.5"),
        ("IPS", "10.244.1.7"),
        ("CPU", "1"),
        ("MCPU", "250"),
        ("CPU_LIMIT", "1800"),
        ("MEMORY", "900"),
        ("DEFAULT", memory.as_str()),
    ];
    assert_eq!(env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[tokio::test]
async fn what_an_environment_lacks_is_named() {
    let root = tempfile::tempdir().expect("tempdir");
    let secret = json!({"metadata": {"name": "s"}, "data": {}});
    for (env, expected) in [
        (
            json!({"secretKeyRef": {"name": "s", "key": "k"}}),
            "couldn't find key k in Secret shop/s",
        ),
        (
            json!({"secretKeyRef": {"name": "t", "key": "k"}}),
            "secrets \"t\" not found",
        ),
        (
            json!({"configMapKeyRef": {"name": "m", "key": "k"}}),
            "configmaps \"m\" not found",
        ),
        (
            json!({"fieldRef": {"fieldPath": "status.phase"}}),
            "unsupported fieldPath: status.phase",
        ),
    ] {
        let container = json!({"env": [{"name": "X", "valueFrom": env}]});
        let error = environment_of(root.path(), container, &[("shop/secret/s", secret.clone())])
            .await
            .expect_err("error");
        assert_eq!(
            (error.reason, error.message.as_str()),
            ("CreateContainerConfigError", expected)
        );
    }
}

#[tokio::test]
async fn the_api_server_is_named_only_where_pods_can_reach_it() {
    let root = tempfile::tempdir().expect("tempdir");
    let spec = json!({"containers": [{"name": "app", "env": [{"name": "KUBERNETES_SERVICE_PORT", "value": "1"}]}]});
    let (mut ctx, _) = context(root.path(), spec);
    assert_eq!(described(&ctx, &image()).await.expect("container").envs.len(), 1);
    let mut settings = (*ctx.settings).clone();
    settings.meta_server = Some("169.254.30.10:10550".parse().expect("address"));
    ctx.settings = settings.into();
    let env = described(&ctx, &image()).await.expect("container").envs;
    let env: Vec<_> = env
        .iter()
        .map(|pair| (pair.key.as_str(), pair.value.as_str()))
        .collect();
    assert_eq!(
        env,
        [
            ("KUBERNETES_SERVICE_PORT", "1"),
            ("KUBERNETES_SERVICE_HOST", "169.254.30.10")
        ]
    );
}

#[tokio::test]
async fn root_is_refused_where_the_pod_says_so() {
    let root = tempfile::tempdir().expect("tempdir");
    let run = |security: Value, uid: Option<i64>, username: &str| {
        let (ctx, _) = context(
            root.path(),
            json!({
                "securityContext": {"runAsNonRoot": true},
                "containers": [{"name": "app", "securityContext": security}],
            }),
        );
        let image = ResolvedImage {
            uid,
            username: username.to_owned(),
            ..image()
        };
        async move { described(&ctx, &image).await.map(|_| ()).map_err(|error| error.message) }
    };
    let pod = "pod: \"web_shop(1-2-3)\", container: app";
    assert_eq!(run(json!({}), Some(101), "").await, Ok(()));
    assert_eq!(run(json!({"runAsUser": 5}), Some(0), "").await, Ok(()));
    assert_eq!(run(json!({"runAsNonRoot": false}), Some(0), "").await, Ok(()));
    assert_eq!(
        run(json!({"runAsUser": 0}), Some(101), "").await,
        Err(format!("container's runAsUser breaks non-root policy ({pod})"))
    );
    assert_eq!(
        run(json!({}), Some(0), "").await,
        Err(format!("container has runAsNonRoot and image will run as root ({pod})"))
    );
    assert_eq!(
        run(json!({}), None, "nginx").await,
        Err(format!(
            "container has runAsNonRoot and image has non-numeric user (nginx), cannot verify user is non-root ({pod})"
        ))
    );
}

#[test]
fn oom_scores_are_those_of_kubelet() {
    let root = tempfile::tempdir().expect("tempdir");
    let score = |spec: Value| {
        let (ctx, _) = context(root.path(), spec);
        let container = ctx
            .spec()
            .init_containers
            .iter()
            .flatten()
            .next()
            .unwrap_or_else(|| &ctx.spec().containers[0])
            .clone();
        super::oom::oom_score_adj(&ctx, &container).expect("score")
    };
    let asks = |memory: &str| json!({"requests": {"memory": memory}});
    let one = |resources: Value| json!({"containers": [{"name": "a", "resources": resources}]});
    let full = json!({"cpu": "1", "memory": "1Gi"});
    assert_eq!(score(one(json!({}))), 1000);
    assert_eq!(score(one(json!({"requests": full, "limits": full}))), -997);
    assert_eq!(score(one(asks("1Gi"))), 3);
    assert_eq!(score(one(asks("1Ki"))), 999);
    assert_eq!(score(one(asks("512Mi"))), 500);
    assert_eq!(
        score(json!({"priorityClassName": "system-node-critical", "containers": [{"name": "a"}]})),
        -997
    );
    // A sidecar is not killed before what it serves.
    assert_eq!(
        score(json!({
            "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "resources": asks("512Mi")}],
        })),
        500
    );
}

#[test]
fn log_links_stay_within_the_limit_of_names() {
    let root = tempfile::tempdir().expect("tempdir");
    let (ctx, _) = context(root.path(), json!({"containers": []}));
    let link = container_log_link(&ctx, "app", "0123");
    assert_eq!(link, root.path().join("containers/web_shop_app-0123.log"));
    let link = container_log_link(&ctx, &"c".repeat(300), "0123");
    assert_eq!(link.file_name().map(std::ffi::OsStr::len), Some(255));
}
