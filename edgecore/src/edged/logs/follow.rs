//! A log that goes on: read to its end, waited for, followed from file to file until the container has ended.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use proto::cri::ContainerState;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::reader::{Reader, State, Step};
use super::watch::Watch;
use super::{Log, LogError};
use crate::edged::runtime::{ContainerId, Runtime};

/// How often the file, its name and the container are looked at, whatever events say.
const LOOK: Duration = Duration::from_secs(1);
/// A writer that says nothing of having gone is given this long to write what it holds.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Ends when the container has ended and all is read, or when nobody takes the text.
pub(super) async fn run(
    runtime: Arc<dyn Runtime>,
    log: Log,
    mut reader: Reader,
    text: &mpsc::Sender<Bytes>,
) -> Result<(), LogError> {
    let failed = |source| LogError::Read {
        path: log.path.clone(),
        source,
    };
    let mut watch = Watch::new(reader.path(), reader.file()).map_err(failed)?;
    let mut life = Life::new(runtime, log.container);
    // When the next file was noticed: until the writer of this one has gone, it may have more to say.
    let mut renamed: Option<Instant> = None;
    loop {
        let is_closed = watch.is_closed();
        let is_over = life.is_over;
        let (next, step) = reader.step(false).await?;
        reader = next;
        let Step { text: piece, state } = step;
        if !send(text, piece, &mut watch).await || state == State::Done {
            return Ok(());
        }
        if state == State::More {
            continue;
        }
        // The end of the file, as it was after the writer had gone.
        let waited = renamed.is_some_and(|at| at.elapsed() >= LAST_WORDS);
        if watch.has_next() && (is_closed || is_over || waited) {
            if let Some(file) = watch.next_file() {
                let rest = reader.switch(file)?;
                if !send(text, rest, &mut watch).await {
                    return Ok(());
                }
            }
            renamed = None;
            continue;
        }
        if is_over && !watch.has_next() {
            return Ok(());
        }
        if watch.has_next() {
            renamed.get_or_insert_with(Instant::now);
        } else if life.look(is_closed).await {
            // What it wrote between the last read and its end is still to be read.
            watch.look();
            continue;
        }
        tokio::select! {
            () = text.closed() => return Ok(()),
            () = watch.changed() => {}
            () = tokio::time::sleep(LOOK) => {
                watch.look();
                life.is_due = true;
                if reader.rewind_if_cut().map_err(failed)? {
                    debug!(path = %log.path.display(), "log was cut, it is read from its start");
                }
            }
        }
    }
}

/// Hands text over; until it is taken, files that get the name are opened. Returns whether anybody takes it.
async fn send(text: &mpsc::Sender<Bytes>, piece: Vec<u8>, watch: &mut Watch) -> bool {
    if piece.is_empty() {
        return !text.is_closed();
    }
    loop {
        tokio::select! {
            permit = text.reserve() => {
                return permit.map(|permit| permit.send(piece.into())).is_ok();
            }
            () = watch.changed() => {}
        }
    }
}

/// Whether the container runs, as the runtime says.
struct Life {
    runtime: Arc<dyn Runtime>,
    container: ContainerId,
    /// Whether it is time to ask.
    is_due: bool,
    /// It ended, and nothing more will be written.
    is_over: bool,
}

impl Life {
    const fn new(runtime: Arc<dyn Runtime>, container: ContainerId) -> Self {
        Self {
            runtime,
            container,
            is_due: true,
            is_over: false,
        }
    }

    /// Asks, if it is time or the writer has gone. Returns whether the container has ended.
    async fn look(&mut self, is_closed: bool) -> bool {
        if !self.is_due && !is_closed {
            return false;
        }
        self.is_due = false;
        self.is_over = match self.runtime.container_status(&self.container).await {
            Ok(status) if status.state == ContainerState::ContainerRunning as i32 => false,
            // Its last lines may still be on their way from the runtime to the file.
            Ok(status) => is_closed || is_past(status.finished_at),
            // A runtime that cannot be asked does not mean that containers ended.
            Err(error) => error.is_not_found(),
        };
        self.is_over
    }
}

/// Whether a moment, in nanoseconds since 1970, is long enough ago.
fn is_past(nanoseconds: i64) -> bool {
    let now = Timestamp::now().as_nanosecond();
    now.saturating_sub(i128::from(nanoseconds)).unsigned_abs() >= LAST_WORDS.as_nanos()
}
