//! The socket that edgecore calls.

use std::future::Future;
use std::io;
use std::path::Path;

use common::Tasks;
use common::authority::Tolerant;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use proto::dmi::pb;
use proto::dmi::pb::device_mapper_service_server::{DeviceMapperService, DeviceMapperServiceServer};
use tokio::net::{UnixListener, UnixStream};
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

use crate::Protocol;
use crate::devices::Devices;
use crate::worker::Reports;

struct Service<P, R>(Devices<P, R>);

/// Binds the socket and serves it until the tasks stop.
pub(crate) fn start<P: Protocol, R: Reports>(socket: &Path, devices: Devices<P, R>, tasks: &Tasks) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    let group = tasks.clone();
    tasks.spawn("socket", async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => group.spawn("connection", serve(stream, Service(devices.clone()), group.clone())),
                Err(error) => {
                    warn!(%error, "a connection of edgecore cannot be taken");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok(())
}

/// A Go edgecore names the path of the socket as its authority, which the HTTP/2 library refuses: hence [`Tolerant`].
async fn serve<P: Protocol, R: Reports>(stream: UnixStream, service: Service<P, R>, tasks: Tasks) {
    let service = TowerToHyperService::new(DeviceMapperServiceServer::new(service));
    let connection = hyper::server::conn::http2::Builder::new(OnTasks(tasks));
    let served = connection
        .serve_connection(TokioIo::new(Tolerant::new(stream)), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection of edgecore ended");
    }
}

#[derive(Clone)]
struct OnTasks(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for OnTasks {
    fn execute(&self, call: F) {
        self.0.spawn("call", call);
    }
}

impl<P: Protocol, R: Reports> Service<P, R> {
    fn put(&self, device: Option<pb::Device>) -> Result<(String, String), Status> {
        let device = device.ok_or_else(|| Status::invalid_argument("device is absent"))?;
        let id = (device.namespace.clone(), device.name.clone());
        let unknown = |model| Status::failed_precondition(format!("the model {model} of device {} is not known", id.1));
        self.0.put(device).map_err(|error| unknown(error.0))?;
        Ok(id)
    }

    fn put_model(&self, model: Option<pb::DeviceModel>) -> Result<(String, String), Status> {
        let model = model.ok_or_else(|| Status::invalid_argument("model is absent"))?;
        let id = (model.namespace.clone(), model.name.clone());
        self.0.put_model(model);
        Ok(id)
    }
}

#[tonic::async_trait]
impl<P: Protocol, R: Reports> DeviceMapperService for Service<P, R> {
    async fn register_device(
        &self,
        request: Request<pb::RegisterDeviceRequest>,
    ) -> Result<Response<pb::RegisterDeviceResponse>, Status> {
        let (device_namespace, device_name) = self.put(request.into_inner().device)?;
        Ok(Response::new(pb::RegisterDeviceResponse {
            device_name,
            device_namespace,
        }))
    }

    async fn update_device(
        &self,
        request: Request<pb::UpdateDeviceRequest>,
    ) -> Result<Response<pb::UpdateDeviceResponse>, Status> {
        self.put(request.into_inner().device)?;
        Ok(Response::new(Default::default()))
    }

    async fn remove_device(
        &self,
        request: Request<pb::RemoveDeviceRequest>,
    ) -> Result<Response<pb::RemoveDeviceResponse>, Status> {
        let request = request.into_inner();
        self.0.remove(&(request.device_namespace, request.device_name));
        Ok(Response::new(Default::default()))
    }

    async fn create_device_model(
        &self,
        request: Request<pb::CreateDeviceModelRequest>,
    ) -> Result<Response<pb::CreateDeviceModelResponse>, Status> {
        let (device_model_namespace, device_model_name) = self.put_model(request.into_inner().model)?;
        Ok(Response::new(pb::CreateDeviceModelResponse {
            device_model_name,
            device_model_namespace,
        }))
    }

    async fn update_device_model(
        &self,
        request: Request<pb::UpdateDeviceModelRequest>,
    ) -> Result<Response<pb::UpdateDeviceModelResponse>, Status> {
        self.put_model(request.into_inner().model)?;
        Ok(Response::new(Default::default()))
    }

    async fn remove_device_model(
        &self,
        request: Request<pb::RemoveDeviceModelRequest>,
    ) -> Result<Response<pb::RemoveDeviceModelResponse>, Status> {
        let request = request.into_inner();
        self.0.remove_model(&(request.model_namespace, request.model_name));
        Ok(Response::new(Default::default()))
    }

    async fn get_device(
        &self,
        request: Request<pb::GetDeviceRequest>,
    ) -> Result<Response<pb::GetDeviceResponse>, Status> {
        let request = request.into_inner();
        let device = self.0.get(&(request.device_namespace, request.device_name));
        let device = device.ok_or_else(|| Status::not_found("the device is not known"))?;
        Ok(Response::new(pb::GetDeviceResponse { device: Some(device) }))
    }
}
