//! Both round trips, for valid objects of all protocols and for any JSON; what is seen of each version in the other; void notes.

mod generate;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn beta(object: &Value) -> Value {
    convert(object.clone(), Version::V1Beta1).expect("converted")
}

fn alpha(object: &Value) -> Value {
    convert(object.clone(), Version::V1Alpha2).expect("converted")
}

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()
}

/// A Modbus thermometer as KubeEdge's own examples for v1alpha2 write it.
fn thermometer() -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1alpha2", "kind": "Device",
        "metadata": {"name": "t1", "namespace": "default", "uid": "u", "labels": {"model": "m"}},
        "spec": {
            "deviceModelRef": {"name": "m1"},
            "nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "", "operator": "In", "values": ["e1"]}]}]},
            "protocol": {"modbus": {"slaveID": 1}, "common": {"tcp": {"ip": "10.0.0.9", "port": 502}}},
            "propertyVisitors": [
                {"propertyName": "temp", "collectCycle": 500, "modbus": {"register": "HoldingRegister", "offset": 2, "limit": 1, "scale": 0.1}},
                {"propertyName": "door", "customizedValues": {"invert": true}, "modbus": {"register": "CoilRegister", "offset": 0, "limit": 1}}
            ],
            "data": {"dataTopic": "$ke/events/device/+/data/update", "dataProperties": [{"propertyName": "temp"}]}
        },
        "status": {"twins": [
            {"propertyName": "limit", "desired": {"value": "30", "metadata": {"type": "int"}}, "reported": {"value": "29"}},
            {"propertyName": "temp", "reported": {"value": "21"}}
        ]}
    })
}

#[test]
fn a_device_of_v1alpha2_is_a_device_of_v1beta1() {
    let device = thermometer();
    let converted = beta(&device);
    assert_eq!(
        converted["spec"],
        json!({
            "deviceModelRef": {"name": "m1"}, "nodeName": "e1",
            "protocol": {"protocolName": "modbus", "configData": {"slaveID": 1, "common": {"tcp": {"ip": "10.0.0.9", "port": 502}}}},
            "properties": [
                {"name": "temp", "collectCycle": 500, "visitors": {"protocolName": "modbus",
                    "configData": {"register": "HoldingRegister", "offset": 2, "limit": 1, "scale": 0.1}}},
                {"name": "door", "visitors": {"protocolName": "modbus",
                    "configData": {"register": "CoilRegister", "offset": 0, "limit": 1, "customizedValues": {"invert": true}}}},
                {"name": "limit", "desired": {"value": "30", "metadata": {"type": "int"}}}
            ]
        })
    );
    let twins = json!([{"propertyName": "limit", "reported": {"value": "29"}}, {"propertyName": "temp", "reported": {"value": "21"}}]);
    assert_eq!(converted["status"]["twins"], twins);
    let mut metadata = converted["metadata"].clone();
    let kept = metadata
        .as_object_mut()
        .and_then(|metadata| metadata.remove("annotations"));
    let notes = kept.expect("annotations")[ANNOTATION].to_string();
    assert_eq!(metadata, device["metadata"]);
    assert!(notes.contains("dataTopic") && !notes.contains("register"), "{notes}");
    assert_eq!(alpha(&converted), device);
}

#[test]
fn a_device_of_v1beta1_is_seen_by_old_clients() {
    let device = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": "t1"},
        "spec": {
            "nodeName": "e1",
            "protocol": {"protocolName": "modbus", "configData": {"slaveID": 1, "mode": "TCP"}},
            "properties": [
                {"name": "temp", "desired": {"value": ""}, "visitors": {"protocolName": "modbus", "configData": {"register": "HoldingRegister"}},
                 "pushMethod": {"mqtt": {"address": "tcp://x", "topic": "t"}}, "reportToCloud": true},
                {"name": "idle", "reportToCloud": true}
            ],
            "stateReport": {"reportToCloud": true}
        },
        "status": {"state": "ok", "twins": [{"propertyName": "temp", "reported": {"value": "21"}, "observedDesired": {"value": "3"}}]}
    });
    let converted = alpha(&device);
    assert_eq!(
        converted["spec"],
        json!({
            "nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["e1"]}]}]},
            // v1alpha2 would refuse "mode" for Modbus.
            "protocol": {"customizedProtocol": {"protocolName": "modbus", "configData": {"slaveID": 1, "mode": "TCP"}}},
            "propertyVisitors": [{"propertyName": "temp", "modbus": {"register": "HoldingRegister"}}]
        })
    );
    let twin = json!({"propertyName": "temp", "desired": {"value": ""}, "reported": {"value": "21"}});
    assert_eq!(converted["status"], json!({"twins": [twin]}));
    assert_eq!(beta(&converted), device);
}

#[test]
fn a_changed_field_makes_its_note_void_and_no_other() {
    let mut stored = beta(&thermometer());
    stored["spec"]["nodeName"] = json!("e2");
    stored["status"]["twins"][1]["reported"]["value"] = json!("22");
    let seen = alpha(&stored);
    let expression = &seen["spec"]["nodeSelector"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(
        *expression,
        json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["e2"]})
    );
    assert_eq!(seen["spec"]["data"], thermometer()["spec"]["data"]);
    assert_eq!(seen["status"]["twins"][0]["propertyName"], "limit", "the order is kept");
    assert_eq!(seen["status"]["twins"][1]["reported"]["value"], "22");
}

#[test]
fn what_an_old_client_takes_away_stays_away() {
    let mut device = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": "t1"},
        "spec": {"properties": [
            {"name": "a", "visitors": {"protocolName": "x"}, "reportToCloud": true},
            {"name": "b", "visitors": {"protocolName": "x"}, "reportToCloud": true}
        ]}
    });
    let mut seen = alpha(&device);
    seen["spec"]["propertyVisitors"]
        .as_array_mut()
        .expect("a list")
        .remove(0);
    device["spec"]["properties"].as_array_mut().expect("a list").remove(0);
    assert_eq!(beta(&seen), device);
}

#[test]
fn a_model_keeps_types_and_limits() {
    let model = json!({
        "apiVersion": "devices.kubeedge.io/v1alpha2", "kind": "DeviceModel", "metadata": {"name": "m1"},
        "spec": {"protocol": "modbus", "properties": [
            {"name": "temp", "description": "d", "type": {"int": {"accessMode": "ReadWrite", "minimum": 0, "maximum": 100, "unit": "C", "defaultValue": 3}}},
            {"name": "on", "type": {"boolean": {"accessMode": "ReadOnly"}}},
            {"name": "none"}
        ]}
    });
    let converted = beta(&model);
    let properties = json!([
        {"name": "temp", "description": "d", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "100", "unit": "C"},
        {"name": "on", "type": "BOOLEAN", "accessMode": "ReadOnly"},
        {"name": "none"}
    ]);
    assert_eq!(
        converted["spec"],
        json!({"protocol": "modbus", "properties": properties})
    );
    assert!(annotation(&converted).is_some_and(|notes| notes.contains("defaultValue")));
    assert_eq!(alpha(&converted), model);
    let stream = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel", "metadata": {"name": "m2"},
        "spec": {"protocolConfigData": {"a": null}, "properties": [
            {"name": "film", "type": "STREAM", "accessMode": "ReadOnly"},
            {"name": "odd", "type": "INT", "minimum": "01", "maximum": "1.5", "visitors": {"protocolName": "x"}}
        ]}
    });
    assert_eq!(beta(&alpha(&stream)), stream);
}

#[test]
fn what_cannot_be_converted_is_named() {
    let convert = |object: Value| convert(object, Version::V1Beta1).expect_err("refused").to_string();
    assert_eq!(
        convert(json!([])),
        "not an object of devices.kubeedge.io/v1alpha2 or devices.kubeedge.io/v1beta1"
    );
    let status = json!({"apiVersion": "devices.kubeedge.io/v1alpha2", "kind": "DeviceStatus"});
    assert_eq!(convert(status), "\"DeviceStatus\" is neither Device nor DeviceModel");
    let old = convert(json!({"apiVersion": "devices.kubeedge.io/v1", "kind": "Device"}));
    assert!(old.starts_with("\"devices.kubeedge.io/v1\" is neither"), "{old}");
}

#[test]
fn an_annotation_that_cannot_be_read_is_none() {
    for text in [
        "",
        "{",
        "[]",
        "{\"v1alpha2\": 3}",
        "{\"v1alpha2\": [{\"at\": []}]}",
        "{\"v1beta1\": [{\"at\": [\"spec\"], \"is\": 1}]}",
    ] {
        let mut stored = beta(&thermometer());
        stored["metadata"]["annotations"][ANNOTATION] = json!(text);
        assert_eq!(
            alpha(&stored)["spec"]["protocol"],
            thermometer()["spec"]["protocol"],
            "{text}"
        );
    }
}

fn assert_round_trip(
    object: &Value,
    there: fn(&Value) -> Value,
    back: fn(&Value) -> Value,
) -> Result<(), TestCaseError> {
    // As the API server has it between the two: text.
    let between: Value = serde_json::from_str(&there(object).to_string()).expect("JSON");
    prop_assert_eq!(&back(&between), object, "by way of {}", between);
    // What stands in the metadata is not touched, but for the annotation.
    let mut metadata = between["metadata"].clone();
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let mut before = object["metadata"].clone();
    for metadata in [&mut metadata, &mut before] {
        if metadata["annotations"] == json!({}) {
            metadata.as_object_mut().expect("an object").remove("annotations");
        }
    }
    prop_assert_eq!(metadata, before);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn v1alpha2_devices_come_back(device in generate::old_device()) {
        assert_round_trip(&device, beta, alpha)?;
    }

    #[test]
    fn v1beta1_devices_come_back(device in generate::device()) {
        assert_round_trip(&device, alpha, beta)?;
    }

    #[test]
    fn v1alpha2_models_come_back(model in generate::old_model()) {
        assert_round_trip(&model, beta, alpha)?;
    }

    #[test]
    fn v1beta1_models_come_back(model in generate::model()) {
        assert_round_trip(&model, alpha, beta)?;
    }

    /// Objects of before the schema, or of a schema that somebody changed.
    #[test]
    fn anything_comes_back(object in generate::anything()) {
        let version = Version::parse(object["apiVersion"].as_str().unwrap_or_default());
        match version {
            Ok(Version::V1Alpha2) => assert_round_trip(&object, beta, alpha)?,
            _ => assert_round_trip(&object, alpha, beta)?,
        }
    }
}
