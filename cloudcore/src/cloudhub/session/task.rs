//! The task of one connection.

use std::future::Future as _;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use common::line::{Farewell, Line, LineError, Received};
use futures::FutureExt as _;
use proto::Message;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tracing::{error, info, warn};

use super::{End, Session, dispatch};
use crate::cloudhub::{SessionEvent, Shared};

/// A silent edge is asked after so long, which finds links that are open on one side only. Longer than the 15 s after which edges give
/// a sign of life by default: those are not asked, which saves both sides, and a metered link, two thirds of what goes over it.
const PING: Duration = Duration::from_secs(17);

/// How long the last words may take.
const CLOSING: Duration = Duration::from_secs(1);

/// Serves an accepted connection until it ends.
pub(in crate::cloudhub) async fn serve(
    shared: Arc<Shared>,
    session: Arc<Session>,
    transport: &'static str,
    mut line: Box<dyn Line>,
) {
    let Session {
        node, features, legacy, ..
    } = &*session;
    info!(%node, transport, %features, legacy, "edge connected");
    shared.emit(SessionEvent::Connected {
        node: node.clone(),
        features: *features,
        legacy: *legacy,
    });
    // A panic is the end of this session only: the controllers send anew what its outbox held.
    match AssertUnwindSafe(run(&shared, &session, &mut *line))
        .catch_unwind()
        .await
    {
        Ok(end) => {
            info!(%node, reason = ?end, "edge disconnected");
            Box::pin(last_words(&mut *line, end)).await;
        }
        Err(_) => error!(%node, "the session's task panicked; the edge has to connect again"),
    }
    shared.leave(&session);
}

enum Turn {
    Received(Received),
    Ended(End),
    Woken,
}

async fn run(shared: &Shared, session: &Session, line: &mut dyn Line) -> End {
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
            let is_silent = now >= heard + PING || line.stalled().is_some();
            if is_silent && line.ping().is_err() {
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
            Turn::Received(received) => {
                heard = Instant::now();
                let Received::Message(frame) = received else { continue };
                let message = match Message::decode(&frame) {
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
                // While the controllers' queue was full nothing was read here. That time must not count as silence of the edge.
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

async fn turn(session: &Session, line: &mut dyn Line, mut timer: Pin<&mut Sleep>) -> Turn {
    let mut woken = pin!(session.wake.notified());
    std::future::poll_fn(|context| {
        if let Err(error) = line.poll_write(context, &mut |lane| session.poll_send(lane)) {
            return Poll::Ready(Turn::Ended(end_of(session, &error)));
        }
        match line.poll_read(context) {
            Poll::Ready(Ok(received)) => return Poll::Ready(Turn::Received(received)),
            Poll::Ready(Err(error)) => return Poll::Ready(Turn::Ended(end_of(session, &error))),
            Poll::Pending => {}
        }
        if woken.as_mut().poll(context).is_ready() || timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(Turn::Woken);
        }
        Poll::Pending
    })
    .await
}

fn end_of(session: &Session, error: &LineError) -> End {
    match error {
        LineError::TooLarge { .. } | LineError::Malformed(_) => {
            warn!(node = %session.node, error = common::chain(error), "frame refused, the edge has to connect again");
            End::Malformed
        }
        LineError::Closed(_) => End::Closed,
        LineError::Broken(_) => End::Broken,
    }
}

async fn last_words(line: &mut dyn Line, end: End) {
    let farewell = match end {
        End::Broken | End::Stalled => return,
        // Over WebSocket the answer to the edge's close frame is queued already, and goes out now.
        End::Closed => Farewell::NORMAL,
        End::Replaced => Farewell::policy("the node connected again"),
        End::Disconnected => Farewell::policy("the node was deleted or revoked"),
        End::Silent => Farewell::policy("no keepalive"),
        End::Malformed => Farewell::unsupported("not a message, or too large"),
        End::Stopping => Farewell::away("cloudcore stops"),
    };
    // The edge finds out by itself when this does not arrive.
    let _ = timeout(CLOSING, line.close(farewell)).await;
}
