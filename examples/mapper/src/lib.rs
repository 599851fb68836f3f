//! What every mapper does, so that one brings its protocol only: it registers with edgecore over DMI, is told of devices, writes what is
//! desired of them, reads and reports what they say.
//!
//! Owns one task per device and the socket that edgecore calls. Reads devices and models as edgecore tells them. Emits values (on
//! change, and every `reportCycle`) and states (`online`, `offline`). A mapper implements [`Protocol`] and [`Driver`]; the virtual
//! device beside this crate is the shortest one. See docs/devices.md.
//!
//! Everything comes back by itself: a device that is gone is dialled again, edgecore is registered with again once it is back.

mod config;
mod device;
mod devices;
mod edgecore;
mod plan;
mod server;
#[cfg(test)]
mod tests;
mod worker;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use common::{Backoff, Tasks, chain};
use thiserror::Error;
use tracing::{info, warn};

pub use config::{BadConfig, Config, Value};
pub use device::{Device, Kind, Property};
use devices::Devices;
use edgecore::Edgecore;

/// Who the mapper is.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its name, unique on the node.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `protocolName` of the devices it serves.
    pub protocol: String,
    /// The socket of edgecore, `/etc/kubeedge/dmi.sock`.
    pub edgecore: PathBuf,
    /// The socket that edgecore calls. In a container it must have the same path as on the host.
    pub socket: PathBuf,
}

/// Why a device did not do what it was asked.
#[derive(Debug, Error)]
pub enum Failure {
    /// It cannot be reached: it is dialled again.
    #[error("{0}")]
    Lost(String),
    /// It does not do this; other properties may still work.
    #[error("{0}")]
    Refused(String),
}

/// Makes drivers.
pub trait Protocol: Send + Sync + 'static {
    /// Of one device.
    type Driver: Driver;
    /// Reads the device's configuration. Must not dial.
    fn driver(&self, device: &Device) -> Result<Self::Driver, BadConfig>;
}

/// The connection to one device.
pub trait Driver: Send + 'static {
    /// Dials; called first, and again after a [`Failure::Lost`].
    fn connect(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
    /// The value of a property, as text.
    fn read(&mut self, property: &Property) -> impl Future<Output = Result<String, Failure>> + Send;
    /// Sets a property.
    fn write(&mut self, property: &Property, value: &str) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Starts the mapper; it runs until `tasks` stop. Fails only if its own socket cannot be made.
pub fn start<P: Protocol>(info: Info, protocol: P, tasks: &Tasks) -> io::Result<()> {
    let edgecore = Edgecore::new(&info.edgecore);
    let devices = Devices::new(protocol, edgecore.clone(), tasks.clone());
    // edgecore may call as soon as it knows the address.
    server::start(&info.socket, devices.clone(), tasks)?;
    tasks.spawn("registration", register(info, edgecore, devices));
    Ok(())
}

/// Registers, and again whenever edgecore was away: its answer is all there is to know.
async fn register<P: Protocol>(info: Info, edgecore: Edgecore, devices: Devices<P, Edgecore>) {
    let mut said = false;
    loop {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let all = loop {
            match edgecore.register(&info).await {
                Ok(all) => break all,
                Err(error) if !said => {
                    said = true;
                    warn!(edgecore = %info.edgecore.display(), error = chain(&error), "cannot register with edgecore: tried until it answers");
                }
                Err(_) => {}
            }
            tokio::time::sleep(backoff.next_delay()).await;
        };
        said = false;
        info!(
            devices = all.device_list.len(),
            models = all.model_list.len(),
            "registered with edgecore"
        );
        devices.replace(all.model_list, all.device_list);
        edgecore.lost().await;
    }
}
