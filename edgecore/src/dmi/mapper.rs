//! The one task that calls one mapper.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use hyper_util::rt::TokioIo;
use proto::device::DeviceId;
use proto::dmi::pb::device_mapper_service_client::DeviceMapperServiceClient;
use proto::dmi::{self, Digest, pb};
use proto::{Kind, Object, ObjectPath};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tracing::{info, warn};

use super::knowledge::{Call, Knowledge, Note, Outcome, Step, Thing, Verb, Wanted};
use super::rows;
use crate::metamanager::MetaManager;

/// How long a call may take in all, as with Go.
const LIMIT: Duration = Duration::from_secs(10);

/// A mapper to call.
pub(super) struct Mapper {
    name: String,
    info: pb::MapperInfo,
    meta: MetaManager,
    /// The database that has its rows.
    database: u64,
    client: DeviceMapperServiceClient<Channel>,
    /// Whether it was told already that it cannot be reached.
    silent: bool,
}

impl Mapper {
    /// The mapper that registered with this; nothing is dialled before the first call.
    pub(super) fn new(info: &pb::MapperInfo, meta: MetaManager) -> Self {
        let socket = PathBuf::from(String::from_utf8_lossy(&info.address).into_owned());
        Self {
            name: info.name.clone(),
            info: info.clone(),
            database: meta.tables().replaced(),
            meta,
            client: DeviceMapperServiceClient::new(channel(socket)),
            silent: false,
        }
    }

    /// Starts the task.
    pub(super) fn start(mut self, mut knowledge: Knowledge, mut wanted: watch::Receiver<Arc<Wanted>>, tasks: &Tasks) {
        let tables = self.meta.tables();
        tasks.spawn("mapper", async move {
            loop {
                if tables.replaced() != self.database {
                    self.store_again(&knowledge).await;
                }
                let now_wanted = wanted.borrow_and_update().clone();
                match knowledge.next(&now_wanted, Instant::now()) {
                    Step::Call(call) => {
                        let outcome = self.perform(&call).await;
                        let notes = knowledge.done(&call, outcome, Instant::now());
                        self.remember(notes).await;
                    }
                    Step::Wait(due) => {
                        let pause = async {
                            match due {
                                Some(due) => tokio::time::sleep_until(due).await,
                                None => std::future::pending().await,
                            }
                        };
                        tokio::select! {
                            changed = wanted.changed() => if changed.is_err() { return },
                            () = tables.replaced_after(self.database) => {}
                            () = pause => {}
                        }
                    }
                }
            }
        });
    }

    async fn perform(&mut self, call: &Call) -> Outcome {
        let told = match (&call.thing, call.verb) {
            (Thing::Model(id), Verb::Remove) => self.remove_model(id).await,
            (Thing::Device(id), Verb::Remove) => self.remove_device(id).await,
            (Thing::Model(id), verb) => self.tell_model(id, verb).await,
            (Thing::Device(id), verb) => self.tell_device(id, verb).await,
        };
        let (mapper, thing, verb) = (&self.name, name(&call.thing), call.verb);
        match told {
            // The object went meanwhile, so the mapper was not called.
            Ok(Outcome::Gone) => Outcome::Gone,
            Ok(outcome) => {
                if std::mem::take(&mut self.silent) {
                    info!(%mapper, "the mapper answers again");
                }
                info!(%mapper, %thing, ?verb, "mapper told");
                outcome
            }
            Err(status) if is_silence(&status) => {
                if !std::mem::replace(&mut self.silent, true) {
                    let error = status.message();
                    warn!(%mapper, %thing, ?verb, %error, "the mapper does not answer; it is called again until it does");
                }
                Outcome::Unreachable
            }
            Err(status) => {
                warn!(%mapper, %thing, ?verb, error = status.message(), "the mapper refused a call");
                Outcome::Refused
            }
        }
    }

    async fn tell_model(&mut self, id: &DeviceId, verb: Verb) -> Result<Outcome, Status> {
        let Some(object) = self.stored(Kind::DeviceModel, id).await else {
            return Ok(Outcome::Gone);
        };
        let Ok(model) = dmi::model(&object) else {
            return Ok(Outcome::Gone);
        };
        let digest = Digest::of_model(&model);
        let model = Some(model);
        match verb {
            Verb::Update => in_time(self.client.update_device_model(pb::UpdateDeviceModelRequest { model })).await?,
            _ => in_time(self.client.create_device_model(pb::CreateDeviceModelRequest { model }))
                .await
                .map(drop)?,
        };
        Ok(Outcome::Done(Some(digest)))
    }

    async fn tell_device(&mut self, id: &DeviceId, verb: Verb) -> Result<Outcome, Status> {
        let Some((device, digest)) = self.device(id).await else {
            return Ok(Outcome::Gone);
        };
        let device = Some(device);
        match verb {
            Verb::Update => in_time(self.client.update_device(pb::UpdateDeviceRequest { device })).await?,
            _ => in_time(self.client.register_device(pb::RegisterDeviceRequest { device }))
                .await
                .map(drop)?,
        };
        Ok(Outcome::Done(Some(digest)))
    }

    async fn remove_model(&mut self, id: &DeviceId) -> Result<Outcome, Status> {
        let request = pb::RemoveDeviceModelRequest {
            model_name: id.name.to_string(),
            model_namespace: id.namespace.to_string(),
        };
        in_time(self.client.remove_device_model(request)).await?;
        Ok(Outcome::Done(None))
    }

    async fn remove_device(&mut self, id: &DeviceId) -> Result<Outcome, Status> {
        let request = pb::RemoveDeviceRequest {
            device_name: id.name.to_string(),
            device_namespace: id.namespace.to_string(),
        };
        in_time(self.client.remove_device(request)).await?;
        Ok(Outcome::Done(None))
    }

    /// The device as it is stored now.
    async fn device(&self, id: &DeviceId) -> Option<(pb::Device, Digest)> {
        let object = self.stored(Kind::Device, id).await?;
        let model = dmi::device_reference(&object).ok()?.model?;
        let model = self.stored(Kind::DeviceModel, &model).await?;
        // The warnings of this conversion are not logged here: `owner` has done so.
        let device = dmi::device(&object, &model).ok()?.device;
        let digest = Digest::of_device(&device).with_uid(&object.meta().uid);
        Some((device, digest))
    }

    async fn stored(&self, kind: Kind, id: &DeviceId) -> Option<Object> {
        let path = ObjectPath::new(id.namespace.clone(), kind, id.name.clone());
        match self.meta.local(&path).await {
            Ok(object) => object,
            Err(error) => {
                warn!(object = %path, error = common::chain(&error), "cannot be read for its mapper; tried again");
                None
            }
        }
    }

    /// A damaged database was replaced: what is in memory is all there is.
    async fn store_again(&mut self, knowledge: &Knowledge) {
        let tables = self.meta.tables();
        self.database = tables.replaced();
        let stored = rows::Stored {
            info: self.info.clone(),
            told: knowledge.told().clone(),
        };
        if let Err(error) = tables
            .transact(move |connection| rows::store(connection, &stored))
            .await
        {
            let error = common::chain(&error);
            warn!(mapper = %self.name, error, "the mapper is not stored: after a restart of edgecore it has to register again");
        }
    }

    async fn remember(&self, notes: Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        let name = self.name.clone();
        let written = self
            .meta
            .tables()
            .transact(move |connection| rows::remember(connection, &name, &notes))
            .await;
        if let Err(error) = written {
            let error = common::chain(&error);
            warn!(mapper = %self.name, error, "what the mapper was told is not stored: after a restart it is told again");
        }
    }
}

/// A thing for logs.
fn name(thing: &Thing) -> String {
    match thing {
        Thing::Model(id) => format!("model {id}"),
        Thing::Device(id) => format!("device {id}"),
    }
}

/// Whether nobody answered, in contrast to an answer that is an error: what the transport failed with has a source.
fn is_silence(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
    ) || std::error::Error::source(status).is_some()
}

async fn in_time<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<(), Status> {
    match tokio::time::timeout(LIMIT, call).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {LIMIT:?}"))),
    }
}

fn channel(socket: PathBuf) -> Channel {
    // The connector ignores the address; its name becomes `:authority`.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}
