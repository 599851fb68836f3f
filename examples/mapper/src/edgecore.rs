//! Calls to edgecore.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::dmi::pb;
use proto::dmi::pb::device_manager_service_client::DeviceManagerServiceClient;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::Info;
use crate::worker::Reports;

/// How long edgecore may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer: some thousand devices.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// One connection for all calls, made when it is needed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Edgecore {
    client: DeviceManagerServiceClient<Channel>,
    lost: Arc<Notify>,
}

impl Edgecore {
    pub(crate) fn new(socket: &Path) -> Self {
        let socket = socket.to_owned();
        // Only the name of the address is used, as the authority that HTTP/2 wants.
        let endpoint = Endpoint::from_static("http://localhost").timeout(PATIENCE);
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }));
        Self {
            client: DeviceManagerServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER),
            lost: Arc::default(),
        }
    }

    pub(crate) async fn register(&self, info: &Info) -> Result<pb::MapperRegisterResponse, Status> {
        let mapper = pb::MapperInfo {
            name: info.name.clone(),
            version: info.version.clone(),
            api_version: "v1.0.0".to_owned(),
            protocol: info.protocol.clone(),
            address: info.socket.to_string_lossy().into_owned().into_bytes(),
            state: "ok".to_owned(),
        };
        let request = pb::MapperRegisterRequest {
            with_data: true,
            mapper: Some(mapper),
        };
        let answer = self.client.clone().mapper_register(request).await?;
        Ok(answer.into_inner())
    }

    /// Waits until a call finds nobody.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }

    fn noted<T>(&self, answer: Result<T, Status>) -> Result<(), Status> {
        if let Err(error) = &answer
            && error.code() == Code::Unavailable
        {
            self.lost.notify_one();
        }
        answer.map(drop)
    }
}

impl Reports for Edgecore {
    async fn values(&self, report: pb::ReportDeviceStatusRequest) -> Result<(), Status> {
        self.noted(self.client.clone().report_device_status(report).await)
    }

    async fn state(&self, report: pb::ReportDeviceStatesRequest) -> Result<(), Status> {
        self.noted(self.client.clone().report_device_states(report).await)
    }
}
