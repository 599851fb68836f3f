//! The marks of a link that is cut, by its interface or so that neither end is told, while the cluster changes what the edge is to run.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::link::SEED;
use super::{Bench, CUT, LIMIT, idle_pod};
use crate::api;
use crate::edge::{EdgeHost, Wire};
use crate::link::Link;
use crate::settings::Settings;
use crate::wait::{self, pause};

/// Their names.
pub(super) const BY_INTERFACE: &str = "recover";
pub(super) const SILENTLY: &str = "recover@silent";
const NODE: &str = "silent";
/// The pod that is deleted during the cut.
const GOES: &str = "goes";

impl Bench {
    /// The link of the shared edge cut by its interface.
    pub(super) fn recover(&mut self) -> Result<()> {
        let edge = &self.system.edge;
        let took = self.recovered(edge, || edge.set_link(false), || edge.set_link(true))?;
        self.push(BY_INTERFACE, took, "s", note("a cut"));
        Ok(())
    }

    /// The link of a further edge cut silently.
    pub(super) fn recover_silently(&mut self, settings: &Settings, run: &Path) -> Result<()> {
        let mut edge = EdgeHost::start(settings, run, NODE, Wire::Tun(SEED))?;
        let outcome = self.silently(&mut edge);
        let tails = || edge.log_tails().into_iter().map(|(_, tail)| tail).collect::<String>();
        outcome.with_context(tails)?;
        drop(edge);
        self.system.api().delete(&api::node_path(NODE))
    }

    fn silently(&mut self, edge: &mut EdgeHost) -> Result<()> {
        self.joined(edge)?;
        let host = &*edge;
        let took = self.recovered(host, || host.link().map(Link::cut), || host.link().map(Link::heal))?;
        self.push(SILENTLY, took, "s", note("a silent cut"));
        edge.stop_edgecore()
    }

    /// The link cut for 42 s while a Deployment is scaled up, its ConfigMap changes and a pod is deleted. Returns the seconds from the
    /// link's return until the node is Ready and all is applied, by the API, by containerd, and where containers read the ConfigMap.
    fn recovered(&self, edge: &EdgeHost, cut: impl Fn() -> Result<()>, heal: impl Fn() -> Result<()>) -> Result<f64> {
        let namespace = self.system.namespace("recover")?;
        let (pods, node) = (api::pods_path(&namespace), api::node_path(edge.name()));
        let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
        let deployments = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
        let cluster = self.system.api();
        let map = json!({"metadata": {"name": "map"}, "data": {"page": "one"}});
        cluster.create(&maps, &map)?;
        cluster.create(&deployments, &readers(edge.name()))?;
        cluster.create(&pods, &reader(GOES, edge.name()))?;
        wait::quietly("two pods that read the ConfigMap", LIMIT, || {
            self.read_by_two(edge, &namespace, "one")
        })?;

        cut()?;
        let start = Instant::now();
        cluster.patch(&format!("{deployments}/readers"), &json!({"spec": {"replicas": 2}}))?;
        cluster.patch(&format!("{maps}/map"), &json!({"data": {"page": "two"}}))?;
        cluster.delete(&format!("{pods}/{GOES}"))?;
        wait::quietly("API shows the node not Ready", LIMIT, || {
            Ok((api::condition(&cluster.must(&node)?, "Ready") != "True").then_some(()))
        })?;
        pause(CUT.saturating_sub(start.elapsed()));

        heal()?;
        let start = Instant::now();
        wait::quietly("node Ready again and changes applied", LIMIT, || {
            if api::condition(&cluster.must(&node)?, "Ready") != "True" {
                return Ok(None);
            }
            self.read_by_two(edge, &namespace, "two")
        })?;
        let took = start.elapsed().as_secs_f64();
        self.system.clean(&namespace)?;
        Ok(took)
    }

    /// Whether the namespace has two pods, both Ready, with one container each, all of which see that page.
    fn read_by_two(&self, edge: &EdgeHost, namespace: &str, page: &str) -> Result<Option<()>> {
        let pods = self.system.pods(namespace)?;
        let running = edge.containers(namespace)?.len();
        if pods.len() != 2 || running != 2 || !pods.iter().all(api::is_ready) {
            return Ok(None);
        }
        for pod in &pods {
            let container = edge.container(namespace, api::name(pod), "main")?;
            if edge.exec(&container, &["cat", "/map/page"])? != page {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }
}

fn note(cut: &str) -> String {
    format!(
        "runs=1 after {cut} of 42 s: Ready, a Deployment scaled up, a ConfigMap changed in both containers, a pod gone"
    )
}

/// A Deployment of one pod on a node.
fn readers(node: &str) -> Value {
    let labels = json!({"app": "reader"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "readers"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": reader("reader", node)["spec"]}}})
}

fn reader(name: &str, node: &str) -> Value {
    let mut pod = idle_pod(name, node);
    pod["spec"]["volumes"] = json!([{"name": "map", "configMap": {"name": "map"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "map", "mountPath": "/map"}]);
    pod
}
