//! The node's certificate: applied for with a token, renewed in time with itself (spec 01 §7.3, §7.6).
//!
//! Owns the three files. Reads the token it was started with. Emits a usable identity, and a signal when it was renewed. Must not
//! end the process: whatever is wrong is said once and tried again, pods run meanwhile.

mod files;
mod request;

use std::time::Duration;

use common::Backoff;
use common::backoff::random_unit;
use jiff::{Timestamp, ToSpan as _};
use proto::NodeName;
use tokio::time::Instant;
use tracing::{debug, info, warn};

pub use files::Paths;
pub(super) use files::Validity;
use files::{Application, LEGACY};
pub(crate) use files::{Unusable, Usable};
pub(super) use request::tls_hint;
use request::{JoinError, Server, Token};

/// The first pause after a failure …
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// … and the longest.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Where the clock is far ahead, each certificate is to be renewed, or has expired, when it comes: it is used all the same, and another is
/// not applied for before this has passed.
const LEAST_LIFE: Duration = Duration::from_secs(3600);
/// A certificate is renewed at a random moment between these shares of its life.
const RENEW_FROM: f64 = 0.7;
const RENEW_UNTIL: f64 = 0.9;

/// What the join needs to know.
#[derive(Clone)]
pub struct Settings {
    /// This node.
    pub node: NodeName,
    /// The files.
    pub paths: Paths,
    /// `httpServer`.
    pub server: String,
    /// The token; empty once it was used.
    pub token: String,
    /// `rotateCertificates`.
    pub rotate: bool,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("node", &self.node)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// The owner of the files.
#[derive(Debug)]
pub(super) struct Certificates {
    settings: Settings,
    /// Of the stored one, if this process has applied for it.
    issued: Option<Issued>,
    said: String,
}

/// What was found when a certificate came.
#[derive(Clone, Copy, Debug)]
struct Issued {
    /// Another is not applied for before.
    next: Instant,
    /// By this node's clock it had expired.
    had_expired: bool,
}

impl Issued {
    fn now(until: Timestamp) -> Self {
        let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
        let had_expired = left.is_zero();
        let least = if had_expired {
            LEAST_LIFE
        } else {
            LEAST_LIFE.min(left / 2)
        };
        Self {
            next: Instant::now() + least,
            had_expired,
        }
    }
}

impl Certificates {
    pub(super) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            issued: None,
            said: String::new(),
        }
    }

    /// Waits until there is an identity. Returns whether it is new, so that the token can be struck from the file.
    pub(super) async fn ensure(&mut self) -> (Usable, bool) {
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        let mut joined = false;
        loop {
            let trouble = match self.usable() {
                Ok(usable) => {
                    // The clock may have been set right since.
                    if self.had_expired() && usable.validity.until <= Timestamp::now() {
                        self.say(format!(
                            "the certificate that cloudcore has just issued expired at {} by this node's clock: set the clock right",
                            usable.validity.until
                        ));
                    }
                    return (usable, joined);
                }
                Err(unusable) if self.settings.token.is_empty() => format!(
                    "{}: put a token of `keadm gettoken` into modules.edgeHub.token and restart edgecore",
                    common::chain(&unusable)
                ),
                Err(unusable) => {
                    if !matches!(unusable, Unusable::Missing(_)) {
                        self.say(format!("{}, another is applied for", common::chain(&unusable)));
                    }
                    match self.join().await {
                        Ok(()) => {
                            info!(node = %self.settings.node, "certificate issued");
                            self.note_issued();
                            joined = true;
                            continue;
                        }
                        Err(error) => common::chain(&error),
                    }
                }
            };
            self.say(trouble);
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// The stored identity. One that has expired is still used when nothing better can be had: the clock may be wrong, and the
    /// cloud decides.
    pub(super) fn usable(&self) -> Result<Usable, Unusable> {
        let usable = self.settings.paths.load(&self.settings.node)?;
        if usable.is_legacy && !self.settings.token.is_empty() {
            return Err(Unusable::Foreign {
                found: LEGACY.to_owned(),
                node: self.settings.node.clone(),
            });
        }
        if usable.validity.until <= Timestamp::now() && !self.settings.token.is_empty() && !self.had_expired() {
            return Err(Unusable::Expired(usable.validity.until));
        }
        Ok(usable)
    }

    /// Waits until the certificate is to be renewed, and renews it. Never returns where rotation is off.
    pub(super) async fn renew(&mut self, validity: Validity) {
        if !self.settings.rotate || self.settings.server.is_empty() {
            std::future::pending::<()>().await;
        }
        sleep_until(renewal(validity, random_unit())).await;
        if let Some(issued) = self.issued {
            tokio::time::sleep_until(issued.next).await;
        }
        let mut backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(32));
        loop {
            match self.rotate().await {
                Ok(()) => {
                    info!(node = %self.settings.node, "certificate renewed");
                    self.note_issued();
                    return;
                }
                Err(error) => self.say(format!("the certificate cannot be renewed: {}", common::chain(&error))),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    fn note_issued(&mut self) {
        let usable = self.settings.paths.load(&self.settings.node).ok();
        self.issued = usable.map(|usable| Issued::now(usable.validity.until));
    }

    /// Whether the clock said so when the certificate came, not long ago.
    fn had_expired(&self) -> bool {
        self.issued
            .is_some_and(|issued| issued.had_expired && Instant::now() < issued.next)
    }

    async fn join(&self) -> Result<(), JoinError> {
        let Settings {
            node,
            paths,
            server,
            token,
            ..
        } = &self.settings;
        let server = Server::parse(server)?;
        let token = Token::parse(token)?;
        let ca = server.fetch_ca(token).await?;
        let application = Application::new(node).map_err(JoinError::Key)?;
        let csr = application.request.clone();
        let certificate = server.apply_with_token(&ca, token, node.as_str(), csr).await?;
        let failed = |error| JoinError::Store(paths.certificate.display().to_string(), error);
        paths.write_ca(&ca).map_err(failed)?;
        paths.write_pair(&application, &certificate).map_err(failed)
    }

    async fn rotate(&self) -> Result<(), JoinError> {
        let Settings {
            node,
            paths,
            server,
            token,
            ..
        } = &self.settings;
        let usable = match paths.load(node) {
            // An expired certificate must not be presented beside a token: it alone would decide.
            Ok(usable) if usable.validity.until > Timestamp::now() || token.is_empty() || self.had_expired() => usable,
            _ => return self.join().await,
        };
        let server = Server::parse(server)?;
        let application = Application::new(node).map_err(JoinError::Key)?;
        let csr = application.request.clone();
        let certificate = server
            .apply_with_certificate(&usable.roots, usable.identity, node.as_str(), csr)
            .await?;
        paths
            .write_pair(&application, &certificate)
            .map_err(|error| JoinError::Store(paths.certificate.display().to_string(), error))
    }

    /// One line for each cause.
    fn say(&mut self, trouble: String) {
        if trouble == self.said {
            debug!(trouble, "still");
        } else {
            warn!("{trouble}");
            self.said = trouble;
        }
    }
}

/// When a certificate is to be renewed.
fn renewal(validity: Validity, share: f64) -> Timestamp {
    let life = validity.until.duration_since(validity.from).as_secs_f64();
    let after = life * (RENEW_FROM + (RENEW_UNTIL - RENEW_FROM) * share);
    let milliseconds = Duration::from_secs_f64(after.max(0.0)).as_millis();
    let span = i64::try_from(milliseconds).unwrap_or(i64::MAX).milliseconds();
    validity.from.checked_add(span).unwrap_or(validity.until)
}

/// By the wall clock, looked at once a minute: it may be set meanwhile.
async fn sleep_until(moment: Timestamp) {
    loop {
        let left = moment.duration_since(Timestamp::now());
        let Ok(left) = Duration::try_from(left) else { return };
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(Duration::from_secs(60))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_lies_between_seventy_and_ninety_percent() {
        let from = Timestamp::from_second(1_000_000).expect("time");
        let until = Timestamp::from_second(1_000_100).expect("time");
        let validity = Validity { from, until };
        assert_eq!(renewal(validity, 0.0).as_second(), 1_000_070);
        assert!(renewal(validity, 0.999).as_second() <= 1_000_090);
    }

    /// A certificate of minutes is renewed in its life; one that had expired when it came is not followed by another at once.
    #[tokio::test(start_paused = true)]
    async fn the_next_certificate_is_not_applied_for_at_once() {
        let after = |seconds: i64| {
            let until = Timestamp::now().checked_add(seconds.seconds()).expect("time");
            let issued = Issued::now(until);
            (issued.next.duration_since(Instant::now()).as_secs(), issued.had_expired)
        };
        assert!((88..=90).contains(&after(180).0) && !after(180).1);
        assert_eq!(after(300 * 86_400), (3600, false));
        assert_eq!(after(-1), (3600, true));
    }

    #[test]
    fn tokens_and_addresses_are_checked_before_they_are_used() {
        assert!(matches!(Token::parse("abc"), Err(JoinError::TokenForm)));
        assert!(Token::parse(&format!("{}.a.b.c", "0".repeat(64))).is_ok());
        assert!(matches!(
            Server::parse("http://10.0.0.1:10002"),
            Err(JoinError::Address(_))
        ));
        assert!(Server::parse("https://[::1]:10002").is_ok());
    }
}
