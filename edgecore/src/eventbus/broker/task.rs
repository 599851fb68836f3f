//! The task that owns the broker's state: drives the core, keeps the database up to date, hands packets to connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::connection::Input;
use super::core::{CloseReason, ConnectionId, Core, Counters, Output};
use super::link::{Credit, Link};
use super::metrics::Metrics;
use super::outbox::Outbox;
use super::store::Store;
use super::writer::Writer;

/// Inputs that are taken at a time.
const BATCH: usize = 64;
/// How long the last changes may take to be written when the process stops.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Task {
    pub(super) core: Core,
    pub(super) link: Arc<Link>,
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    pub(super) outboxes: HashMap<ConnectionId, Arc<Outbox>>,
    pub(super) writer: Writer,
    /// What the metrics have of the core's counters.
    pub(super) counted: Counters,
    /// Whether the last write failed: it is told once.
    pub(super) failed: bool,
}

impl Task {
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut wake = now();
        loop {
            let link = self.link.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                result = self.store.done(), if self.writer.is_writing() => self.written(&result),
                () = link.ready() => self.own_publications(),
                count = inputs.recv_many(&mut batch, BATCH), if !self.writer.is_full() => {
                    if count == 0 {
                        break;
                    }
                    for input in batch.drain(..) {
                        self.take(input);
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            wake = self.settle();
        }
        self.finish().await;
    }

    fn take(&mut self, input: Input) {
        let now = now();
        match input {
            Input::Connect(id, connect, outbox) => {
                self.outboxes.insert(id, outbox);
                self.core.connect(now, id, connect);
                self.carry_out(Credit::default());
            }
            Input::Packet(id, packet, credit) => {
                self.core.packet(now, id, packet);
                self.carry_out(credit);
            }
            Input::Lost(id) => {
                self.outboxes.remove(&id);
                self.core.lost(now, id);
                self.carry_out(Credit::default());
            }
        }
    }

    fn own_publications(&mut self) {
        for _ in 0..BATCH {
            let Some(publish) = self.link.next() else { return };
            self.core.publish(publish);
            self.carry_out(Credit::default());
        }
        self.link.again();
    }

    /// Does what follows from one input.
    fn carry_out(&mut self, mut credit: Credit) {
        let now = now();
        let outputs: Vec<_> = self.core.outputs().collect();
        let urgent = outputs
            .iter()
            .any(|output| matches!(output, Output::Store(op) if op.is_urgent()));
        for output in outputs {
            match output {
                Output::Store(op) => self.writer.add(op, now),
                Output::Send { to, packet, promise } => {
                    if let Some(packet) = self.writer.pass(to, packet, promise && urgent) {
                        self.send(to, packet);
                    }
                }
                Output::Close { connection, reason } => self.close(connection, reason),
                Output::Accepted(publish) => self.link.deliver(publish, std::mem::take(&mut credit)),
            }
        }
    }

    fn send(&self, to: ConnectionId, packet: proto::mqtt::Packet) {
        if let Some(outbox) = self.outboxes.get(&to)
            && !outbox.push(packet)
        {
            self.metrics.dropped("slow");
        }
    }

    fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        if let Some(outbox) = self.outboxes.remove(&connection) {
            outbox.close();
        }
        if reason == CloseReason::Goodbye {
            debug!(connection = connection.0, "MQTT client disconnected");
        } else {
            self.metrics.refused.inc();
            info!(connection = connection.0, %reason, "an MQTT client's connection was ended");
        }
    }

    /// After each round: time, the database, the counters. Gives when the next round is to be.
    fn settle(&mut self) -> Instant {
        let now = now();
        self.metrics.exchange(&mut self.core, &mut self.counted);
        let tick = self.core.tick(now);
        self.carry_out(Credit::default());
        if let Some(batch) = self.writer.next(now, || self.core.snapshot()) {
            self.store.write(batch);
        }
        match self.writer.due() {
            Some(due) if !self.writer.is_writing() => tick.min(due),
            _ => tick,
        }
    }

    fn written(&mut self, result: &Result<(), String>) {
        match result {
            Ok(()) => {
                self.metrics.commits.inc();
                if std::mem::take(&mut self.failed) {
                    info!("MQTT sessions and retained messages are written again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    warn!(%error, "MQTT sessions and retained messages cannot be written: kept in memory, tried again");
                }
            }
        }
        for (to, packet) in self.writer.done(result.is_ok(), now()) {
            self.send(to, packet);
        }
    }

    /// Writes what is not written yet.
    async fn finish(&mut self) {
        let all = async {
            loop {
                if self.writer.is_writing() {
                    let result = self.store.done().await;
                    self.written(&result);
                    if result.is_err() {
                        return;
                    }
                }
                self.writer.hurry();
                match self.writer.next(now(), || self.core.snapshot()) {
                    Some(batch) => self.store.write(batch),
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(LAST_WRITE, all).await;
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
