//! What is read of Device and DeviceModel v1beta1 (spec 03 §1.1, §1.2). Everything may be absent or null, as Go takes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A free object; `None` when absent or null.
pub(super) type Free = Option<Map<String, Value>>;

/// Null reads as the default.
pub(super) fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

macro_rules! view {
    ($(#[$meta:meta])* $name:ident { $($key:literal $field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default)]
        pub(super) struct $name {
            $(#[serde(rename = $key, deserialize_with = "lenient")] pub(super) $field: $type,)*
        }
    };
}

view!(Device { "spec" spec: DeviceSpec, "status" status: Report });
view!(DeviceSpec {
    "deviceModelRef" model: Reference,
    "protocol" protocol: Config,
    "properties" properties: Vec<Property>,
    "methods" methods: Vec<Method>,
    "stateReport" state_report: Option<Report>,
});
view!(Reference { "name" name: String });
view!(
    /// `protocol` and `visitors`.
    Config { "protocolName" protocol: String, "configData" data: Free }
);
view!(Property {
    "name" name: String,
    "desired" desired: Desired,
    "visitors" visitors: Config,
    "reportCycle" report_cycle: i64,
    "collectCycle" collect_cycle: i64,
    "reportToCloud" report_to_cloud: bool,
    "pushMethod" push: Option<super::push::Push>,
});
view!(Desired { "value" value: String, "metadata" metadata: BTreeMap<String, String> });
view!(Method { "name" name: String, "description" description: String, "propertyNames" properties: Vec<String> });
view!(
    /// `stateReport`, and the place in `status` where it was before v1.23.
    Report { "reportToCloud" to_cloud: bool, "reportCycle" cycle: i64 }
);

view!(Model { "spec" spec: ModelSpec });
view!(ModelSpec {
    "protocol" protocol: String,
    "protocolConfigData" protocol_data: Free,
    "properties" properties: Vec<ModelProperty>,
});
view!(ModelProperty {
    "name" name: String,
    "description" description: String,
    "type" kind: String,
    "accessMode" access: String,
    "minimum" minimum: String,
    "maximum" maximum: String,
    "unit" unit: String,
    "visitors" visitors: Option<Config>,
});

view!(
    /// Only what decides where a device goes.
    Routing { "spec" spec: RoutingSpec }
);
view!(RoutingSpec { "deviceModelRef" model: Reference, "protocol" protocol: ProtocolName });
view!(ProtocolName { "protocolName" name: String });
view!(ModelRouting { "spec" spec: ModelRoutingSpec });
view!(ModelRoutingSpec { "protocol" protocol: String });
