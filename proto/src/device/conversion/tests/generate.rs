//! Objects as the schemas allow them, and any JSON where devices have something.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

type Any = BoxedStrategy<Value>;

/// An object of which each member may be there.
fn some_of(members: Vec<(&'static str, Any)>) -> Any {
    members
        .into_iter()
        .fold(Just(Map::new()).boxed(), |object, (name, value)| {
            (object, option::weighted(0.6, value))
                .prop_map(move |(mut object, value)| {
                    object.extend(value.map(|value| (name.to_owned(), value)));
                    object
                })
                .boxed()
        })
        .prop_map(Value::Object)
        .boxed()
}

fn word() -> Any {
    prop_oneof![
        Just(""),
        Just("a"),
        Just("b"),
        Just("modbus"),
        Just("temp"),
        Just("30"),
        Just("ü\"\n")
    ]
    .prop_map(Value::from)
    .boxed()
}

fn one_of(words: &'static [&'static str]) -> Any {
    proptest::sample::select(words).prop_map(Value::from).boxed()
}

fn integer() -> Any {
    any::<i64>().prop_map(Value::from).boxed()
}

fn number() -> Any {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(json!(0.1))
    ]
    .prop_filter("JSON has no infinity", |value| !value.is_null())
    .boxed()
}

fn flag() -> Any {
    any::<bool>().prop_map(Value::from).boxed()
}

fn list(of: Any, most: usize) -> Any {
    vec(of, 0..=most).prop_map(Value::from).boxed()
}

fn texts() -> Any {
    btree_map("[a-c]", word(), 0..3)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
        .boxed()
}

/// Free data, with names in it that mean something elsewhere.
fn free() -> Any {
    let leaf = prop_oneof![Just(Value::Null), flag(), number(), word()];
    let name = prop_oneof![
        Just("common"),
        Just("customizedValues"),
        Just("slaveID"),
        Just("register"),
        Just("properties"),
        Just("x")
    ];
    let tree = leaf.prop_recursive(3, 12, 3, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            btree_map(name.clone().prop_map(str::to_owned), inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    btree_map("common|customizedValues|slaveID|url|a", tree, 0..3)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
        .boxed()
}

fn opcua() -> Any {
    some_of(vec![
        ("url", word()),
        ("userName", word()),
        ("password", word()),
        ("timeout", integer()),
    ])
}

fn common() -> Any {
    let com = some_of(vec![
        ("serialPort", word()),
        (
            "baudRate",
            proptest::sample::select(&[115_200, 50][..])
                .prop_map(Value::from)
                .boxed(),
        ),
        ("parity", one_of(&["none", "even", "odd"])),
    ]);
    let tcp = some_of(vec![("ip", word()), ("port", integer())]);
    let collect = one_of(&["sync", "async"]);
    some_of(vec![
        ("com", com),
        ("tcp", tcp),
        ("commType", word()),
        ("collectType", collect),
        ("customizedValues", free()),
    ])
}

fn customized() -> Any {
    some_of(vec![("protocolName", word()), ("configData", free())])
}

fn old_protocol() -> Any {
    some_of(vec![
        ("opcua", opcua()),
        ("modbus", some_of(vec![("slaveID", integer())])),
        ("bluetooth", some_of(vec![("macAddress", word())])),
        ("customizedProtocol", customized()),
        ("common", common()),
    ])
}

fn old_visitor() -> Any {
    let modbus = some_of(vec![
        (
            "register",
            one_of(&[
                "CoilRegister",
                "DiscreteInputRegister",
                "InputRegister",
                "HoldingRegister",
            ]),
        ),
        ("offset", integer()),
        ("limit", integer()),
        ("scale", number()),
        ("isSwap", flag()),
    ]);
    let operation = some_of(vec![("operationType", word()), ("operationValue", number())]);
    let converter = some_of(vec![
        ("startIndex", integer()),
        ("orderOfOperations", list(operation, 2)),
    ]);
    let bluetooth = some_of(vec![
        ("characteristicUUID", word()),
        ("dataWrite", texts()),
        ("dataConverter", converter),
    ]);
    some_of(vec![
        ("propertyName", word()),
        ("reportCycle", integer()),
        ("collectCycle", integer()),
        ("customizedValues", free()),
        ("opcua", some_of(vec![("nodeID", word()), ("browseName", word())])),
        ("modbus", modbus),
        ("bluetooth", bluetooth),
        ("customizedProtocol", customized()),
    ])
}

fn value() -> Any {
    (word(), option::of(texts()))
        .prop_map(|(value, metadata)| match metadata {
            Some(metadata) => json!({"value": value, "metadata": metadata}),
            None => json!({"value": value}),
        })
        .boxed()
}

fn selector() -> Any {
    let expression =
        (word(), list(word(), 2)).prop_map(|(key, values)| json!({"key": key, "operator": "In", "values": values}));
    let expressions = list(expression.boxed(), 2);
    let term = some_of(vec![
        ("matchExpressions", expressions.clone()),
        ("matchFields", expressions),
    ]);
    list(term, 2)
        .prop_map(|terms| json!({"nodeSelectorTerms": terms}))
        .boxed()
}

fn of_kind(version: &'static str, kind: &'static str, spec: Any, status: Option<Any>) -> Any {
    let mut members = vec![("spec", spec)];
    members.extend(status.map(|status| ("status", status)));
    let annotations = option::of(btree_map("[a-c]/[a-c]", word(), 1..3));
    (some_of(members), annotations)
        .prop_map(move |(mut object, annotations)| {
            object["apiVersion"] = json!(format!("devices.kubeedge.io/{version}"));
            object["kind"] = json!(kind);
            object["metadata"] = json!({"name": "x", "uid": "u", "resourceVersion": "7"});
            if let Some(annotations) = annotations {
                object["metadata"]["annotations"] = json!(annotations);
            }
            object
        })
        .boxed()
}

fn model_reference() -> Any {
    word().prop_map(|name| json!({"name": name})).boxed()
}

pub(super) fn old_device() -> Any {
    let data = some_of(vec![
        ("dataTopic", word()),
        (
            "dataProperties",
            list(some_of(vec![("propertyName", word()), ("metadata", texts())]), 2),
        ),
    ]);
    let spec = some_of(vec![
        ("deviceModelRef", model_reference()),
        ("nodeSelector", selector()),
        ("protocol", old_protocol()),
        ("propertyVisitors", list(old_visitor(), 4)),
        ("data", data),
    ]);
    let twin = some_of(vec![
        ("propertyName", word()),
        ("desired", value()),
        ("reported", value()),
    ]);
    of_kind(
        "v1alpha2",
        "Device",
        spec,
        Some(some_of(vec![("twins", list(twin, 4))])),
    )
}

pub(super) fn device() -> Any {
    let mqtt = some_of(vec![("address", word()), ("qos", integer()), ("retained", flag())]);
    let push = some_of(vec![("mqtt", mqtt), ("anomalyDetection", free())]);
    let property = some_of(vec![
        ("name", word()),
        ("desired", value()),
        ("visitors", customized()),
        ("reportCycle", integer()),
        ("collectCycle", integer()),
        ("reportToCloud", flag()),
        ("pushMethod", push),
    ]);
    let spec = some_of(vec![
        ("deviceModelRef", model_reference()),
        ("nodeName", word()),
        ("protocol", customized()),
        ("properties", list(property, 4)),
        (
            "methods",
            list(some_of(vec![("name", word()), ("propertyNames", list(word(), 2))]), 2),
        ),
        (
            "stateReport",
            some_of(vec![("reportToCloud", flag()), ("reportCycle", integer())]),
        ),
    ]);
    let twin = some_of(vec![
        ("propertyName", word()),
        ("reported", value()),
        ("observedDesired", value()),
    ]);
    let status = some_of(vec![
        ("twins", list(twin, 4)),
        ("reportToCloud", flag()),
        ("state", word()),
    ]);
    of_kind("v1beta1", "Device", spec, Some(status))
}

pub(super) fn old_model() -> Any {
    let mode = || one_of(&["ReadWrite", "ReadOnly"]);
    let typed = |number: fn() -> Any| {
        some_of(vec![
            ("accessMode", mode()),
            ("defaultValue", number()),
            ("minimum", number()),
            ("maximum", number()),
            ("unit", word()),
        ])
    };
    let kinds = some_of(vec![
        ("int", typed(integer)),
        (
            "string",
            some_of(vec![("accessMode", mode()), ("defaultValue", word())]),
        ),
        ("double", typed(number)),
        ("float", typed(number)),
        (
            "boolean",
            some_of(vec![("accessMode", mode()), ("defaultValue", flag())]),
        ),
        ("bytes", some_of(vec![("accessMode", mode())])),
    ]);
    let property = some_of(vec![("name", word()), ("description", word()), ("type", kinds)]);
    let spec = some_of(vec![("protocol", word()), ("properties", list(property, 4))]);
    of_kind("v1alpha2", "DeviceModel", spec, None)
}

pub(super) fn model() -> Any {
    let limit = || one_of(&["", "0", "-1", "1.0", "1e3", "007", "NaN", "18446744073709551615", "ten"]);
    let property = some_of(vec![
        ("name", word()),
        ("description", word()),
        (
            "type",
            one_of(&["INT", "FLOAT", "DOUBLE", "STRING", "BOOLEAN", "BYTES", "STREAM"]),
        ),
        ("accessMode", one_of(&["ReadWrite", "ReadOnly"])),
        ("minimum", limit()),
        ("maximum", limit()),
        ("unit", word()),
        ("visitors", customized()),
    ]);
    let spec = some_of(vec![
        ("protocol", word()),
        ("protocolConfigData", free()),
        ("properties", list(property, 4)),
    ]);
    of_kind("v1beta1", "DeviceModel", spec, None)
}

/// JSON of any shape below the members that the conversion looks at.
pub(super) fn anything() -> Any {
    let name = "spec|status|properties|propertyVisitors|twins|propertyName|name|desired|reported|visitors|protocol|configData|type|int|minimum";
    let leaf = prop_oneof![Just(Value::Null), flag(), number(), word()];
    let tree = leaf.prop_recursive(6, 48, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(name, inner, 0..5).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    let tree = tree.boxed();
    let object = some_of(vec![("spec", tree.clone()), ("status", tree.clone()), ("type", tree)]);
    (object, flag(), flag())
        .prop_map(|(mut object, old, model)| {
            let version = if old == json!(true) { "v1alpha2" } else { "v1beta1" };
            let kind = if model == json!(true) { "DeviceModel" } else { "Device" };
            object["apiVersion"] = json!(format!("devices.kubeedge.io/{version}"));
            object["kind"] = json!(kind);
            object["metadata"] = json!({"name": "x"});
            object
        })
        .boxed()
}
