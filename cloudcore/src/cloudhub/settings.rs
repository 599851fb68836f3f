//! The hub's part of the configuration, checked (`modules.cloudHub`).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What the hub needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where edges connect (`websocket.address`, `port`).
    pub websocket: SocketAddr,
    /// Where edges and keadm get certificates (`https.address`, `port`).
    pub https: SocketAddr,
    /// `advertiseAddress`: addresses in the server certificate.
    pub advertise_addresses: Vec<IpAddr>,
    /// `dnsNames`: names in the server certificate; empty ones are skipped.
    pub dns_names: Vec<String>,
    /// `nodeLimit`.
    pub node_limit: usize,
    /// `keepaliveInterval`: a session without a keepalive for so long ends.
    pub keepalive: Duration,
    /// `writeTimeout`: a session whose socket takes nothing for so long ends.
    pub write_timeout: Duration,
    /// `legacyCertificates`: whether edges up to v1.15, which share one certificate name, are let in for the name they claim.
    pub legacy_certificates: bool,
    /// `authorization.enable`.
    pub authorization: bool,
    /// `authorization.debug`: refusals are logged only.
    pub authorization_debug: bool,
    /// `edgeCertSigningDuration`: how long an edge's certificate lasts.
    pub edge_certificate: Duration,
    /// `tokenRefreshDuration`; a token lasts twice as long.
    pub token_refresh: Duration,
    /// `tlsCAFile`.
    pub ca_file: PathBuf,
    /// `tlsCAKeyFile`.
    pub ca_key_file: PathBuf,
    /// `tlsCertFile`.
    pub certificate_file: PathBuf,
    /// `tlsPrivateKeyFile`.
    pub key_file: PathBuf,
}
