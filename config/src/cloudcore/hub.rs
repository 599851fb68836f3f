//! Sections of cloudcore.yaml for everything that listens.

use std::net::IpAddr;

use crate::decode::section;

section! {
    /// `modules.cloudHub`: the edges' connections and certificates.
    pub struct CloudHub {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// Seconds between two keepalives.
        "keepaliveInterval" omit keepalive_interval: i32 = 30;
        /// Most edges served at once.
        "nodeLimit" omit node_limit: i32 = 500;
        /// CA certificate; without the file it lives in a secret.
        "tlsCAFile" omit tls_ca_file: String = "/etc/kubeedge/ca/rootCA.crt".into();
        /// Key of the CA.
        "tlsCAKeyFile" omit tls_ca_key_file: String = "/etc/kubeedge/ca/rootCA.key".into();
        /// Server certificate; without the file it lives in a secret.
        "tlsCertFile" omit tls_cert_file: String = "/etc/kubeedge/certs/server.crt".into();
        /// Key of the server certificate.
        "tlsPrivateKeyFile" omit tls_private_key_file: String = "/etc/kubeedge/certs/server.key".into();
        /// Seconds after which a session whose socket takes nothing ends.
        "writeTimeout" omit write_timeout: i32 = 30;
        /// QUIC listener.
        "quic" always quic: CloudHubQuic = CloudHubQuic::default();
        /// Unix socket of the CSI driver.
        "unixsocket" always unix_socket: CloudHubUnixSocket = CloudHubUnixSocket::default();
        /// WebSocket listener.
        "websocket" always web_socket: CloudHubWebSocket = CloudHubWebSocket::default();
        /// Listener that hands out certificates.
        "https" always https: CloudHubHttps = CloudHubHttps::default();
        /// Addresses in the server certificate.
        "advertiseAddress" omit advertise_address: Vec<String> = Vec::new();
        /// Names in the server certificate.
        "dnsNames" omit dns_names: Vec<String> = vec![String::new()];
        /// Days an edge's certificate lasts.
        "edgeCertSigningDuration" omit edge_cert_signing_duration: i64 = 365;
        /// Hours between two join tokens.
        "tokenRefreshDuration" omit token_refresh_duration: i64 = 12;
        /// Who may do what.
        "authorization" always authorization: CloudHubAuthorization = CloudHubAuthorization::default();
        /// Whether edges up to v1.15, which share one certificate name, are let in for the name they claim. Only ours.
        "legacyCertificates" hidden legacy_certificates: bool = true;
        /// Seconds an edge's certificate lasts, in place of the days; 0 for the days. Only ours.
        "edgeCertSigningSeconds" hidden edge_cert_signing_seconds: i64 = 0;
    }
}

section! {
    /// `modules.cloudHub.quic`.
    pub struct CloudHubQuic {
        /// Whether it listens.
        "enable" always enable: bool = true;
        /// Address to listen on.
        "address" omit address: String = "0.0.0.0".into();
        /// UDP port.
        "port" omit port: u32 = 10001;
        /// Most streams of one connection.
        "maxIncomingStreams" omit max_incoming_streams: i32 = 10_000;
    }
}

section! {
    /// `modules.cloudHub.unixsocket`.
    pub struct CloudHubUnixSocket {
        /// Whether it listens.
        "enable" always enable: bool = true;
        /// `unix://` and the path.
        "address" omit address: String = "unix:///var/lib/kubeedge/kubeedge.sock".into();
    }
}

section! {
    /// `modules.cloudHub.websocket`.
    pub struct CloudHubWebSocket {
        /// Whether it listens.
        "enable" always enable: bool = true;
        /// Address to listen on.
        "address" omit address: String = "0.0.0.0".into();
        /// TCP port.
        "port" omit port: u32 = 10000;
    }
}

section! {
    /// `modules.cloudHub.https`.
    pub struct CloudHubHttps {
        /// Not read: the listener is always there.
        "enable" always enable: bool = true;
        /// Address to listen on.
        "address" omit address: String = "0.0.0.0".into();
        /// TCP port.
        "port" omit port: u32 = 10002;
    }
}

section! {
    /// `modules.cloudHub.authorization`.
    pub struct CloudHubAuthorization {
        /// Whether what an edge asks for is checked.
        "enable" always enable: bool = true;
        /// Whether a refusal is only logged.
        "debug" always debug: bool = false;
        /// The checks, in order.
        "modes" always modes: Vec<AuthorizationMode> = vec![AuthorizationMode { node: Some(NodeAuthorization { enable: true }) }];
    }
}

section! {
    /// One element of `modules.cloudHub.authorization.modes`.
    pub struct AuthorizationMode {
        /// Kubernetes' own node authorizer.
        "node" omit node: Option<NodeAuthorization> = None;
    }
}

section! {
    /// `node` of an authorization mode.
    pub struct NodeAuthorization {
        /// Whether it is asked.
        "enable" always enable: bool = false;
    }
}

section! {
    /// `modules.cloudStream`: logs, exec and metrics of edges.
    pub struct CloudStream {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// CA of the tunnel; without the file it comes from the secret.
        "tlsTunnelCAFile" omit tls_tunnel_ca_file: String = "/etc/kubeedge/ca/rootCA.crt".into();
        /// Certificate of the tunnel.
        "tlsTunnelCertFile" omit tls_tunnel_cert_file: String = "/etc/kubeedge/certs/server.crt".into();
        /// Key of the tunnel.
        "tlsTunnelPrivateKeyFile" omit tls_tunnel_private_key_file: String = "/etc/kubeedge/certs/server.key".into();
        /// Port the edges' tunnels come to.
        "tunnelPort" omit tunnel_port: u32 = 10004;
        /// Not read, not even by Go's cloudcore: callers are checked by the cluster's own CA of clients.
        "tlsStreamCAFile" omit tls_stream_ca_file: String = STREAM_CA.into();
        /// Certificate shown to the API server.
        "tlsStreamCertFile" omit tls_stream_cert_file: String = STREAM_CERT.into();
        /// Key of that certificate.
        "tlsStreamPrivateKeyFile" omit tls_stream_private_key_file: String = STREAM_KEY.into();
        /// Port the API server's requests come to.
        "streamPort" omit stream_port: u32 = 10003;
        /// Who signs the certificate shown to the API server, where no files are given. Only ours.
        "streamCertSigner" hidden stream_cert_signer: StreamCertSigner = StreamCertSigner::CloudHub;
        /// Whether callers of the stream port are asked who they are and whether they may, as by a kubelet. Only ours.
        "streamAuthorization" hidden stream_authorization: bool = true;
        /// Whether requests go to edges by the types of messages that Go's cloudcore has for them. Only ours.
        "streamCompat" hidden stream_compat: bool = false;
        /// The endpoint for the API server's EgressSelectorConfiguration. Only ours.
        "egress" hidden egress: CloudStreamEgress = CloudStreamEgress::default();
    }
}

/// Who signs the certificate that the stream server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StreamCertSigner {
    /// CloudHub's CA.
    #[default]
    CloudHub,
    /// Kubernetes' signer `kubernetes.io/kubelet-serving`, which an API server with `--kubelet-certificate-authority` believes.
    KubeletServing,
}

impl crate::decode::Value for StreamCertSigner {
    fn merge(&mut self, node: &crate::yaml::Node, reader: &mut crate::decode::Reader) {
        match node.coerced().as_deref() {
            Some("cloudhub") => *self = Self::CloudHub,
            Some("kubelet-serving") => *self = Self::KubeletServing,
            None if node.is_null() => {}
            _ => reader.problem(node, "must be cloudhub or kubelet-serving".to_owned()),
        }
    }
    fn tree(&self) -> crate::yaml::Tree {
        let text = match self {
            Self::CloudHub => "cloudhub",
            Self::KubeletServing => "kubelet-serving",
        };
        crate::yaml::Tree::Str(text.to_owned())
    }
    fn is_zero(&self) -> bool {
        false
    }
}

section! {
    /// `modules.cloudStream.egress`: an HTTP CONNECT proxy through which an API server reaches its cluster, edges by their tunnels. All
    /// of it is only ours.
    pub struct CloudStreamEgress {
        /// Whether the module runs.
        "enable" always enable: bool = false;
        /// Address to listen on; empty for none, when a Unix socket is enough.
        "address" omit address: String = "0.0.0.0".into();
        /// TCP port, TLS with client certificates.
        "port" omit port: u32 = 10005;
        /// Path of a Unix socket for an API server on this host; its mode 0600 is all the access control it has.
        "unixSocket" omit unix_socket: String = String::new();
        /// CA of the clients' certificates; empty for CloudHub's.
        "clientCAFile" omit client_ca_file: String = String::new();
        /// Common names that are let in; empty for the certificate that cloudcore hands out or, with a `clientCAFile`, kubeadm's.
        "clientNames" omit client_names: Vec<String> = Vec::new();
        /// Whether connections to other hosts than edges are made too: an API server sends all that leaves for the cluster here.
        "passThrough" always pass_through: bool = true;
        /// Where the API server's files are written (mode 0600); empty for nowhere. They are also in the secret kubeedge/cloudcoreegress.
        "folder" omit folder: String = "/etc/kubeedge/egress".into();
    }
}

section! {
    /// `modules.router`: rules between cloud and edge.
    pub struct Router {
        /// Whether the module runs.
        "enable" always enable: bool = false;
        /// Address to listen on.
        "address" omit address: String = "0.0.0.0".into();
        /// TCP port, plain HTTP.
        "port" omit port: u32 = 9443;
        /// Seconds a request may take.
        "restTimeout" omit rest_timeout: u32 = 60;
    }
}

section! {
    /// `modules.iptablesManager`: redirects the API server's requests for edges.
    pub struct IptablesManager {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// In this process, or by the DaemonSet.
        "mode" always mode: IptablesMode = IptablesMode::Internal;
        /// The address that rules of all hosts lead to for this cloudcore, or one of each family with a comma between; empty for
        /// those of the default routes. Only ours.
        "address" hidden address: String = String::new();
        /// Whether only connections to addresses of edge nodes are redirected; otherwise all to the virtual ports. Only ours.
        "edgeAddressesOnly" hidden edge_addresses_only: bool = false;
    }
}

impl IptablesManager {
    /// What `address` says: nothing, one address, or one of each family; `None` where it says anything else.
    #[must_use]
    pub fn addresses(&self) -> Option<Vec<IpAddr>> {
        if self.address.is_empty() {
            return Some(Vec::new());
        }
        let given = self.address.split(',').map(|address| address.trim().parse().ok());
        let given: Vec<IpAddr> = given.collect::<Option<_>>()?;
        match given.as_slice() {
            [_] => Some(given),
            [first, second] if first.is_ipv4() != second.is_ipv4() => Some(given),
            _ => None,
        }
    }
}

/// Who keeps the redirect rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IptablesMode {
    /// This process.
    #[default]
    Internal,
    /// The DaemonSet.
    External,
}

impl crate::decode::Value for IptablesMode {
    fn merge(&mut self, node: &crate::yaml::Node, reader: &mut crate::decode::Reader) {
        match node.coerced().as_deref() {
            Some("internal") => *self = Self::Internal,
            Some("external") => *self = Self::External,
            None if node.is_null() => {}
            _ => reader.problem(
                node,
                "invalid value for iptablesmgr mode: must be internal or external".to_owned(),
            ),
        }
    }
    fn tree(&self) -> crate::yaml::Tree {
        let text = match self {
            Self::Internal => "internal",
            Self::External => "external",
        };
        crate::yaml::Tree::Str(text.to_owned())
    }
}

const STREAM_CA: &str = "/etc/kubeedge/ca/streamCA.crt";
pub(super) const STREAM_CERT: &str = "/etc/kubeedge/certs/stream.crt";
pub(super) const STREAM_KEY: &str = "/etc/kubeedge/certs/stream.key";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_lead_to_one_address_or_to_one_of_each_family() {
        let of = |address: &str| {
            let manager = IptablesManager {
                address: address.to_owned(),
                ..IptablesManager::default()
            };
            let all = manager.addresses()?;
            Some(all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(of("").as_deref(), Some(""));
        assert_eq!(of("fd00::5").as_deref(), Some("fd00::5"));
        assert_eq!(of("10.0.0.5, fd00::5").as_deref(), Some("10.0.0.5 fd00::5"));
        for wrong in ["here", "10.0.0.5,", "10.0.0.5,10.0.0.6", "fd00::5,10.0.0.5,10.0.0.6"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
