//! The sandbox of a pod (spec 05 §6, rows 5, 24, 25).

use std::collections::{HashMap, HashSet};

use proto::cri;

use super::dns::dns_config;
use super::hosts::kernel_hostname;
use super::labels::{pod_annotations, pod_labels};
use super::logs::pod_log_dir;
use super::resources::sandbox_resources;
use super::security::sandbox_context;
use crate::edged::context::PodContext;
use crate::edged::context::SpecError;

/// Describes the sandbox that the runtime is to make.
pub async fn sandbox_config(ctx: &PodContext, attempt: u32) -> Result<cri::PodSandboxConfig, SpecError> {
    let (resources, overhead) = sandbox_resources(ctx)?;
    let security = ctx.spec().security_context.as_ref();
    let sysctls = security
        .and_then(|security| security.sysctls.as_ref())
        .into_iter()
        .flatten();
    let sysctls: HashMap<String, String> = sysctls
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
        .collect();
    Ok(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: ctx.name().into(),
            uid: ctx.uid().to_string(),
            namespace: ctx.namespace().into(),
            attempt,
        }),
        hostname: if ctx.host_network() {
            String::new()
        } else {
            kernel_hostname(ctx)?
        },
        log_directory: pod_log_dir(ctx).to_string_lossy().into_owned(),
        dns_config: Some(dns_config(ctx)?),
        port_mappings: port_mappings(ctx),
        labels: pod_labels(ctx),
        annotations: pod_annotations(ctx),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: ctx.cgroup_parent(),
            security_context: Some(sandbox_context(ctx)?),
            sysctls,
            overhead: Some(overhead),
            resources: Some(resources),
        }),
        windows: None,
    })
}

/// Every port that a container names, also without a port of the host: the runtime knows what to leave out.
fn port_mappings(ctx: &PodContext) -> Vec<cri::PortMapping> {
    let mut all = Vec::new();
    for container in &ctx.spec().containers {
        let mut names = HashSet::new();
        for port in container.ports.iter().flatten() {
            let host_ip = port.host_ip.clone().unwrap_or_default();
            let host_port = port.host_port.unwrap_or_default();
            let word = port.protocol.as_deref().unwrap_or("TCP");
            let name = match port.name.as_deref().filter(|name| !name.is_empty()) {
                Some(name) => name.to_owned(),
                None => format!("{word}-{host_ip}:{}:{host_port}", port.container_port),
            };
            if !names.insert(name) {
                continue;
            }
            let protocol = match word {
                "UDP" => cri::Protocol::Udp,
                "SCTP" => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            };
            all.push(cri::PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port,
                host_ip,
            });
        }
    }
    all
}
