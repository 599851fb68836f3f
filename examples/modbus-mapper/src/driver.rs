//! The connection to one device: requests one after the other, each with a time limit.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use mapper::{BadConfig, Device, Driver, Failure, Property, Protocol};
use tokio::net::TcpStream;
use tokio_modbus::Slave;
use tokio_modbus::client::{Context, Reader as _, Writer as _, tcp};

use crate::codec;
use crate::point::{Point, Register};

/// The protocol.
pub(crate) struct Modbus;

/// One device.
pub(crate) struct ModbusDevice {
    host: String,
    port: u16,
    slave: u8,
    patience: Duration,
    points: BTreeMap<String, Point>,
    connection: Option<Context>,
}

impl Protocol for Modbus {
    type Driver = ModbusDevice;

    fn driver(&self, device: &Device) -> Result<ModbusDevice, BadConfig> {
        let config = &device.config;
        let points = device.properties.iter();
        let points = points.map(|property| Ok((property.name.clone(), Point::of(&property.config)?)));
        Ok(ModbusDevice {
            host: config.text("ip")?.ok_or(BadConfig::Missing("ip"))?,
            port: config.integer("port", 502)?,
            slave: config.integer("slaveID", 1)?,
            patience: Duration::from_millis(config.integer("timeout", 2000)?),
            points: points.collect::<Result<_, _>>()?,
            connection: None,
        })
    }
}

impl Driver for ModbusDevice {
    async fn connect(&mut self) -> Result<(), Failure> {
        self.connection = None;
        let dialled = tokio::time::timeout(self.patience, TcpStream::connect((self.host.as_str(), self.port))).await;
        let lost = |error: String| Failure::Lost(format!("{}:{}: {error}", self.host, self.port));
        let stream = match dialled {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(lost(error.to_string())),
            Err(_) => return Err(lost("no connection in time".to_owned())),
        };
        self.connection = Some(tcp::attach_slave(stream, Slave(self.slave)));
        Ok(())
    }

    async fn read(&mut self, property: &Property) -> Result<String, Failure> {
        let (point, patience) = (self.point(property)?, self.patience);
        let (offset, limit) = (point.offset, point.limit);
        let context = self.context()?;
        let value = match point.register {
            Register::Coil => codec::decode_bits(
                property.kind,
                &within(patience, context.read_coils(offset, limit)).await?,
            ),
            Register::DiscreteInput => {
                let bits = within(patience, context.read_discrete_inputs(offset, limit)).await?;
                codec::decode_bits(property.kind, &bits)
            }
            Register::Input => {
                let words = within(patience, context.read_input_registers(offset, limit)).await?;
                codec::decode(property.kind, &words, point.scaling)
            }
            Register::Holding => {
                let words = within(patience, context.read_holding_registers(offset, limit)).await?;
                codec::decode(property.kind, &words, point.scaling)
            }
        };
        value.map_err(Failure::Refused)
    }

    async fn write(&mut self, property: &Property, value: &str) -> Result<(), Failure> {
        let (point, patience) = (self.point(property)?, self.patience);
        let (offset, limit) = (point.offset, point.limit);
        let context = self.context()?;
        match point.register {
            Register::Coil => {
                let bits = codec::encode_bits(property.kind, value, limit).map_err(Failure::Refused)?;
                match bits.as_slice() {
                    [bit] => within(patience, context.write_single_coil(offset, *bit)).await,
                    bits => within(patience, context.write_multiple_coils(offset, bits)).await,
                }
            }
            Register::Holding => {
                let words = codec::encode(property.kind, value, limit, point.scaling).map_err(Failure::Refused)?;
                match words.as_slice() {
                    [word] => within(patience, context.write_single_register(offset, *word)).await,
                    words => within(patience, context.write_multiple_registers(offset, words)).await,
                }
            }
            Register::DiscreteInput | Register::Input => Err(Failure::Refused(
                "inputs of a Modbus device cannot be written".to_owned(),
            )),
        }
    }
}

impl ModbusDevice {
    fn point(&self, property: &Property) -> Result<Point, Failure> {
        let point = self.points.get(&property.name).copied();
        point.ok_or_else(|| Failure::Refused(format!("there is no {}", property.name)))
    }

    fn context(&mut self) -> Result<&mut Context, Failure> {
        let connection = self.connection.as_mut();
        connection.ok_or_else(|| Failure::Lost("not connected".to_owned()))
    }
}

/// An exception of the device refuses one request; anything else ends the connection.
async fn within<T>(patience: Duration, call: impl Future<Output = tokio_modbus::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(patience, call).await {
        Err(_) => Err(Failure::Lost("no answer in time".to_owned())),
        Ok(Err(error)) => Err(Failure::Lost(error.to_string())),
        Ok(Ok(Err(exception))) => Err(Failure::Refused(format!("the device refuses: {exception}"))),
        Ok(Ok(Ok(value))) => Ok(value),
    }
}
