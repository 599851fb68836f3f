//! The mark of a link that is cut so that neither end is told, while a pod is created and a ConfigMap changes.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::link::SEED;
use super::{Bench, CUT, LIMIT, idle_pod};
use crate::api;
use crate::edge::{EdgeHost, Wire};
use crate::settings::Settings;
use crate::wait::{self, pause};

/// Its name.
pub(super) const NAME: &str = "recover@silent";
const NODE: &str = "silent";

impl Bench {
    /// The link cut silently for 42 s: all applied after it is back, the ConfigMap where containers read it.
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
        let namespace = self.system.namespace("silent")?;
        let (pods, node) = (api::pods_path(&namespace), api::node_path(NODE));
        let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
        let map = json!({"metadata": {"name": "map"}, "data": {"page": "one"}});
        self.system.api().create(&maps, &map)?;
        self.system.api().create(&pods, &reader("stays"))?;
        wait::quietly("a pod that reads the ConfigMap", LIMIT, || {
            self.read_by(edge, &namespace, &["stays"], "one")
        })?;

        edge.link()?.cut();
        let start = Instant::now();
        self.system.api().create(&pods, &reader("comes"))?;
        let change = json!({"data": {"page": "two"}});
        self.system.api().patch(&format!("{maps}/map"), &change)?;
        wait::quietly("API shows the node not Ready", LIMIT, || {
            let node = self.system.api().must(&node)?;
            Ok((api::condition(&node, "Ready") != "True").then_some(()))
        })?;
        pause(CUT.saturating_sub(start.elapsed()));

        edge.link()?.heal();
        let start = Instant::now();
        wait::quietly("node Ready again and changes applied", LIMIT, || {
            let node = self.system.api().must(&node)?;
            if api::condition(&node, "Ready") != "True" {
                return Ok(None);
            }
            self.read_by(edge, &namespace, &["comes", "stays"], "two")
        })?;
        let took = start.elapsed().as_secs_f64();
        let note = "runs=1 after a silent cut of 42 s: Ready, one pod started, a ConfigMap changed in both containers";
        self.push(NAME, took, "s", note.to_owned());
        self.delete(&namespace)?;
        self.system.clean(&namespace)?;
        edge.stop_edgecore()
    }

    /// Whether the namespace has exactly these pods, Ready, and their containers see that page.
    fn read_by(&self, edge: &EdgeHost, namespace: &str, names: &[&str], page: &str) -> Result<Option<()>> {
        let pods = self.system.pods(namespace)?;
        if !pods.iter().map(api::name).eq(names.iter().copied()) || !pods.iter().all(api::is_ready) {
            return Ok(None);
        }
        for name in names {
            let container = edge.container(namespace, name, "main")?;
            if edge.exec(&container, &["cat", "/map/page"])? != page {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }
}

fn reader(name: &str) -> Value {
    let mut pod = idle_pod(name, NODE);
    pod["spec"]["volumes"] = json!([{"name": "map", "configMap": {"name": "map"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "map", "mountPath": "/map"}]);
    pod
}
