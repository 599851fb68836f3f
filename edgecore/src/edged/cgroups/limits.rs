//! What a pod as a whole may use.

use crate::edged::context::{PodContext, SpecError};
use crate::edged::podspec::{
    HUGEPAGES, MIN_SHARES, QosClass, all_limited, cpu_quota, cpu_shares, micros, page_size_name, pod_limits,
    pod_requests,
};
use crate::edged::quantity::Quantity;

/// What a cgroup may use; nothing is written for what is unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Weight of processor time, as cgroup v1 counts it.
    pub(super) cpu_shares: Option<i64>,
    /// Microseconds of processor time per period, and the period; -1 for no limit.
    pub(super) cpu_quota: Option<(i64, i64)>,
    /// Bytes.
    pub(super) memory: Option<i64>,
    /// Processes and threads.
    pub(super) pids: Option<i64>,
    /// Bytes of huge pages by size (`2MB`).
    pub(super) hugepages: Vec<(String, i64)>,
}

impl Limits {
    pub(super) fn of(ctx: &PodContext) -> Result<Self, SpecError> {
        let (requests, limits) = (pod_requests(ctx)?, pod_limits(ctx)?);
        let amount = |list: &std::collections::BTreeMap<String, Quantity>, name: &str| {
            list.get(name).copied().unwrap_or_default()
        };
        let milli = amount(&limits, "cpu").milli_value();
        let asked = requests.get("cpu").map_or(milli, |asked| asked.milli_value());
        let settings = &ctx.settings;
        let period = settings.cpu_cfs_quota_period;
        let quota = if settings.cpu_cfs_quota {
            cpu_quota(milli, period)
        } else {
            -1
        };
        let quota = (if quota == 0 { -1 } else { quota }, micros(period));
        let memory = amount(&limits, "memory").value();
        let guaranteed = ctx.qos() == QosClass::Guaranteed;
        let burstable = ctx.qos() == QosClass::Burstable;
        let limited = |resource: &str| Ok::<bool, SpecError>(guaranteed || (burstable && all_limited(ctx, resource)?));
        let sizes = &ctx.node.cgroups.hugepage_sizes;
        Ok(Self {
            cpu_shares: Some(if guaranteed || burstable {
                cpu_shares(asked)
            } else {
                MIN_SHARES
            }),
            cpu_quota: limited("cpu")?.then_some(quota),
            memory: limited("memory")?.then_some(memory),
            pids: settings.pod_pids_limit.filter(|limit| *limit > 0),
            hugepages: sizes
                .iter()
                .map(|size| (size.clone(), hugepages(&limits, size)))
                .collect(),
        })
    }
}

/// A pod that asks for no huge pages gets none.
fn hugepages(limits: &std::collections::BTreeMap<String, Quantity>, size: &str) -> i64 {
    let asked = limits.iter().find_map(|(name, amount)| {
        let bytes = Quantity::parse(name.strip_prefix(HUGEPAGES)?).ok()?.value();
        (page_size_name(bytes) == size).then(|| amount.value())
    });
    asked.unwrap_or_default()
}
