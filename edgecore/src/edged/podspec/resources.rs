//! Requests and limits, of a pod and as the runtime wants them (spec 05 §6, row 22).

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use proto::cri;

use super::oom::oom_score_adj;
use crate::edged::context::PodContext;
use crate::edged::context::SpecError;
use crate::edged::quantity::Quantity;

/// Amounts by resource name.
pub type PodResources = BTreeMap<String, Quantity>;

/// What a pod asks for: all its containers, or its hungriest init step if that needs more, and its overhead.
pub fn pod_requests(ctx: &PodContext) -> Result<PodResources, SpecError> {
    let mut sum = aggregate(ctx, |c| c.resources.as_ref().and_then(|r| r.requests.as_ref()))?;
    for (name, amount) in amounts(ctx, ctx.spec().overhead.as_ref())? {
        add_one(&mut sum, name, amount);
    }
    Ok(sum)
}

/// What a pod may use at most, resource by resource; overhead counts where there is a limit.
pub fn pod_limits(ctx: &PodContext) -> Result<PodResources, SpecError> {
    let mut sum = aggregate(ctx, |c| c.resources.as_ref().and_then(|r| r.limits.as_ref()))?;
    for (name, amount) in amounts(ctx, ctx.spec().overhead.as_ref())? {
        if sum.get(&name).is_some_and(|limit| !limit.is_zero()) {
            add_one(&mut sum, name, amount);
        }
    }
    Ok(sum)
}

/// Whether every container of the pod, init containers included, limits the resource.
pub(crate) fn all_limited(ctx: &PodContext, resource: &str) -> Result<bool, SpecError> {
    let spec = ctx.spec();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        if limit(ctx, container, resource)?.is_zero() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What the sandbox is told about the resources of the pod, and of its overhead. Informative only: the pod's cgroup enforces them.
pub(super) fn sandbox_resources(
    ctx: &PodContext,
) -> Result<(cri::LinuxContainerResources, cri::LinuxContainerResources), SpecError> {
    let requests = aggregate(ctx, |c| c.resources.as_ref().and_then(|r| r.requests.as_ref()))?;
    let limits = aggregate(ctx, |c| c.resources.as_ref().and_then(|r| r.limits.as_ref()))?;
    let amount = |list: &PodResources, name: &str| list.get(name).copied();
    let pod = linux_resources(
        ctx,
        amount(&requests, "cpu"),
        amount(&limits, "cpu").unwrap_or_default(),
        amount(&limits, "memory").unwrap_or_default(),
    );
    let overhead = match ctx.spec().overhead.as_ref() {
        None => cri::LinuxContainerResources::default(),
        Some(overhead) => {
            let overhead = amounts(ctx, Some(overhead))?;
            let cpu = amount(&overhead, "cpu").unwrap_or_default();
            linux_resources(ctx, Some(cpu), cpu, amount(&overhead, "memory").unwrap_or_default())
        }
    };
    Ok((pod, overhead))
}

/// The limits of one container.
pub(super) fn container_resources(
    ctx: &PodContext,
    container: &Container,
) -> Result<cri::LinuxContainerResources, SpecError> {
    let facts = &ctx.node.cgroups;
    let asked = amount(
        ctx,
        container.resources.as_ref().and_then(|r| r.requests.as_ref()),
        "cpu",
    )?;
    let memory = limit(ctx, container, "memory")?;
    let mut resources = linux_resources(ctx, asked, limit(ctx, container, "cpu")?, memory);
    resources.oom_score_adj = oom_score_adj(ctx, container)?;
    for page_size in &facts.hugepage_sizes {
        let mut pages = cri::HugepageLimit {
            page_size: page_size.clone(),
            limit: 0,
        };
        for (name, amount) in amounts(ctx, container.resources.as_ref().and_then(|r| r.limits.as_ref()))? {
            let size = name.strip_prefix(HUGEPAGES).and_then(|size| Quantity::parse(size).ok());
            if size.is_some_and(|size| page_size_name(size.value()) == *page_size) {
                pages.limit = u64::try_from(amount.value()).unwrap_or_default();
            }
        }
        resources.hugepage_limits.push(pages);
    }
    if facts.swap_controller {
        if facts.unified {
            resources.unified.insert("memory.swap.max".into(), "0".into());
        } else {
            resources.memory_swap_limit_in_bytes = resources.memory_limit_in_bytes;
        }
    }
    Ok(resources)
}

/// `cpu.shares` for so many thousandths of a processor.
pub(crate) fn cpu_shares(milli: i64) -> i64 {
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Microseconds of processor time per period; 0 for no limit.
pub(crate) fn cpu_quota(milli: i64, period: Duration) -> i64 {
    if milli == 0 {
        0
    } else {
        (milli.saturating_mul(micros(period)) / 1000).max(MIN_QUOTA)
    }
}

/// A period in microseconds.
pub(crate) fn micros(period: Duration) -> i64 {
    i64::try_from(period.as_micros()).unwrap_or(i64::MAX)
}

/// The name that cgroups give to a size of huge pages: `2MB`.
pub(crate) fn page_size_name(bytes: i64) -> String {
    let mut size = bytes;
    let mut unit = "B";
    for next in ["KB", "MB", "GB", "TB", "PB"] {
        if size < 1024 || size % 1024 != 0 {
            break;
        }
        size /= 1024;
        unit = next;
    }
    format!("{size}{unit}")
}

/// The limit of a container, nothing when it has none.
pub(super) fn limit(ctx: &PodContext, container: &Container, resource: &str) -> Result<Quantity, SpecError> {
    Ok(amount(
        ctx,
        container.resources.as_ref().and_then(|r| r.limits.as_ref()),
        resource,
    )?
    .unwrap_or_default())
}

/// The request of a container, nothing when it has none.
pub(super) fn request(ctx: &PodContext, container: &Container, resource: &str) -> Result<Quantity, SpecError> {
    Ok(amount(
        ctx,
        container.resources.as_ref().and_then(|r| r.requests.as_ref()),
        resource,
    )?
    .unwrap_or_default())
}

/// Whether an init container runs beside the others.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The kernel's least and greatest `cpu.shares`.
pub(crate) const MIN_SHARES: i64 = 2;
pub(crate) const MAX_SHARES: i64 = 262_144;
/// The kernel's least quota, in microseconds.
const MIN_QUOTA: i64 = 1000;
pub(crate) const HUGEPAGES: &str = "hugepages-";

fn linux_resources(
    ctx: &PodContext,
    cpu_request: Option<Quantity>,
    cpu_limit: Quantity,
    memory_limit: Quantity,
) -> cri::LinuxContainerResources {
    let mut resources = cri::LinuxContainerResources {
        cpu_shares: cpu_shares(cpu_request.unwrap_or(cpu_limit).milli_value()),
        memory_limit_in_bytes: memory_limit.value(),
        ..Default::default()
    };
    let period = ctx.settings.cpu_cfs_quota_period;
    if ctx.settings.cpu_cfs_quota {
        resources.cpu_period = micros(period);
        resources.cpu_quota = cpu_quota(cpu_limit.milli_value(), period);
    }
    if ctx.node.cgroups.unified && ctx.settings.single_process_oom_kill != Some(true) {
        resources.unified.insert("memory.oom.group".into(), "1".into());
    }
    resources
}

fn aggregate<'a>(
    ctx: &'a PodContext,
    list: impl Fn(&'a Container) -> Option<&'a BTreeMap<String, Text>>,
) -> Result<PodResources, SpecError> {
    let spec = ctx.spec();
    let mut sum = PodResources::new();
    for container in &spec.containers {
        add(&mut sum, &amounts(ctx, list(container))?);
    }
    let mut sidecars = PodResources::new();
    let mut peak = PodResources::new();
    for container in spec.init_containers.iter().flatten() {
        let own = amounts(ctx, list(container))?;
        if is_sidecar(container) {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            max(&mut peak, &sidecars);
        } else {
            let mut step = own;
            add(&mut step, &sidecars);
            max(&mut peak, &step);
        }
    }
    max(&mut sum, &peak);
    Ok(sum)
}

fn amounts(ctx: &PodContext, list: Option<&BTreeMap<String, Text>>) -> Result<PodResources, SpecError> {
    let mut amounts = PodResources::new();
    for (name, text) in list.into_iter().flatten() {
        amounts.insert(name.clone(), read(ctx, name, text)?);
    }
    Ok(amounts)
}

fn amount(ctx: &PodContext, list: Option<&BTreeMap<String, Text>>, name: &str) -> Result<Option<Quantity>, SpecError> {
    list.and_then(|list| list.get(name))
        .map(|text| read(ctx, name, text))
        .transpose()
}

fn read(ctx: &PodContext, name: &str, text: &Text) -> Result<Quantity, SpecError> {
    Quantity::try_from(text).map_err(|error| SpecError::quantity(ctx, name, &error))
}

fn add(sum: &mut PodResources, other: &PodResources) {
    for (name, amount) in other {
        add_one(sum, name.clone(), *amount);
    }
}

fn add_one(sum: &mut PodResources, name: String, amount: Quantity) {
    let entry = sum.entry(name).or_default();
    *entry = *entry + amount;
}

fn max(peak: &mut PodResources, other: &PodResources) {
    for (name, amount) in other {
        let entry = peak.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}
