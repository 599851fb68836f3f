//! An edge with its DMI server, and a mapper in this process.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::Tasks;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use proto::device::{DeviceId, TwinMap};
use proto::dmi::pb;
use proto::dmi::pb::device_manager_service_client::DeviceManagerServiceClient;
use proto::dmi::pb::device_mapper_service_server::{DeviceMapperService, DeviceMapperServiceServer};
use proto::{Content, Group, Kind, Message, ObjectPath, Operation, Source};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::super::owner;
use super::super::server::{self, Reports};
use crate::devicetwin::Stopped;
use crate::metamanager::{self, MetaManager};
use crate::uplink::{Link, Uplink};

pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// What came instead of to DeviceTwin.
#[derive(Debug, PartialEq)]
pub(super) enum Reported {
    Values(DeviceId, TwinMap),
    State(DeviceId, String),
}

#[derive(Clone)]
struct Reporter(mpsc::Sender<Reported>);

impl Reports for Reporter {
    fn report(&self, device: DeviceId, twins: TwinMap) -> BoxFuture<'_, Result<(), Stopped>> {
        Box::pin(async move { self.0.send(Reported::Values(device, twins)).await.map_err(|_| Stopped) })
    }

    fn report_state(&self, device: DeviceId, state: String) -> BoxFuture<'_, Result<(), Stopped>> {
        Box::pin(async move { self.0.send(Reported::State(device, state)).await.map_err(|_| Stopped) })
    }
}

pub(super) struct Edge {
    pub(super) folder: tempfile::TempDir,
    pub(super) meta: MetaManager,
    pub(super) reported: mpsc::Receiver<Reported>,
    pub(super) tasks: Tasks,
}

impl Edge {
    pub(super) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder")).await
    }

    pub(super) async fn start_in(folder: tempfile::TempDir) -> Self {
        let tasks = Tasks::new();
        let meta = meta_manager(&folder, &tasks).await;
        Self::serve(folder, meta, tasks)
    }

    pub(super) fn serve(folder: tempfile::TempDir, meta: MetaManager, tasks: Tasks) -> Self {
        let (registrar, names) = owner::start(meta.clone(), &tasks);
        let (reports, reported) = mpsc::channel(16);
        let service = server::Service::new(registrar, names, Reporter(reports));
        server::start(folder.path().join("etc"), service, &tasks);
        Self {
            folder,
            meta,
            reported,
            tasks,
        }
    }

    /// With a model, a device of it, and the mapper of both, which knows them.
    pub(super) async fn with_mapper() -> (Self, PathBuf) {
        let edge = Self::start().await;
        edge.model().await;
        edge.device("d", 2, "1").await;
        edge.stored(1).await;
        let socket = edge.mapper_socket("m.sock");
        edge.register(&socket).await;
        (edge, socket)
    }

    /// Stops edgecore and starts it again.
    pub(super) async fn restart(self) -> Self {
        assert!(self.tasks.stop(LIMIT).await);
        let Self { folder, meta, .. } = self;
        drop(meta);
        Self::start_in(folder).await
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("etc/dmi.sock")
    }

    pub(super) fn mapper_socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) async fn send(&self, operation: Operation, kind: Kind, name: &str, object: &Value) {
        let path = ObjectPath::new("default", kind, name);
        let message = Message::new(
            Source::DeviceController,
            Group::Resource,
            operation,
            path,
            Content::json(object),
        );
        self.meta.deliver(&mut Some(message)).await;
    }

    pub(super) async fn model(&self) {
        self.send(Operation::Insert, Kind::DeviceModel, "m", &model("1", ""))
            .await;
    }

    pub(super) async fn device(&self, name: &str, version: u32, desired: &str) {
        self.send(Operation::Update, Kind::Device, name, &device(name, version, desired))
            .await;
    }

    /// Rows of devices, as if they had come one by one.
    pub(super) async fn stored_at_once(&self, count: u32) {
        let rows = move |connection: &rusqlite::Connection| {
            for number in 0..count {
                let (name, object) = (format!("d{number}"), device(&format!("d{number}"), number + 2, "1"));
                connection.execute(
                    "INSERT INTO meta (key, type, value) VALUES (?1, 'device', ?2)",
                    [format!("default/device/{name}"), object.to_string()],
                )?;
            }
            Ok(())
        };
        self.meta.tables().transact(rows).await.expect("stored");
    }

    /// Waits until so many devices are stored.
    pub(super) async fn stored(&self, count: usize) {
        let end = Instant::now() + LIMIT;
        while self.meta.local_all(Kind::Device).await.expect("reads").len() != count {
            assert!(Instant::now() < end, "never {count} devices");
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn client(&self) -> DeviceManagerServiceClient<Channel> {
        let socket = self.socket();
        let end = Instant::now() + LIMIT;
        while !socket.exists() {
            assert!(Instant::now() < end, "no socket");
            tokio::task::yield_now().await;
        }
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }));
        DeviceManagerServiceClient::new(channel)
    }

    pub(super) async fn register(&self, socket: &Path) -> pb::MapperRegisterResponse {
        let request = pb::MapperRegisterRequest {
            with_data: true,
            mapper: Some(pb::MapperInfo {
                name: "mapper".into(),
                protocol: "modbus".into(),
                address: socket.to_str().expect("text").as_bytes().to_vec(),
                ..Default::default()
            }),
        };
        let answer = self.client().await.mapper_register(request).await;
        answer.expect("registered").into_inner()
    }
}

pub(super) async fn meta_manager(folder: &tempfile::TempDir, tasks: &Tasks) -> MetaManager {
    let (uplink, mut cloud) = Uplink::channel();
    let settings = metamanager::Settings {
        node: "edge-1".into(),
        database: folder.path().join("edgecore.db"),
        remote_timeout: Duration::from_secs(60),
    };
    let meta = MetaManager::start(settings, uplink, tasks).await.expect("started");
    cloud.link.send_replace(Link::Up(1));
    // Acknowledgements go nowhere.
    tasks.spawn("the cloud", async move { while cloud.recv().await.is_some() {} });
    meta
}

pub(super) fn model(version: &str, description: &str) -> Value {
    json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "m", "namespace": "default", "uid": "um", "resourceVersion": version},
        "spec": {"protocol": "modbus", "properties": [
            {"name": "temp", "type": "INT", "accessMode": "ReadWrite", "description": description}]}})
}

pub(super) fn device(name: &str, version: u32, desired: &str) -> Value {
    json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": version.to_string()},
        "spec": {"deviceModelRef": {"name": "m"}, "nodeName": "edge-1", "protocol": {"protocolName": "modbus"},
                 "properties": [{"name": "temp", "desired": {"value": desired}}]}})
}

/// A mapper that tells what it is called with: method and name, for devices with the desired value.
#[derive(Clone)]
pub(super) struct Mapper(mpsc::Sender<String>);

impl Mapper {
    pub(super) fn serve(socket: &Path, tasks: &Tasks) -> mpsc::Receiver<String> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).expect("binds");
        let (calls, called) = mpsc::channel(64);
        let mapper = Self(calls);
        let connections = tasks.clone();
        tasks.spawn("a mapper", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(DeviceMapperServiceServer::new(mapper.clone()));
                connections.spawn("a mapper's connection", async move {
                    let serving = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                    let _ = serving.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        called
    }

    async fn told(&self, text: String) {
        let _ = self.0.send(text).await;
    }
}

pub(super) fn described(device: Option<pb::Device>) -> String {
    let device = device.expect("a device");
    let spec = device.spec.expect("a spec");
    let desired = spec.properties.first().and_then(|property| property.desired.clone());
    format!("{} {}", device.name, desired.expect("desired").value)
}

#[tonic::async_trait]
impl DeviceMapperService for Mapper {
    async fn register_device(
        &self,
        request: Request<pb::RegisterDeviceRequest>,
    ) -> Result<Response<pb::RegisterDeviceResponse>, Status> {
        self.told(format!("register {}", described(request.into_inner().device)))
            .await;
        Ok(Response::new(Default::default()))
    }

    async fn remove_device(
        &self,
        request: Request<pb::RemoveDeviceRequest>,
    ) -> Result<Response<pb::RemoveDeviceResponse>, Status> {
        self.told(format!("remove {}", request.into_inner().device_name)).await;
        Err(Status::unknown("can not find device from device muxs"))
    }

    async fn update_device(
        &self,
        request: Request<pb::UpdateDeviceRequest>,
    ) -> Result<Response<pb::UpdateDeviceResponse>, Status> {
        self.told(format!("update {}", described(request.into_inner().device)))
            .await;
        Ok(Response::new(Default::default()))
    }

    async fn create_device_model(
        &self,
        request: Request<pb::CreateDeviceModelRequest>,
    ) -> Result<Response<pb::CreateDeviceModelResponse>, Status> {
        let model = request.into_inner().model.expect("a model");
        self.told(format!("model {}", model.name)).await;
        Ok(Response::new(Default::default()))
    }

    async fn remove_device_model(
        &self,
        request: Request<pb::RemoveDeviceModelRequest>,
    ) -> Result<Response<pb::RemoveDeviceModelResponse>, Status> {
        self.told(format!("remove model {}", request.into_inner().model_name))
            .await;
        Ok(Response::new(Default::default()))
    }

    async fn update_device_model(
        &self,
        request: Request<pb::UpdateDeviceModelRequest>,
    ) -> Result<Response<pb::UpdateDeviceModelResponse>, Status> {
        let spec = request.into_inner().model.and_then(|model| model.spec).expect("a spec");
        let property = spec.properties.first().expect("a property");
        self.told(format!("update model: {}", property.description)).await;
        Ok(Response::new(Default::default()))
    }

    async fn get_device(&self, _: Request<pb::GetDeviceRequest>) -> Result<Response<pb::GetDeviceResponse>, Status> {
        Err(Status::unimplemented("never called"))
    }
}

pub(super) async fn next(called: &mut mpsc::Receiver<String>) -> String {
    let call = tokio::time::timeout(LIMIT, called.recv()).await;
    call.expect("a call in time").expect("a call")
}
