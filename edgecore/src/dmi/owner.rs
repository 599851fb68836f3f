//! The task that owns the catalog and the mappers: follows what is stored, and registers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use common::{Tasks, order};
use parking_lot::Mutex;
use proto::device::DeviceId;
use proto::dmi::{self, Digest, pb};
use proto::{Kind, Namespace, Object, ObjectName, ObjectPath};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tracing::{info, warn};

use super::catalog::{Catalog, Device, Model};
use super::knowledge::{Knowledge, Thing, Wanted};
use super::limits::MAPPERS;
use super::mapper::Mapper;
use super::rows::{self, Stored};
use crate::metamanager::{MetaManager, RequestError};

/// Registrations that wait for the task; a full queue makes mappers wait.
const REGISTRATIONS: usize = 16;
/// When the database could not be read, it is read again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// What is stored; `None` for what is damaged, of which nothing else is known.
type Objects = BTreeMap<DeviceId, Option<Object>>;

/// The namespaces of the devices of a name, for mappers that know no namespaces.
pub(super) type Names = Arc<Mutex<HashMap<ObjectName, BTreeSet<Namespace>>>>;

/// A mapper that wants to register.
pub(super) struct Registration {
    pub(super) mapper: pb::MapperInfo,
    /// Whether it wants its devices in the answer.
    pub(super) with_data: bool,
    pub(super) answer: oneshot::Sender<Result<pb::MapperRegisterResponse, Status>>,
}

/// Starts the task. Returns where mappers register, and the names of devices.
pub(super) fn start(meta: MetaManager, tasks: &Tasks) -> (mpsc::Sender<Registration>, Names) {
    let (registrar, registrations) = mpsc::channel(REGISTRATIONS);
    let names = Names::default();
    let owner = Owner {
        database: meta.tables().replaced(),
        meta,
        tasks: tasks.clone(),
        names: names.clone(),
        catalog: Catalog::default(),
        mappers: BTreeMap::new(),
        resumed: false,
        again: None,
    };
    tasks.spawn("dmi", owner.run(registrations));
    (registrar, names)
}

/// A mapper that runs, or ran when edgecore was last up.
struct Running {
    name: String,
    wanted: watch::Sender<Arc<Wanted>>,
    tasks: Tasks,
}

struct Owner {
    meta: MetaManager,
    /// The database that the catalog was read from.
    database: u64,
    tasks: Tasks,
    names: Names,
    catalog: Catalog,
    /// By protocol: who registered last has it.
    mappers: BTreeMap<String, Running>,
    /// Whether the mappers of the last run are known.
    resumed: bool,
    /// When to read again what could not be read.
    again: Option<Instant>,
}

impl Owner {
    async fn run(mut self, mut registrations: mpsc::Receiver<Registration>) {
        let mut changes = self.meta.changes();
        self.catch_up().await;
        loop {
            let again = self.again;
            let due = async {
                match again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(path) => self.changed(&path).await,
                    Err(RecvError::Lagged(_)) => self.reload().await,
                    Err(RecvError::Closed) => return,
                },
                Some(registration) = registrations.recv() => {
                    let answer = self.register(registration.mapper, registration.with_data).await;
                    let _ = registration.answer.send(answer);
                }
                () = due => self.catch_up().await,
            }
        }
    }

    /// Reads what there is, and what an earlier attempt could not.
    async fn catch_up(&mut self) {
        self.again = None;
        self.reload().await;
        self.resume().await;
    }

    fn read_again(&mut self) {
        self.again.get_or_insert_with(|| Instant::now() + AGAIN);
    }

    /// The mappers of an earlier run: each is told what changed since. Who registered meanwhile is newer than its row.
    async fn resume(&mut self) {
        if self.resumed {
            return;
        }
        match self.meta.tables().read(rows::load).await {
            Ok(mut stored) => {
                self.resumed = true;
                stored.retain(|mapper| !self.runs(&mapper.info));
                let room = MAPPERS.saturating_sub(self.mappers.len());
                stored.drain(..stored.len().saturating_sub(room));
                stored.into_iter().for_each(|mapper| self.run_mapper(mapper));
            }
            Err(error) => {
                warn!(
                    error = common::chain(&error),
                    "the mappers of the last run cannot be read yet: those that do not register again wait"
                );
                self.read_again();
            }
        }
    }

    fn runs(&self, mapper: &pb::MapperInfo) -> bool {
        self.mappers.contains_key(&mapper.protocol) || self.mappers.values().any(|running| running.name == mapper.name)
    }

    /// Reads all devices and models anew.
    async fn reload(&mut self) {
        let (models, devices) = match self.stored().await {
            Ok(stored) => stored,
            Err(error) => {
                warn!(
                    error = common::chain(&error),
                    "devices cannot be read yet: mappers keep what they have"
                );
                return self.read_again();
            }
        };
        // Absent knowledge removes nothing: the cloud tells what belongs into a new database.
        let database = self.meta.tables().replaced();
        let lost = std::mem::replace(&mut self.database, database) != database;
        let gone = |id: &&DeviceId| !lost && !devices.contains_key(*id);
        for id in self.catalog.devices().filter(gone).cloned().collect::<Vec<_>>() {
            self.set_device(&id, None);
        }
        let gone = |id: &&DeviceId| !lost && !models.contains_key(*id);
        for id in self.catalog.models().filter(gone).cloned().collect::<Vec<_>>() {
            self.catalog.set_model(&id, None);
        }
        for (id, model) in &models {
            let Some(model) = model else { continue };
            self.catalog.set_model(id, Some(read_model(id, model)));
        }
        for (id, device) in &devices {
            let Some(device) = device else { continue };
            let model = |id: &DeviceId| models.get(id).cloned().flatten();
            let device = read_device(id, device, model);
            self.set_device(id, Some(device));
        }
        let protocols = order::set(self.mappers.keys().cloned());
        self.tell(protocols);
    }

    async fn stored(&self) -> Result<(Objects, Objects), RequestError> {
        let by_id = |rows: Vec<(ObjectPath, Option<Object>)>| {
            rows.into_iter().filter_map(|(path, object)| Some((id(&path)?, object)))
        };
        let models = by_id(self.meta.local_all(Kind::DeviceModel).await?);
        let devices = by_id(self.meta.local_all(Kind::Device).await?);
        Ok((order::map(models), order::map(devices)))
    }

    async fn changed(&mut self, path: &ObjectPath) {
        let Some(id) = id(path) else { return };
        if !matches!(path.kind, Kind::Device | Kind::DeviceModel) {
            return;
        }
        if self.meta.tables().replaced() != self.database {
            return self.reload().await;
        }
        let protocols = match path.kind {
            Kind::Device => self.device_changed(&id).await,
            _ => self.model_changed(&id).await,
        };
        match protocols {
            Ok(protocols) => self.tell(protocols),
            Err(error) => {
                warn!(
                    object = %path,
                    error = common::chain(&error),
                    "cannot be read yet: its mapper keeps what it has"
                );
                self.read_again();
            }
        }
    }

    async fn device_changed(&mut self, id: &DeviceId) -> Result<BTreeSet<String>, RequestError> {
        let Some(object) = self.local(Kind::Device, id).await? else {
            return Ok(self.set_device(id, None));
        };
        let reference = dmi::device_reference(&object)
            .ok()
            .and_then(|reference| reference.model);
        let model = match &reference {
            Some(model) => self.local(Kind::DeviceModel, model).await?,
            None => None,
        };
        let device = read_device(id, &object, |_| model.clone());
        Ok(self.set_device(id, Some(device)))
    }

    async fn model_changed(&mut self, id: &DeviceId) -> Result<BTreeSet<String>, RequestError> {
        let object = self.local(Kind::DeviceModel, id).await?;
        let mut protocols = self
            .catalog
            .set_model(id, object.as_ref().map(|model| read_model(id, model)));
        for device in self.catalog.devices_of(id) {
            if let Some(stored) = self.local(Kind::Device, &device).await? {
                let read = read_device(&device, &stored, |_| object.clone());
                protocols.extend(self.set_device(&device, Some(read)));
            }
        }
        Ok(protocols)
    }

    async fn local(&self, kind: Kind, id: &DeviceId) -> Result<Option<Object>, RequestError> {
        let path = ObjectPath::new(id.namespace.clone(), kind, id.name.clone());
        self.meta.local(&path).await
    }

    fn set_device(&mut self, id: &DeviceId, device: Option<Device>) -> BTreeSet<String> {
        let mut names = self.names.lock();
        if device.is_some() {
            names.entry(id.name.clone()).or_default().insert(id.namespace.clone());
        } else if let Some(namespaces) = names.get_mut(&id.name) {
            namespaces.remove(&id.namespace);
            if namespaces.is_empty() {
                names.remove(&id.name);
            }
        }
        drop(names);
        self.catalog.set_device(id, device)
    }

    /// Lets the mappers of these protocols know what they are to know.
    fn tell(&self, protocols: BTreeSet<String>) {
        for protocol in protocols {
            if let Some(mapper) = self.mappers.get(&protocol) {
                mapper.wanted.send_replace(Arc::new(self.catalog.wanted(&protocol)));
            }
        }
    }

    /// The mapper is not dialled before it has its answer: its server starts later (spec 03 §5.2).
    async fn register(&mut self, info: pb::MapperInfo, with_data: bool) -> Result<pb::MapperRegisterResponse, Status> {
        if self.mappers.len() >= MAPPERS && !self.runs(&info) {
            warn!(mapper = %info.name, protocol = %info.protocol, "the mapper is refused: too many are known");
            return Err(Status::resource_exhausted(format!(
                "edgecore knows {MAPPERS} mappers already, and takes no further one: a mapper has to use the name or the protocol of one of them"
            )));
        }
        let mut response = pb::MapperRegisterResponse::default();
        let mut told = BTreeMap::new();
        if with_data {
            (response, told) = self.answer(&info.protocol).await.map_err(|error| {
                Status::unavailable(format!("edgecore cannot read its devices: {}", common::chain(&error)))
            })?;
        }
        // Go's mapper-framework ignores the whole answer if one of its two lists is empty: it counts as not told.
        if response.device_list.is_empty() || response.model_list.is_empty() {
            told.clear();
        }
        info!(
            mapper = %info.name,
            protocol = %info.protocol,
            socket = %String::from_utf8_lossy(&info.address),
            devices = response.device_list.len(),
            "mapper registered"
        );
        let stored = Stored { info, told };
        let row = stored.clone();
        // A mapper that had this protocol before is replaced. Its rows are removed, as nobody else would do so.
        let replaced = self.mappers.get(&stored.info.protocol);
        let replaced = replaced.map(|running| running.name.clone());
        let written = self
            .meta
            .tables()
            .transact(move |connection| {
                if let Some(replaced) = &replaced {
                    rows::forget(connection, replaced)?;
                }
                rows::store(connection, &row)
            })
            .await;
        if let Err(error) = written {
            let error = common::chain(&error);
            warn!(mapper = %stored.info.name, error, "the mapper is not stored: after a restart of edgecore it has to register again");
        }
        self.run_mapper(stored);
        Ok(response)
    }

    /// The devices of a protocol with their models, and what a mapper knows by them.
    async fn answer(
        &self,
        protocol: &str,
    ) -> Result<(pb::MapperRegisterResponse, BTreeMap<Thing, Digest>), RequestError> {
        let (models, devices) = self.stored().await?;
        let mut response = pb::MapperRegisterResponse::default();
        let mut told = BTreeMap::new();
        for (id, device) in &devices {
            let Some(device) = device else { continue };
            let Ok(reference) = dmi::device_reference(device) else {
                continue;
            };
            let Some((model_id, Some(model))) = reference.model.and_then(|id| models.get_key_value(&id)) else {
                continue;
            };
            let (Ok(converted), Ok(model)) = (dmi::device(device, model), dmi::model(model)) else {
                continue;
            };
            if reference.protocol != protocol {
                continue;
            }
            if told
                .insert(Thing::Model(model_id.clone()), Digest::of_model(&model))
                .is_none()
            {
                response.model_list.push(model);
            }
            let digest = Digest::of_device(&converted.device).with_uid(&device.meta().uid);
            told.insert(Thing::Device(id.clone()), digest);
            response.device_list.push(converted.device);
        }
        Ok((response, told))
    }

    /// Starts the task of a mapper, in the place of whoever had its protocol or its name.
    fn run_mapper(&mut self, mapper: Stored) {
        let protocol = mapper.info.protocol.clone();
        let replaced = |(other, running): &(&String, &Running)| **other == protocol || running.name == mapper.info.name;
        let replaced: Vec<String> = self
            .mappers
            .iter()
            .filter(replaced)
            .map(|(other, _)| other.clone())
            .collect();
        for other in replaced {
            if let Some(old) = self.mappers.remove(&other) {
                old.tasks.token().cancel();
            }
        }
        let (wanted, wanted_by) = watch::channel(Arc::new(self.catalog.wanted(&protocol)));
        let tasks = self.tasks.child();
        let name = mapper.info.name.clone();
        Mapper::new(&mapper.info, self.meta.clone()).start(Knowledge::new(mapper.told), wanted_by, &tasks);
        self.mappers.insert(protocol, Running { name, wanted, tasks });
    }
}

fn id(path: &ObjectPath) -> Option<DeviceId> {
    Some(DeviceId::new(path.namespace.clone(), path.name.clone()?))
}

fn read_model(id: &DeviceId, object: &Object) -> Model {
    let digest = match dmi::model(object) {
        Ok(model) => Some(Digest::of_model(&model)),
        Err(error) => {
            warn!(model = %id, error = common::chain(&error), "no mapper is told of the model");
            None
        }
    };
    let protocol = dmi::model_protocol(object).unwrap_or_default();
    Model { protocol, digest }
}

fn read_device(id: &DeviceId, object: &Object, model: impl FnOnce(&DeviceId) -> Option<Object>) -> Device {
    let told =
        |error: &dmi::BadDevice| warn!(device = %id, error = common::chain(error), "no mapper is told of the device");
    let reference = match dmi::device_reference(object) {
        Ok(reference) => reference,
        Err(error) => {
            told(&error);
            return Device {
                protocol: String::new(),
                model: None,
                digest: None,
            };
        }
    };
    let model = reference.model.as_ref().map(|id| (id, model(id)));
    let converted = match &model {
        Some((_, Some(model))) => dmi::device(object, model),
        Some((model, None)) => {
            info!(device = %id, %model, "the device waits for its model");
            return with_digest(reference, None);
        }
        None => Err(dmi::BadDevice::NoModel),
    };
    let digest = match converted {
        Ok(converted) => {
            converted
                .warnings
                .iter()
                .for_each(|warning| warn!(device = %id, "{warning}"));
            Some(Digest::of_device(&converted.device).with_uid(&object.meta().uid))
        }
        Err(error) => {
            told(&error);
            None
        }
    };
    with_digest(reference, digest)
}

fn with_digest(reference: dmi::DeviceReference, digest: Option<Digest>) -> Device {
    Device {
        protocol: reference.protocol,
        model: reference.model,
        digest,
    }
}
