//! Port 10001: QUIC, for our own edges only (wire: `proto::quic`).
//!
//! The same certificates, the same questions and the same refusals as on port 10000.

use std::net::SocketAddr;
use std::sync::Arc;

use common::line::LineError;
use common::line::quic::{self, QuicError};
use common::places::{Place, Places};
use http::{HeaderMap, HeaderName, HeaderValue};
use proto::FEATURES_HEADER;
use proto::quic::{Hello, Welcome};
use quinn::{Endpoint, Incoming};
use thiserror::Error;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::admission::{Card, admit};
use super::{HANDSHAKE, tls_config};
use crate::cloudhub::{Shared, session};

/// Handshakes at once.
const HANDSHAKES: usize = 128;
/// With fewer places left, who comes has to show first that it is where it says: nobody fills them from made-up addresses.
const WARY: usize = 64;

#[derive(Debug, Error)]
enum ListenError {
    #[error(transparent)]
    Tls(#[from] common::tls::server::ServerTlsError),
    #[error(transparent)]
    Quic(#[from] QuicError),
}

/// Listens, if that is wanted. Returns the address, or nothing where there is no QUIC: edges take WebSocket then.
pub(in crate::cloudhub) fn start(shared: &Arc<Shared>) -> Option<SocketAddr> {
    let address = shared.settings.quic?;
    let opened = tls_config(shared)
        .map_err(ListenError::from)
        .and_then(|tls| Ok(quic::listen(address, tls)?));
    let endpoint = match opened {
        Ok(endpoint) => endpoint,
        Err(error) => {
            warn!(%address, error = common::chain(&error), "no QUIC (modules.cloudHub.quic): edges connect by WebSocket");
            return None;
        }
    };
    let bound = endpoint.local_addr().ok()?;
    info!(address = %bound, "listening for edges over QUIC");
    shared
        .tasks
        .spawn("edge QUIC listener", accept(shared.clone(), endpoint));
    Some(bound)
}

async fn accept(shared: Arc<Shared>, endpoint: Endpoint) {
    shared.wait_for_revocations().await;
    let mut places = Places::new("edges over QUIC", HANDSHAKES);
    let endpoint = &endpoint;
    while let Ok((incoming, peer, place)) = places.next(move |free| believed(endpoint, free)).await {
        let peer = common::listen::peer(peer);
        shared
            .tasks
            .spawn("edge QUIC handshake", connect(shared.clone(), incoming, peer, place));
    }
}

/// The endpoint is closed.
struct Closed;

/// The next one whose address is believed.
async fn believed(endpoint: &Endpoint, free: usize) -> Result<(Incoming, SocketAddr), Closed> {
    loop {
        let incoming = endpoint.accept().await.ok_or(Closed)?;
        if free >= WARY || incoming.remote_address_validated() || !incoming.may_retry() {
            let peer = incoming.remote_address();
            return Ok((incoming, peer));
        }
        // Fails only for a client that was asked to retry before, which `may_retry` has just ruled out.
        let _ = incoming.retry();
    }
}

async fn connect(shared: Arc<Shared>, incoming: Incoming, peer: SocketAddr, place: Place) {
    let greeted = async {
        let connecting = incoming.accept().map_err(|error| LineError::Broken(error.into()))?;
        let known = || {
            place.keep();
        };
        quic::greet(connecting, known).await
    };
    let guest = match place.hold(timeout(HANDSHAKE, greeted)).await {
        Some(Ok(Ok(guest))) => guest,
        Some(Ok(Err(error))) => {
            shared.metrics.refused("tls");
            debug!(%peer, error = common::chain(&error), "QUIC handshake of an edge failed");
            return;
        }
        Some(Err(_)) => {
            shared.metrics.refused("timeout");
            debug!(%peer, "the QUIC handshake of an edge took too long");
            return;
        }
        None => return shared.metrics.refused("displaced"),
    };
    drop(place);
    let card = Card::of(guest.certificate().as_ref());
    let admitted = match admit(&shared, &headers(&guest.hello), &card, peer) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let welcome = Welcome {
                status: refusal.status.as_u16(),
                text: refusal.text,
                ..Welcome::default()
            };
            guest.refuse(&welcome).await;
            return;
        }
    };
    let mut welcome = Welcome {
        status: Welcome::ADMITTED,
        ..Welcome::default()
    };
    let features = admitted.features();
    if !features.is_empty() {
        welcome.headers.insert(FEATURES_HEADER.to_owned(), features.to_string());
    }
    match guest.admit(&welcome).await {
        Ok(line) => {
            let serve = session::serve(shared.clone(), admitted.served(), "quic", Box::new(line));
            shared.tasks.spawn("edge session", serve);
        }
        Err(error) => debug!(%peer, error = common::chain(&error), "the edge has gone"),
    }
}

/// The headers that an upgrade would have had; what is none is left out, and missed by the admission if it matters.
fn headers(hello: &Hello) -> HeaderMap {
    let pairs = hello.headers.iter().filter_map(|(name, value)| {
        let name = HeaderName::try_from(name.as_str()).ok()?;
        Some((name, HeaderValue::try_from(value.as_str()).ok()?))
    });
    pairs.collect()
}
