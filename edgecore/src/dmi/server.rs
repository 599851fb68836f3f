//! The socket `dmi.sock` and the calls of mappers on it.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::authority::Tolerant;
use common::{Backoff, Tasks};
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use proto::device::{DeviceId, TwinMap};
use proto::dmi::pb;
use proto::dmi::pb::device_manager_service_server::{DeviceManagerService, DeviceManagerServiceServer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::{Request, Response, Status};
use tracing::{debug, info, warn};

use super::limits::{self, MAX_NAME};
use super::owner::{Names, Registration};
use super::reports;
use crate::devicetwin::{DeviceTwin, Stopped};

/// Connections at once; one more waits. The framework opens one for each report.
const CONNECTIONS: usize = 256;
/// Calls at once on one connection.
const STREAMS: u32 = 64;
/// The largest message that is read, grpc-go's own limit.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// The largest headers of a call.
const MAX_HEADERS: u32 = 16 * 1024;

/// Where reports go.
pub(super) trait Reports: Clone + Send + Sync + 'static {
    /// Values of a device.
    fn report(&self, device: DeviceId, twins: TwinMap) -> BoxFuture<'_, Result<(), Stopped>>;
    /// Whether a device is there.
    fn report_state(&self, device: DeviceId, state: String) -> BoxFuture<'_, Result<(), Stopped>>;
}

impl Reports for DeviceTwin {
    fn report(&self, device: DeviceId, twins: TwinMap) -> BoxFuture<'_, Result<(), Stopped>> {
        Box::pin(Self::report(self, device, twins))
    }

    fn report_state(&self, device: DeviceId, state: String) -> BoxFuture<'_, Result<(), Stopped>> {
        Box::pin(Self::report_state(self, device, state))
    }
}

/// The service.
#[derive(Clone)]
pub(super) struct Service<R> {
    registrar: mpsc::Sender<Registration>,
    names: Names,
    reports: R,
}

impl<R: Reports> Service<R> {
    /// Of these parts.
    pub(super) const fn new(registrar: mpsc::Sender<Registration>, names: Names, reports: R) -> Self {
        Self {
            registrar,
            names,
            reports,
        }
    }

    /// Mappers of v1.15 name no namespace: the name has to be unique here.
    fn device(&self, namespace: String, name: String) -> Result<DeviceId, Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument("deviceName is empty"));
        }
        // Both become parts of MQTT topics, which bounds what they may be.
        let is_bad = |name: &str| name.len() > MAX_NAME || name.contains(char::is_control);
        if is_bad(&name) || is_bad(&namespace) {
            return Err(Status::invalid_argument(format!(
                "deviceName and deviceNamespace must have at most {MAX_NAME} bytes and no control characters"
            )));
        }
        if !namespace.is_empty() {
            return Ok(DeviceId::new(namespace, name));
        }
        let names = self.names.lock();
        let mut namespaces = names.get(name.as_str()).into_iter().flatten();
        match (namespaces.next(), namespaces.next()) {
            (Some(namespace), None) => Ok(DeviceId::new(namespace.clone(), name)),
            (None, _) => Err(Status::not_found(format!("there is no device {name} on this node"))),
            (Some(_), Some(_)) => Err(Status::invalid_argument(format!(
                "several devices of this node have the name {name}: deviceNamespace has to say which"
            ))),
        }
    }
}

#[tonic::async_trait]
impl<R: Reports> DeviceManagerService for Service<R> {
    async fn mapper_register(
        &self,
        request: Request<pb::MapperRegisterRequest>,
    ) -> Result<Response<pb::MapperRegisterResponse>, Status> {
        let pb::MapperRegisterRequest { with_data, mapper } = request.into_inner();
        let mapper = mapper.ok_or_else(|| Status::invalid_argument("mapper is absent"))?;
        limits::check(&mapper).map_err(Status::invalid_argument)?;
        let (answer, wait) = oneshot::channel();
        let registration = Registration {
            mapper,
            with_data,
            answer,
        };
        let _ = self.registrar.send(registration).await;
        wait.await.map_err(|_| stopping())?.map(Response::new)
    }

    async fn report_device_status(
        &self,
        request: Request<pb::ReportDeviceStatusRequest>,
    ) -> Result<Response<pb::ReportDeviceStatusResponse>, Status> {
        let report = request.into_inner();
        let device = self.device(report.device_namespace, report.device_name)?;
        let twins = reports::twins(report.reported_device)?;
        self.reports.report(device, twins).await.map_err(|Stopped| stopping())?;
        Ok(Response::new(pb::ReportDeviceStatusResponse {}))
    }

    async fn report_device_states(
        &self,
        request: Request<pb::ReportDeviceStatesRequest>,
    ) -> Result<Response<pb::ReportDeviceStatesResponse>, Status> {
        let report = request.into_inner();
        let device = self.device(report.device_namespace, report.device_name)?;
        if report.state.is_empty() {
            return Err(Status::invalid_argument("state is empty"));
        }
        let told = self.reports.report_state(device, report.state).await;
        told.map_err(|Stopped| stopping())?;
        Ok(Response::new(pb::ReportDeviceStatesResponse {}))
    }
}

fn stopping() -> Status {
    Status::unavailable("edgecore is stopping")
}

/// Serves the socket in a folder. A folder that cannot be used is tried again.
pub(super) fn start<R: Reports>(folder: PathBuf, service: Service<R>, tasks: &Tasks) {
    let connections = tasks.clone();
    tasks.spawn("dmi socket", async move {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let listener = loop {
            match listen(&folder) {
                Ok(listener) => break listener,
                Err(error) => {
                    let delay = backoff.next_delay();
                    warn!(folder = %folder.display(), %error, ?delay, "mappers cannot be served, dmi.sock cannot be made; tried again");
                    tokio::time::sleep(delay).await;
                }
            }
        };
        info!(socket = %folder.join(SOCKET).display(), "mappers are served");
        accept(listener, service, connections).await;
    });
}

const SOCKET: &str = "dmi.sock";

/// The socket appears complete: a mapper that waits for it can use it at once.
fn listen(folder: &Path) -> io::Result<UnixListener> {
    DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    let unnamed = folder.join(format!(".{SOCKET}.{}", std::process::id()));
    match std::fs::remove_file(&unnamed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unnamed)?;
    std::fs::set_permissions(&unnamed, Permissions::from_mode(0o660))?;
    std::fs::rename(&unnamed, folder.join(SOCKET))?;
    Ok(listener)
}

async fn accept<R: Reports>(listener: UnixListener, service: Service<R>, tasks: Tasks) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                backoff.reset();
                let connection = serve(stream, service.clone(), tasks.clone());
                tasks.spawn("dmi connection", async move {
                    connection.await;
                    drop(permit);
                });
            }
            // Out of file descriptors, most likely.
            Err(error) => {
                warn!(%error, "a mapper's connection cannot be accepted");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn serve<R: Reports>(stream: UnixStream, service: Service<R>, tasks: Tasks) {
    let service = DeviceManagerServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE);
    let served = hyper::server::conn::http2::Builder::new(OnTasks(tasks))
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(Tolerant::new(stream)), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        debug!(%error, "a mapper's connection ended");
    }
}

/// Runs the calls of a connection.
#[derive(Clone)]
struct OnTasks(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for OnTasks {
    fn execute(&self, call: F) {
        self.0.spawn("dmi call", call);
    }
}
