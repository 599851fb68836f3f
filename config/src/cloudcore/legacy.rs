//! Forms of older releases of cloudcore.yaml, turned into today's; one warning for each key.

use crate::decode::Reader;
use crate::legacy::{Rule, moved_note, rename};
use crate::yaml::Node;

/// Keys of `modules.*` that today's releases no longer have.
const DROPPED: &[(&str, &[&str])] = &[
    ("edgeController", &["context"]),
    ("deviceController", &["context"]),
    ("syncController", &["context"]),
];
const DROPPED_BUFFERS: &[&str] = &["queryService", "queryEndpoints", "serviceEvent", "endpointsEvent"];
const DROPPED_LOADS: &[&str] = &["queryServiceWorkers", "queryEndpointsWorkers"];

pub(super) fn translate(node: &mut Node, reader: &mut Reader) {
    let Some(modules) = node.get_mut("modules") else { return };
    for (module, keys) in DROPPED {
        if let Some(section) = modules.get_mut(module) {
            for key in *keys {
                rename(section, &["modules", module], key, &Rule::Drop, reader);
            }
        }
    }
    if let Some(controller) = modules.get_mut("edgeController") {
        for (part, keys) in [("buffer", DROPPED_BUFFERS), ("load", DROPPED_LOADS)] {
            if let Some(section) = controller.get_mut(part) {
                for key in keys {
                    rename(section, &["modules", "edgeController", part], key, &Rule::Drop, reader);
                }
            }
        }
    }
    node_upgrade_jobs(modules, reader);
    rename(modules, &["modules"], "imagePrePullController", &Rule::Drop, reader);
}

/// `nodeUpgradeJobController` (v1.12 to v1.15) became `taskManager`.
fn node_upgrade_jobs(modules: &mut Node, reader: &mut Reader) {
    let Some(mut old) = modules.take("nodeUpgradeJobController") else {
        return;
    };
    let path = "modules.nodeUpgradeJobController";
    if modules.get("taskManager").is_some() {
        reader.warn_at(
            old.line,
            path,
            "key of an older release, ignored: modules.taskManager is set as well".to_owned(),
        );
        return;
    }
    reader.warn_at(old.line, path, moved_note("modules.taskManager"));
    for (part, from, to) in [
        ("buffer", "updateNodeUpgradeJobStatus", "taskStatus"),
        ("buffer", "nodeUpgradeJobEvent", "taskEvent"),
        ("load", "nodeUpgradeJobWorkers", "taskWorkers"),
    ] {
        if let Some(section) = old.value.get_mut(part)
            && let Some(entry) = section.take(from)
        {
            section.insert(to, entry.line, entry.value);
        }
    }
    modules.insert("taskManager", old.line, old.value);
}
