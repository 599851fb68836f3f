//! A mapper for devices that are not there, to be copied: everything but this file is the same for every protocol.
//!
//! A property that may be written has the value that was written last. Any other counts up at each reading. Both begin with `start` of
//! `visitors.configData` and count by its `step`; `maximum` of the model brings the count back to `start`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use common::Tasks;
use mapper::{BadConfig, Device, Driver, Failure, Info, Property, Protocol};

/// A mapper for devices that are not there.
#[derive(Debug, Parser)]
struct Flags {
    /// The socket of edgecore.
    #[arg(long, default_value = "/etc/kubeedge/dmi.sock")]
    edgecore: PathBuf,
    /// The socket that edgecore calls; the same path in a container and on its host.
    #[arg(long, default_value = "/etc/kubeedge/virtual.sock")]
    socket: PathBuf,
    /// The `protocolName` of its devices.
    #[arg(long, default_value = "virtual")]
    protocol: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    common::logging::init(0);
    let tasks = Tasks::new();
    let info = Info {
        name: "virtual-device".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: flags.protocol,
        edgecore: flags.edgecore,
        socket: flags.socket.clone(),
    };
    let bound = mapper::start(info, Virtual, &tasks);
    bound.with_context(|| format!("{}", flags.socket.display()))?;
    let ended = tasks.run_until_signal(Duration::from_secs(5)).await;
    Ok(if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The protocol.
struct Virtual;

/// One device: the values that its properties have now.
#[derive(Default)]
struct VirtualDevice(BTreeMap<String, Point>);

struct Point {
    value: String,
    start: f64,
    step: f64,
}

impl Protocol for Virtual {
    type Driver = VirtualDevice;

    fn driver(&self, device: &Device) -> Result<VirtualDevice, BadConfig> {
        let points = device.properties.iter().map(|property| {
            let start = property.config.float("start", 0.0)?;
            let step = property.config.float("step", 1.0)?;
            let value = start.to_string();
            Ok((property.name.clone(), Point { value, start, step }))
        });
        Ok(VirtualDevice(points.collect::<Result<_, _>>()?))
    }
}

impl Driver for VirtualDevice {
    async fn connect(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn read(&mut self, property: &Property) -> Result<String, Failure> {
        let point = self.point(property)?;
        let value = point.value.clone();
        if !property.writable {
            let next = value.parse::<f64>().unwrap_or(point.start) + point.step;
            let over = property.maximum.is_some_and(|maximum| next > maximum);
            point.value = if over { point.start } else { next }.to_string();
        }
        Ok(value)
    }

    async fn write(&mut self, property: &Property, value: &str) -> Result<(), Failure> {
        value.clone_into(&mut self.point(property)?.value);
        Ok(())
    }
}

impl VirtualDevice {
    fn point(&mut self, property: &Property) -> Result<&mut Point, Failure> {
        let point = self.0.get_mut(&property.name);
        point.ok_or_else(|| Failure::Refused(format!("there is no {}", property.name)))
    }
}
