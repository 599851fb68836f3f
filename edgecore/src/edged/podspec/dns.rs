//! Resolver configuration of pods (spec 05 §6, row 27).

use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::PodDNSConfigOption;
use proto::cri::DnsConfig;
use tracing::warn;

use crate::edged::context::PodContext;
use crate::edged::context::SpecError;

/// Whether the pod asks for the cluster's name servers while the node has none configured, so that it gets the host's: worth an event.
pub fn is_cluster_dns_missing(ctx: &PodContext) -> bool {
    wants_cluster(ctx) && ctx.settings.cluster_dns.is_empty()
}

pub(super) fn dns_config(ctx: &PodContext) -> Result<DnsConfig, SpecError> {
    let spec = ctx.spec();
    let policy = spec.dns_policy.as_deref();
    let mut config = if policy == Some("None") {
        DnsConfig::default()
    } else {
        let mut host = host_config(ctx)?;
        if wants_cluster(ctx) && !ctx.settings.cluster_dns.is_empty() {
            host.servers = ctx.settings.cluster_dns.iter().map(ToString::to_string).collect();
            host.searches = cluster_searches(ctx, host.searches);
            host.options = vec!["ndots:5".into()];
        } else if ctx.settings.resolv_conf.as_os_str().is_empty() {
            // No resolver at all would make libraries fall back to the host's file or to the machine itself, each in its way.
            let loopback = |ip: &IpAddr| {
                if ip.is_ipv6() {
                    "::1".to_owned()
                } else {
                    "127.0.0.1".to_owned()
                }
            };
            host.servers = ctx.node.ips.iter().map(loopback).collect();
            if host.servers.is_empty() {
                host.servers.push("127.0.0.1".into());
            }
            host.searches = vec![".".into()];
        }
        host
    };
    if let Some(own) = &spec.dns_config {
        config.servers = unique(
            config
                .servers
                .into_iter()
                .chain(own.nameservers.clone().unwrap_or_default()),
        );
        config.searches = unique(
            config
                .searches
                .into_iter()
                .chain(own.searches.clone().unwrap_or_default()),
        );
        config.options = merge_options(config.options, own.options.as_deref().unwrap_or_default());
    }
    Ok(within_limits(ctx, config))
}

fn wants_cluster(ctx: &PodContext) -> bool {
    match ctx.spec().dns_policy.as_deref() {
        Some("None" | "Default") => false,
        Some("ClusterFirst") => !ctx.host_network(),
        _ => true,
    }
}

fn host_config(ctx: &PodContext) -> Result<DnsConfig, SpecError> {
    let path: &Path = &ctx.settings.resolv_conf;
    if path.as_os_str().is_empty() {
        return Ok(DnsConfig::default());
    }
    let text = std::fs::read_to_string(path).map_err(|error| SpecError::file("read", path, &error))?;
    Ok(parse_resolv_conf(&text))
}

fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(ToOwned::to_owned)),
            Some("search") => {
                let names = words
                    .filter(|name| *name != ".")
                    .map(|name| name.strip_suffix('.').unwrap_or(name).to_owned());
                config.searches = names.collect();
            }
            Some("options") => {
                for option in words {
                    set_option(&mut config.options, option.to_owned());
                }
            }
            _ => {}
        }
    }
    config
}

fn cluster_searches(ctx: &PodContext, host: Vec<String>) -> Vec<String> {
    let domain = &ctx.settings.cluster_domain;
    if domain.is_empty() {
        return host;
    }
    let own = [
        format!("{}.svc.{domain}", ctx.namespace()),
        format!("svc.{domain}"),
        domain.clone(),
    ];
    unique(own.into_iter().chain(host))
}

fn merge_options(mut options: Vec<String>, own: &[PodDNSConfigOption]) -> Vec<String> {
    for option in own {
        let Some(name) = option.name.as_deref().filter(|name| !name.is_empty()) else {
            continue;
        };
        let text = match option.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        };
        set_option(&mut options, text);
    }
    options
}

/// The last option of a name wins and keeps the place of the first.
fn set_option(options: &mut Vec<String>, option: String) {
    let name = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
    match options.iter_mut().find(|known| name(known) == name(&option)) {
        Some(known) => *known = option,
        None => options.push(option),
    }
}

fn within_limits(ctx: &PodContext, mut config: DnsConfig) -> DnsConfig {
    let before = (config.servers.len(), config.searches.len());
    config.servers.truncate(MAX_SERVERS);
    config.searches.truncate(MAX_SEARCHES);
    config.searches.retain(|name| name.len() <= MAX_NAME);
    while config.searches.join(" ").len() > MAX_SEARCH_CHARS {
        config.searches.pop();
    }
    if before != (config.servers.len(), config.searches.len()) {
        warn!(
            pod = %ctx.title(),
            servers = %config.servers.join(" "),
            searches = %config.searches.join(" "),
            "more name servers or search domains than resolvers take, some are left out"
        );
    }
    config
}

fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut all = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_NAME: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_like_a_resolver_does() {
        let text = "# a comment\nnameserver 10.0.0.1\nnameserver\nsearch old.example\nsearch a.example. . b.example\n\
                    options ndots:1 edns0\noptions ndots:2\n";
        let config = parse_resolv_conf(text);
        assert_eq!(config.servers, ["10.0.0.1"]);
        assert_eq!(config.searches, ["a.example", "b.example"]);
        assert_eq!(config.options, ["ndots:2", "edns0"]);
    }
}
