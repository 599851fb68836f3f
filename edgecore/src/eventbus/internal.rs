//! The broker of our own, by its end inside the process.

use common::Tasks;
use prometheus_client::registry::Registry;

use super::broker::{self, Broker, Received};
use super::filter::ALWAYS;
use super::transport::Transport;
use crate::devicetwin::Publication;

/// What the file says of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where and for whom it serves.
    pub broker: broker::Settings,
    /// `mqttQOS`: of what the edge publishes.
    pub qos: u8,
    /// `mqttRetain`, likewise.
    pub retain: bool,
}

/// The broker.
pub(super) struct Internal {
    broker: Broker,
    qos: u8,
    retain: bool,
}

impl Internal {
    /// Starts the broker; what clients publish comes to the receiver.
    pub(super) async fn start(
        settings: &Settings,
        registry: &mut Registry,
        tasks: &Tasks,
    ) -> Result<(Self, Option<Received>), broker::StartError> {
        let mut broker = Broker::start(settings.broker.clone(), registry, tasks).await?;
        for filter in ALWAYS {
            broker.subscribe(filter);
        }
        let received = broker.take_receiver();
        let internal = Self {
            broker,
            qos: settings.qos,
            retain: settings.retain,
        };
        Ok((internal, received))
    }
}

impl Transport for Internal {
    fn publish(&self, publication: Publication) {
        let Publication { topic, payload } = publication;
        self.broker.publish(&topic, payload, self.qos, self.retain);
    }

    fn subscribe(&self, filter: &str) {
        self.broker.subscribe(filter);
    }

    fn unsubscribe(&self, filter: &str) {
        self.broker.unsubscribe(filter);
    }
}
