//! `modules.cloudStream.egress`, checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use config::cloudcore::CloudStreamEgress;

/// The common name in the certificate that cloudcore hands out for API servers.
pub(super) const CLIENT_NAME: &str = "kube-apiserver-egress";

/// The common name in kubeadm's certificate for the way from the API server to kubelets.
const KUBEADM_NAME: &str = "kube-apiserver-kubelet-client";

/// What the endpoint needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen, if on TCP.
    pub address: Option<SocketAddr>,
    /// Path of a Unix socket, if there is to be one.
    pub unix_socket: Option<PathBuf>,
    /// CA of clients; CloudHub's without.
    pub client_ca_file: Option<PathBuf>,
    /// Common names that are let in.
    pub client_names: Vec<String>,
    /// Whether other destinations than edges are dialled.
    pub pass_through: bool,
    /// Where the API server's files are written.
    pub folder: Option<PathBuf>,
}

impl Settings {
    /// From the section, which was checked when the file was read: an address that is none means not to listen.
    pub fn new(section: &CloudStreamEgress) -> Self {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let client_ca_file = path(&section.client_ca_file);
        let client_names = if section.client_names.is_empty() {
            let name = if client_ca_file.is_some() {
                KUBEADM_NAME
            } else {
                CLIENT_NAME
            };
            vec![name.to_owned()]
        } else {
            section.client_names.clone()
        };
        let address: Option<IpAddr> = section.address.parse().ok();
        Self {
            address: address
                .zip(u16::try_from(section.port).ok())
                .map(|(address, port)| SocketAddr::new(address, port)),
            unix_socket: path(&section.unix_socket),
            client_ca_file,
            client_names,
            pass_through: section.pass_through,
            folder: path(&section.folder),
        }
    }
}
