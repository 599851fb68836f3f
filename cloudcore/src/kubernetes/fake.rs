//! A small API server in memory, behind a real client: what the tests of this crate run against.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::Kube;

/// The server; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By URL path.
    objects: BTreeMap<String, Value>,
    version: u64,
    log: Vec<String>,
    /// Answers that are given once instead of the right one, by `VERB path`.
    /// What every request for one object gets, when it is set.
    forced: Option<(u16, Value)>,
    refusals: HashMap<String, Vec<(u16, &'static str)>>,
    /// All that happened, for watches that begin in the past.
    events: Vec<Event>,
    watches: Vec<(String, mpsc::Sender<Bytes>)>,
}

/// A change, as watches tell it.
struct Event {
    version: u64,
    path: String,
    line: Bytes,
}

impl FakeApi {
    /// A client of it.
    pub(crate) fn kube(&self) -> Kube {
        let state = self.0.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let state = state.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
                let path = parts.uri.path().to_owned();
                let query = parts.uri.query().unwrap_or_default().to_owned();
                let (code, answer) = if query.contains("watch=true") {
                    (200, state.lock().watch(&path, &query))
                } else {
                    let (code, answer) = state.lock().answer(&parts.method, &path, &query, &body);
                    (code, answer.to_string().into())
                };
                Response::builder()
                    .status(code)
                    .body(answer)
                    .map_err(|error| error.to_string())
            }
        });
        Kube::new(kube::Client::new(service, "default"), None)
    }

    /// Puts an object there, with a new version; a uid is added where there is none.
    pub(crate) fn put(&self, path: &str, object: Value) -> Value {
        self.0.lock().store(path, object)
    }

    /// Puts an object there as it is, with the version that it names.
    pub(crate) fn publish(&self, path: &str, object: Value) {
        self.0.lock().set(path, object);
    }

    /// Takes an object away; `last` is what watches hear of it, if not its last state.
    pub(crate) fn remove(&self, path: &str, last: Option<Value>) {
        self.0.lock().unset(path, last);
    }

    /// The objects of one kind in all namespaces, by their paths.
    pub(crate) fn all(&self, plural: &str) -> Vec<Value> {
        let state = self.0.lock();
        let found = state
            .objects
            .iter()
            .filter(|(path, _)| Target::of(path).plural == plural);
        found.map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().objects.get(path).cloned()
    }

    /// The next such request is refused; several calls queue up.
    pub(crate) fn refuse(&self, request: &str, code: u16, reason: &'static str) {
        self.0
            .lock()
            .refusals
            .entry(request.to_owned())
            .or_default()
            .push((code, reason));
    }

    /// From now on every request for one object gets this answer; `None` ends it.
    pub(crate) fn force(&self, answer: Option<(u16, Value)>) {
        self.0.lock().forced = answer;
    }

    /// All requests so far, as `VERB path`.
    pub(crate) fn log(&self) -> Vec<String> {
        self.0.lock().log.clone()
    }
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version;
        let meta = object
            .as_object_mut()
            .expect("object")
            .entry("metadata")
            .or_insert_with(|| json!({}));
        meta["resourceVersion"] = version.to_string().into();
        if meta.get("uid").is_none() {
            meta["uid"] = format!("uid-{version}").into();
        }
        if meta.get("creationTimestamp").is_none_or(Value::is_null) {
            meta["creationTimestamp"] = "2026-11-20T23:26:44Z".into();
        }
        self.set(path, object.clone());
        object
    }

    fn set(&mut self, path: &str, object: Value) {
        let kind = if self.objects.contains_key(path) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.tell(kind, path, &object);
        self.objects.insert(path.to_owned(), object);
    }

    fn unset(&mut self, path: &str, last: Option<Value>) {
        if let Some(object) = self.objects.remove(path) {
            self.tell("DELETED", path, &last.unwrap_or(object));
        }
    }

    fn tell(&mut self, kind: &str, path: &str, object: &Value) {
        let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let version = version.and_then(|text| text.parse().ok()).unwrap_or_default();
        self.version = self.version.max(version);
        let event = Event {
            version,
            path: path.to_owned(),
            line: format!("{}\n", json!({"type": kind, "object": object})).into(),
        };
        self.watches
            .retain(|(watched, out)| !is_below(path, watched) || out.try_send(event.line.clone()).is_ok());
        self.events.push(event);
    }

    fn watch(&mut self, path: &str, query: &str) -> axum::body::Body {
        let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        let from: u64 = from.and_then(|text| text.parse().ok()).unwrap_or_default();
        let (out, mut lines) = mpsc::channel(LINES);
        for event in &self.events {
            if event.version > from && is_below(&event.path, path) {
                out.try_send(event.line.clone()).expect("room for the past");
            }
        }
        self.watches.push((path.to_owned(), out));
        let lines = futures::stream::poll_fn(move |context| lines.poll_recv(context));
        axum::body::Body::from_stream(lines.map(Ok::<_, Infallible>))
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, body: &[u8]) -> (u16, Value) {
        let request = format!("{method} {path}");
        self.log.push(request.clone());
        if let Some(queue) = self.refusals.get_mut(&request)
            && !queue.is_empty()
        {
            let (code, reason) = queue.remove(0);
            return status(code, reason, "refused by the test", Value::Null);
        }
        let target = Target::of(path);
        if let Some(forced) = &self.forced
            && (*method == Method::POST || !target.name.is_empty())
        {
            return forced.clone();
        }
        match *method {
            Method::GET if target.name.is_empty() => (200, self.list(path, query)),
            Method::GET => self
                .objects
                .get(path)
                .map_or_else(|| target.not_found(), |object| (200, object.clone())),
            Method::POST => self.post(path, &target, body),
            Method::PUT => self.put(&target, body),
            Method::PATCH => self.patch(&target, body),
            Method::DELETE => self.delete(path, &target, body),
            _ => status(405, "MethodNotAllowed", "no such method", Value::Null),
        }
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let node = query
            .split('&')
            .find_map(|part| part.strip_prefix("fieldSelector=spec.nodeName%3D"));
        let items: Vec<Value> = self
            .objects
            .iter()
            .filter(|(key, _)| is_below(key, path))
            .filter(|(_, object)| node.is_none_or(|node| object.pointer("/spec/nodeName") == Some(&node.into())))
            .map(|(_, object)| object.clone())
            .collect();
        json!({"kind": "List", "metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }

    fn post(&mut self, path: &str, target: &Target, body: &[u8]) -> (u16, Value) {
        let Ok(mut object) = serde_json::from_slice::<Value>(body) else {
            return bad_json();
        };
        if target.sub == "token" {
            if !self.objects.contains_key(&target.path) {
                return target.not_found();
            }
            object["kind"] = "TokenRequest".into();
            object["apiVersion"] = "authentication.k8s.io/v1".into();
            object["metadata"] = json!({"name": target.name, "namespace": target.namespace, "creationTimestamp": "2026-11-20T23:26:55Z"});
            object["spec"]["audiences"] = json!(["https://kubernetes.default.svc"]);
            object["status"] = json!({"token": "redacted.jwt.token", "expirationTimestamp": "2026-11-21T00:27:02Z"});
            return (201, object);
        }
        let name = object
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let prefix = object.pointer("/metadata/generateName").and_then(Value::as_str);
        let name = match prefix {
            Some(prefix) if name.is_empty() => format!("{prefix}{}", self.version),
            _ => name,
        };
        object["metadata"]["name"] = name.as_str().into();
        let path = format!("{path}/{name}");
        if self.objects.contains_key(&path) {
            return Target::of(&path).refusal(409, "AlreadyExists", "already exists");
        }
        if target.plural == "nodes" || target.plural == "pods" {
            object["kind"] = if target.plural == "nodes" { "Node" } else { "Pod" }.into();
            object["apiVersion"] = "v1".into();
        }
        if target.plural == "objectsyncs" {
            // As every object of a definition has.
            object["metadata"]["generation"] = 1.into();
        }
        (201, self.store(&path, object))
    }

    fn put(&mut self, target: &Target, body: &[u8]) -> (u16, Value) {
        let Ok(mut object) = serde_json::from_slice::<Value>(body) else {
            return bad_json();
        };
        let Some(old) = self.objects.get(&target.path) else {
            return target.not_found();
        };
        let version = object
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !version.is_empty() && Some(version) != old.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
            return target.refusal(409, "Conflict", "");
        }
        object["metadata"]["uid"] = old["metadata"]["uid"].clone();
        if target.sub == "status" {
            let status = object["status"].take();
            object = old.clone();
            object["status"] = status;
        }
        (200, self.store(&target.path, object))
    }

    fn patch(&mut self, target: &Target, body: &[u8]) -> (u16, Value) {
        let Ok(patch) = serde_json::from_slice::<Value>(body) else {
            return bad_json();
        };
        let Some(old) = self.objects.get(&target.path) else {
            return target.not_found();
        };
        let mut object = old.clone();
        if let Some(version) = patch.pointer("/metadata/resourceVersion")
            && Some(version) != old.pointer("/metadata/resourceVersion")
        {
            return target.refusal(409, "Conflict", "");
        }
        if let Some(uid) = patch.pointer("/metadata/uid")
            && Some(uid) != old.pointer("/metadata/uid")
        {
            return status(
                422,
                "Invalid",
                "metadata.uid: field is immutable",
                json!({"name": target.name, "kind": "Pod"}),
            );
        }
        merge(&mut object, &patch);
        if object == *old {
            return (200, object);
        }
        (200, self.store(&target.path, object))
    }

    fn delete(&mut self, path: &str, target: &Target, body: &[u8]) -> (u16, Value) {
        let Some(old) = self.objects.get(path) else {
            return target.not_found();
        };
        let options: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        if let Some(uid) = options.pointer("/preconditions/uid")
            && Some(uid) != old.pointer("/metadata/uid")
        {
            return target.refusal(
                409,
                "Conflict",
                "the UID in the precondition does not match the UID in record",
            );
        }
        if let Some(version) = options.pointer("/preconditions/resourceVersion")
            && Some(version) != old.pointer("/metadata/resourceVersion")
        {
            return target.refusal(
                409,
                "Conflict",
                "the ResourceVersion in the precondition does not match the ResourceVersion in record",
            );
        }
        let mut last = old.clone();
        if let Some(grace) = options.get("gracePeriodSeconds") {
            last["metadata"]["deletionGracePeriodSeconds"] = grace.clone();
        }
        self.unset(path, Some(last));
        (
            200,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
        )
    }
}

/// Whether an object is in a collection, of one namespace or of all.
fn is_below(object: &str, collection: &str) -> bool {
    let (base, plural) = collection.rsplit_once('/').expect("path");
    object.starts_with(base) && Target::of(object).plural == plural
}

/// Lines that a watch may be behind.
const LINES: usize = 1024;

/// The parts of a URL path.
struct Target {
    /// Without the subresource.
    path: String,
    group: String,
    namespace: String,
    plural: String,
    name: String,
    sub: String,
}

impl Target {
    fn of(path: &str) -> Self {
        let mut parts = path.trim_matches('/').split('/').map(str::to_owned);
        let group = match parts.next().as_deref() {
            Some("apis") => parts.next().unwrap_or_default(),
            _ => String::new(),
        };
        parts.next();
        let mut rest: Vec<String> = parts.collect();
        let mut namespace = String::new();
        if rest.len() > 2 && rest[0] == "namespaces" {
            namespace = rest.remove(1);
            rest.remove(0);
        }
        let mut rest = rest.into_iter();
        let (plural, name, sub) = (
            rest.next().unwrap_or_default(),
            rest.next().unwrap_or_default(),
            rest.next().unwrap_or_default(),
        );
        let path = if sub.is_empty() {
            path
        } else {
            path.strip_suffix(&format!("/{sub}")).unwrap_or(path)
        };
        Self {
            path: path.to_owned(),
            group,
            namespace,
            plural,
            name,
            sub,
        }
    }

    fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    fn details(&self) -> Value {
        let mut details = json!({"name": self.name, "kind": self.plural});
        if !self.group.is_empty() {
            details["group"] = self.group.clone().into();
        }
        details
    }

    fn not_found(&self) -> (u16, Value) {
        self.refusal(404, "NotFound", "not found")
    }

    fn refusal(&self, code: u16, reason: &str, text: &str) -> (u16, Value) {
        let message = if reason == "Conflict" {
            let text = if text.is_empty() {
                "the object has been modified; please apply your changes to the latest version and try again"
            } else {
                text
            };
            format!(
                "Operation cannot be fulfilled on {} \"{}\": {text}",
                self.resource(),
                self.name
            )
        } else {
            format!("{} \"{}\" {text}", self.resource(), self.name)
        };
        status(code, reason, &message, self.details())
    }
}

fn status(code: u16, reason: &str, message: &str, details: Value) -> (u16, Value) {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code});
    if !details.is_null() {
        status["details"] = details;
    }
    (code, status)
}

fn bad_json() -> (u16, Value) {
    status(
        400,
        "BadRequest",
        "invalid character 'o' in literal null (expecting 'u')",
        Value::Null,
    )
}

/// RFC 7386; stands in for the strategic merge too, whose directives are dropped.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if key.starts_with("$") {
            continue;
        }
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
