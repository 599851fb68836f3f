//! CloudStream's part of the configuration, checked (`modules.cloudStream`).

use std::path::PathBuf;

/// What CloudStream needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `streamPort`.
    pub stream_port: u16,
    /// `tunnelPort`.
    pub tunnel_port: u16,
    /// `tlsTunnelCAFile`: CAs of edges besides CloudHub's.
    pub tunnel_ca_file: PathBuf,
    /// `streamAuthorization`: whether callers are asked who they are.
    pub authorization: bool,
    /// `streamCompat`: whether requests go to the edges by the types of messages that Go's cloudcore has for them.
    pub compat: bool,
}

impl From<&config::cloudcore::CloudStream> for Settings {
    /// The ports were checked when the file was read.
    fn from(section: &config::cloudcore::CloudStream) -> Self {
        let port = |port: u32| u16::try_from(port).unwrap_or_default();
        Self {
            stream_port: port(section.stream_port),
            tunnel_port: port(section.tunnel_port),
            tunnel_ca_file: PathBuf::from(&section.tls_tunnel_ca_file),
            authorization: section.stream_authorization,
            compat: section.stream_compat,
        }
    }
}
