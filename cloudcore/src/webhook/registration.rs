//! What the API server is to be told, and whether it has to be told again. Pure: objects in, patches out.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::server::{CONVERT, DEVICES, MODELS};

/// How API servers reach the webhook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// By the Service `kubeedge/cloudcore` and this port of it.
    Service(u16),
    /// By `https://HOST:PORT`.
    Url(String),
}

/// What API servers find in the certificate when they come by the Service.
pub(super) const SERVICE: &str = "cloudcore.kubeedge.svc";

/// Name of the ValidatingWebhookConfiguration; Go's has another, and both may be there.
pub(super) const CONFIGURATION: &str = "kubeedge-cloudcore";

/// See the module.
#[derive(Debug)]
pub(super) struct Registration {
    target: Target,
    ca: String,
    /// Which were seen to point to a URL of this cloudcore that is no loopback one.
    told: Vec<Place>,
}

/// An object that says where the webhook is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The CRD of devices or of models.
    Crd(&'static str),
    /// The ValidatingWebhookConfiguration.
    Configuration,
}

/// All places where the API server is told of the webhook.
pub(super) const PLACES: [Place; 3] = [
    Place::Crd("devices.devices.kubeedge.io"),
    Place::Crd("devicemodels.devices.kubeedge.io"),
    Place::Configuration,
];

impl Place {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Crd(name) => name,
            Self::Configuration => CONFIGURATION,
        }
    }

    /// The client configurations in it.
    fn clients(self, object: &Value) -> Vec<&Value> {
        match self {
            Self::Crd(_) => object
                .pointer("/spec/conversion/webhook/clientConfig")
                .into_iter()
                .collect(),
            Self::Configuration => {
                let hooks = object.get("webhooks").and_then(Value::as_array);
                hooks
                    .into_iter()
                    .flatten()
                    .filter_map(|hook| hook.get("clientConfig"))
                    .collect()
            }
        }
    }
}

impl Registration {
    /// `ca` is PEM.
    pub(super) fn new(target: Target, ca: &str) -> Self {
        Self {
            target,
            ca: STANDARD.encode(ca),
            told: Vec::new(),
        }
    }

    /// From now on API servers are told this.
    pub(super) fn point_to(&mut self, target: Target) {
        self.target = target;
    }

    /// The object points here.
    pub(super) fn told(&mut self, place: Place) {
        if !self.is_loopback() && !self.told.contains(&place) {
            self.told.push(place);
        }
    }

    /// The merge patch that makes `object` point here; `None` when it does.
    pub(super) fn patch(&self, place: Place, object: &Value) -> Option<Value> {
        let wanted = self.wanted(place);
        if contains(object, &wanted) {
            return None;
        }
        let mut patch = wanted;
        // With the version that was read: if somebody changed the object meanwhile, the patch fails instead of overwriting the change.
        patch["metadata"] = json!({"resourceVersion": object.pointer("/metadata/resourceVersion")});
        Some(patch)
    }

    /// The whole object, to be made.
    pub(super) fn configuration(&self) -> Value {
        let mut object = without_nulls(self.wanted(Place::Configuration));
        object["apiVersion"] = json!("admissionregistration.k8s.io/v1");
        object["kind"] = json!("ValidatingWebhookConfiguration");
        object["metadata"] = json!({"name": CONFIGURATION, "labels": {"k8s-app": "kubeedge", "kubeedge": "cloudcore"}});
        object
    }

    /// The URL, without its path, of another cloudcore with the same CA to which `object` points. A loopback URL that was there before
    /// this cloudcore told its own is nobody's: a host without another address told it once. One that comes later is a
    /// neighbour's of the API server, which could not reach this one.
    pub(super) fn other(&self, place: Place, object: &Value) -> Option<String> {
        let text = |client: &Value, name| client.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut others = place.clients(object).into_iter().map(|client| {
            let same_ca = text(client, "caBundle").as_ref() == Some(&self.ca);
            let url = text(client, "url").filter(|_| same_ca)?;
            let end = url.strip_prefix("https://")?.find('/')? + "https://".len();
            let base = url.get(..end)?.to_owned();
            if self.is_out_of_reach(&base) && !self.told.contains(&place) {
                return None;
            }
            (self.target != Target::Url(base.clone())).then_some(base)
        });
        let first = others.next()??;
        others.all(|other| other.as_ref() == Some(&first)).then_some(first)
    }

    /// Whether it is a loopback URL of another host: whoever asks there asks themselves.
    pub(super) fn is_out_of_reach(&self, url: &str) -> bool {
        is_loopback(url) && !self.is_loopback()
    }

    fn is_loopback(&self) -> bool {
        matches!(&self.target, Target::Url(url) if is_loopback(url))
    }

    fn wanted(&self, place: Place) -> Value {
        match place {
            Place::Crd(_) => json!({"spec": {"conversion": {
                "strategy": "Webhook",
                "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": self.client(CONVERT)},
            }}}),
            Place::Configuration => json!({"webhooks": [
                without_nulls(self.hook("validatedevice.kubeedge.io", "devices", DEVICES)),
                without_nulls(self.hook("validatedevicemodel.kubeedge.io", "devicemodels", MODELS)),
            ]}),
        }
    }

    /// The other of URL and service is null, which takes it away.
    fn client(&self, path: &str) -> Value {
        let (service, url) = match &self.target {
            Target::Service(port) => (
                json!({"namespace": "kubeedge", "name": "cloudcore", "port": port, "path": path}),
                Value::Null,
            ),
            Target::Url(url) => (Value::Null, json!(format!("{url}{path}"))),
        };
        json!({"caBundle": self.ca, "service": service, "url": url})
    }

    /// Go's, but for the client. v1alpha2 comes converted.
    fn hook(&self, name: &str, resource: &str, path: &str) -> Value {
        json!({
            "name": name,
            "rules": [{
                "apiGroups": ["devices.kubeedge.io"], "apiVersions": ["v1beta1"], "resources": [resource],
                "operations": ["CREATE", "UPDATE"],
            }],
            "clientConfig": self.client(path),
            "failurePolicy": "Ignore",
            "matchPolicy": "Equivalent",
            "sideEffects": "None",
            "timeoutSeconds": 5,
            "admissionReviewVersions": ["v1"],
        })
    }
}

/// Host and port of `https://HOST:PORT`.
pub(super) fn host_of(url: &str) -> Option<(String, u16)> {
    let host = url.strip_prefix("https://")?;
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (host, 443),
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Some((host.to_owned(), port))
}

fn is_loopback(url: &str) -> bool {
    let host = host_of(url).and_then(|(host, _)| host.parse().ok());
    host.is_some_and(|ip: IpAddr| ip.is_loopback())
}

/// Whether all of `wanted` is in `object`, which may have more members: the API server adds defaults. Null is absent.
fn contains(object: &Value, wanted: &Value) -> bool {
    match (object, wanted) {
        (Value::Object(object), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, wanted)| contains(object.get(name).unwrap_or(&Value::Null), wanted)),
        (Value::Array(object), Value::Array(wanted)) => {
            object.len() == wanted.len()
                && object
                    .iter()
                    .zip(wanted)
                    .all(|(object, wanted)| contains(object, wanted))
        }
        _ => object == wanted,
    }
}

/// In a list nothing is merged: what is null must not be there.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                kept.map(|(name, value)| (name, without_nulls(value)))
                    .collect::<Map<_, _>>(),
            )
        }
        other => other,
    }
}
