//! Who the cloud is: the CA of the edges, the server certificate and the join token.
//!
//! Owns the secrets `casecret`, `cloudcoresecret` and `tokensecret` of namespace `kubeedge`, in KubeEdge's form, shared with the other
//! replicas of cloudcore, Go ones too (spec 01 §7.4). A local pair of files goes before a secret; what is nowhere is made. The
//! server certificate is issued again, by the same CA and for the union of names, when a configured one is missing in it, or,
//! where none is configured, an address that this host has by now.

mod files;
mod resolver;
mod secrets;
#[cfg(test)]
pub(crate) mod tests;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{Backoff, Tasks};
use parking_lot::Mutex;
use proto::join::{Authority, AuthorityError, BadToken, ServerNames, sign_token};
use rustls::server::ResolvesServerCert;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::Settings;
use crate::addresses::Addresses;
use files::Pair;
use resolver::Certificate;
use secrets::{Data, Stored};

pub use secrets::{SecretError, SecretStore, Stored as StoredSecret};

const CA_SECRET: &str = "casecret";
const SERVER_SECRET: &str = "cloudcoresecret";
const TOKEN_SECRET: &str = "tokensecret";

/// How often another replica may write a secret between our reading and our writing of it.
const ATTEMPTS: usize = 5;

/// How often files and secret of the server certificate are looked at.
const RELOAD: Duration = Duration::from_secs(60);

/// Why the cloud has no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A secret cannot be read or written.
    #[error("cannot read or write the secret kubeedge/{name}")]
    Secret {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// A secret lacks a key.
    #[error(
        "the secret kubeedge/{name} has no {key}; delete it to have it made anew (edges then have to join again if it is the CA)"
    )]
    Incomplete {
        /// Its name.
        name: &'static str,
        /// The key.
        key: &'static str,
    },
    /// Other replicas keep changing a secret.
    #[error("the secret kubeedge/{0} changes all the time")]
    Contended(&'static str),
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no PEM.
    #[error("{0} holds no PEM block")]
    NoPem(PathBuf),
    /// Only one of a certificate and its key is there.
    #[error("{present} is there but {absent} is not: provide both, or neither to use the secret")]
    Half {
        /// The file that is there.
        present: PathBuf,
        /// The one that is not.
        absent: PathBuf,
    },
    /// The CA does not work.
    #[error("the CA from {place} cannot be used")]
    Authority {
        /// Where it came from.
        place: &'static str,
        /// Why.
        #[source]
        source: AuthorityError,
    },
    /// The server certificate cannot be used by TLS.
    #[error("the server certificate cannot be used")]
    Server(#[source] rustls::Error),
    /// The token cannot be signed.
    #[error("the join token cannot be signed with the CA's key")]
    Token(#[source] BadToken),
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    authority: Authority,
    server: Arc<Certificate>,
    settings: Settings,
    secrets: Arc<dyn SecretStore>,
    /// Names of cloudcores besides those in the server certificate.
    reserved: Mutex<ServerNames>,
}

impl Identity {
    /// Reads or makes CA, server certificate and token.
    pub async fn load(settings: &Settings, secrets: Arc<dyn SecretStore>) -> Result<Self, IdentityError> {
        let secret_error = |source| IdentityError::Secret {
            name: CA_SECRET,
            source,
        };
        secrets.ensure_namespace().await.map_err(secret_error)?;
        let authority = load_authority(settings, &*secrets).await?;
        let pair = load_server(settings, &*secrets, &authority, &[]).await?;
        let server = Arc::new(Certificate::new(&pair).map_err(IdentityError::Server)?);
        let identity = Self {
            shared: Arc::new(Shared {
                authority,
                server,
                settings: settings.clone(),
                secrets,
                reserved: Mutex::default(),
            }),
        };
        identity.write_token().await?;
        Ok(identity)
    }

    /// Keeps token and server certificate fresh. `advertised`: the first of these is named beside what is configured; not the
    /// second, which may be another one each day (RFC 4941), and names stay.
    pub fn start(&self, advertised: watch::Receiver<Addresses>, tasks: &Tasks) {
        let identity = self.clone();
        tasks.spawn_restarting("join token and server certificate", move || {
            identity.clone().keep(advertised.clone())
        });
    }

    /// The CA's certificate.
    pub fn ca(&self) -> &CertificateDer<'static> {
        self.shared.authority.certificate()
    }

    /// The CA.
    pub fn authority(&self) -> &Authority {
        &self.shared.authority
    }

    /// The server certificate for TLS, always the present one.
    pub fn server_certificate(&self) -> Arc<dyn ResolvesServerCert> {
        self.shared.server.clone()
    }

    /// The present one.
    pub(crate) fn present_server(&self) -> Option<CertificateDer<'static>> {
        self.shared.server.present()
    }

    /// API servers know cloudcores by these, too: from now on no edge gets a certificate to serve under them.
    pub(crate) fn reserve(&self, names: &ServerNames) {
        let mut reserved = self.shared.reserved.lock();
        *reserved = std::mem::take(&mut *reserved).union(names);
    }

    /// All names that cloudcores serve under.
    pub(crate) fn names_of_the_cloud(&self) -> ServerNames {
        let present = self.present_server();
        let named = present.and_then(|own| ServerNames::of_certificate(&own));
        named.unwrap_or_default().union(&self.shared.reserved.lock())
    }

    /// Two loops in one task: the token by its period, the certificate more often. A failed write is tried again.
    async fn keep(self, mut advertised: watch::Receiver<Addresses>) {
        let period = self.shared.settings.token_refresh;
        let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(300));
        let mut token_due = Instant::now() + period;
        // Due at once: the certificate that was loaded at the start names only what is configured, not this host's address.
        let mut reload_due = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(token_due.min(reload_due)) => {}
                Ok(()) = advertised.changed() => reload_due = Instant::now(),
            }
            let now = Instant::now();
            if now >= token_due {
                token_due = match self.write_token().await {
                    Ok(()) => {
                        backoff.reset();
                        now + period
                    }
                    Err(error) => {
                        warn!(
                            error = common::chain(&error),
                            "the join token was not renewed, trying again"
                        );
                        now + backoff.next_delay()
                    }
                };
            }
            if now >= reload_due {
                reload_due = now + RELOAD;
                let own = Some(advertised.borrow_and_update().first).filter(|ip| !ip.is_loopback());
                // Reserved here too, as a certificate of the operator's need not name this host's address.
                self.reserve(&ServerNames {
                    dns: Vec::new(),
                    addresses: own.into_iter().collect(),
                });
                if let Err(error) = self.reload(own.as_slice()).await {
                    warn!(
                        error = common::chain(&error),
                        "the server certificate could not be looked at, the present one stays"
                    );
                }
            }
        }
    }

    async fn reload(&self, own: &[IpAddr]) -> Result<(), IdentityError> {
        let Shared {
            authority,
            server,
            settings,
            secrets,
            reserved: _,
        } = &*self.shared;
        let pair = load_server(settings, &**secrets, authority, own).await?;
        if server.replace(&pair).map_err(IdentityError::Server)? {
            info!("server certificate replaced");
        }
        Ok(())
    }

    async fn write_token(&self) -> Result<(), IdentityError> {
        let Shared {
            authority,
            settings,
            secrets,
            ..
        } = &*self.shared;
        let expires = unix_now() + settings.token_refresh * 2;
        let token = sign_token(authority.certificate(), authority.key(), expires.as_secs());
        let data = Data::from([(
            "tokendata".to_owned(),
            token.map_err(IdentityError::Token)?.into_bytes(),
        )]);
        for _ in 0..ATTEMPTS {
            let stored = read(&**secrets, TOKEN_SECRET).await?;
            if write(&**secrets, TOKEN_SECRET, stored.as_ref(), &data).await? {
                return Ok(());
            }
        }
        Err(IdentityError::Contended(TOKEN_SECRET))
    }
}

/// Unix time.
pub(crate) fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

async fn load_authority(settings: &Settings, secrets: &dyn SecretStore) -> Result<Authority, IdentityError> {
    let local = Pair::read(&settings.ca_file, &settings.ca_key_file)?;
    for _ in 0..ATTEMPTS {
        let stored = read(secrets, CA_SECRET).await?;
        let authority = match (&local, &stored) {
            (Some(pair), _) => authority_of("the local files", pair)?,
            (None, Some(stored)) => {
                return authority_of(
                    "the secret kubeedge/casecret",
                    &pair_of(CA_SECRET, stored, "cadata", "cakeydata")?,
                );
            }
            (None, None) => {
                let made = Authority::generate(unix_now());
                made.map_err(|source| IdentityError::Authority {
                    place: "this process",
                    source,
                })?
            }
        };
        let data = Data::from([
            ("cadata".to_owned(), authority.certificate().to_vec()),
            ("cakeydata".to_owned(), authority.key().to_vec()),
        ]);
        if stored.as_ref().is_some_and(|stored| stored.data == data) {
            return Ok(authority);
        }
        if stored.is_some() {
            warn!(file = %settings.ca_file.display(), "the local CA is another than that of the secret kubeedge/casecret and replaces it");
        }
        if write(secrets, CA_SECRET, stored.as_ref(), &data).await? {
            return Ok(authority);
        }
    }
    Err(IdentityError::Contended(CA_SECRET))
}

fn authority_of(place: &'static str, pair: &Pair) -> Result<Authority, IdentityError> {
    let certificate = CertificateDer::from(pair.certificate.clone());
    Authority::new(certificate, pair.key.clone()).map_err(|source| IdentityError::Authority { place, source })
}

async fn load_server(
    settings: &Settings,
    secrets: &dyn SecretStore,
    authority: &Authority,
    own: &[IpAddr],
) -> Result<Pair, IdentityError> {
    let wanted = ServerNames {
        dns: settings.dns_names.clone(),
        addresses: settings.advertise_addresses.clone(),
    };
    if let Some(pair) = Pair::read(&settings.certificate_file, &settings.key_file)? {
        let names = ServerNames::of_certificate(&pair.certificate).unwrap_or_default();
        if !names.contain(&wanted) {
            warn!(file = %settings.certificate_file.display(), ?names, ?wanted, "the local server certificate lacks configured names: edges that dial them will not connect");
        }
        return Ok(pair);
    }
    let wanted = wanted.union(&ServerNames {
        dns: Vec::new(),
        addresses: own.to_vec(),
    });
    for _ in 0..ATTEMPTS {
        let stored = read(secrets, SERVER_SECRET).await?;
        let present = match &stored {
            Some(stored) => Some(pair_of(SERVER_SECRET, stored, "cloudcoredata", "cloudcorekeydata")?),
            None => None,
        };
        let names = present
            .as_ref()
            .and_then(|pair| ServerNames::of_certificate(&pair.certificate));
        if let (Some(pair), Some(names)) = (&present, &names)
            && names.contain(&wanted)
            && authority.signed(&pair.certificate)
        {
            return Ok(present.unwrap_or_default());
        }
        let names = names.unwrap_or_default().union(&wanted);
        let issued = authority.issue_server(&names, unix_now());
        let issued = issued.map_err(|source| IdentityError::Authority {
            place: "this process",
            source,
        })?;
        let data = Data::from([
            ("cloudcoredata".to_owned(), issued.certificate.clone()),
            ("cloudcorekeydata".to_owned(), issued.key.clone()),
        ]);
        if write(secrets, SERVER_SECRET, stored.as_ref(), &data).await? {
            info!(?names, "server certificate issued");
            return Ok(Pair {
                certificate: issued.certificate,
                key: issued.key,
            });
        }
    }
    Err(IdentityError::Contended(SERVER_SECRET))
}

async fn read(secrets: &dyn SecretStore, name: &'static str) -> Result<Option<Stored>, IdentityError> {
    secrets
        .read(name)
        .await
        .map_err(|source| IdentityError::Secret { name, source })
}

/// Writes a secret as it was read; `false` when another replica was faster.
async fn write(
    secrets: &dyn SecretStore,
    name: &'static str,
    stored: Option<&Stored>,
    data: &Data,
) -> Result<bool, IdentityError> {
    match secrets.write(name, stored, data).await {
        Ok(()) => Ok(true),
        Err(SecretError::Changed) => Ok(false),
        Err(source) => Err(IdentityError::Secret { name, source }),
    }
}

fn pair_of(
    name: &'static str,
    stored: &Stored,
    certificate: &'static str,
    key: &'static str,
) -> Result<Pair, IdentityError> {
    let get = |key: &'static str| {
        stored
            .data
            .get(key)
            .cloned()
            .ok_or(IdentityError::Incomplete { name, key })
    };
    Ok(Pair {
        certificate: get(certificate)?,
        key: get(key)?,
    })
}
