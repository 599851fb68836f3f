use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message as _;
use prost_types::Any;
use serde_json::{Value, json};

use super::*;
use crate::object::Object;

fn object(value: &Value) -> Object {
    Object::from_value(value).expect("an object")
}

fn a_model() -> Object {
    object(&json!({
        "metadata": {"name": "m", "namespace": "default"},
        "spec": {"protocol": "modbus", "protocolConfigData": {"baud": 9600, "unit": 1}, "properties": [
            {"name": "temp", "description": "d", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "9", "unit": "C",
             "visitors": {"protocolName": "modbus", "configData": {"register": "Holding", "offset": 1}}},
            {"name": "bare", "type": "STRING", "accessMode": "ReadOnly"}]}
    }))
}

fn a_device(spec: &Value) -> Object {
    object(&json!({"metadata": {"name": "d", "namespace": "default"}, "spec": spec}))
}

fn of<T: prost::Name + Default>(any: &Any) -> T {
    any.to_msg().expect("this type")
}

#[test]
fn every_field_has_its_place() {
    let instance = a_device(&json!({
        "deviceModelRef": {"name": "m"}, "nodeName": "n",
        "protocol": {"protocolName": "modbus", "configData": {"unit": 7}},
        "properties": [{
            "name": "temp", "desired": {"value": "30", "metadata": {"timestamp": "5", "type": "int"}},
            "visitors": {"protocolName": "ignored", "configData": {"offset": 2}},
            "reportCycle": 10, "collectCycle": 20, "reportToCloud": true,
            "pushMethod": {
                "http": {"hostName": "h", "port": 80, "requestPath": "/p", "timeout": 3},
                "mqtt": {"address": "a", "topic": "t", "qos": 1, "retained": true},
                "otel": {"endpointURL": "u"},
                "anomalyDetection": {"small": 5, "large": 5_000_000_000_i64, "half": 0.5},
                "dbMethod": {
                    "influxdb2": {"influxdb2ClientConfig": {"url": "u", "org": "o", "bucket": "b"},
                                  "influxdb2DataConfig": {"measurement": "m", "tag": {"k": "v"}, "fieldKey": "f"}},
                    "redis": {"redisClientConfig": {"addr": "a", "db": 1, "poolsize": 2, "minIdleConns": 3}},
                    "TDEngine": {"TDEngineClientConfig": {"addr": "a", "dbName": "n"}},
                    "mysql": {"mysqlClientConfig": {"addr": "a", "database": "d", "userName": "u"}}}}}],
        "methods": [{"name": "m1", "description": "d1", "propertyNames": ["temp"]}],
        "stateReport": {"reportToCloud": true, "reportCycle": 9},
    }));
    let Converted { device, warnings } = device(&instance, &a_model()).expect("converts");
    assert_eq!(warnings, []);
    assert_eq!((device.name.as_str(), device.namespace.as_str()), ("d", "default"));
    let status = device.status.expect("a status");
    assert_eq!((status.report_to_cloud, status.report_cycle), (true, 9));
    let spec = device.spec.expect("a spec");
    assert_eq!(spec.device_model_reference, "m");
    let protocol = spec.protocol.expect("a protocol");
    let config = protocol.config_data.expect("config data").data;
    assert_eq!(protocol.protocol_name, "modbus");
    assert_eq!((of::<i64>(&config["baud"]), of::<i64>(&config["unit"])), (9600, 7));
    assert_eq!(spec.methods[0].property_names, ["temp"]);
    let [temp] = &spec.properties[..] else {
        panic!("one property")
    };
    assert_eq!(
        (temp.report_cycle, temp.collect_cycle, temp.report_to_cloud),
        (10, 20, true)
    );
    let desired = temp.desired.clone().expect("desired");
    assert_eq!(
        (desired.value.as_str(), desired.metadata["type"].as_str()),
        ("30", "int")
    );
    let visitors = temp.visitors.clone().expect("visitors");
    assert_eq!(
        visitors.protocol_name, "modbus",
        "the model's visitors replace the device's"
    );
    let data = visitors.config_data.expect("config data").data;
    assert_eq!(
        (of::<String>(&data["register"]), of::<i64>(&data["offset"])),
        ("Holding".into(), 2)
    );
    let push = temp.push_method.clone().expect("push");
    let anomaly = push.anomaly_detection.expect("anomaly").data;
    assert_eq!((of::<i32>(&anomaly["small"]), of::<f32>(&anomaly["half"])), (5, 0.5));
    assert_eq!(
        anomaly["large"].type_url,
        "type.googleapis.com/google.protobuf.FloatValue"
    );
    let http = push.http.expect("http");
    assert_eq!(
        (
            http.hostname.as_str(),
            http.requestpath.as_str(),
            http.port,
            http.timeout
        ),
        ("h", "/p", 80, 3)
    );
    assert_eq!(push.otel.expect("otel").endpoint_url, "u");
    let database = push.db_method.expect("database");
    assert_eq!(
        database
            .tdengine
            .and_then(|t| t.td_engine_client_config)
            .expect("tdengine")
            .dbname,
        "n"
    );
    assert_eq!(
        database
            .redis
            .and_then(|r| r.redis_client_config)
            .expect("redis")
            .min_idle_conns,
        3
    );
}

/// Mappers of the framework end with any of these absent (spec 03 §5.4).
#[test]
fn what_mappers_read_without_asking_is_always_there() {
    let forms = [
        json!({"deviceModelRef": {"name": "m"}, "properties": [{"name": "bare"}]}),
        json!({"deviceModelRef": {"name": "m"}, "protocol": {}, "properties": [{"name": "bare", "desired": {"value": ""}, "visitors": {}}]}),
        json!({"deviceModelRef": {"name": "m"}, "protocol": null, "status": null, "properties":
            [{"name": "bare", "desired": null, "visitors": {"configData": null}, "pushMethod": null}]}),
    ];
    for form in forms {
        let device = device(&a_device(&form), &a_model()).expect("converts").device;
        assert!(device.status.is_some());
        let spec = device.spec.expect("a spec");
        assert!(spec.protocol.expect("a protocol").config_data.is_some());
        let [property] = &spec.properties[..] else {
            panic!("one property")
        };
        assert!(property.desired.is_some());
        assert!(property.visitors.clone().expect("visitors").config_data.is_some());
        assert!(property.push_method.is_none());
    }
}

/// Spec 03, "must work" 30.
#[test]
fn values_without_a_form_are_left_out_and_told() {
    let data = json!({"n": 16_777_217, "f": 1.5, "s": "x", "b": true, "o": {"k": 1}, "l": [1], "z": null,
        "whole": 3.0, "huge": 1e300, "big": 18_446_744_073_709_551_615_u64, "data": "trap"});
    let spec = json!({"deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "p", "configData": data}});
    let Converted { device, warnings } = device(&a_device(&spec), &a_model()).expect("converts");
    let data = device
        .spec
        .and_then(|s| s.protocol)
        .and_then(|p| p.config_data)
        .expect("data")
        .data;
    assert_eq!(of::<i64>(&data["n"]), 16_777_217);
    assert_eq!(of::<i64>(&data["whole"]), 3);
    assert_eq!(of::<f32>(&data["f"]), 1.5);
    assert_eq!(of::<String>(&data["s"]), "x");
    assert_eq!(of::<String>(&data["data"]), "trap");
    assert!(of::<bool>(&data["b"]));
    assert_eq!(data["n"].type_url, "type.googleapis.com/google.protobuf.Int64Value");
    let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let expected = ["huge", "l", "o", "z"].map(|key| format!("spec.protocol.configData.{key} is left out"));
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (told, expected) in told.iter().zip(&expected) {
        assert!(told.starts_with(expected), "{told}");
    }
}

#[test]
fn a_property_that_the_model_lacks_is_left_out() {
    let spec = json!({"deviceModelRef": {"name": "m"}, "properties": [{"name": "bare"}, {"name": "other"}]});
    let Converted { device, warnings } = device(&a_device(&spec), &a_model()).expect("converts");
    assert_eq!(device.spec.expect("a spec").properties.len(), 1);
    assert_eq!(
        warnings[0].to_string(),
        "property other is left out: the model m does not have it"
    );
}

#[test]
fn what_cannot_be_converted_says_why() {
    let none = device(&a_device(&json!({})), &a_model()).expect_err("no model");
    assert!(matches!(none, BadDevice::NoModel), "{none}");
    let wrong = a_device(&json!({"deviceModelRef": {"name": "m"}, "properties": 5}));
    assert!(matches!(
        device(&wrong, &a_model()),
        Err(BadDevice::Fields("device", _))
    ));
    let nameless = object(&json!({"spec": {}}));
    assert!(matches!(model(&nameless), Err(BadDevice::NoName("model"))));
}

#[test]
fn a_model_keeps_its_texts() {
    let model = model(&a_model()).expect("converts");
    assert_eq!((model.name.as_str(), model.namespace.as_str()), ("m", "default"));
    let spec = model.spec.expect("a spec");
    assert_eq!(
        (
            spec.properties[0].r#type.as_str(),
            spec.properties[0].access_mode.as_str()
        ),
        ("INT", "ReadWrite")
    );
    assert_eq!(model_protocol(&a_model()).expect("reads"), "modbus");
}

#[test]
fn where_a_device_goes() {
    let spec = json!({"deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "modbus"}, "properties": 5});
    let reference = device_reference(&a_device(&spec)).expect("reads");
    assert_eq!(reference.protocol, "modbus");
    assert_eq!(reference.model, Some(DeviceId::new("default", "m")));
}

#[test]
fn the_order_of_properties_does_not_change_a_digest() {
    let spec = |properties: Value| json!({"deviceModelRef": {"name": "m"}, "properties": properties});
    let digest = |properties: Value| {
        let converted = device(&a_device(&spec(properties)), &a_model()).expect("converts");
        Digest::of_device(&converted.device)
    };
    let one = digest(json!([{"name": "temp"}, {"name": "bare"}]));
    assert_eq!(one, digest(json!([{"name": "bare"}, {"name": "temp"}])));
    assert_ne!(
        one,
        digest(json!([{"name": "bare"}, {"name": "temp", "desired": {"value": "1"}}]))
    );
    assert_eq!(Digest::parse(&one.to_string()), Some(one));
    assert_eq!(Digest::parse("short"), None);
}

#[test]
fn a_digest_tells_devices_of_one_content_apart() {
    let content = Digest::parse("00000000000000ff").expect("a digest");
    let [one, other] = ["u1", "u2"].map(|uid| content.with_uid(uid));
    assert_ne!(one, other);
    assert!(one.is_of_another(other) && !one.is_of_another(one));
    // An unknown one is not known to be another one.
    assert_eq!(content.with_uid(""), content);
    assert!(!one.is_of_another(content) && !content.is_of_another(one));
    assert_eq!(Digest::parse(&one.to_string()), Some(one));
    for text in ["00000000000000ff-", "00000000000000ff-ff", "-00000000000000ff"] {
        assert_eq!(Digest::parse(text), None);
    }
}

fn a_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{1,3}", inner, 0..3).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    /// Every key is either given with a type that mappers know, or told; a whole number is exact; the message is readable.
    #[test]
    fn no_key_is_lost_in_silence(data in proptest::collection::btree_map("[a-z]{1,4}", a_value(), 0..8)) {
        let spec = json!({"deviceModelRef": {"name": "m"}, "protocol": {"configData": data},
            "properties": [{"name": "bare", "visitors": {"configData": data}}]});
        let model = object(&json!({"metadata": {"name": "m"}, "spec": {"properties": [{"name": "bare"}]}}));
        let Converted { device, warnings } = super::device(&a_device(&spec), &model).expect("converts");
        let bytes = device.encode_to_vec();
        prop_assert_eq!(&pb::Device::decode(&bytes[..]).expect("decodes"), &device);
        let spec = device.spec.expect("a spec");
        let given = spec.protocol.and_then(|p| p.config_data).expect("data").data;
        let of_property: BTreeMap<String, Any> = spec.properties.into_iter()
            .filter_map(|p| p.visitors?.config_data).flat_map(|c| c.data).collect();
        prop_assert_eq!(&given, &of_property);
        prop_assert_eq!(given.len() * 2 + warnings.len(), data.len() * 2);
        for (key, any) in &given {
            let (_, kind) = any.type_url.rsplit_once('.').expect("a type");
            prop_assert!(["StringValue", "BoolValue", "Int64Value", "FloatValue"].contains(&kind), "{}", kind);
            if let Some(whole) = data[key].as_i64() {
                prop_assert_eq!(of::<i64>(any), whole);
            }
        }
    }
}
