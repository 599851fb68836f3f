//! What DeviceTwins of edges say: values and states into DeviceStatuses, and which devices a node has (spec 03 §2.3, §2.4).
//!
//! One task owns the slots of all devices that report; it takes messages in at once and never waits for the API. A report is
//! confirmed after the write that holds its values, or at once when it can never be written. What fails for now is kept, and
//! tried again; the edge may repeat it meanwhile. What comes before the devices are known waits for them.
//!
//! KubeEdge had values in the Device until v1.22. Clients of then still find them there, at the cost of a second write: in Devices that
//! were written in v1alpha2 or show values already, as KubeEdge before v1.23 left them, and in all with `statusOfDevice`.

mod change;
mod early;
mod slots;
mod write;

use std::time::Duration;

use common::{Tasks, chain};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::device::{DevicePart, DeviceTopic, StateUpdate, TwinUpdate};
use proto::{Message, MsgId, NodeName, Operation, Route};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use super::downstream::detail;
use super::metrics::Metrics;
use super::{DeviceController, confirmation};
use crate::cloudhub::Upstream;
use crate::informers::devices::DevicePlace;
use crate::kubernetes::ApiError;
use change::Change;
use early::Early;
use slots::{End, Job, Pace, Report, Slots};
use write::{Written, write};

pub(super) fn start(
    controller: &DeviceController,
    reports: mpsc::Receiver<Upstream>,
    metrics: &Metrics,
    tasks: &Tasks,
) {
    let settings = &controller.settings;
    let second = Duration::from_secs(1);
    let pace = Pace {
        device: second / settings.writes_per_device,
        node: second / settings.writes_per_node,
    };
    let desk = Desk {
        controller: controller.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn("devices upstream", run(desk, Slots::new(pace), reports));
}

struct Desk {
    controller: DeviceController,
    metrics: Metrics,
}

/// A write that has ended.
type Ended = (Job, Result<Option<Written>, ApiError>);

async fn run(desk: Desk, mut slots: Slots, mut reports: mpsc::Receiver<Upstream>) {
    let devices = desk.controller.informers.devices();
    let (mut running, mut early) = (FuturesUnordered::new(), Early::default());
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if devices.is_ready() {
            for Upstream { node, message } in early.take() {
                desk.take(&mut slots, &node, &message).await;
            }
        }
        while running.len() < AT_A_TIME
            && let Some(job) = slots.next(Instant::now())
        {
            running.push(desk.perform(job));
        }
        // With all places taken the end of a write is waited for.
        let due = slots.due().filter(|_| running.len() < AT_A_TIME);
        let rest = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            report = reports.recv() => match report {
                Some(report) if devices.is_ready() => desk.take(&mut slots, &report.node, &report.message).await,
                Some(report) => if !early.keep(report) {
                    desk.metrics.report("not_ready");
                },
                None => return,
            },
            () = devices.ready(), if !early.is_empty() => {}
            Some(ended) = running.next() => desk.ended(&mut slots, ended).await,
            () = rest => {}
            _ = minutes.tick() => {
                slots.forget(Instant::now());
                desk.metrics.waiting.set(i64::try_from(slots.waiting()).unwrap_or(i64::MAX));
            }
        }
    }
}

impl Desk {
    async fn take(&self, slots: &mut Slots, node: &NodeName, message: &Message) {
        if let Some(topic) = DeviceTopic::of(&message.route) {
            return self.report(slots, node, message, topic).await;
        }
        match (&message.route, &message.operation) {
            (Route::MembershipDetail, Operation::Get) => self.members(node, message).await,
            _ => {
                self.metrics.report("unsupported");
                debug!(%node, route = %message.route, "nothing of this kind is asked of the device controller");
            }
        }
    }

    /// While not all devices are known, nothing is said: what is missing in the list the edge would remove.
    async fn members(&self, node: &NodeName, message: &Message) {
        let devices = self.controller.informers.devices();
        if !devices.is_ready() {
            self.metrics.report("not_ready");
            return;
        }
        self.confirm(node, &message.id).await;
        self.controller.hub.send(node, detail(devices.members(node))).await;
        self.metrics.report("membership");
    }

    async fn report(&self, slots: &mut Slots, node: &NodeName, message: &Message, topic: DeviceTopic) {
        let DeviceTopic { device, part } = topic;
        let dropped = match self.controller.informers.devices().place(&device) {
            // The edge repeats it.
            DevicePlace::Unknown => return self.metrics.report("not_ready"),
            DevicePlace::Absent => Some("unknown_device"),
            DevicePlace::Unbound | DevicePlace::Node(_) => None,
        };
        if let Some(reason) = dropped {
            debug!(%node, %device, reason, "report about a device dropped");
            return self.drop(node, message, reason).await;
        }
        let (change, of_device) = match self.read(node, message, &device, part) {
            Ok(read) => read,
            Err(reason) => return self.drop(node, message, reason).await,
        };
        if change.is_empty() {
            return self.drop(node, message, "nothing_to_write").await;
        }
        self.metrics.report("taken");
        let report = Report {
            node: node.clone(),
            id: message.id.clone(),
            device,
            change,
            of_device,
        };
        let older = slots.take(report, Instant::now(), proto::message::now_millis());
        self.metrics.dropped("older", older);
    }

    /// Its values, as far as the Device has such properties, and whether the status of the Device is to show them too.
    fn read(
        &self,
        node: &NodeName,
        message: &Message,
        device: &proto::device::DeviceId,
        part: DevicePart,
    ) -> Result<(Change, bool), &'static str> {
        let document = message.content.document();
        let read = match part {
            DevicePart::Twin => TwinUpdate::parse(document.as_bytes()).map(Change::from),
            DevicePart::State => StateUpdate::parse(document.as_bytes()).map(Change::from),
        };
        let mut change = read.map_err(|error| {
            warn!(%node, %device, error = %chain(&error), "report about a device cannot be read, dropped");
            "unreadable"
        })?;
        let Some(entry) = self.controller.informers.devices().entry(device) else {
            return Err("unknown_device");
        };
        let before = change.twins.len();
        change.twins.retain(|name, _| entry.has_property(name));
        self.metrics.dropped("unknown_property", before - change.twins.len());
        let of_device = self.controller.settings.status_of_device || entry.has_old_clients;
        Ok((change, of_device))
    }

    async fn perform(&self, mut job: Job) -> Ended {
        let DeviceController {
            hub,
            kube,
            informers,
            settings,
            ..
        } = &self.controller;
        let Some(entry) = informers.devices().entry(&job.device) else {
            return (job, Ok(None));
        };
        // Asked again: since the report came, somebody may have decided that this Device no longer shows values.
        job.of_device = settings.status_of_device || entry.has_old_clients;
        job.is_behind &= job.of_device;
        if job.is_retry && !hub.is_connected(&job.node) {
            job.leave_state();
        }
        let result = write(kube, &entry.known, &mut job, settings.status_of_device).await;
        (job, result.map(Some))
    }

    async fn ended(&self, slots: &mut Slots, (mut job, result): Ended) {
        let (end, outcome) = match result {
            Ok(Some(Written { status, merged })) => {
                self.metrics.dropped("older", merged.older);
                (
                    End::Done(Some(status)),
                    if merged.changed { "written" } else { "unchanged" },
                )
            }
            Ok(None) => (End::Done(None), "device_gone"),
            Err(error) if is_final(&error) => {
                warn!(device = %job.device, error = %chain(&error), "the API server does not take what a device reported, dropped");
                (End::Done(None), "refused")
            }
            Err(error) => {
                warn!(device = %job.device, error = %chain(&error), "reported values are not written yet, trying again");
                (End::Failed, "failed")
            }
        };
        self.metrics.write(outcome);
        if matches!(end, End::Done(_)) {
            for (node, report) in std::mem::take(&mut job.reports) {
                self.confirm(&node, &report).await;
            }
        }
        slots.done(job, end, Instant::now(), proto::message::now_millis());
    }

    async fn drop(&self, node: &NodeName, message: &Message, reason: &'static str) {
        self.metrics.report(reason);
        self.confirm(node, &message.id).await;
    }

    async fn confirm(&self, node: &NodeName, report: &MsgId) {
        self.controller.hub.send(node, confirmation(report)).await;
    }
}

/// Whether the same will be refused again, unless somebody changes more than rights or definitions.
fn is_final(error: &ApiError) -> bool {
    error
        .status()
        .is_some_and(|status| matches!(status.code, 400 | 413 | 422))
}

/// Writes under way.
const AT_A_TIME: usize = 64;
