//! Where a property is in a device, from `visitors.configData`.

use mapper::{BadConfig, Config};

use crate::codec::Scaling;

/// Kinds of places, by the names that KubeEdge gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    Coil,
    DiscreteInput,
    Input,
    Holding,
}

/// Where a property is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) register: Register,
    /// The first, counted from 0.
    pub(crate) offset: u16,
    /// How many.
    pub(crate) limit: u16,
    pub(crate) scaling: Scaling,
}

impl Point {
    pub(crate) fn of(config: &Config) -> Result<Self, BadConfig> {
        let register = config.text("register")?.ok_or(BadConfig::Missing("register"))?;
        let register = match register.to_ascii_lowercase().as_str() {
            "coilregister" => Register::Coil,
            "discreteinputregister" => Register::DiscreteInput,
            "inputregister" => Register::Input,
            "holdingregister" => Register::Holding,
            _ => {
                return Err(BadConfig::Wrong {
                    key: "register",
                    wanted: "CoilRegister, DiscreteInputRegister, InputRegister or HoldingRegister",
                });
            }
        };
        let limit = config.integer("limit", 1)?;
        // What fits into one request of the protocol, with room to spare.
        if !(1..=100).contains(&limit) {
            return Err(BadConfig::Wrong {
                key: "limit",
                wanted: "between 1 and 100",
            });
        }
        let scale = config.float("scale", 1.0)?;
        Ok(Self {
            register,
            offset: config.integer("offset", 0)?,
            limit,
            scaling: Scaling {
                // KubeEdge's mapper takes 0 for "not given".
                scale: if scale == 0.0 { 1.0 } else { scale },
                swap_bytes: config.boolean("isSwap")?,
                swap_registers: config.boolean("isRegisterSwap")?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use mapper::Value;

    use super::*;

    #[test]
    fn the_keys_of_kubeedge_are_read() {
        let text = |text: &str| Value::Text(text.to_owned());
        let config = Config::from([
            ("register", text("HoldingRegister")),
            ("offset", Value::Integer(2)),
            ("limit", text("2")),
            ("scale", Value::Float(0.1)),
            ("isRegisterSwap", Value::Boolean(true)),
        ]);
        let point = Point::of(&config).expect("a point");
        assert_eq!((point.register, point.offset, point.limit), (Register::Holding, 2, 2));
        let scaling = Scaling {
            scale: 0.1,
            swap_bytes: false,
            swap_registers: true,
        };
        assert_eq!(point.scaling, scaling);
        for wrong in [
            Config::default(),
            Config::from([("register", text("Holding"))]),
            Config::from([("register", text("CoilRegister")), ("limit", Value::Integer(0))]),
            Config::from([("register", text("CoilRegister")), ("offset", Value::Integer(65_536))]),
        ] {
            assert!(Point::of(&wrong).is_err(), "{wrong:?}");
        }
    }
}
