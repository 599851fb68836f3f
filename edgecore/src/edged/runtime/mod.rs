//! The container runtime: its calls as a trait, the client for a real one, and a fake for tests.
//!
//! Owns the connection. Nothing is decided here. Every call has a limit of time; what the runtime does not implement is an error of
//! its own kind ([`RuntimeError::is_unimplemented`]), so that callers can do without.

mod client;
mod error;
mod events;
#[cfg(test)]
pub(crate) mod fake;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use proto::{Uid, cri};

pub use client::Client;
pub use error::RuntimeError;

/// Label with the uid of the pod, on sandboxes and containers.
pub const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
/// Label with the name of the pod.
pub const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
/// Label with the namespace of the pod.
pub const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label with the name of the container.
pub const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// The answer of a runtime.
pub type Call<'a, T> = BoxFuture<'a, Result<T, RuntimeError>>;

macro_rules! id {
    ($(#[$doc:meta] $name:ident),* $(,)?) => {$(
        #[$doc]
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the runtime's text.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// The text, without the runtime's name before it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    )*};
}

id! {
    /// A sandbox.
    SandboxId,
    /// A container.
    ContainerId,
}

/// What a command in a container left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}

/// Something happened to a container or sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Of this pod.
    Of(Uid),
    /// Of a pod that the runtime does not name. Its lists may still be of before, for a moment.
    Somewhere,
}

/// Events until an error, which is the last item.
pub type Events = BoxStream<'static, Result<Event, RuntimeError>>;

/// A container runtime (`runtime.v1`).
pub trait Runtime: Send + Sync + fmt::Debug {
    /// Name and version.
    fn version(&self) -> Call<'_, cri::VersionResponse>;
    /// Conditions of the runtime and of its network.
    fn status(&self) -> Call<'_, cri::StatusResponse>;
    /// The cgroup driver; many runtimes do not implement it.
    fn runtime_config(&self) -> Call<'_, cri::RuntimeConfigResponse>;
    /// Tells the network of pods.
    fn update_runtime_config(&self, pod_cidr: &str) -> Call<'_, ()>;

    /// The sandboxes, of one pod or of all.
    fn list_sandboxes<'a>(&'a self, pod: Option<&'a Uid>) -> Call<'a, Vec<cri::PodSandbox>>;
    /// Details of one.
    fn sandbox_status<'a>(&'a self, id: &'a SandboxId) -> Call<'a, cri::PodSandboxStatus>;
    /// Creates and starts one. `handler` is empty but for runtime classes.
    fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: String) -> Call<'_, SandboxId>;
    /// Stops one and what is in it; succeeds when it is gone.
    fn stop_sandbox<'a>(&'a self, id: &'a SandboxId) -> Call<'a, ()>;
    /// Removes one and what is in it; succeeds when it is gone.
    fn remove_sandbox<'a>(&'a self, id: &'a SandboxId) -> Call<'a, ()>;

    /// The containers, of one pod or of all.
    fn list_containers<'a>(&'a self, pod: Option<&'a Uid>) -> Call<'a, Vec<cri::Container>>;
    /// Details of one.
    fn container_status<'a>(&'a self, id: &'a ContainerId) -> Call<'a, cri::ContainerStatus>;
    /// Creates one.
    fn create_container<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Call<'a, ContainerId>;
    /// Starts one.
    fn start_container<'a>(&'a self, id: &'a ContainerId) -> Call<'a, ()>;
    /// Asks it to end and kills it after `grace`; succeeds when it is gone.
    fn stop_container<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> Call<'a, ()>;
    /// Removes one; succeeds when it is gone.
    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> Call<'a, ()>;
    /// Opens the log file anew after it was renamed.
    fn reopen_log<'a>(&'a self, id: &'a ContainerId) -> Call<'a, ()>;

    /// Runs a command and waits for it.
    fn exec_sync<'a>(&'a self, id: &'a ContainerId, command: Vec<String>, timeout: Duration) -> Call<'a, ExecOutput>;
    /// The URL at which a command can be run with streams.
    fn exec(&self, request: cri::ExecRequest) -> Call<'_, String>;
    /// The URL at which a container's streams are.
    fn attach(&self, request: cri::AttachRequest) -> Call<'_, String>;
    /// The URL at which a sandbox's ports are.
    fn port_forward(&self, request: cri::PortForwardRequest) -> Call<'_, String>;

    /// Usage of all containers, or of one.
    fn list_container_stats(&self, of: Option<&str>) -> Call<'_, Vec<cri::ContainerStats>>;
    /// Usage of all sandboxes; some runtimes do not implement it.
    fn list_sandbox_stats(&self) -> Call<'_, Vec<cri::PodSandboxStats>>;
    /// What happens to containers from about now on. Some runtimes tell nothing: the first item is an error then. A runtime may not
    /// answer before something happens.
    fn events(&self) -> Events;

    /// All images.
    fn list_images(&self) -> Call<'_, Vec<cri::Image>>;
    /// One image, if it is present.
    fn image_status<'a>(&'a self, image: &'a str) -> Call<'a, Option<cri::Image>>;
    /// Fetches one; returns what the runtime calls it.
    fn pull_image<'a>(
        &'a self,
        image: &'a str,
        auth: Option<cri::AuthConfig>,
        sandbox_config: Option<cri::PodSandboxConfig>,
    ) -> Call<'a, String>;
    /// Removes one; succeeds when it is gone.
    fn remove_image<'a>(&'a self, image: &'a str) -> Call<'a, ()>;
    /// Usage of the disk with images.
    fn image_fs_info(&self) -> Call<'_, cri::ImageFsInfoResponse>;
}
