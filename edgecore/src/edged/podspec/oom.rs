//! Whom the kernel kills first when memory runs out (spec 05 §6, row 22).

use k8s_openapi::api::core::v1::Container;

use super::qos::QosClass;
use super::resources::{is_sidecar, request};
use crate::edged::context::PodContext;
use crate::edged::context::SpecError;

/// `oom_score_adj` of a container.
pub(super) fn oom_score_adj(ctx: &PodContext, container: &Container) -> Result<i64, SpecError> {
    let spec = ctx.spec();
    if spec.priority_class_name.as_deref() == Some("system-node-critical") {
        return Ok(GUARANTEED);
    }
    match ctx.qos() {
        QosClass::Guaranteed => return Ok(GUARANTEED),
        QosClass::BestEffort => return Ok(BEST_EFFORT),
        QosClass::Burstable => {}
    }
    let capacity = ctx.node.memory_bytes.max(1);
    let score = |bytes: i64| 1000 - bytes.saturating_mul(1000) / capacity;
    let mut adjust = score(request(ctx, container, "memory")?.value());
    let is_init = spec.init_containers.iter().flatten().any(|c| c.name == container.name);
    if is_init && is_sidecar(container) {
        // A sidecar must not be killed before the containers that it serves.
        let mut least = None::<i64>;
        for other in &spec.containers {
            let bytes = request(ctx, other, "memory")?.value();
            least = Some(least.map_or(bytes, |least| least.min(bytes)));
        }
        adjust = adjust.min(score(least.unwrap_or_default()));
    }
    Ok(adjust.clamp(1000 + GUARANTEED, BEST_EFFORT - 1))
}

const GUARANTEED: i64 = -997;
const BEST_EFFORT: i64 = 1000;
