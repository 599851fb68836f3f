//! Devices of this node: which there are, the expected and the actual value of each property, whether they are there.
//!
//! Owns the tables `device`, `device_attr` and `device_twin`, and what of it the cloud has not confirmed. Reads requests from MQTT,
//! values of mappers, messages of the cloud, and which `device` objects are stored. Emits publications for MQTT, reports to the cloud,
//! and every accepted value and removed device. Must not know sockets, MQTT or gRPC. Behaviour: spec 03 §3.
//!
//! Rows come first, then memory, then publications: nothing is told that is not stored. Requests that wait share one transaction. Who
//! made them may have been told already that they were taken: a stop loses none that came here.

mod machine;
mod metrics;
mod publications;
mod rows;
mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use common::Tasks;
use prometheus_client::registry::Registry;
use proto::device::{DeviceId, MAX_PAYLOAD, Twin, TwinMap};
use proto::{Message, NodeName};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};

use crate::metamanager::MetaManager;
use crate::uplink::Uplink;
use metrics::Metrics;
use task::{Ends, Task};

pub use publications::{Publication, Publications};
pub(crate) use publications::{Publisher, queue as publication_queue};

/// Requests that wait for the task; a full queue makes whoever sends them wait.
const REQUESTS: usize = 1024;
/// Their bytes: as for [`REQUESTS`].
const BYTES: usize = 4 * 1024 * 1024;
/// Messages of the cloud that wait for the task; a full queue makes edgehub stop reading the socket.
const INBOX: usize = 128;
/// Batches of news that a slow reader may be behind before it is told that it missed some. What one holds is bounded by what its requests
/// may hold, and it is dropped as soon as it was read.
const NEWS: usize = 64;

/// What this module needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeName,
    /// `modules.deviceTwin.reportsPerDevice`: reports a second to the cloud about one device.
    pub reports_per_device: u32,
    /// `modules.deviceTwin.reportsPerSecond`: the same for all devices together.
    pub reports_per_second: u32,
}

/// A value that was measured, taken and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Whose.
    pub device: DeviceId,
    /// The property.
    pub property: String,
    /// Its value.
    pub value: String,
    /// Its type, `string` when nobody said.
    pub kind: String,
    /// When it was taken, Unix time in milliseconds.
    pub time: i64,
}

/// What whoever keeps values must know. It was stored before it is told.
#[derive(Clone, Debug)]
pub enum News {
    /// A value was taken.
    Value(Arc<Accepted>),
    /// A device is gone; what comes under its name later is another one.
    Removed(DeviceId),
    /// There are these devices and no others, as the cloud lists them.
    Devices(Arc<[DeviceId]>),
}

/// The process stops.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("edgecore is stopping")]
pub struct Stopped;

/// What the task is told by other modules of the edge.
#[derive(Debug)]
enum Request {
    /// A message on `$hw/events/(device|node)/…`.
    Mqtt { topic: String, payload: Bytes },
    /// Values of a mapper.
    Report { device: DeviceId, twins: TwinMap },
    /// A mapper tells whether a device is there.
    State { device: DeviceId, state: String },
}

/// A request with the room that it takes of [`BYTES`].
#[derive(Debug)]
struct Waiting {
    request: Request,
    room: OwnedSemaphorePermit,
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeviceTwin {
    requests: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    inbox: mpsc::Sender<Message>,
    news: broadcast::Sender<Arc<[News]>>,
}

impl DeviceTwin {
    /// Loads the rows and starts the task. The second value is what is to be published on MQTT: when nobody reads it, the oldest are
    /// dropped and counted.
    pub async fn start(
        settings: Settings,
        meta: MetaManager,
        uplink: Uplink,
        registry: &mut Registry,
        tasks: &Tasks,
    ) -> (Self, Publications) {
        let (requests, requested) = mpsc::channel(REQUESTS);
        let (inbox, messages) = mpsc::channel(INBOX);
        let (news, _) = broadcast::channel(NEWS);
        let (publisher, publications) = publications::queue();
        let metrics = Metrics::register(registry, publisher.dropped());
        let mut task = Task::new(settings, meta, uplink, publisher, news.clone(), metrics);
        // What cannot be read now is tried again while running.
        task.load().await;
        let ends = Ends {
            requests: requested,
            messages,
        };
        tasks.spawn_draining("devicetwin", |stop| task.run(ends, stop));
        let handle = Self {
            requests,
            room: Arc::new(Semaphore::new(BYTES)),
            inbox,
            news,
        };
        (handle, publications)
    }

    /// Where edgehub puts messages of the group `twin`.
    pub fn inbox(&self) -> mpsc::Sender<Message> {
        self.inbox.clone()
    }

    /// An MQTT message on `$hw/events/device/…` or `$hw/events/node/…`; waits while many are waiting.
    pub async fn request(&self, topic: &str, payload: Bytes) {
        // What is too large to be read is refused like what cannot be read.
        let payload = if payload.len() > MAX_PAYLOAD {
            Bytes::new()
        } else {
            payload
        };
        let size = topic.len() + payload.len();
        let topic = topic.to_owned();
        let _ = self.send(Request::Mqtt { topic, payload }, size).await;
    }

    /// Values of a mapper: a local write, whose rejection shows on MQTT only.
    pub async fn report(&self, device: DeviceId, twins: TwinMap) -> Result<(), Stopped> {
        let given = twins
            .iter()
            .map(|(name, twin)| name.len() + size_of_given(twin.as_ref()));
        let size = given.sum();
        self.send(Request::Report { device, twins }, size).await
    }

    /// A mapper tells whether a device is there.
    pub async fn report_state(&self, device: DeviceId, state: String) -> Result<(), Stopped> {
        let size = state.len();
        self.send(Request::State { device, state }, size).await
    }

    /// Every actual value that was taken and every device that went, from now on: a message for each transaction, in order.
    pub fn news(&self) -> broadcast::Receiver<Arc<[News]>> {
        self.news.subscribe()
    }

    async fn send(&self, request: Request, size: usize) -> Result<(), Stopped> {
        let size = u32::try_from(size.min(MAX_PAYLOAD)).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(size).await;
        let waiting = Waiting {
            request,
            room: room.map_err(|_| Stopped)?,
        };
        self.requests.send(waiting).await.map_err(|_| Stopped)
    }
}

fn size_of_given(twin: Option<&Twin>) -> usize {
    let values = twin.into_iter().flat_map(|twin| [&twin.expected, &twin.actual]);
    values
        .flatten()
        .filter_map(|given| given.value.as_ref())
        .map(String::len)
        .sum()
}
