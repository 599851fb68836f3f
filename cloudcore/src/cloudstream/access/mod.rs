//! Who may use the stream server: whom a kubelet would let in (spec 04 §7.3). Go's lets in everybody who reaches the port.
//!
//! Owns the cluster's client CA, as the API server publishes it, and verdicts of the last minute. Reads the ConfigMap
//! `kube-system/extension-apiserver-authentication`; asks TokenReview and SubjectAccessReview. Must not know routes.

mod cache;
mod client_ca;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use common::{Tasks, chain};
use proto::NodeName;
use proto::join::subject_of;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::kubernetes::{ApiError, Attributes, Kube, Subject};
use cache::{Cache, Digest};

/// The handle. Cheap to clone.
#[derive(Clone)]
pub(super) struct Access {
    shared: Arc<Shared>,
}

struct Shared {
    kube: Kube,
    /// `None` until the API server's ConfigMap was read, or when it names no CA.
    client_ca: watch::Receiver<Option<Arc<dyn ClientCertVerifier>>>,
    tokens: Cache<Digest, Option<Subject>>,
    verdicts: Cache<(Subject, NodeName, Right), bool>,
}

/// What a request needs on `nodes/<sub>` of its node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Right {
    /// `get` or `create`.
    pub(super) verb: &'static str,
    /// `stats`, `metrics`, `log` or `proxy`.
    pub(super) subresource: &'static str,
}

/// How somebody says who they are.
#[derive(Clone, Copy)]
pub(super) struct Credentials<'a> {
    /// The certificate of the handshake and those sent with it; possession of its key is proven, nothing else.
    pub(super) certificates: &'a [CertificateDer<'static>],
    /// The bearer token.
    pub(super) token: Option<&'a str>,
}

/// Not let in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Nobody that the cluster knows.
    Unauthorized,
    /// Somebody without the right; the text is a kubelet's.
    Forbidden(String),
    /// The API server does not say.
    Unknown(String),
}

impl Access {
    /// Follows the cluster's client CA from now on.
    pub(super) fn start(kube: Kube, tasks: &Tasks) -> Self {
        let (sender, client_ca) = watch::channel(None);
        client_ca::start(kube.clone(), sender, tasks);
        Self::new(kube, client_ca)
    }

    fn new(kube: Kube, client_ca: watch::Receiver<Option<Arc<dyn ClientCertVerifier>>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                kube,
                client_ca,
                tokens: Cache::default(),
                verdicts: Cache::default(),
            }),
        }
    }

    /// Who it is: the certificate's name if it is of the cluster's client CA, else whose token it is.
    pub(super) async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Subject, Denied> {
        if let Some(subject) = self.by_certificate(credentials.certificates) {
            return Ok(subject);
        }
        match credentials.token {
            Some(token) if !token.is_empty() => self.by_token(token).await,
            _ => Err(Denied::Unauthorized),
        }
    }

    /// Whether somebody has a right on a node.
    pub(super) async fn authorize(&self, subject: &Subject, node: &NodeName, right: Right) -> Result<(), Denied> {
        let key = (subject.clone(), node.clone(), right);
        let now = Instant::now();
        let allowed = match self.shared.verdicts.get(&key, now) {
            Some(allowed) => allowed,
            None => {
                let attributes = Attributes {
                    verb: right.verb,
                    resource: "nodes",
                    subresource: right.subresource,
                    name: node.as_str(),
                    ..Attributes::default()
                };
                let answer = self.shared.kube.access_review(subject, attributes).await;
                let allowed = answer.map_err(|error| unknown("SubjectAccessReview", &error))?;
                self.shared.verdicts.put(key, allowed, allowed, now);
                allowed
            }
        };
        if allowed {
            return Ok(());
        }
        let Right { verb, subresource } = right;
        Err(Denied::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource={subresource}, name={node})",
            subject.user
        )))
    }

    fn by_certificate(&self, shown: &[CertificateDer<'static>]) -> Option<Subject> {
        let (leaf, intermediates) = shown.split_first()?;
        let verifier = self.shared.client_ca.borrow().clone()?;
        if let Err(error) = verifier.verify_client_cert(leaf, intermediates, UnixTime::now()) {
            debug!(%error, "a client certificate is not of the cluster's client CA");
            return None;
        }
        let (user, mut groups) = subject_of(leaf)?;
        groups.push(AUTHENTICATED.to_owned());
        (!user.is_empty()).then(|| Subject {
            user,
            groups,
            ..Subject::default()
        })
    }

    async fn by_token(&self, token: &str) -> Result<Subject, Denied> {
        let (key, now) = (Digest::of(token), Instant::now());
        let known = match self.shared.tokens.get(&key, now) {
            Some(known) => known,
            None => {
                let answer = self.shared.kube.token_review(token).await;
                let subject = answer.map_err(|error| unknown("TokenReview", &error))?;
                self.shared.tokens.put(key, subject.clone(), subject.is_some(), now);
                subject
            }
        };
        known.ok_or(Denied::Unauthorized)
    }
}

fn unknown(what: &str, error: &ApiError) -> Denied {
    warn!(
        what,
        error = chain(error),
        "a caller of the stream server could not be looked up"
    );
    Denied::Unknown(format!("{what} failed: {}", chain(error)))
}

/// The group of everybody who is known.
const AUTHENTICATED: &str = "system:authenticated";
