//! MQTT of this node.

#[allow(dead_code)]
pub mod broker;
