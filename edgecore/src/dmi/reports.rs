//! What mappers report, as DeviceTwin takes it.

use proto::device::{Twin, TwinMap, TwinValue};
use proto::dmi::pb;
use tonic::Status;

/// One write for all twins of a report. Halves that are absent change nothing, nor does a desired value that is empty: mappers for Go's
/// edgecore, which ends where that half is absent (dmiserver/server.go), send one where they have seen none.
pub(super) fn twins(reported: Option<pb::DeviceStatus>) -> Result<TwinMap, Status> {
    let twins = reported.map(|device| device.twins).unwrap_or_default();
    if twins.is_empty() {
        return Err(Status::invalid_argument(
            "reportedDevice.twins is empty: nothing is reported",
        ));
    }
    let mut map = TwinMap::new();
    for twin in twins {
        if twin.property_name.is_empty() {
            return Err(Status::invalid_argument("a reported twin has no propertyName"));
        }
        let kind = twin.reported.as_ref().and_then(kind);
        let value = |property: pb::TwinProperty| TwinValue {
            value: Some(property.value),
            timestamp: None,
        };
        let twin_of_edge = Twin {
            expected: twin.observed_desired.filter(|seen| !seen.value.is_empty()).map(value),
            actual: twin.reported.map(value),
            kind,
            ..Twin::default()
        };
        map.insert(twin.property_name, Some(twin_of_edge));
    }
    Ok(map)
}

/// The type that a new twin gets. Mappers name the model's; one that DeviceTwin does not know, or that the value is not of, would have
/// the report refused where Go takes it for a string.
fn kind(reported: &pb::TwinProperty) -> Option<String> {
    let kind = reported.metadata.get("type")?.to_ascii_lowercase();
    let value = reported.value.as_str();
    let fits = match kind.as_str() {
        "string" | "bytes" => true,
        "int" | "integer" => value.parse::<i64>().is_ok(),
        "float" | "double" => value.parse::<f64>().is_ok(),
        "boolean" => matches!(value, "true" | "false"),
        _ => false,
    };
    fits.then_some(kind)
}
