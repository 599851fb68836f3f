//! What users do with workloads; each step converges in the API and in containerd.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Entry, IDLE, bare, web};
use crate::api::{self, elements, text};
use crate::edge::BUSYBOX;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("node_ready", false, node_ready),
    ("node_label", false, node_label),
    ("deployment_life", false, deployment_life),
    ("force_delete", false, force_delete),
    ("bare_pod", false, bare_pod),
    ("daemonset", false, daemonset),
];

/// The version that peers and dashboards look for.
const VERSION: &str = "v1.32.10-kubeedge-v1.23.1";

/// The node says Ready with the labels, the version and the facts that others rely on, and renews its lease.
fn node_ready(context: &mut Context) -> Result<()> {
    let ours = context.ours();
    let system = context.system()?;
    let path = api::node_path(system.edge.name());
    let node = wait::quietly("the node's labels", seconds(10), || {
        let node = system.api().must(&path)?;
        let labels = node.pointer("/metadata/labels");
        for label in [
            "node-role.kubernetes.io/edge",
            "node-role.kubernetes.io/agent",
            "kubernetes.io/hostname",
            "kubernetes.io/arch",
        ] {
            // Go's cloudcore adds them when the node exists already.
            let present = labels.is_some_and(|labels| labels.get(label).is_some());
            ensure!(present, "the label {label} is missing: {labels:?}");
        }
        Ok(Some(node))
    })?;
    let roles = system
        .cluster
        .kubectl(&["get", "node", system.edge.name(), "--no-headers"])?;
    ensure!(roles.contains("agent,edge"), "kubectl get node says {roles}");
    let version = text(&node, "/status/nodeInfo/kubeletVersion");
    ensure!(
        if ours {
            version == VERSION
        } else {
            version.contains("-kubeedge-v")
        },
        "kubeletVersion is {version}"
    );
    ensure!(
        text(&node, "/status/nodeInfo/containerRuntimeVersion").starts_with("containerd://"),
        "runtime version"
    );
    for resource in ["cpu", "memory", "pods", "ephemeral-storage"] {
        ensure!(
            node.pointer(&format!("/status/allocatable/{resource}")).is_some(),
            "no allocatable {resource}"
        );
    }
    let address = system.edge.number().address();
    let found = elements(&node, "/status/addresses").any(|one| text(one, "/address") == address);
    ensure!(found, "{address} is not among the node's addresses");
    let lease = format!(
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}",
        system.edge.name()
    );
    let renewed = |system: &System| anyhow::Ok(text(&system.api().must(&lease)?, "/spec/renewTime").to_owned());
    let first = wait::quietly("the node's lease", seconds(30), || renewed(system).map(Some))?;
    wait::until("lease renewed", seconds(40), || {
        Ok((renewed(system)? != first).then_some(()))
    })
}

/// A label and an annotation set by an operator stay, and the edge's own labels stay with them.
fn node_label(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let name = system.edge.name().to_owned();
    system
        .cluster
        .kubectl(&["label", "node", &name, "--overwrite", "e2e=one"])?;
    let namespace = system.namespace("label")?;
    let manifest = web("labelled", 1).replace("node-role.kubernetes.io/edge: \"\"", "e2e: one");
    system.cluster.apply(&namespace, &manifest)?;
    system.converged("pod selected by the new label runs", &namespace, 1, 60)?;
    system.cluster.kubectl(&["label", "node", &name, "e2e-"])?;
    wait::stays("labels after the change", seconds(12), || {
        let node = system.api().must(&api::node_path(&name))?;
        let labels = node.pointer("/metadata/labels").context("no labels")?;
        Ok(labels.get("e2e").is_none() && labels.get("node-role.kubernetes.io/edge").is_some())
    })?;
    system.clean(&namespace)
}

/// A Deployment with a ConfigMap, a Secret and a probe: its page fetched, scaled up and down, rolled, deleted.
fn deployment_life(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("deployment")?;
    system.cluster.apply(&namespace, &web("web", 1))?;
    let pods = system.converged("Deployment Running", &namespace, 1, 60)?;
    let address = text(pods.first().context("one pod")?, "/status/podIP").to_owned();
    let page = system.edge.fetch(&format!("http://{address}:8080/page"))?;
    ensure!(page == "hello one\n", "the page is {page:?}");
    let pod = api::name(pods.first().context("one pod")?).to_owned();
    let container = system.edge.container(&namespace, &pod, "web")?;
    let secret = system.edge.exec(&container, &["cat", "/secret/password"])?;
    ensure!(secret.trim() == "open sesame", "the Secret's file holds {secret:?}");
    let environment = system
        .edge
        .exec(&container, &["sh", "-c", "tr '\\0' '\\n' < /proc/1/environ"])?;
    ensure!(
        environment.lines().any(|line| line == "PASSWORD=open sesame"),
        "the Secret is not in the environment"
    );

    let scale = |system: &System, n: u32| {
        system
            .cluster
            .kubectl(&["-n", &namespace, "scale", "deployment/web", &format!("--replicas={n}")])
    };
    scale(system, 4)?;
    system.converged("scaled up to 4", &namespace, 4, 60)?;
    scale(system, 2)?;
    let before = system.converged("scaled down to 2", &namespace, 2, 60)?;

    let change = json!({"spec": {"template": {"metadata": {"annotations": {"e2e": "two"}}}}});
    system.api().patch(
        &format!("/apis/apps/v1/namespaces/{namespace}/deployments/web"),
        &change,
    )?;
    system
        .cluster
        .kubectl(&["-n", &namespace, "rollout", "status", "deployment/web", "--timeout=60s"])?;
    let after = system.converged("rolled", &namespace, 2, 60)?;
    ensure!(
        after
            .iter()
            .all(|pod| before.iter().all(|old| api::name(old) != api::name(pod))),
        "a pod survived the rolling update"
    );

    system
        .cluster
        .kubectl(&["-n", &namespace, "delete", "deployment/web"])?;
    system.converged("deleted", &namespace, 0, 60)?;
    system.clean(&namespace)
}

/// A pod deleted by force goes from the API at once and from containerd soon after.
fn force_delete(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("force")?;
    let stubborn = r#"    command: [sh, -c, "trap '' TERM; while :; do sleep 1; done"]"#;
    let manifest =
        bare("stubborn", system.edge.name(), "", stubborn).replace("GracePeriodSeconds: 1", "GracePeriodSeconds: 600");
    system.cluster.apply(&namespace, &manifest)?;
    system.converged("stubborn pod Running", &namespace, 1, 60)?;
    system.cluster.kubectl(&[
        "-n",
        &namespace,
        "delete",
        "pod",
        "stubborn",
        "--force",
        "--grace-period=0",
    ])?;
    system.converged("gone from the API and containerd", &namespace, 0, 30)?;
    system.clean(&namespace)
}

/// A bare pod bound by nodeName runs, and is deleted within its grace period.
fn bare_pod(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("bare")?;
    system
        .cluster
        .apply(&namespace, &bare("bare", system.edge.name(), "", IDLE))?;
    let pods = system.converged("bare pod Running", &namespace, 1, 60)?;
    let pod = pods.first().context("one pod")?;
    ensure!(
        text(pod, "/status/phase") == "Running",
        "phase is {}",
        text(pod, "/status/phase")
    );
    ensure!(
        text(pod, "/status/hostIP") == system.edge.number().address(),
        "hostIP is {}",
        text(pod, "/status/hostIP")
    );
    ensure!(text(pod, "/status/qosClass") == "BestEffort", "qosClass");
    for kind in ["PodScheduled", "Initialized", "ContainersReady", "Ready"] {
        ensure!(
            api::condition(pod, kind) == "True",
            "condition {kind} is {:?}",
            api::condition(pod, kind)
        );
    }
    system
        .cluster
        .kubectl(&["-n", &namespace, "delete", "pod", "bare", "--wait=false"])?;
    system.converged("bare pod deleted", &namespace, 0, 20)?;
    system.clean(&namespace)
}

/// A DaemonSet on edges gets one pod here; without its label it loses it.
fn daemonset(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("daemon")?;
    let name = system.edge.name().to_owned();
    system
        .cluster
        .kubectl(&["label", "node", &name, "--overwrite", "e2e-daemon=yes"])?;
    let manifest = format!(
        r#"apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec:
      hostNetwork: true
      nodeSelector: {{e2e-daemon: "yes"}}
      tolerations: [{{operator: Exists}}]
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {BUSYBOX}
        imagePullPolicy: IfNotPresent
{IDLE}
"#,
        IDLE = IDLE.replace("    command", "        command")
    );
    system.cluster.apply(&namespace, &manifest)?;
    let pods = system.converged("DaemonSet's pod Running", &namespace, 1, 60)?;
    let pod = pods.first().context("one pod")?;
    ensure!(
        text(pod, "/status/podIP") == system.edge.number().address(),
        "a hostNetwork pod has the node's address"
    );
    system.cluster.kubectl(&["label", "node", &name, "e2e-daemon-"])?;
    system.converged("pod gone with the label", &namespace, 0, 60)?;
    system.clean(&namespace)
}
