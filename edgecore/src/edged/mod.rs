//! Pods on this node: a kubelet over the container runtime interface.
//!
//! Owns one worker per pod, the picture of the runtime's state and the statuses of pods. Reads the set of pods and the objects they
//! use from MetaManager, and the runtime's state. Emits patches of pod statuses and the runtime's health. Must not know messages, and
//! touches no container because of a lost link, a restart of this program or a damaged database. Behaviour: spec 05 §5 to §7.
//!
//! What each part is for:
//!
//! - `runtime`: calls of the container runtime interface, with a fake for tests;
//! - `podspec`: from a pod to the runtime's configurations, no side effects but reading;
//! - `volumes`, `cgroups`, `hooks`, `probes`: what surrounds containers;
//! - `pods`: decides what to do about one pod, and does it.

pub mod api;
pub mod cgroups;
pub mod context;
pub mod hooks;
mod http_get;
pub mod node;
pub mod podspec;
pub mod probes;
pub mod quantity;
pub mod runtime;
pub mod volumes;

// The parts' interfaces, beside the types in `context`:
//
// - `podspec::sandbox_config(&PodContext, attempt: u32) -> Result<cri::PodSandboxConfig, SpecError>`, async;
// - `podspec::container_config(&PodContext, ContainerRef<'_>, restart_count: u32, &ResolvedImage, pod_ips: &[IpAddr],
//   &MountedVolumes) -> Result<cri::ContainerConfig, SpecError>`, async: env from objects, creates the termination message file;
// - `podspec::container_hash(&Container) -> String`;
// - `podspec::pull_credentials(&PodContext, image: &str) -> Vec<cri::AuthConfig>`, async: best first, the caller tries
//   anonymously after the last;
// - `podspec::termination_message(&Container, &cri::ContainerStatus, limit: usize) -> String`: from file or log;
// - `volumes::Volumes::{new(Arc<Settings>), mount(&self, &PodContext) -> Result<MountedVolumes, VolumeError>,
//   refresh(&self, &PodContext) -> Result<(), VolumeError>, unmount(&self, &Uid) -> Result<(), VolumeError>,
//   orphans(&self) -> Vec<Uid>}`, async; `mount` may be called again and does nothing then; `unmount` removes the pod's folder;
// - `cgroups::PodCgroups::{new(Arc<Settings>, CgroupDriver), create(&self, &PodContext) -> Result<String, CgroupError>, parent(&Pod)
//   -> String, remove(&self, &Uid) -> Result<(), CgroupError>, orphans(&self) -> Vec<Uid>}`;
// - `probes::Probes::{new(Arc<dyn Runtime>, Tasks), start(&self, &PodContext, ContainerRef<'_>, &ContainerId, started_at: Timestamp,
//   pod_ip: Option<IpAddr>, mpsc::Sender<ProbeEvent>) -> ProbeHandle}`; dropping the handle ends the container's probes;
// - `hooks::{post_start, pre_stop}(&dyn Runtime, &PodContext, &Container, &ContainerId, pod_ip: Option<IpAddr>, limit: Duration)
//   -> Result<(), HookError>`, async.
