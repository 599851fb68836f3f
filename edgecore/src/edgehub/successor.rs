//! The connection that takes over from the present one while that still stands: with a renewed certificate, over WebSocket when
//! nothing comes over QUIC any more, over QUIC when that can be had again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::Backoff;
use common::line::quic::{Path, end_of_route};
use common::tls::client::cloud_config;
use rustls::ClientConfig;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::certificate::{Certificates, Validity};
use super::connect::{self, Connection, Target};
use super::{FIRST_PAUSE, MAX_PAUSE};

/// How often the path is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Nothing came for so long, although QUIC itself asks every 2 s: the path is gone, or the cloud.
const SILENT: Duration = Duration::from_millis(3500);
/// How long QUIC, dialled anew, is tried alone then: a restarted cloud answers at once.
const HEAD_START: Duration = Duration::from_millis(200);
/// The first pause before QUIC is tried again …
const FIRST_RETURN: Duration = Duration::from_secs(10);
/// … and the longest.
const MAX_RETURN: Duration = Duration::from_secs(600);

/// What a connection was made with.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) tls: ClientConfig,
    pub(super) validity: Validity,
}

/// Whether another connection is being made: the cloud may end the present one before it is known here that the next one stands.
#[derive(Debug, Default)]
pub(super) struct Dialling(AtomicBool);

impl Dialling {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    async fn during<T>(&self, dial: impl Future<Output = T>) -> T {
        struct Reset<'a>(&'a AtomicBool);
        impl Drop for Reset<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        self.0.store(true, Ordering::Relaxed);
        let _reset = Reset(&self.0);
        dial.await
    }
}

/// When to try QUIC again.
pub(super) const fn returns() -> Backoff {
    Backoff::new(FIRST_RETURN, MAX_RETURN)
}

/// Waits until another connection stands that is to take over.
pub(super) async fn successor(
    certificates: &mut Certificates,
    credentials: Credentials,
    target: &Target,
    path: Option<Path>,
    returns: &mut Backoff,
    dialling: &Dialling,
) -> (Connection, Credentials) {
    let other_way = async {
        match (path, &target.quic) {
            (Some(path), _) => leave(path, target, &credentials.tls, dialling).await,
            (None, Some(server)) => come_back(target, server, &credentials.tls, returns, dialling).await,
            (None, None) => std::future::pending().await,
        }
    };
    tokio::select! {
        renewed = renew(certificates, credentials.validity, target, dialling) => renewed,
        connection = other_way => (connection, credentials.clone()),
    }
}

/// Waits until the certificate is renewed and a connection with it stands.
async fn renew(
    certificates: &mut Certificates,
    mut validity: Validity,
    target: &Target,
    dialling: &Dialling,
) -> (Connection, Credentials) {
    loop {
        certificates.renew(validity).await;
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        while let Ok(usable) = certificates.usable() {
            validity = usable.validity;
            let dialled = match cloud_config(&usable.roots, Some(usable.identity)) {
                Ok(tls) => dialling
                    .during(connect::dial(target, &tls, connect::HEAD_START))
                    .await
                    .map(|connection| (connection, tls)),
                Err(error) => Err(error.into()),
            };
            match dialled {
                Ok((connection, tls)) => return (connection, Credentials { tls, validity }),
                Err(error) => warn!(
                    error = common::chain(&error),
                    "no connection with the renewed certificate yet"
                ),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

/// Follows the path of a connection over QUIC: tells the cloud when this board's address is another, and waits until nothing comes any
/// more and another connection stands.
async fn leave(path: Path, target: &Target, tls: &ClientConfig, dialling: &Dialling) -> Connection {
    let remote = path.remote();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut address = end_of_route(remote).ok();
    let (mut count, mut heard) = (path.heard(), Instant::now());
    loop {
        look.tick().await;
        // Without a route there is nothing to go on with.
        if let Ok(present) = end_of_route(remote)
            && address != Some(present)
        {
            address = Some(present);
            let moved = path.rebind();
            info!(address = %present, error = ?moved.err(), "this node's address changed, the connection goes on from there");
        }
        let now = path.heard();
        if now != count {
            (count, heard) = (now, Instant::now());
            continue;
        }
        if heard.elapsed() < SILENT {
            continue;
        }
        info!("nothing comes over QUIC, another connection is tried");
        // What a router between has forgotten, a new port lets it learn again.
        if let Err(error) = path.rebind() {
            debug!(%error, "no new socket");
        }
        tokio::select! {
            connection = dialling.during(insist(target, tls)) => return connection,
            () = heard_again(&path, count) => info!("QUIC is back"),
        }
    }
}

async fn insist(target: &Target, tls: &ClientConfig) -> Connection {
    let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
    loop {
        match connect::dial(target, tls, HEAD_START).await {
            Ok(connection) => return connection,
            Err(error) => debug!(error = common::chain(&error), "no other connection yet"),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn heard_again(path: &Path, count: u64) {
    while path.heard() == count {
        tokio::time::sleep(LOOK).await;
    }
}

/// Tries QUIC now and then.
async fn come_back(
    target: &Target,
    server: &str,
    tls: &ClientConfig,
    returns: &mut Backoff,
    dialling: &Dialling,
) -> Connection {
    loop {
        tokio::time::sleep(returns.next_delay()).await;
        match dialling.during(connect::dial_quic(target, server, tls)).await {
            Ok(connection) => return connection,
            Err(error) => debug!(error = common::chain(&error), "QUIC is not to be had yet"),
        }
    }
}
