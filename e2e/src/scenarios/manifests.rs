//! The manifests of `e2e/manifests` on an edge and on a real kubelet: equal statuses.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::Entry;
use crate::api::{self, text};
use crate::oracle::{differences, masked_status, settled};
use crate::system::{Context, System};
use crate::wait::{pause, seconds};

pub(super) const LIST: &[Entry] = &[("oracle", false, oracle)];

/// The ordinary node.
pub(super) const KUBELET: &str = "cloud-1";
/// Time in which all manifests must have come to their state on both nodes, with equal statuses.
const LIMIT: u64 = 150;

/// The annotation `e2e/known` of a manifest names what Go's edgecore is known to do otherwise; it runs with ours only.
///
/// Runs each manifest on both nodes until the kubelet's pod is in the state that the manifest names and both statuses are
/// equal.
fn oracle(context: &mut Context) -> Result<()> {
    let folder = context.settings.root.join("e2e/manifests");
    let ours = context.ours();
    let system = context.system()?;
    system.cluster.start_node(KUBELET)?;
    let result = compare_all(system, &folder.to_string_lossy(), ours);
    system.cluster.stop_node(KUBELET)?;
    result
}

fn compare_all(system: &System, folder: &str, ours: bool) -> Result<()> {
    // kubectl prints one JSON document after the other.
    let text_of_all = system
        .cluster
        .kubectl(&["create", "--dry-run=client", "-o", "json", "-f", folder])?;
    let items: Vec<Value> = serde_json::Deserializer::from_str(&text_of_all)
        .into_iter()
        .collect::<Result<_, _>>()
        .context("kubectl's JSON of the manifests")?;
    let edge = system.edge.name().to_owned();
    let mut namespaces = Vec::new();
    let mut names = BTreeMap::new();
    for (name, node) in [("oracle-edge", edge.as_str()), ("oracle-kubelet", KUBELET)] {
        let namespace = system.namespace(name)?;
        for item in &items {
            if !ours && !text(item, "/metadata/annotations/e2e~1known").is_empty() {
                continue;
            }
            let mut item = item.clone();
            let metadata = item
                .pointer_mut("/metadata")
                .and_then(Value::as_object_mut)
                .context("metadata")?;
            metadata.insert("namespace".to_owned(), json!(namespace));
            let path = match text(&item, "/kind") {
                "Pod" => {
                    let spec = item
                        .pointer_mut("/spec")
                        .and_then(Value::as_object_mut)
                        .context("spec")?;
                    spec.insert("nodeName".to_owned(), json!(node));
                    names.insert(
                        api::name(&item).to_owned(),
                        text(&item, "/metadata/annotations/e2e~1until").to_owned(),
                    );
                    "pods"
                }
                "ConfigMap" => "configmaps",
                "Secret" => "secrets",
                other => bail!("{folder} has a {other}"),
            };
            system
                .api()
                .create(&format!("/api/v1/namespaces/{namespace}/{path}"), &item)?;
        }
        namespaces.push(namespace);
    }
    let [at_edge, at_kubelet] = namespaces.as_slice() else {
        bail!("two namespaces")
    };
    ensure!(names.len() >= 20, "only {} manifests", names.len());
    let left = wait_equal(system, at_edge, at_kubelet, names)?;
    system.clean(at_edge)?;
    system.clean(at_kubelet)?;
    ensure!(
        left.is_empty(),
        "{} differences (edge | kubelet):\n{}",
        left.len(),
        left.join("\n")
    );
    Ok(())
}

/// Looks at all pods until each pair was once equal in its settled state; returns what never was.
fn wait_equal(system: &System, edge: &str, kubelet: &str, mut names: BTreeMap<String, String>) -> Result<Vec<String>> {
    let total = names.len();
    let mut report = Vec::new();
    for second in 0..LIMIT {
        let by_name = |namespace: &str| -> Result<BTreeMap<String, Value>> {
            Ok(system
                .pods(namespace)?
                .into_iter()
                .map(|pod| (api::name(&pod).to_owned(), pod))
                .collect())
        };
        let (ours, theirs) = (by_name(edge)?, by_name(kubelet)?);
        report.clear();
        names.retain(|name, until| {
            let (Some(one), Some(other)) = (ours.get(name), theirs.get(name)) else {
                report.push(format!("{name}: a pod is missing"));
                return true;
            };
            let mut lines = differences(&masked_status(one), &masked_status(other));
            if !settled(other, until) {
                lines.push(format!("the kubelet's is not yet {until}"));
            }
            report.extend(lines.iter().map(|line| format!("  {name}: {line}")));
            !lines.is_empty()
        });
        if names.is_empty() {
            println!("    {total} manifests equal after {second} s");
            return Ok(Vec::new());
        }
        pause(seconds(1));
    }
    Ok(report)
}
