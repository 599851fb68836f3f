//! Devices and their models in both versions: what comes back is what was there.

use proto::device::conversion::{ANNOTATION, Version, convert};
use proto::dmi::{self, Digest};
use proto::{Object, reviews};
use serde_json::{Map, Value, json};

/// The body of an object; its first byte says of which kind and version. Reviews get the same bytes.
pub fn device_conversion(data: &[u8]) {
    let _ = (reviews::convert(data), reviews::admit(data));
    let Some((&head, body)) = data.split_first() else {
        return;
    };
    let Ok(mut object) = serde_json::from_slice::<Map<String, Value>>(body) else {
        return;
    };
    let (here, there, version) = if head & 1 == 0 {
        (Version::V1Beta1, Version::V1Alpha2, "v1beta1")
    } else {
        (Version::V1Alpha2, Version::V1Beta1, "v1alpha2")
    };
    let kind = if head & 2 == 0 { "Device" } else { "DeviceModel" };
    object.insert("apiVersion".to_owned(), json!(format!("devices.kubeedge.io/{version}")));
    object.insert("kind".to_owned(), json!(kind));
    if !object.get("metadata").is_some_and(is_metadata) {
        object.insert("metadata".to_owned(), json!({}));
    }
    let object = Value::Object(object);
    let between = convert(object.clone(), there)
        .expect("the kind and version are known")
        .to_string();
    // The notes may be deeper than a reader of JSON goes; the API server does not take such an object.
    let Ok(between) = serde_json::from_str(&between) else {
        return;
    };
    let again = convert(between, here).expect("our own object converts");
    let noted = object
        .pointer("/metadata/annotations")
        .is_some_and(|all| all.get(ANNOTATION).is_some());
    if !noted {
        assert_eq!(again, object);
    }
}

/// As the API server writes it: no annotations, or some.
fn is_metadata(value: &Value) -> bool {
    let annotations = value.get("annotations");
    value.is_object() && annotations.is_none_or(|all| all.as_object().is_some_and(|all| !all.is_empty()))
}

/// A device and its model, a line each: whatever is in them, a mapper finds what it reads without asking.
pub fn dmi_conversion(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (device, model) = text.split_once('\n').unwrap_or((text, "{}"));
    let (Ok(device), Ok(model)) = (Object::parse(device), Object::parse(model)) else {
        return;
    };
    let _ = (dmi::device_reference(&device), dmi::model_protocol(&model));
    if let Ok(model) = dmi::model(&model) {
        let digest = Digest::of_model(&model);
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
    }
    let Ok(converted) = dmi::device(&device, &model) else {
        return;
    };
    converted.warnings.iter().for_each(|warning| {
        let _ = warning.to_string();
    });
    let device = converted.device;
    assert!(!device.name.is_empty() && device.status.is_some());
    let mut other = device.clone();
    let spec = device.spec.expect("a spec");
    assert!(spec.protocol.is_some_and(|protocol| protocol.config_data.is_some()));
    for property in spec.properties {
        assert!(property.desired.is_some());
        assert!(property.visitors.is_some_and(|visitors| visitors.config_data.is_some()));
    }
    let before = Digest::of_device(&other);
    let properties = other.spec.as_mut().map(|spec| &mut spec.properties).expect("a spec");
    let names: std::collections::BTreeSet<&str> = properties.iter().map(|one| one.name.as_str()).collect();
    // Of two properties of one name the last counts for a mapper: their order is content.
    if names.len() == properties.len() {
        properties.reverse();
        assert_eq!(Digest::of_device(&other), before);
    }
}

/// Payloads about devices as they come by MQTT and from the cloud: a topic in the first line, then what every reader gets.
pub fn twin_json(data: &[u8]) {
    use proto::device::{
        DeviceRequest, GetRequest, HistoryRequest, MembershipDetail, MembershipUpdate, StateUpdate, TwinUpdate,
        event_id_of,
    };
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (topic, payload) = data.split_at(end);
    let _ = std::str::from_utf8(topic).map(DeviceRequest::parse);
    let payload = payload.get(1..).unwrap_or_default();
    // What was read is written, and read again the same.
    macro_rules! again {
        ($($format:ty),*) => {$(
            if let Ok(read) = <$format>::parse(payload) {
                let text = read.to_json();
                let again = <$format>::parse(text.as_bytes()).expect("what we write can be read");
                assert_eq!(again.to_json(), text);
            }
        )*};
    }
    again!(TwinUpdate, MembershipUpdate, MembershipDetail, StateUpdate);
    let _ = (
        StateUpdate::parse_request(payload),
        GetRequest::parse(payload),
        HistoryRequest::parse(payload),
        event_id_of(payload),
    );
}
