//! The history: what the properties of this node's devices were, kept at the edge for whoever asks there.
//!
//! Owns `history.db` beside the edge's database, on a thread of its own: many small writes must not hold up the database that pods
//! depend on. Reads the values that DeviceTwin took, and which devices went. Emits answers over HTTP
//! (`/devices/<ns>/<name>/history` of the local server) and MQTT (`$hw/events/device/<ns>/<name>/history/get`). Must not hold up
//! DeviceTwin: a value that finds no room is dropped and counted. Off by default; only ours. Documented in docs/devices.md.
//!
//! It is bounded three ways: values of one property, bytes of the file, age. The oldest go first. With a device goes all that is
//! remembered of it.

mod http;
mod metrics;
mod mqtt;
mod question;
mod store;
#[cfg(test)]
mod tests;
mod thread;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use prometheus_client::registry::Registry;
use proto::device::{DeviceId, Remembered};
use thiserror::Error;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;

use crate::devicetwin::News;
use metrics::Metrics;
use question::Question;
use thread::Calls;

pub use mqtt::{FILTER, is_question};

/// What this module needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `history.db` beside the edge's database.
    pub database: PathBuf,
    /// What is kept.
    pub bounds: Bounds,
}

/// What is kept at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// `modules.deviceTwin.history.maxValues`: values of one property.
    pub values: u64,
    /// `modules.deviceTwin.history.maxBytes`: of the file, without SQLite's log beside it (1 MiB).
    pub bytes: u64,
    /// `modules.deviceTwin.history.maxAge`; `None` for any.
    pub age: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The question has no sense.
    #[error("{0}")]
    Question(#[from] question::BadQuestion),
    /// Nothing is remembered.
    #[error("nothing is remembered of {0}")]
    Unknown(String),
    /// The file cannot be read.
    #[error("history.db cannot be read: {0}")]
    Failed(#[source] rusqlite::Error),
    /// Too many values and questions wait for the disk, or the process stops.
    #[error("history.db is busy: try again")]
    Busy,
}

impl HistoryError {
    /// As in HTTP.
    const fn code(&self) -> u16 {
        match self {
            Self::Question(_) => 400,
            Self::Unknown(_) => 404,
            Self::Failed(_) => 500,
            Self::Busy => 503,
        }
    }
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct History {
    calls: Calls,
}

impl History {
    /// Starts the thread, which opens the file by itself, and the task that feeds it.
    pub fn start(
        settings: Settings,
        news: broadcast::Receiver<Arc<[News]>>,
        registry: &mut Registry,
        tasks: &Tasks,
    ) -> std::io::Result<Self> {
        let metrics = Metrics::register(registry);
        let calls = Calls::start(settings, metrics.clone())?;
        let feed = feed(news, calls.clone(), metrics);
        tasks.spawn_draining("history", |stop| {
            let calls = calls.clone();
            async move {
                tokio::select! {
                    () = feed => {}
                    () = stop.cancelled() => {}
                }
                calls.stop().await;
            }
        });
        Ok(Self { calls })
    }

    /// What is remembered of a device, of all values that were taken before.
    async fn remembered(&self, device: &DeviceId, question: Question) -> Result<Remembered, HistoryError> {
        self.calls.ask(device.to_string(), question).await
    }
}

/// Hands on what DeviceTwin tells.
async fn feed(mut news: broadcast::Receiver<Arc<[News]>>, calls: Calls, metrics: Metrics) {
    // Devices that went while the thread had no room for it.
    let mut owed = Vec::new();
    loop {
        let next = tokio::select! {
            next = news.recv() => next,
            () = sleep(OWED), if !owed.is_empty() => Ok(Arc::default()),
        };
        match next {
            Ok(batch) => calls.tell(&mut owed, batch),
            // Nothing can be done: of a device that went meanwhile the values stay until the cloud lists the devices again.
            Err(RecvError::Lagged(missed)) => metrics.lost("behind", missed),
            Err(RecvError::Closed) => return,
        }
    }
}

/// When the thread is told again what it had no room for, if nothing else is told before.
const OWED: Duration = Duration::from_secs(1);
