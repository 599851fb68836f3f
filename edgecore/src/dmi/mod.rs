//! The device mapper interface: mappers register here, report values, and are told of devices (spec 03 §5).
//!
//! Owns the socket `dmi.sock`, which mappers there are, and what each was told; both are rows of `meta`, so that a mapper need not
//! register again after a restart of edgecore. Reads the stored devices and models and their changes from MetaManager. Emits reports
//! to DeviceTwin and calls to mappers. Must not ask the cloud.
//!
//! `server` and `reports` take calls, `owner` keeps the `catalog` of devices and registers mappers, `mapper` is the one task that calls
//! one mapper, and `knowledge` says what to call next: desired state against what was told, newest wins. A mapper that does not answer
//! delays nobody else. `limits` bounds what a mapper may say of itself and how many there are. There is no limit of calls a second:
//! DeviceTwin's queue is bounded, and who reports too much waits for it.

mod catalog;
mod knowledge;
mod limits;
mod mapper;
mod owner;
mod reports;
mod rows;
mod server;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use common::Tasks;

use crate::devicetwin::DeviceTwin;
use crate::metamanager::MetaManager;

/// What this module needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of the socket, `modules.deviceTwin.dmiSockPath`.
    pub folder: PathBuf,
}

/// Starts the tasks: the mappers of an earlier run are told what changed, and the socket is served.
pub fn start(settings: Settings, meta: MetaManager, twin: DeviceTwin, tasks: &Tasks) {
    let (registrar, known) = owner::start(meta, tasks);
    server::start(settings.folder, server::Service::new(registrar, known, twin), tasks);
}
