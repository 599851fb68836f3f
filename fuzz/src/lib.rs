//! What the fuzz targets do with their input.
//!
//! The tests of the crates include these files and replay the corpus through them, so a target and its test never differ.

#[allow(dead_code)]
pub mod authorizer;
pub mod bus;
#[allow(dead_code)]
pub mod cloudstream;
pub mod devices;
pub mod files;
pub mod join;
pub mod mqtt;
pub mod streams;
pub mod tunnel;
pub mod wire;

// What the files below know as `common` is this crate: a part of it, without the libraries of the rest.
extern crate self as common;
#[path = "../../common/src/order.rs"]
#[allow(dead_code)]
pub mod order;

/// The state of edgecore's broker, without edgecore around it.
#[path = "../../edgecore/src/eventbus/broker/core/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod state;

/// The labels of nodes, where the authorizer looks for them.
#[path = "../../cloudcore/src/labels.rs"]
mod labels;

/// The filter of the edge's sockets, without the rest of its crate.
#[path = "../../common/src/authority/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod authority;
