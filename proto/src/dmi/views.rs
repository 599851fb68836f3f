//! What is read of Device and DeviceModel v1beta1 (spec 03 §1.1, §1.2). Everything may be absent or null, as Go takes it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::view;

/// A free object; `None` when absent or null.
pub(super) type Free = Option<Map<String, Value>>;

view! {
    pub(super) struct Device { "spec" spec: DeviceSpec, "status" status: Report }
    pub(super) struct DeviceSpec {
        "deviceModelRef" model: Reference,
        "protocol" protocol: Config,
        "properties" properties: Vec<Property>,
        "methods" methods: Vec<Method>,
        "stateReport" state_report: Option<Report>,
    }
    pub(super) struct Reference { "name" name: String }
    /// `protocol` and `visitors`.
    pub(super) struct Config { "protocolName" protocol: String, "configData" data: Free }
    pub(super) struct Property {
        "name" name: String,
        "desired" desired: Desired,
        "visitors" visitors: Config,
        "reportCycle" report_cycle: i64,
        "collectCycle" collect_cycle: i64,
        "reportToCloud" report_to_cloud: bool,
        "pushMethod" push: Option<super::push::Push>,
    }
    pub(super) struct Desired { "value" value: String, "metadata" metadata: BTreeMap<String, String> }
    pub(super) struct Method { "name" name: String, "description" description: String, "propertyNames" properties: Vec<String> }
    /// `stateReport`, and the place in `status` where it was before v1.23.
    pub(super) struct Report { "reportToCloud" to_cloud: bool, "reportCycle" cycle: i64 }

    pub(super) struct Model { "spec" spec: ModelSpec }
    pub(super) struct ModelSpec {
        "protocol" protocol: String,
        "protocolConfigData" protocol_data: Free,
        "properties" properties: Vec<ModelProperty>,
    }
    pub(super) struct ModelProperty {
        "name" name: String,
        "description" description: String,
        "type" kind: String,
        "accessMode" access: String,
        "minimum" minimum: String,
        "maximum" maximum: String,
        "unit" unit: String,
        "visitors" visitors: Option<Config>,
    }

    /// Only what decides where a device goes.
    pub(super) struct Routing { "spec" spec: RoutingSpec }
    pub(super) struct RoutingSpec { "deviceModelRef" model: Reference, "protocol" protocol: ProtocolName }
    pub(super) struct ProtocolName { "protocolName" name: String }
    pub(super) struct ModelRouting { "spec" spec: ModelRoutingSpec }
    pub(super) struct ModelRoutingSpec { "protocol" protocol: String }
}
