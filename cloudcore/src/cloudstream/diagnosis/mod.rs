//! Why kubectl logs and exec do not reach a node: walks from the API server to the container runtime and names the broken hop.
//!
//! Owns nothing and changes nothing. It sees what an operator sees, from outside: the Node, the record of tunnel ports, the port of the
//! stream server, and the answer to one request that goes all the way, through the API server. So it can run anywhere with an
//! administrator's kubeconfig, and finds the faults of Go's cloudcore and edges as well.

mod verdict;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use common::chain;
use proto::tunnelport::{FIRST_PORT, NAME, NAMESPACE, TunnelPortRecord};
use proto::{Namespace, NodeName, Object};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::kubernetes::{CONFIG_MAPS, Kube, NODES};
use verdict::verdict;

/// A stretch of the way, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// The API server answers and knows the node.
    ApiServer,
    /// The status of the Node names a cloudcore's port, and the record of tunnel ports a cloudcore for it.
    TunnelPort,
    /// The port of the cloudcore's stream server takes connections.
    StreamServer,
    /// The API server's connections to the node come to the stream server.
    Redirect,
    /// The API server believes the stream server's certificate.
    Certificate,
    /// The stream server lets the API server in.
    Access,
    /// The node has a tunnel to the cloudcore.
    Tunnel,
    /// edgecore answers.
    Edge,
    /// What the node says of itself comes to the cloud, by the hub and not by the tunnel.
    Hub,
    /// The container runtime works.
    Runtime,
}

/// What was found on one hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which.
    pub hop: Hop,
    /// Whether it is in order.
    pub good: bool,
    /// What was seen; for a broken hop, also what to do.
    pub text: String,
}

/// The walk, up to the first broken hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// To which node.
    pub node: NodeName,
    /// In the order of the hops; only the last one can be broken.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The broken hop, if there is one.
    pub fn broken(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| !finding.good)
    }

    fn good(&mut self, hop: Hop, text: impl Into<String>) {
        self.push(hop, true, text);
    }

    fn bad(mut self, hop: Hop, text: impl Into<String>) -> Self {
        self.push(hop, false, text);
        self
    }

    fn push(&mut self, hop: Hop, good: bool, text: impl Into<String>) {
        self.findings.push(Finding {
            hop,
            good,
            text: text.into(),
        });
    }
}

/// Walks to a node. `stream_port` is `modules.cloudStream.streamPort`. Takes at most a minute or so.
pub async fn diagnose(kube: &Kube, node: &NodeName, stream_port: u16) -> Report {
    let mut report = Report {
        node: node.clone(),
        findings: Vec::new(),
    };
    let object = match kube.get(&NODES, &Namespace::cluster(), node.as_str()).await {
        Ok(object) => object,
        Err(error) => return report.bad(Hop::ApiServer, chain(&error)),
    };
    report.good(Hop::ApiServer, "answers and knows the node");
    let port = port_of(&object);
    if port < FIRST_PORT {
        let text = format!(
            "the status of the node names port {port}, which is no cloudcore's ({FIRST_PORT} and on): no tunnel of the node has come \
             since it was registered; look for edgestream in edgecore's log, and whether modules.edgeStream.enable is true"
        );
        return report.bad(Hop::Tunnel, text);
    }
    let address = match cloudcore_of(kube, port).await {
        Ok(address) => SocketAddr::new(address, stream_port),
        Err(text) => return report.bad(Hop::TunnelPort, text),
    };
    report.good(
        Hop::TunnelPort,
        format!("{port} stands for the cloudcore at {}", address.ip()),
    );
    match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => report.good(Hop::StreamServer, format!("{address} takes connections")),
        failed => {
            let why = match failed {
                Ok(Err(error)) => error.to_string(),
                _ => format!("no connection within {CONNECT:?}"),
            };
            let text = format!(
                "{address}: {why}; is cloudcore running there, and does a firewall keep the port from the API server?"
            );
            return report.bad(Hop::StreamServer, text);
        }
    }
    let answer = kube.node_proxy(node, "healthz/syncloop").await;
    let (hop, text) = verdict(&answer);
    for (passed, what) in [
        (Hop::Redirect, "the API server's connections come to the stream server"),
        (Hop::Certificate, "is believed by the API server"),
        (Hop::Access, "the API server is let in"),
        (Hop::Tunnel, "is there"),
        (Hop::Edge, "edgecore answers"),
    ] {
        if hop == Some(passed) {
            return report.bad(passed, text);
        }
        report.good(passed, what);
    }
    if hop == Some(Hop::Runtime) {
        return report.bad(Hop::Runtime, text);
    }
    of_itself(report, &object)
}

/// The hops that show in what the node says of itself.
fn of_itself(mut report: Report, node: &Object) -> Report {
    let conditions = node
        .view::<Node>()
        .map(|node| node.status.conditions)
        .unwrap_or_default();
    let ready = conditions.into_iter().find(|condition| condition.kind == "Ready");
    let Some(Condition { status, message, .. }) = ready else {
        let text = "the node has not said yet that it is Ready, or edged is off there (modules.edged.enable)";
        return report.bad(Hop::Runtime, text);
    };
    if status == "Unknown" {
        let text = format!(
            "{message}: nothing of the node's state comes, though its tunnel is there; does a firewall keep the edge from CloudHub's \
             ports (10000, by QUIC 10001)? edgecore's log tells why its edgehub has no connection; or edged is off there \
             (modules.edged.enable)"
        );
        return report.bad(Hop::Hub, text);
    }
    report.good(Hop::Hub, "the node's state comes");
    if status != "True" {
        return report.bad(Hop::Runtime, format!("the node is not Ready: {message}"));
    }
    report.good(Hop::Runtime, "the node is Ready");
    report
}

async fn cloudcore_of(kube: &Kube, port: u16) -> Result<std::net::IpAddr, String> {
    let found = kube.get(&CONFIG_MAPS, &Namespace::new(NAMESPACE), NAME).await;
    let object = found.map_err(|error| chain(&error))?;
    let record = TunnelPortRecord::of(&object).map_err(|error| chain(&error))?;
    let owner = record
        .entries()
        .find(|(_, known)| *known == port)
        .map(|(address, _)| address);
    owner.ok_or_else(|| {
        format!("the record in the ConfigMap {NAMESPACE}/{NAME} has no cloudcore for port {port}: the one that the node had is gone")
    })
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default)]
    daemon_endpoints: Endpoints,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoints {
    #[serde(default)]
    kubelet_endpoint: Endpoint,
}

#[derive(Default, Deserialize)]
struct Endpoint {
    #[serde(rename = "Port", default)]
    port: u16,
}

fn port_of(node: &Object) -> u16 {
    node.view::<Node>()
        .map_or(0, |node| node.status.daemon_endpoints.kubelet_endpoint.port)
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ApiServer => "API server",
            Self::TunnelPort => "tunnel port",
            Self::StreamServer => "stream server",
            Self::Redirect => "redirect",
            Self::Certificate => "certificate",
            Self::Access => "access",
            Self::Tunnel => "tunnel",
            Self::Edge => "edge",
            Self::Hub => "hub",
            Self::Runtime => "runtime",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { hop, good, text } in &self.findings {
            writeln!(f, "{} {hop:13} {text}", if *good { "ok    " } else { "BROKEN" })?;
        }
        Ok(())
    }
}

/// How long a connection to the stream server may take.
const CONNECT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_state_that_does_not_come_is_the_hubs_and_one_that_is_bad_the_runtimes() {
        for (conditions, broken) in [
            (json!([]), Some(Hop::Runtime)),
            (
                json!([{"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting node status."}]),
                Some(Hop::Hub),
            ),
            (
                json!([{"type": "Ready", "status": "False", "message": "container runtime is down"}]),
                Some(Hop::Runtime),
            ),
            (json!([{"type": "Ready", "status": "True"}]), None),
        ] {
            let node = json!({"metadata": {"name": "edge-1"}, "status": {"conditions": conditions}});
            let report = Report {
                node: "edge-1".into(),
                findings: Vec::new(),
            };
            let report = of_itself(report, &Object::from_value(&node).expect("object"));
            assert_eq!(report.broken().map(|finding| finding.hop), broken, "{report}");
        }
    }
}
