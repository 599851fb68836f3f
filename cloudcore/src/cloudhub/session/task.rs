//! The task of one connection.

use std::future::Future as _;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::{FutureExt as _, SinkExt as _};
use proto::{MAX_MESSAGE, Message};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tracing::{error, info, warn};

use super::line::Line;
use super::{End, Session, dispatch};
use crate::cloudhub::{SessionEvent, Shared};

/// A silent edge is asked after so long, which finds links that are open on one side only.
const PING: Duration = Duration::from_secs(10);

/// How long the last words may take.
const CLOSING: Duration = Duration::from_secs(1);

/// Buffers as small as they get: most edges are idle most of the time. They grow with a message and shrink after it.
pub(in crate::cloudhub) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(512)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// Serves an accepted connection until it ends.
pub(in crate::cloudhub) async fn serve<S>(shared: Arc<Shared>, session: Arc<Session>, socket: WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Session {
        node, features, legacy, ..
    } = &*session;
    info!(%node, %features, legacy, "edge connected");
    shared.emit(SessionEvent::Connected {
        node: node.clone(),
        features: *features,
        legacy: *legacy,
    });
    let mut line = Line::new(socket);
    // A panic is the end of this session only: the controllers send anew what its outbox held.
    match AssertUnwindSafe(run(&shared, &session, &mut line)).catch_unwind().await {
        Ok(end) => {
            info!(%node, reason = ?end, "edge disconnected");
            Box::pin(last_words(&mut line, end)).await;
        }
        Err(_) => error!(%node, "the session's task panicked; the edge has to connect again"),
    }
    shared.leave(&session);
}

enum Turn {
    Frame(WsMessage),
    Ended(End),
    Woken,
}

async fn run<S>(shared: &Shared, session: &Session, line: &mut Line<S>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let keepalive = shared.settings.keepalive;
    let mut heard = Instant::now();
    let mut alive_until = heard + keepalive;
    let mut ping_due = heard + PING;
    let mut timer = pin!(sleep_until(ping_due));
    loop {
        let now = Instant::now();
        let outbox_due = match session.on_time(now) {
            Ok(due) => due,
            Err(end) => return end,
        };
        if now >= alive_until {
            return End::Silent;
        }
        let write_due = line.stalled().map(|since| since + shared.settings.write_timeout);
        if write_due.is_some_and(|due| now >= due) {
            return End::Stalled;
        }
        if now >= ping_due {
            if now >= heard + PING && line.ping().is_err() {
                return End::Broken;
            }
            ping_due = now.max(heard) + PING;
        }
        let due = [Some(alive_until), Some(ping_due), outbox_due, write_due]
            .into_iter()
            .flatten()
            .min();
        arm(timer.as_mut(), due.unwrap_or(ping_due), now);
        match turn(session, line, timer.as_mut()).await {
            Turn::Woken => {}
            Turn::Ended(end) => return end,
            Turn::Frame(frame) => {
                heard = Instant::now();
                let text = match &frame {
                    WsMessage::Text(text) => text.as_bytes(),
                    WsMessage::Binary(bytes) => bytes,
                    WsMessage::Close(_) => return End::Closed,
                    WsMessage::Ping(_) | WsMessage::Pong(_) | WsMessage::Frame(_) => continue,
                };
                let message = match Message::decode(text) {
                    Ok(message) => message,
                    Err(error) => {
                        warn!(node = %session.node, error = common::chain(&error), "frame refused, the edge has to connect again");
                        return End::Malformed;
                    }
                };
                drop(frame);
                shared.metrics.received();
                if message.operation == proto::Operation::Keepalive {
                    alive_until = heard + keepalive;
                    continue;
                }
                // Boxed, as what it holds is needed for a moment only and the session's task lives for months.
                if Box::pin(dispatch::dispatch(shared, session, message)).await.is_err() {
                    return End::Stopping;
                }
                // What the controllers take to make room is not the edge's silence.
                alive_until += heard.elapsed();
            }
        }
    }
}

/// A timer that would fire too early is left alone: it costs less than moving it with each frame.
fn arm(timer: Pin<&mut Sleep>, due: Instant, now: Instant) {
    if timer.deadline() > due || timer.deadline() <= now {
        timer.reset(due);
    }
}

async fn turn<S>(session: &Session, line: &mut Line<S>, mut timer: Pin<&mut Sleep>) -> Turn
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut woken = pin!(session.wake.notified());
    std::future::poll_fn(|context| {
        if let Err(error) = line.poll_write(context, || session.poll_send()) {
            return Poll::Ready(Turn::Ended(end_of(session, &error)));
        }
        match line.poll_read(context) {
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Turn::Frame(frame)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Turn::Ended(end_of(session, &error))),
            Poll::Ready(None) => return Poll::Ready(Turn::Ended(End::Closed)),
            Poll::Pending => {}
        }
        if woken.as_mut().poll(context).is_ready() || timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(Turn::Woken);
        }
        Poll::Pending
    })
    .await
}

fn end_of(session: &Session, error: &WsError) -> End {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            warn!(node = %session.node, size, limit = max_size, "message over the limit");
            End::Malformed
        }
        WsError::Protocol(_) | WsError::Utf8(_) => {
            warn!(node = %session.node, %error, "no WebSocket frame");
            End::Malformed
        }
        WsError::ConnectionClosed | WsError::AlreadyClosed => End::Closed,
        _ => End::Broken,
    }
}

async fn last_words<S>(line: &mut Line<S>, end: End)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (code, reason) = match end {
        End::Broken | End::Stalled => return,
        // The answer to the edge's close frame is queued already.
        End::Closed => {
            let _ = timeout(CLOSING, line.socket().flush()).await;
            return;
        }
        End::Replaced => (CloseCode::Policy, "the node connected again"),
        End::Disconnected => (CloseCode::Policy, "the node was deleted or revoked"),
        End::Silent => (CloseCode::Policy, "no keepalive"),
        End::Malformed => (CloseCode::Unsupported, "not a message, or too large"),
        End::Stopping => (CloseCode::Away, "cloudcore stops"),
    };
    // The edge finds out by itself when this does not arrive.
    let _ = timeout(
        CLOSING,
        line.socket().close(Some(CloseFrame {
            code,
            reason: reason.into(),
        })),
    )
    .await;
}
