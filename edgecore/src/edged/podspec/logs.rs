//! Where logs lie (spec 05 §6, row 30).

use std::path::PathBuf;

use crate::edged::context::PodContext;

/// `/var/log/pods/<namespace>_<name>_<uid>`.
pub fn pod_log_dir(ctx: &PodContext) -> PathBuf {
    ctx.settings
        .pod_logs_directory
        .join(format!("{}_{}_{}", ctx.namespace(), ctx.name(), ctx.uid()))
}

/// The folder of one container's logs.
pub fn container_log_dir(ctx: &PodContext, container: &str) -> PathBuf {
    pod_log_dir(ctx).join(container)
}

/// The log of one run, seen from the pod's folder.
pub fn container_log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

/// The link under `/var/log/containers` that log collectors read.
pub fn container_log_link(ctx: &PodContext, container: &str, id: &str) -> PathBuf {
    ctx.settings
        .container_log_link(ctx.namespace(), ctx.name(), container, id)
}
