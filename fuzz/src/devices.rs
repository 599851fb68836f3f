//! Devices and their models in both versions: what comes back is what was there.

use proto::device::conversion::{ANNOTATION, Version, convert};
use proto::reviews;
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
