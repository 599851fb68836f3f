//! What a message of an edge's DeviceTwin is about (spec 03 §2.4).

use super::DeviceId;
use crate::route::Route;

/// The part of a device that a message tells of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DevicePart {
    /// `twin/edge_updated`: values that changed at the edge.
    Twin,
    /// `state/update`: whether the device is there.
    State,
}

/// `device/<namespace>/<name>/<part>`, upwards.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DeviceTopic {
    /// The device.
    pub device: DeviceId,
    /// What is told of it.
    pub part: DevicePart,
}

impl DeviceTopic {
    /// Reads a route; `None` for all others. Edges before v1.16 name no namespace.
    pub fn of(route: &Route) -> Option<Self> {
        let Route::Other(text) = route else { return None };
        let rest = text.strip_prefix("device/")?;
        let (id, part) = [(TWIN, DevicePart::Twin), (STATE, DevicePart::State)]
            .into_iter()
            .find_map(|(end, part)| Some((rest.strip_suffix(end)?, part)))?;
        let device = DeviceId::parse(id)?;
        Some(Self { device, part })
    }

    /// The route upwards.
    pub fn route(&self) -> Route {
        let end = match self.part {
            DevicePart::Twin => TWIN,
            DevicePart::State => STATE,
        };
        Route::Other(format!("device/{}{end}", self.device).into())
    }
}

const TWIN: &str = "/twin/edge_updated";
const STATE: &str = "/state/update";
