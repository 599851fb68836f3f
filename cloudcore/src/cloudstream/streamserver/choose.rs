//! Which node a request is for (spec 04 §7.2).

use std::net::IpAddr;

use common::chain;
use http::StatusCode;
use proto::{Kind, Namespace, NodeName, ObjectPath};

use super::address::{meant, without_gone};
use super::head::Head;
use super::refusal::Refusal;
use super::route::{Route, Scope};
use crate::cloudstream::Shared;
use crate::kubernetes::PODS;

pub(super) async fn node(shared: &Shared, head: &Head, route: &Route) -> Result<NodeName, Refusal> {
    match &route.scope {
        Scope::Pod { namespace, name } => of_pod(shared, namespace, name).await,
        Scope::Node => match head.header("x-forwarded-uri").and_then(named) {
            Some(name) => Ok(NodeName::from(name)),
            None => of_host(shared, head.header("host").unwrap_or_default()),
        },
    }
}

/// By the pod: immune to nodes that have the same address.
async fn of_pod(shared: &Shared, namespace: &str, name: &str) -> Result<NodeName, Refusal> {
    let namespace = Namespace::new(namespace);
    let path = ObjectPath::new(namespace.clone(), Kind::Pod, name);
    if let Some(node) = shared.informers.pod_node(&path) {
        return Ok(node);
    }
    let pod = shared.kube.get(&PODS, &namespace, name).await.map_err(|error| {
        let status = error.status().and_then(|status| StatusCode::from_u16(status.code).ok());
        let text = error
            .status()
            .map_or_else(|| chain(&error), |status| status.message.clone());
        Refusal::new(status.unwrap_or(StatusCode::BAD_GATEWAY), text)
    })?;
    pod.spec_node_name().ok_or_else(|| {
        let text = format!("pod {namespace}/{name} is on no node yet");
        Refusal::new(StatusCode::NOT_FOUND, text)
    })
}

/// By the address or name that was dialled. A name is that of the Node, which the certificate of its tunnel proves.
fn of_host(shared: &Shared, host: &str) -> Result<NodeName, Refusal> {
    let (host, port) = host_and_port(host);
    let Ok(address) = host.parse::<IpAddr>() else {
        if host.is_empty() {
            let text = "the request names no node: neither X-Forwarded-Uri nor Host does";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        }
        return Ok(NodeName::from(host));
    };
    let address = address.to_canonical();
    // Before the Nodes are known no claim can be held against them.
    let claimed = if shared.informers.is_synced() {
        shared.sessions.claimants(address)
    } else {
        Vec::new()
    };
    let listed = shared.informers.nodes_at(address);
    shared.rivals.tell(address, &listed, &claimed);
    let own = shared.own.borrow().first.to_string();
    let gone = |node: &NodeName| shared.sessions.get(node).is_none() && shared.informers.is_owned_by(node, &own);
    let listed = without_gone(listed, &claimed, gone);
    match meant(&listed, &claimed, port).as_slice() {
        [] => {
            let text = format!("no edge node with the address {address} is known");
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text))
        }
        [node] => Ok((*node).clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|node| node.as_str()).collect();
            let text = format!(
                "the address {address} belongs to several edge nodes: {}; ask by /api/v1/nodes/NAME/proxy, and delete Nodes that are no more",
                names.join(", ")
            );
            Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, text))
        }
    }
}

/// The node in the API server's own path, `/api/v1/nodes/[scheme:]NAME[:port]/proxy/…`.
fn named(uri: &str) -> Option<&str> {
    let path = uri.split('?').next()?;
    let mut parts = path.strip_prefix("/api/v1/nodes/")?.split('/');
    let (name, proxy, rest) = (parts.next()?, parts.next()?, parts.next());
    if proxy != "proxy" || rest.is_none() {
        return None;
    }
    let name = name
        .strip_prefix("https:")
        .or_else(|| name.strip_prefix("http:"))
        .unwrap_or(name);
    Some(host_and_port(name).0).filter(|name| !name.is_empty())
}

/// Host and port; an IPv6 address without its brackets.
fn host_and_port(host: &str) -> (&str, Option<u16>) {
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']').unwrap_or((rest, ""));
        return (address, port.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match host.split_once(':') {
        // More than one colon without brackets: an address by itself.
        Some((name, port)) if !port.contains(':') => (name, port.parse().ok()),
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_servers_path_names_the_node() {
        for (uri, node) in [
            ("/api/v1/nodes/edge-1/proxy/metrics", Some("edge-1")),
            ("/api/v1/nodes/edge-1:10351/proxy/metrics?x=1", Some("edge-1")),
            ("/api/v1/nodes/https:edge-1:10351/proxy/stats/summary", Some("edge-1")),
            ("/api/v1/nodes/edge-1/proxy", None),
            ("/api/v1/namespaces/a/pods/b/proxy/x", None),
        ] {
            assert_eq!(named(uri), node, "{uri}");
        }
    }

    #[test]
    fn hosts_and_their_ports() {
        for (host, bare, port) in [
            ("10.0.0.1:10351", "10.0.0.1", Some(10351)),
            ("10.0.0.1:", "10.0.0.1", None),
            ("edge-1", "edge-1", None),
            ("[fd00::1]:10351", "fd00::1", Some(10351)),
            ("[fd00::1]", "fd00::1", None),
            ("[fd00::1", "fd00::1", None),
            ("fd00::1", "fd00::1", None),
            ("", "", None),
        ] {
            assert_eq!(host_and_port(host), (bare, port), "{host}");
        }
    }
}
