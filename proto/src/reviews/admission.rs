//! AdmissionReview `admission.k8s.io/v1`: the one rule that Go's webhook has for devices and models, that the names of properties are
//! unique (spec 03 §1.5). All else is the schema's.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{BadReview, MAX_ADMISSION, request};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Go's text.
const NOT_UNIQUE: &str = "property names must be unique.";

#[derive(Deserialize)]
struct Request {
    uid: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    object: Option<Object>,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    spec: Option<Spec>,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    properties: Option<Vec<Property>>,
}

/// A name that is not there is the empty one, as in Go.
#[derive(Deserialize)]
struct Property {
    #[serde(default)]
    name: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Serialize)]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Reason>,
}

#[derive(Serialize)]
struct Reason {
    message: &'static str,
}

/// Whether a Device or DeviceModel may be stored.
pub fn admit(body: &[u8]) -> Result<Vec<u8>, BadReview> {
    let Request { uid, operation, object } = request(body, MAX_ADMISSION, API_VERSION, KIND)?;
    let stored = matches!(operation.as_str(), "CREATE" | "UPDATE");
    let denied = stored && object.is_some_and(|object| !object.has_unique_names());
    let answer = Answer {
        api_version: API_VERSION,
        kind: KIND,
        response: Response {
            uid,
            allowed: !denied,
            status: denied.then_some(Reason { message: NOT_UNIQUE }),
        },
    };
    serde_json::to_vec(&answer).map_err(BadReview::Json)
}

impl Object {
    fn has_unique_names(&self) -> bool {
        let properties = self.spec.as_ref().and_then(|spec| spec.properties.as_ref());
        let mut names = HashSet::new();
        properties
            .into_iter()
            .flatten()
            .all(|property| names.insert(property.name.as_deref().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ask(operation: &str, properties: Value) -> Value {
        let object = json!({"spec": {"properties": properties}});
        let request = json!({"uid": "7", "operation": operation, "object": object, "oldObject": null});
        let review = json!({"apiVersion": API_VERSION, "kind": KIND, "request": request});
        let answer = admit(review.to_string().as_bytes()).expect("an answer");
        let mut answer: Value = serde_json::from_slice(&answer).expect("JSON");
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&json!(API_VERSION), &json!(KIND))
        );
        answer["response"].take()
    }

    #[test]
    fn names_of_properties_are_unique() {
        let twice = json!([{"name": "a"}, {"name": "b"}, {"name": "a"}]);
        let denied = json!({"uid": "7", "allowed": false, "status": {"message": "property names must be unique."}});
        for operation in ["CREATE", "UPDATE"] {
            assert_eq!(ask(operation, twice.clone()), denied);
        }
        assert_eq!(ask("CREATE", json!([{}, {"name": null}])), denied);
        let allowed = json!({"uid": "7", "allowed": true});
        assert_eq!(ask("CREATE", json!([{"name": "a"}, {"name": "A"}])), allowed);
        assert_eq!(ask("CREATE", Value::Null), allowed);
        assert_eq!(ask("DELETE", twice), allowed);
    }

    #[test]
    fn a_body_that_is_no_review_is_refused() {
        assert!(admit(b"").is_err());
        let review = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": KIND, "request": {"uid": ""}});
        assert!(admit(review.to_string().as_bytes()).is_err());
        let large = vec![b' '; MAX_ADMISSION + 1];
        assert!(matches!(admit(&large), Err(BadReview::TooLarge(..))));
    }
}
