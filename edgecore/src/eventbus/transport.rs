//! The ways to a broker, all alike to the rest of the module.

use crate::devicetwin::Publication;

/// One broker. Nothing here waits for it: while it cannot be reached, subscriptions are kept, and what is to be published is kept up to
/// a limit and counted beyond it.
pub(super) trait Transport: Send + Sync {
    /// Publishes in the broker's own way: quality of service and retention are not the sender's.
    fn publish(&self, publication: Publication);

    /// Delivers what is published on the filter from now on, also after the connection was lost.
    fn subscribe(&self, filter: &str);

    /// No longer.
    fn unsubscribe(&self, filter: &str);
}

/// All brokers of this node: one, or both with `mqttMode: 1`.
#[derive(Default)]
pub(super) struct Bus {
    transports: Vec<Box<dyn Transport>>,
}

impl Bus {
    pub(super) fn add(&mut self, transport: impl Transport + 'static) {
        self.transports.push(Box::new(transport));
    }

    pub(super) fn publish(&self, publication: &Publication) {
        for transport in &self.transports {
            transport.publish(publication.clone());
        }
    }

    pub(super) fn subscribe(&self, filter: &str) {
        for transport in &self.transports {
            transport.subscribe(filter);
        }
    }

    pub(super) fn unsubscribe(&self, filter: &str) {
        for transport in &self.transports {
            transport.unsubscribe(filter);
        }
    }
}
