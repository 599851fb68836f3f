//! The client of a real runtime, over its Unix socket.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use hyper_util::rt::TokioIo;
use proto::containerd::events_client::EventsClient;
use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use proto::{Uid, cri};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::{Call, ContainerId, Events, ExecOutput, LABEL_POD_UID, Runtime, RuntimeError, SandboxId, events};

/// Connects when it is first used, and again after the runtime was gone. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    pub(super) runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    pub(super) events: EventsClient<Channel>,
}

impl Client {
    /// A client of the runtime at `runtime` with images at `images`; calls that do not wait by nature end after `timeout`.
    pub fn new(runtime: &Path, images: &Path, timeout: Duration) -> Self {
        let runtime_channel = channel(runtime);
        let images_channel = if images == runtime {
            runtime_channel.clone()
        } else {
            channel(images)
        };
        Self {
            events: EventsClient::new(runtime_channel.clone()),
            socket: runtime.to_owned(),
            timeout,
            runtime: RuntimeServiceClient::new(runtime_channel).max_decoding_message_size(MAX_ANSWER),
            images: ImageServiceClient::new(images_channel).max_decoding_message_size(MAX_ANSWER),
        }
    }

    /// Waits for one call and names it in its error.
    async fn call<T>(
        &self,
        call: &'static str,
        subject: &str,
        timeout: Duration,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, RuntimeError> {
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(call, subject, &status)),
            Err(_) => Err(RuntimeError {
                call,
                subject: subject.to_owned(),
                code: Code::DeadlineExceeded,
                message: format!("no answer within {timeout:?}"),
            }),
        }
    }

    pub(super) fn error(&self, call: &'static str, subject: &str, status: &Status) -> RuntimeError {
        let message = if status.code() == Code::Unavailable {
            format!(
                "the container runtime at {} cannot be reached: {}",
                self.socket.display(),
                status.message()
            )
        } else {
            status.message().to_owned()
        };
        RuntimeError {
            call,
            subject: subject.to_owned(),
            code: status.code(),
            message,
        }
    }
}

impl Runtime for Client {
    fn version(&self) -> Call<'_, cri::VersionResponse> {
        async move {
            let request = cri::VersionRequest {
                version: "0.1.0".into(),
            };
            self.call("Version", "", self.timeout, self.runtime.clone().version(request))
                .await
        }
        .boxed()
    }

    fn status(&self) -> Call<'_, cri::StatusResponse> {
        async move {
            let request = cri::StatusRequest { verbose: false };
            self.call("Status", "", self.timeout, self.runtime.clone().status(request))
                .await
        }
        .boxed()
    }

    fn runtime_config(&self) -> Call<'_, cri::RuntimeConfigResponse> {
        async move {
            let request = cri::RuntimeConfigRequest {};
            self.call(
                "RuntimeConfig",
                "",
                self.timeout,
                self.runtime.clone().runtime_config(request),
            )
            .await
        }
        .boxed()
    }

    fn update_runtime_config(&self, pod_cidr: &str) -> Call<'_, ()> {
        let network_config = Some(cri::NetworkConfig {
            pod_cidr: pod_cidr.to_owned(),
        });
        async move {
            let request = cri::UpdateRuntimeConfigRequest {
                runtime_config: Some(cri::RuntimeConfig { network_config }),
            };
            let mut client = self.runtime.clone();
            self.call(
                "UpdateRuntimeConfig",
                "",
                self.timeout,
                client.update_runtime_config(request),
            )
            .await
            .map(drop)
        }
        .boxed()
    }

    fn list_sandboxes<'a>(&'a self, pod: Option<&'a Uid>) -> Call<'a, Vec<cri::PodSandbox>> {
        async move {
            let filter = pod.map(|uid| cri::PodSandboxFilter {
                label_selector: by_uid(uid),
                ..Default::default()
            });
            let request = cri::ListPodSandboxRequest { filter };
            let answer = self
                .call(
                    "ListPodSandbox",
                    "",
                    self.timeout,
                    self.runtime.clone().list_pod_sandbox(request),
                )
                .await?;
            Ok(answer.items)
        }
        .boxed()
    }

    fn sandbox_status<'a>(&'a self, id: &'a SandboxId) -> Call<'a, cri::PodSandboxStatus> {
        async move {
            let request = cri::PodSandboxStatusRequest {
                pod_sandbox_id: id.to_string(),
                verbose: false,
            };
            let answer = self
                .call(
                    "PodSandboxStatus",
                    id.as_str(),
                    self.timeout,
                    self.runtime.clone().pod_sandbox_status(request),
                )
                .await?;
            answer.status.ok_or_else(|| empty("PodSandboxStatus", id.as_str()))
        }
        .boxed()
    }

    fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: String) -> Call<'_, SandboxId> {
        async move {
            let name = config
                .metadata
                .as_ref()
                .map(|m| format!("{}/{}", m.namespace, m.name))
                .unwrap_or_default();
            let request = cri::RunPodSandboxRequest {
                config: Some(config),
                runtime_handler: handler,
            };
            // The network may take its time.
            let answer = self
                .call(
                    "RunPodSandbox",
                    &name,
                    self.timeout * 2,
                    self.runtime.clone().run_pod_sandbox(request),
                )
                .await?;
            Ok(SandboxId::new(answer.pod_sandbox_id))
        }
        .boxed()
    }

    fn stop_sandbox<'a>(&'a self, id: &'a SandboxId) -> Call<'a, ()> {
        async move {
            let request = cri::StopPodSandboxRequest {
                pod_sandbox_id: id.to_string(),
            };
            let mut client = self.runtime.clone();
            let answer = client.stop_pod_sandbox(request);
            gone_is_fine(self.call("StopPodSandbox", id.as_str(), self.timeout, answer).await)
        }
        .boxed()
    }

    fn remove_sandbox<'a>(&'a self, id: &'a SandboxId) -> Call<'a, ()> {
        async move {
            let request = cri::RemovePodSandboxRequest {
                pod_sandbox_id: id.to_string(),
            };
            let mut client = self.runtime.clone();
            let answer = client.remove_pod_sandbox(request);
            gone_is_fine(self.call("RemovePodSandbox", id.as_str(), self.timeout, answer).await)
        }
        .boxed()
    }

    fn list_containers<'a>(&'a self, pod: Option<&'a Uid>) -> Call<'a, Vec<cri::Container>> {
        async move {
            let filter = pod.map(|uid| cri::ContainerFilter {
                label_selector: by_uid(uid),
                ..Default::default()
            });
            let request = cri::ListContainersRequest { filter };
            let answer = self
                .call(
                    "ListContainers",
                    "",
                    self.timeout,
                    self.runtime.clone().list_containers(request),
                )
                .await?;
            Ok(answer.containers)
        }
        .boxed()
    }

    fn container_status<'a>(&'a self, id: &'a ContainerId) -> Call<'a, cri::ContainerStatus> {
        async move {
            let request = cri::ContainerStatusRequest {
                container_id: id.to_string(),
                verbose: false,
            };
            let answer = self
                .call(
                    "ContainerStatus",
                    id.as_str(),
                    self.timeout,
                    self.runtime.clone().container_status(request),
                )
                .await?;
            answer.status.ok_or_else(|| empty("ContainerStatus", id.as_str()))
        }
        .boxed()
    }

    fn create_container<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Call<'a, ContainerId> {
        async move {
            let name = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
            let request = cri::CreateContainerRequest {
                pod_sandbox_id: sandbox.to_string(),
                config: Some(config),
                sandbox_config: Some(sandbox_config),
            };
            let answer = self
                .call(
                    "CreateContainer",
                    &name,
                    self.timeout,
                    self.runtime.clone().create_container(request),
                )
                .await?;
            Ok(ContainerId::new(answer.container_id))
        }
        .boxed()
    }

    fn start_container<'a>(&'a self, id: &'a ContainerId) -> Call<'a, ()> {
        async move {
            let request = cri::StartContainerRequest {
                container_id: id.to_string(),
            };
            let mut client = self.runtime.clone();
            let answer = client.start_container(request);
            self.call("StartContainer", id.as_str(), self.timeout, answer)
                .await
                .map(drop)
        }
        .boxed()
    }

    fn stop_container<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> Call<'a, ()> {
        async move {
            let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
            let request = cri::StopContainerRequest {
                container_id: id.to_string(),
                timeout,
            };
            let mut client = self.runtime.clone();
            let answer = client.stop_container(request);
            gone_is_fine(
                self.call("StopContainer", id.as_str(), self.timeout + grace, answer)
                    .await,
            )
        }
        .boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> Call<'a, ()> {
        async move {
            let request = cri::RemoveContainerRequest {
                container_id: id.to_string(),
            };
            let mut client = self.runtime.clone();
            let answer = client.remove_container(request);
            gone_is_fine(self.call("RemoveContainer", id.as_str(), self.timeout, answer).await)
        }
        .boxed()
    }

    fn reopen_log<'a>(&'a self, id: &'a ContainerId) -> Call<'a, ()> {
        async move {
            let request = cri::ReopenContainerLogRequest {
                container_id: id.to_string(),
            };
            let mut client = self.runtime.clone();
            let answer = client.reopen_container_log(request);
            self.call("ReopenContainerLog", id.as_str(), self.timeout, answer)
                .await
                .map(drop)
        }
        .boxed()
    }

    fn exec_sync<'a>(&'a self, id: &'a ContainerId, command: Vec<String>, timeout: Duration) -> Call<'a, ExecOutput> {
        async move {
            // The runtime counts whole seconds, 0 is no limit; ours ends the call a little later.
            let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
            let request = cri::ExecSyncRequest {
                container_id: id.to_string(),
                cmd: command,
                timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
            };
            let limit = if seconds == 0 { NO_LIMIT } else { timeout + self.timeout };
            let answer = self
                .call("ExecSync", id.as_str(), limit, self.runtime.clone().exec_sync(request))
                .await?;
            Ok(ExecOutput {
                stdout: answer.stdout,
                stderr: answer.stderr,
                exit_code: answer.exit_code,
            })
        }
        .boxed()
    }

    fn exec(&self, request: cri::ExecRequest) -> Call<'_, String> {
        async move {
            let subject = request.container_id.clone();
            let answer = self
                .call("Exec", &subject, self.timeout, self.runtime.clone().exec(request))
                .await?;
            Ok(answer.url)
        }
        .boxed()
    }

    fn attach(&self, request: cri::AttachRequest) -> Call<'_, String> {
        async move {
            let subject = request.container_id.clone();
            let answer = self
                .call("Attach", &subject, self.timeout, self.runtime.clone().attach(request))
                .await?;
            Ok(answer.url)
        }
        .boxed()
    }

    fn port_forward(&self, request: cri::PortForwardRequest) -> Call<'_, String> {
        async move {
            let subject = request.pod_sandbox_id.clone();
            let answer = self
                .call(
                    "PortForward",
                    &subject,
                    self.timeout,
                    self.runtime.clone().port_forward(request),
                )
                .await?;
            Ok(answer.url)
        }
        .boxed()
    }

    fn list_container_stats(&self, of: Option<&str>) -> Call<'_, Vec<cri::ContainerStats>> {
        let filter = of.map(|id| cri::ContainerStatsFilter {
            id: id.to_owned(),
            ..Default::default()
        });
        async move {
            let request = cri::ListContainerStatsRequest { filter };
            let mut client = self.runtime.clone();
            let answer = client.list_container_stats(request);
            Ok(self.call("ListContainerStats", "", self.timeout, answer).await?.stats)
        }
        .boxed()
    }

    fn list_sandbox_stats(&self) -> Call<'_, Vec<cri::PodSandboxStats>> {
        async move {
            let request = cri::ListPodSandboxStatsRequest { filter: None };
            let mut client = self.runtime.clone();
            let answer = client.list_pod_sandbox_stats(request);
            Ok(self.call("ListPodSandboxStats", "", self.timeout, answer).await?.stats)
        }
        .boxed()
    }

    fn events(&self) -> Events {
        events::subscribe(self.clone())
    }

    fn list_images(&self) -> Call<'_, Vec<cri::Image>> {
        async move {
            let request = cri::ListImagesRequest { filter: None };
            let mut client = self.images.clone();
            let answer = client.list_images(request);
            Ok(self.call("ListImages", "", self.timeout, answer).await?.images)
        }
        .boxed()
    }

    fn image_status<'a>(&'a self, image: &'a str) -> Call<'a, Option<cri::Image>> {
        async move {
            let request = cri::ImageStatusRequest {
                image: Some(image_spec(image)),
                verbose: false,
            };
            let mut client = self.images.clone();
            let answer = client.image_status(request);
            Ok(self.call("ImageStatus", image, self.timeout, answer).await?.image)
        }
        .boxed()
    }

    fn pull_image<'a>(
        &'a self,
        image: &'a str,
        auth: Option<cri::AuthConfig>,
        sandbox_config: Option<cri::PodSandboxConfig>,
    ) -> Call<'a, String> {
        async move {
            let request = cri::PullImageRequest {
                image: Some(image_spec(image)),
                auth,
                sandbox_config,
            };
            let mut client = self.images.clone();
            let answer = client.pull_image(request);
            Ok(self.call("PullImage", image, NO_LIMIT, answer).await?.image_ref)
        }
        .boxed()
    }

    fn remove_image<'a>(&'a self, image: &'a str) -> Call<'a, ()> {
        async move {
            let request = cri::RemoveImageRequest {
                image: Some(image_spec(image)),
            };
            let mut client = self.images.clone();
            let answer = client.remove_image(request);
            gone_is_fine(self.call("RemoveImage", image, self.timeout, answer).await)
        }
        .boxed()
    }

    fn image_fs_info(&self) -> Call<'_, cri::ImageFsInfoResponse> {
        async move {
            let mut client = self.images.clone();
            let answer = client.image_fs_info(cri::ImageFsInfoRequest {});
            self.call("ImageFsInfo", "", self.timeout, answer).await
        }
        .boxed()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    // The address is not used but for its name: the connector ignores it.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

fn by_uid(uid: &Uid) -> std::collections::HashMap<String, String> {
    [(LABEL_POD_UID.to_owned(), uid.to_string())].into()
}

fn image_spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    }
}

fn empty(call: &'static str, subject: &str) -> RuntimeError {
    RuntimeError {
        call,
        subject: subject.to_owned(),
        code: Code::Internal,
        message: "the runtime's answer is empty".into(),
    }
}

fn gone_is_fine<T>(outcome: Result<T, RuntimeError>) -> Result<(), RuntimeError> {
    match outcome {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// An answer of a runtime with a hundred pods is about 1 MB; Go clients take 16 MB.
const MAX_ANSWER: usize = 16 << 20;
/// For calls that last as long as they last: pulling a large image over a slow link takes hours.
const NO_LIMIT: Duration = Duration::from_secs(24 * 3600);
