//! The hub's part of the configuration, checked (`modules.cloudHub`).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// What the hub needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where edges connect (`websocket.address`, `port`).
    pub websocket: SocketAddr,
    /// Where our own edges connect over QUIC (`quic.address`, `port`); `None` with `quic.enable: false`.
    pub quic: Option<SocketAddr>,
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
    /// `edgeCertSigningDuration` or `edgeCertSigningSeconds`: how long an edge's certificate lasts.
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

/// A value of the configuration that the hub cannot work with.
#[derive(Debug, Error)]
#[error("modules.cloudHub.{key}: {value:?} is not {wanted}")]
pub struct BadSetting {
    key: &'static str,
    value: String,
    wanted: &'static str,
}

impl TryFrom<&config::cloudcore::CloudHub> for Settings {
    type Error = BadSetting;

    fn try_from(section: &config::cloudcore::CloudHub) -> Result<Self, BadSetting> {
        let websocket = &section.web_socket;
        let addresses = section
            .advertise_address
            .iter()
            .map(|text| parsed("advertiseAddress", text, "an IP address"));
        Ok(Self {
            websocket: socket(
                "websocket.address",
                &websocket.address,
                "websocket.port",
                websocket.port,
            )?,
            quic: section
                .quic
                .enable
                .then(|| socket("quic.address", &section.quic.address, "quic.port", section.quic.port))
                .transpose()?,
            https: socket(
                "https.address",
                &section.https.address,
                "https.port",
                section.https.port,
            )?,
            advertise_addresses: addresses.collect::<Result<_, _>>()?,
            dns_names: section
                .dns_names
                .iter()
                .filter(|name| !name.is_empty())
                .cloned()
                .collect(),
            node_limit: parsed("nodeLimit", &section.node_limit.to_string(), "a number of nodes")?,
            keepalive: seconds("keepaliveInterval", section.keepalive_interval)?,
            write_timeout: seconds("writeTimeout", section.write_timeout)?,
            legacy_certificates: section.legacy_certificates,
            authorization: section.authorization.enable,
            authorization_debug: section.authorization.debug,
            edge_certificate: match section.edge_cert_signing_seconds {
                0 => times("edgeCertSigningDuration", section.edge_cert_signing_duration, DAY)?,
                count => times("edgeCertSigningSeconds", count, Duration::from_secs(1))?,
            },
            token_refresh: times("tokenRefreshDuration", section.token_refresh_duration, HOUR)?,
            ca_file: PathBuf::from(&section.tls_ca_file),
            ca_key_file: PathBuf::from(&section.tls_ca_key_file),
            certificate_file: PathBuf::from(&section.tls_cert_file),
            key_file: PathBuf::from(&section.tls_private_key_file),
        })
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// 1,000 years: what is longer is a mistake, and would leave the range of times.
const LONGEST: Duration = Duration::from_secs(1000 * 365 * 86_400);

fn parsed<T: FromStr>(key: &'static str, text: &str, wanted: &'static str) -> Result<T, BadSetting> {
    text.parse().map_err(|_| BadSetting {
        key,
        value: text.to_owned(),
        wanted,
    })
}

fn socket(
    address_key: &'static str,
    address: &str,
    port_key: &'static str,
    port: u32,
) -> Result<SocketAddr, BadSetting> {
    let address: IpAddr = parsed(address_key, address, "an IP address")?;
    Ok(SocketAddr::new(
        address,
        parsed(port_key, &port.to_string(), "a port number")?,
    ))
}

fn seconds(key: &'static str, value: i32) -> Result<Duration, BadSetting> {
    times(key, value.into(), Duration::from_secs(1))
}

fn times(key: &'static str, value: i64, unit: Duration) -> Result<Duration, BadSetting> {
    let count = u32::try_from(value).ok().filter(|count| *count > 0);
    let duration = count
        .and_then(|count| unit.checked_mul(count))
        .filter(|duration| *duration <= LONGEST);
    duration.ok_or_else(|| BadSetting {
        key,
        value: value.to_string(),
        wanted: "a length of time above zero",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_understood_and_nonsense_is_named() {
        let mut section = config::cloudcore::CloudHub::default();
        let settings = Settings::try_from(&section).expect("defaults are good");
        assert_eq!((settings.websocket.port(), settings.https.port()), (10000, 10002));
        assert_eq!(settings.edge_certificate, DAY * 365);
        assert!(settings.dns_names.is_empty() && settings.legacy_certificates && settings.authorization);
        section.edge_cert_signing_seconds = 180;
        let settings = Settings::try_from(&section).expect("a short life");
        assert_eq!(settings.edge_certificate, Duration::from_secs(180));
        section.keepalive_interval = 0;
        let error = Settings::try_from(&section).expect_err("no interval").to_string();
        assert_eq!(
            error,
            "modules.cloudHub.keepaliveInterval: \"0\" is not a length of time above zero"
        );
    }
}
