//! Process plumbing that the programs share: tasks and shutdown, logging, back-off, TLS identity, ports and the places at them, the
//! connection between the hubs, the tunnel's sockets.
//!
//! Nothing here knows what is in KubeEdge's messages: what is on the wire is `proto`'s.
#![warn(missing_docs)]

pub mod authority;
pub mod backoff;
pub mod error;
pub mod fs;
pub mod line;
pub mod listen;
pub mod logging;
pub mod order;
pub mod places;
pub mod tasks;
pub mod tls;
pub mod tunnel;

pub use backoff::Backoff;
pub use error::chain;
pub use tasks::Tasks;
