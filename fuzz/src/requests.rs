//! Requests of edges: keys that are ambiguous are those that plain counting finds, and one request in other words gets the same verdict.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::{Content, Group, Kind, Message, Operation, Route, Source};
use serde_json::Value;

use super::{Rule, content, rule};

/// The first line names the operation and the resource, the rest is the content. What is no text comes in base64, as v1.12.0 edges send
/// patches.
pub fn request(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, data) = data.split_at(end);
    let data = data.get(1..).unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return };
    let (operation, resource) = line.split_once(' ').unwrap_or((line, ""));
    let (operation, route) = (Operation::from(operation), Route::parse(&Group::Meta, resource));
    let message = |content| Message::new(Source::Edged, Group::Meta, operation.clone(), route.clone(), content);
    let encoded = Content::text(&STANDARD.encode(data));
    let Ok(text) = std::str::from_utf8(data) else {
        verdict(&message(encoded));
        return;
    };
    let asked = message(Content::from_json_text(text.to_owned()).unwrap_or_else(|_| Content::text(text)));
    let decided = verdict(&asked);
    let Some(value @ Value::Object(_)) = plain(text) else {
        return;
    };
    for same in [Content::json(&value), Content::text(text)] {
        assert_eq!(verdict(&message(same)), decided);
    }
    if matches!(route.kind(), Some(Kind::NodePatch | Kind::PodPatch)) {
        assert_eq!(verdict(&message(encoded)), decided);
    }
    if !matches!(decided, Rule::Refuse(_)) {
        let_through(&asked, &value);
    }
}

fn verdict(message: &Message) -> Rule {
    use Operation::{Delete, Insert, Patch, Query, Update};
    let decided = rule(&"edge-1".into(), message);
    let is_request = matches!(message.operation, Insert | Update | Patch | Delete | Query);
    let document = message.content.loose_document();
    // For what it asserts.
    plain(&document);
    if is_request && message.route.object().is_some() && proto::json::is_ambiguous(&document) {
        assert_eq!(decided, Rule::Refuse(content::AMBIGUOUS));
    }
    decided
}

/// What no request may do, whatever it looks like.
fn let_through(message: &Message, value: &Value) {
    let has = |pointer: &str| value.pointer(pointer).is_some();
    match (message.route.kind(), &message.operation) {
        (Some(Kind::Node | Kind::NodeStatus), Operation::Insert) => restricts_nothing(value),
        (Some(Kind::NodePatch), Operation::Patch) => {
            assert!(!has("/metadata/finalizers") && !has("/metadata/ownerReferences") && !has("/$patch"));
            restricts_nothing(value);
        }
        (Some(Kind::PodPatch), Operation::Patch) => {
            assert!(!has("/metadata/labels") && !has("/metadata/ownerReferences") && !has("/$patch"));
        }
        (Some(Kind::Pod), Operation::Insert) => assert!(has("/metadata/annotations/kubernetes.io~1config.mirror")),
        (Some(Kind::ServiceAccountToken), Operation::Query) => assert!(has("/spec/boundObjectRef/uid")),
        (Some(Kind::Event), Operation::Patch) => {
            let patch = value["patchData"].as_str().expect("a text");
            let patch = plain(patch).expect("plain JSON");
            assert!(patch.get("involvedObject").is_none() && patch.get("metadata").is_none());
        }
        _ => {}
    }
}

/// None of the labels is one by which administrators keep nodes apart.
fn restricts_nothing(node: &Value) {
    let labels = node["metadata"]["labels"].as_object();
    for (key, _) in labels.into_iter().flatten() {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        assert!(
            !domain.ends_with("node-restriction.kubernetes.io") && !key.starts_with('$'),
            "{key}"
        );
    }
}

/// The text as a value, if it is JSON that is not ambiguous, nor too deep for our readers. Ambiguous is what [`Keys`] says, and what
/// ours cannot read.
fn plain(text: &str) -> Option<Value> {
    let found = Keys::of(text);
    if proto::json::is_ambiguous(text) {
        assert!(
            found.ambiguous || serde_json::from_str::<Value>(text).is_err(),
            "{text}"
        );
        return None;
    }
    let value: Value = serde_json::from_str(text).ok()?;
    assert!(!found.ambiguous, "{text}");
    assert_eq!(found.count, count(&value), "{text}");
    let again: Value = serde_json::from_str(&value.to_string()).expect("our own JSON is read");
    assert_eq!(again, value);
    Some(value)
}

/// Of all objects in the value.
fn count(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.len() + map.values().map(count).sum::<usize>(),
        Value::Array(list) => list.iter().map(count).sum(),
        _ => 0,
    }
}

/// The keys of a JSON text, known by the colons behind them.
#[derive(Default)]
struct Keys {
    count: usize,
    ambiguous: bool,
}

impl Keys {
    fn of(mut json: &str) -> Self {
        let mut keys = Self::default();
        let mut objects: Vec<HashSet<String>> = Vec::new();
        while let Some(at) = json.find(['{', '}', '"']) {
            let (mark, rest) = json[at..].split_at(1);
            json = rest;
            match mark {
                "{" => objects.push(HashSet::new()),
                "}" => drop(objects.pop()),
                _ => {
                    let (key, rest) = rest.split_at(end_of_text(rest));
                    json = rest.get(1..).unwrap_or_default();
                    if let Some(object) = objects.last_mut()
                        && json.trim_start().starts_with(':')
                        && let Ok(key) = serde_json::from_str::<String>(&format!("\"{key}\""))
                    {
                        keys.count += 1;
                        keys.ambiguous |= key.starts_with(proto::json::RESERVED) || !object.insert(key);
                    }
                }
            }
        }
        keys
    }
}

/// Where the quotation mark is that ends a text.
fn end_of_text(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.unwrap_or(text.len())
}
