//! The logs of containers, as a kubelet prints them (spec 04 §9; spec 05 §6 row 30).
//!
//! Owns nothing between two requests. Reads the files that the runtime writes, and the runtime's word on whether a container runs.
//! Emits text in pieces, and takes no more from the disk than the reader of it takes. Must not write or rename: rotation is others'
//! business, a follower only has to survive it, and does so by inode: the file it reads, then each that came after it under its name.
//!
//! As with a kubelet only the current file of a container is read, lines and bytes are counted as the runtime cut them, and what goes
//! wrong after the first byte is told at the end of the text. Unlike a kubelet's, a follower loses nothing at a rotation.

mod choose;
mod follow;
mod inotify;
mod line;
mod options;
mod printer;
mod reader;
#[cfg(test)]
mod tests;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use common::{Tasks, chain};
use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::mpsc;

use super::runtime::{ContainerId, Runtime};
pub use choose::{NoLog, container_with_log};
pub use options::{BadOptions, LogOptions, Stream};
use reader::Reader;

/// Pieces of text that wait for whoever takes them: one is taken while the next is read.
const PIECES: usize = 2;

/// What went wrong with a log, in a kubelet's words.
#[derive(Debug, Error)]
pub enum LogError {
    /// There is no file where it should be, or it cannot be opened.
    #[error("failed to open log file {path:?}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be read.
    #[error("failed to read log file {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its first line is neither CRI's nor docker's.
    #[error("failed to get parse function: unsupported log format: {0:?}")]
    Format(String),
}

/// Which log is to be read.
#[derive(Clone, Debug)]
pub struct Log {
    /// The container it is of: while it runs, the log is followed.
    pub container: ContainerId,
    /// The file that the runtime writes.
    pub path: PathBuf,
}

/// Starts reading. The text ends with the channel; reading ends when the receiver is dropped.
pub fn read(runtime: Arc<dyn Runtime>, log: Log, options: LogOptions, tasks: &Tasks) -> mpsc::Receiver<Bytes> {
    let (text, pieces) = mpsc::channel(PIECES);
    tasks.spawn("logs", async move {
        if let Err(error) = run(runtime, log, &options, &text).await {
            let _ = text.send(Bytes::from(chain(&error))).await;
        }
    });
    pieces
}

async fn run(
    runtime: Arc<dyn Runtime>,
    log: Log,
    options: &LogOptions,
    text: &mpsc::Sender<Bytes>,
) -> Result<(), LogError> {
    let reader = Reader::open(&log.path, options, Timestamp::now())?;
    if options.follow {
        return follow::run(runtime, log, reader, text).await;
    }
    let mut reader = reader;
    loop {
        let (next, step) = reader.step(true).await?;
        reader = next;
        if !step.text.is_empty() && text.send(step.text.into()).await.is_err() {
            return Ok(());
        }
        if step.state != reader::State::More {
            return Ok(());
        }
    }
}
