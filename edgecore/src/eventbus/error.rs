//! Why EventBus cannot serve a broker.

use thiserror::Error;

/// A setting that cannot be used; the rest of the edge runs without MQTT.
#[derive(Debug, Error)]
pub enum StartError {
    /// The address of the external broker.
    #[error("modules.eventBus.mqttServerExternal: {url:?} cannot be used: {reason}")]
    Server {
        /// As written.
        url: String,
        /// Why not.
        reason: &'static str,
    },
}
