//! Device: what of one version has its place in the other.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::notes::Object;
use super::protocols::{PROTOCOL, VISITOR};
use super::{copy, list, object, text};

/// v1alpha2 to v1beta1.
///
/// Desired values move from `status.twins` to the properties. Reported ones stay in `status.twins`, where v1beta1 had them before
/// DeviceStatus.
pub(super) fn upgrade(from: &Object) -> Object {
    let empty = Object::new();
    let (spec, status) = (object(from, "spec"), object(from, "status"));
    let twins = status.and_then(|status| list(status, "twins")).unwrap_or_default();
    let mut properties = properties(spec.and_then(|spec| list(spec, "propertyVisitors")), twins);
    let mut to = Object::new();
    if spec.is_some() || properties.as_ref().is_some_and(|list| !list.is_empty()) {
        to.insert(
            "spec".to_owned(),
            upgrade_spec(spec.unwrap_or(&empty), properties.take()).into(),
        );
    }
    if status.is_some() {
        let reported: Vec<Value> = twins.iter().filter_map(reported).collect();
        let mut status = Object::new();
        if !reported.is_empty() {
            status.insert("twins".to_owned(), reported.into());
        }
        to.insert("status".to_owned(), status.into());
    }
    to
}

fn upgrade_spec(from: &Object, properties: Option<Vec<Value>>) -> Object {
    let mut to = Object::new();
    copy(from, "deviceModelRef", &mut to, "deviceModelRef");
    if let Some(node) = from.get("nodeSelector").and_then(selected_node) {
        to.insert("nodeName".to_owned(), node.into());
    }
    if let Some(protocol) = object(from, "protocol") {
        to.insert("protocol".to_owned(), PROTOCOL.upgrade(protocol).into());
    }
    if let Some(properties) = properties {
        to.insert("properties".to_owned(), properties.into());
    }
    to
}

/// The node as KubeEdge takes it from a selector: the first value of the first expression of the first term (spec 03 §0).
fn selected_node(selector: &Value) -> Option<&str> {
    let node = selector
        .get("nodeSelectorTerms")?
        .get(0)?
        .get("matchExpressions")?
        .get(0)?
        .get("values")?
        .get(0)?
        .as_str()?;
    (!node.is_empty()).then_some(node)
}

/// One for each visitor, in their order, then one for each desired value of another property.
fn properties(visitors: Option<&[Value]>, twins: &[Value]) -> Option<Vec<Value>> {
    let mut properties = Vec::new();
    for visitor in visitors.unwrap_or_default() {
        let mut property = Object::new();
        if let Some(visitor) = visitor.as_object() {
            copy(visitor, "propertyName", &mut property, "name");
            copy(visitor, "reportCycle", &mut property, "reportCycle");
            copy(visitor, "collectCycle", &mut property, "collectCycle");
            let config = VISITOR.upgrade(visitor);
            if !config.is_empty() {
                property.insert("visitors".to_owned(), config.into());
            }
        }
        properties.push(property);
    }
    let mut places = std::collections::HashMap::new();
    for (place, property) in properties.iter().enumerate() {
        if let Some(name) = text(property, "name") {
            places.entry(name.to_owned()).or_insert(place);
        }
    }
    for twin in twins.iter().filter_map(Value::as_object) {
        let (Some(name), Some(desired)) = (text(twin, "propertyName"), twin.get("desired")) else {
            continue;
        };
        let place = *places.entry(name.to_owned()).or_insert(properties.len());
        if place == properties.len() {
            properties.push(Object::from_iter([("name".to_owned(), name.into())]));
        }
        if let Some(property) = properties.get_mut(place) {
            property.insert("desired".to_owned(), desired.clone());
        }
    }
    (visitors.is_some() || !properties.is_empty()).then(|| properties.into_iter().map(Value::Object).collect())
}

fn reported(twin: &Value) -> Option<Value> {
    let (name, reported) = (twin.get("propertyName")?, twin.get("reported")?);
    Some(json!({"propertyName": name, "reported": reported}))
}

/// v1beta1 to v1alpha2.
pub(super) fn downgrade(from: &Object) -> Object {
    let (spec, status) = (object(from, "spec"), object(from, "status"));
    let properties = spec.and_then(|spec| list(spec, "properties"));
    let mut to = Object::new();
    if let Some(spec) = spec {
        to.insert("spec".to_owned(), downgrade_spec(spec, properties).into());
    }
    let stored = status.and_then(|status| list(status, "twins")).unwrap_or_default();
    let twins = twins(properties.unwrap_or_default(), stored);
    if status.is_some() || !twins.is_empty() {
        let mut status = Object::new();
        if !twins.is_empty() {
            status.insert("twins".to_owned(), twins.into());
        }
        to.insert("status".to_owned(), status.into());
    }
    to
}

fn downgrade_spec(from: &Object, properties: Option<&[Value]>) -> Object {
    let mut to = Object::new();
    copy(from, "deviceModelRef", &mut to, "deviceModelRef");
    if let Some(node) = text(from, "nodeName").filter(|node| !node.is_empty()) {
        let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
        to.insert(
            "nodeSelector".to_owned(),
            json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]}),
        );
    }
    if let Some(protocol) = object(from, "protocol") {
        to.insert("protocol".to_owned(), PROTOCOL.downgrade(protocol).into());
    }
    if let Some(properties) = properties {
        let visitors: Vec<Value> = properties.iter().filter_map(visitor).collect();
        to.insert("propertyVisitors".to_owned(), visitors.into());
    }
    to
}

/// None for a property that says nothing of how it is read.
fn visitor(property: &Value) -> Option<Value> {
    let property = property.as_object()?;
    let config = object(property, "visitors").map(|config| VISITOR.downgrade(config));
    let mut visitor = config.unwrap_or_default();
    copy(property, "reportCycle", &mut visitor, "reportCycle");
    copy(property, "collectCycle", &mut visitor, "collectCycle");
    if visitor.is_empty() {
        return None;
    }
    copy(property, "name", &mut visitor, "propertyName");
    Some(visitor.into())
}

/// One for each property with a desired or a reported value, then one for each reported value of another property.
fn twins(properties: &[Value], stored: &[Value]) -> Vec<Value> {
    let mut reported = std::collections::HashMap::new();
    for twin in stored.iter().filter_map(Value::as_object) {
        if let (Some(name), Some(value)) = (text(twin, "propertyName"), twin.get("reported")) {
            reported.entry(name).or_insert(value);
        }
    }
    let twin = |name: &str, desired: Option<&Value>| {
        let mut twin = Object::from_iter([("propertyName".to_owned(), name.into())]);
        let members = [("desired", desired), ("reported", reported.get(name).copied())];
        for (member, value) in members {
            if let Some(value) = value {
                twin.insert(member.to_owned(), value.clone());
            }
        }
        (twin.len() > 1).then_some(Value::Object(twin))
    };
    let named = |item: &'_ Value| item.as_object().and_then(|item| text(item, "name").map(str::to_owned));
    let names: HashSet<String> = properties.iter().filter_map(named).collect();
    let of_properties = properties.iter().filter_map(|property| {
        let property = property.as_object()?;
        twin(text(property, "name")?, property.get("desired"))
    });
    let others = stored.iter().filter_map(|item| {
        let name = text(item.as_object()?, "propertyName")?;
        if names.contains(name) { None } else { twin(name, None) }
    });
    of_properties.chain(others).collect()
}
