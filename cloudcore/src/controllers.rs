//! The controllers, put together from the configuration.

use cloudcore::addresses::Addresses;
use cloudcore::cloudhub::{CloudHub, Upstream};
use cloudcore::devicecontroller::DeviceController;
use cloudcore::edgecontroller::EdgeController;
use cloudcore::informers::{Change, Informers};
use cloudcore::kubernetes::Kube;
use cloudcore::objectsync::ObjectSyncs;
use cloudcore::revocation;
use cloudcore::synccontroller::SyncController;
use common::Tasks;
use config::CloudCore;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tracing::info;

/// The modules that were started before the controllers.
pub(crate) struct Below {
    pub(crate) kube: Kube,
    pub(crate) hub: CloudHub,
    pub(crate) informers: Informers,
    pub(crate) syncs: ObjectSyncs,
    pub(crate) tasks: Tasks,
}

/// What comes to the controllers.
pub(crate) struct Inboxes {
    /// Of the API.
    pub(crate) changes: mpsc::Receiver<Change>,
    /// Of edges.
    pub(crate) requests: mpsc::Receiver<Upstream>,
    /// Of their devices.
    pub(crate) reports: mpsc::Receiver<Upstream>,
}

/// Where the hub puts what comes of edges.
pub(crate) struct Outlets {
    pub(crate) requests: mpsc::Sender<Upstream>,
    pub(crate) reports: mpsc::Sender<Upstream>,
}

impl Inboxes {
    pub(crate) fn open(changes: mpsc::Receiver<Change>) -> (Outlets, Self) {
        let (to_requests, requests) = mpsc::channel(UPSTREAM);
        let (to_reports, reports) = mpsc::channel(UPSTREAM);
        let outlets = Outlets {
            requests: to_requests,
            reports: to_reports,
        };
        let inboxes = Self {
            changes,
            requests,
            reports,
        };
        (outlets, inboxes)
    }
}

/// Starts those that the configuration asks for.
pub(crate) fn start(
    below: Below,
    inboxes: Inboxes,
    config: &CloudCore,
    own: watch::Receiver<Addresses>,
    registry: &mut Registry,
) {
    let Below {
        kube,
        hub,
        informers,
        syncs,
        tasks,
    } = below;
    let modules = &config.modules;
    revocation::start(kube.clone(), hub.clone(), &tasks);
    let reconciler = SyncController::new(kube.clone(), informers.clone(), syncs.clone(), hub.clone());
    if modules.device_controller.enable {
        let controller = DeviceController {
            kube: kube.clone(),
            informers: informers.clone(),
            hub: hub.clone(),
            reconciler: reconciler.clone(),
            settings: (&modules.device_controller).into(),
        };
        controller.start(inboxes.reports, registry, &tasks);
        info!("Module devicecontroller registered successfully");
    }
    if modules.edge_controller.enable {
        let controller = EdgeController {
            kube,
            informers,
            hub,
            syncs,
            reconciler: reconciler.clone(),
            own,
            authorization: modules.cloud_hub.authorization.enable && !modules.cloud_hub.authorization.debug,
        };
        controller.start(inboxes.changes, inboxes.requests, registry, &tasks);
        info!("Module edgecontroller registered successfully");
    }
    if modules.sync_controller.enable {
        reconciler.start(&tasks);
        info!("Module synccontroller registered successfully");
    }
    let not_yet = config.not_yet();
    if !not_yet.is_empty() {
        info!("enabled, but not there yet: {}", not_yet.join(", "));
    }
}

/// Requests of all nodes between the hub and a controller; when full, sessions read no more.
const UPSTREAM: usize = 1024;
