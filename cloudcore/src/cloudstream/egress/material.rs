//! What an API server needs: its configuration, the CA, its certificate and key. In a secret, which all replicas share, and in a
//! folder, where an API server on this host finds them; each folder names its own cloudcore, the secret one of them. The certificate
//! lasts: an API server reads it once, at its start.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::Backoff;
use common::fs::{PUBLIC, SECRET, write_atomic};
use proto::join::{AuthorityError, CertificateName, Issued};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::Settings;
use super::settings::CLIENT_NAME;
use crate::addresses::Addresses;
use crate::cloudhub::{Identity, SecretError, SecretStore, unix_now};

const SECRET_NAME: &str = "cloudcoreegress";
const CONFIGURATION: &str = "egress-selector.yaml";
const CA: &str = "ca.crt";
const CERTIFICATE: &str = "client.crt";
const KEY: &str = "client.key";

/// Where the files are supposed to be when cloudcore writes none.
const FOLDER: &str = "/etc/kubeedge/egress";

/// How often secret and files are looked at.
const LOOK: Duration = Duration::from_secs(300);

type Files = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Error)]
enum MaterialError {
    #[error("cannot read or write the secret kubeedge/{SECRET_NAME}")]
    Secret(#[from] SecretError),
    #[error("cannot make the client certificate")]
    Authority(#[from] AuthorityError),
    #[error("cannot write {0}")]
    File(String, #[source] std::io::Error),
}

/// Hands everything out, and again when it is gone, or the CA or the advertised address is another one.
pub(super) async fn keep(
    settings: Settings,
    mut advertised: watch::Receiver<Addresses>,
    identity: Identity,
    secrets: Arc<dyn SecretStore>,
) {
    let mut backoff = Backoff::new(Duration::from_secs(2), LOOK);
    let (mut told, mut named, mut configured) = (None, None, None);
    loop {
        let address = advertised.borrow_and_update().first;
        let delay = match share(&settings, address, &identity, &*secrets, &mut configured).await {
            Ok(files) => {
                tell(&settings, write(&settings, &files), &mut told);
                if settings.address.is_some()
                    && let Some(old) = named.replace(address)
                    && old != address
                {
                    warn!(%old, %address, "the API server's {CONFIGURATION} names another address: an API server that was started with the old one has to be restarted when that is gone");
                }
                backoff.reset();
                LOOK
            }
            Err(error) => {
                let delay = backoff.next_delay();
                warn!(error = %common::chain(&error), ?delay, "the files for the API server's egress are not handed out yet");
                delay
            }
        };
        tokio::select! {
            () = sleep(delay) => {}
            Ok(()) = advertised.changed() => {}
        }
    }
}

/// Says where the files are, and once that they cannot be written: in a container the secret is enough.
fn tell(settings: &Settings, written: Result<(), MaterialError>, told: &mut Option<bool>) {
    if *told == Some(written.is_ok()) {
        return;
    }
    *told = Some(written.is_ok());
    let folder = settings
        .folder
        .as_deref()
        .unwrap_or_else(|| Path::new(FOLDER))
        .display();
    info!(
        "start the API server with --egress-selector-config-file={folder}/{CONFIGURATION}; the files are in the secret kubeedge/{SECRET_NAME}"
    );
    if let Err(error) = written {
        warn!(error = %common::chain(&error), "the files for the API server's egress are in the secret only");
    }
}

fn write(settings: &Settings, files: &Files) -> Result<(), MaterialError> {
    let Some(folder) = &settings.folder else {
        return Ok(());
    };
    for (name, bytes) in files {
        let path = folder.join(name);
        if std::fs::read(&path).is_ok_and(|present| present == *bytes) {
            continue;
        }
        let mode = if name == KEY { SECRET } else { PUBLIC };
        write_atomic(&path, bytes, mode).map_err(|source| MaterialError::File(path.display().to_string(), source))?;
    }
    Ok(())
}

/// The files as the secret has them, made where they are not.
pub(super) fn files(
    settings: &Settings,
    advertised: IpAddr,
    identity: &Identity,
    present: Option<&Files>,
) -> Result<Files, AuthorityError> {
    let mut files = match present {
        Some(files) if is_usable(files, identity) => files.clone(),
        _ => {
            let Issued { certificate, key } = identity.authority().issue_client(CLIENT_NAME, unix_now())?;
            Files::from([
                (CERTIFICATE.to_owned(), pem("CERTIFICATE", &certificate)),
                (KEY.to_owned(), pem("EC PRIVATE KEY", &key)),
            ])
        }
    };
    files.insert(CA.to_owned(), pem("CERTIFICATE", identity.ca()));
    let configuration = configuration(settings, advertised);
    files.insert(CONFIGURATION.to_owned(), configuration.into_bytes());
    Ok(files)
}

/// This cloudcore's files. The secret gets them too, but for the configuration when another one has put its own in place of the one
/// that was `configured` here: each address is as good, and the one that starts last tells its.
async fn share(
    settings: &Settings,
    advertised: IpAddr,
    identity: &Identity,
    secrets: &dyn SecretStore,
    configured: &mut Option<Vec<u8>>,
) -> Result<Files, MaterialError> {
    let stored = secrets.read(SECRET_NAME).await?;
    let present = stored.as_ref().map(|stored| stored.data());
    let files = files(settings, advertised, identity, present)?;
    let mut shared = files.clone();
    if let Some(other) = present.and_then(|present| present.get(CONFIGURATION))
        && configured.as_ref().is_some_and(|configured| configured != other)
    {
        shared.insert(CONFIGURATION.to_owned(), other.clone());
    }
    if present != Some(&shared) {
        secrets.write(SECRET_NAME, stored.as_ref(), &shared).await?;
    }
    *configured = files.get(CONFIGURATION).cloned();
    Ok(files)
}

fn is_usable(files: &Files, identity: &Identity) -> bool {
    let text = files.get(CERTIFICATE).map(Vec::as_slice).unwrap_or_default();
    let certificate = unpem(text).unwrap_or_default();
    let name = CertificateName::of_certificate(&certificate).unwrap_or_default();
    files.contains_key(KEY) && name.common_name == CLIENT_NAME && identity.authority().signed(&certificate)
}

/// Kubernetes' EgressSelectorConfiguration. Where the operator has a CA of their own for clients, the certificate is kubeadm's.
fn configuration(settings: &Settings, advertised: IpAddr) -> String {
    let folder = settings
        .folder
        .as_deref()
        .unwrap_or_else(|| Path::new(FOLDER))
        .display();
    let transport = match (settings.address, &settings.unix_socket) {
        (Some(address), _) => {
            let endpoint = SocketAddr::new(advertised, address.port());
            let client = if settings.client_ca_file.is_some() {
                "/etc/kubernetes/pki/apiserver-kubelet-client".to_owned()
            } else {
                format!("{folder}/client")
            };
            format!(
                "      tcp:
        url: https://{endpoint}
        tlsConfig:
          caBundle: {folder}/{CA}
          clientCert: {client}.crt
          clientKey: {client}.key
"
            )
        }
        (None, Some(path)) => format!("      uds:\n        udsName: {}\n", path.display()),
        (None, None) => String::new(),
    };
    format!(
        "apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: HTTPConnect
    transport:
{transport}"
    )
}

fn pem(kind: &str, der: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n")).into_bytes()
}

fn unpem(text: &[u8]) -> Option<Vec<u8>> {
    use rustls_pki_types::pem::PemObject as _;
    let certificate = rustls_pki_types::CertificateDer::from_pem_slice(text).ok()?;
    Some(certificate.to_vec())
}
