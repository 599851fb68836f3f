//! The edge side of KubeEdge: the hub client, the object store and a kubelet over the container runtime interface.

pub mod address;
pub mod devices;
pub mod devicetwin;
pub mod dmi;
pub mod edged;
pub mod edgehub;
pub mod edgestream;
pub mod environment;
pub mod eventbus;
pub mod history;
pub mod metamanager;
pub mod pod;
pub mod server;
pub mod settings;
mod sqlite;
pub mod stats;
pub mod uplink;
