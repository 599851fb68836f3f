//! A Pod turned into what the container runtime wants.
//!
//! Owns nothing but the small files that a container is given (hosts file, termination message). Reads the Pod, facts about the node and
//! the ConfigMaps and Secrets that environments refer to. Emits runtime requests, or an error with the reason that a kubelet would put
//! on the pod's status. Must not talk to the runtime. Behaviour: spec 05 §6, rows 5, 7-10, 21-27, 29, 30.

mod container;
mod context;
mod dns;
mod downward;
mod env;
mod error;
mod expand;
mod hosts;
mod labels;
mod logs;
mod mounts;
mod oom;
mod pull;
mod qos;
mod resources;
mod sandbox;
mod security;
mod termination;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use container::{container_config, ephemeral_as_container, image_user, share_process_namespace};
pub use dns::is_cluster_dns_missing;
pub(crate) use downward::{field_value, resource_value};
pub(crate) use env::is_not_found;
pub(crate) use error::source_text;
pub(crate) use expand::expand_static;
pub use labels::{CONTAINER_NAME, HASH, POD_NAME, POD_NAMESPACE, POD_UID, RESTART_COUNT, container_hash};
pub use logs::{container_log_dir, container_log_link, container_log_path, pod_log_dir};
pub use pull::pull_credentials;
pub use qos::QosClass;
pub(crate) use resources::{HUGEPAGES, MIN_SHARES, all_limited, cpu_quota, cpu_shares, micros, page_size_name};
pub use resources::{PodResources, pod_limits, pod_requests};
pub use sandbox::sandbox_config;
pub use termination::{MAX_POD as MAX_POD_MESSAGES, termination_message};
