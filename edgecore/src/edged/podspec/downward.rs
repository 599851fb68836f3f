//! Fields and resources of the pod, for environments and downward volumes (spec 05 §6, row 10).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ResourceFieldSelector};

use super::resources::{HUGEPAGES, limit, request};
use crate::edged::context::PodContext;
use crate::edged::context::SpecError;
use crate::edged::quantity::Quantity;

/// The value of a `fieldRef`; `pod_ips` is empty where the pod has no address yet.
pub(crate) fn field_value(ctx: &PodContext, path: &str, pod_ips: &[IpAddr]) -> Result<String, SpecError> {
    let meta = &ctx.pod.metadata;
    if let Some((field, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match field {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            _ => {
                return Err(SpecError::config(format!(
                    "fieldPath {path:?} does not support subscript"
                )));
            }
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = ctx.spec();
    Ok(match path {
        "metadata.name" => ctx.name().to_owned(),
        "metadata.namespace" => ctx.namespace().to_owned(),
        "metadata.uid" => ctx.uid().to_string(),
        "metadata.labels" => map_text(meta.labels.as_ref()),
        "metadata.annotations" => map_text(meta.annotations.as_ref()),
        "spec.nodeName" | "spec.host" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => match ctx.node.ips.first() {
            Some(ip) => ip.to_string(),
            None => return Err(SpecError::config("the node has no address yet")),
        },
        "status.hostIPs" => join(&ctx.node.ips),
        "status.podIP" => pod_ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => join(pod_ips),
        _ => return Err(SpecError::config(format!("unsupported fieldPath: {path}"))),
    })
}

/// The value of a `resourceFieldRef`, in units of its divisor, rounded up. Limits that are not set are what the node offers.
pub(crate) fn resource_value(
    ctx: &PodContext,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, SpecError> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => ctx
            .container(name)
            .ok_or_else(|| SpecError::config(format!("container {name} not found")))?,
        None => own.ok_or_else(|| SpecError::config("a resource of no container is asked for"))?,
    };
    let divisor = match &selector.divisor {
        Some(text) => Quantity::try_from(text).map_err(|error| SpecError::quantity(ctx, &selector.resource, &error))?,
        None => Quantity::ZERO,
    };
    let divisor = if divisor.is_zero() { Quantity::units(1) } else { divisor };

    let unsupported = || SpecError::config(format!("unsupported container resource : {}", selector.resource));
    let (kind, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let node = &ctx.node;
    let offered = match resource {
        "cpu" => Some(Quantity::millis(node.allocatable_cpu_millis)),
        "memory" => Some(Quantity::bytes(node.allocatable_memory_bytes)),
        "ephemeral-storage" => Some(Quantity::bytes(node.allocatable_disk_bytes)),
        _ => None,
    };
    if offered.is_none() && !resource.starts_with(HUGEPAGES) {
        return Err(unsupported());
    }
    let amount = match kind {
        "limits" => {
            let amount = limit(ctx, container, resource)?;
            if amount.is_zero() {
                offered.unwrap_or_default()
            } else {
                amount
            }
        }
        "requests" => request(ctx, container, resource)?,
        _ => return Err(unsupported()),
    };
    let (amount, divisor) = if resource == "cpu" {
        (amount.milli_value(), divisor.milli_value())
    } else {
        (amount.value(), divisor.value())
    };
    let divisor = divisor.max(1);
    Ok((amount / divisor + i64::from(amount % divisor > 0)).to_string())
}

fn join(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// One `key="value"` a line, as Go quotes strings.
fn map_text(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", go_quoted(value)));
    lines.collect::<Vec<_>>().join("\n")
}

fn go_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
