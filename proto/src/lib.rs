//! Everything that crosses a process boundary: messages between the cores, the objects in them, the container runtime interface.
//!
//! No I/O happens here. Every reader has a limit before it allocates and never panics, whatever it is given.
#![warn(missing_docs)]

pub mod bus;
pub mod containerd;
pub mod content;
pub mod cri;
pub mod device;
pub mod dmi;
pub mod exposition;
pub mod features;
#[cfg(feature = "golden")]
pub mod golden;
pub mod ids;
pub mod inventory;
pub mod join;
pub mod json;
pub mod lanes;
pub mod message;
pub mod mqtt;
pub mod object;
pub mod quic;
pub mod reviews;
pub mod route;
pub mod stats;
pub mod status;
pub mod tunnel;
pub mod tunnelport;
pub mod view;
pub mod watching;
pub mod words;

pub use content::{Answer, Content};
pub use features::{FEATURES_HEADER, Features};
pub use ids::{MsgId, Namespace, NodeName, ObjectName, Uid};
pub use lanes::Lane;
pub use message::{DecodeError, MAX_MESSAGE, Message, now_millis};
pub use object::{BadObject, Meta, Object};
pub use route::{Kind, ObjectPath, Route};
pub use status::Status;
pub use words::{Group, Operation, Source};
