//! ConversionReview `apiextensions.k8s.io/v1`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::{BadReview, MAX_CONVERSION, request};
use crate::device::conversion::{ConversionError, Version, convert as converted};

const API_VERSION: &str = "apiextensions.k8s.io/v1";
const KIND: &str = "ConversionReview";

#[derive(Deserialize)]
struct Request<'a> {
    uid: String,
    #[serde(rename = "desiredAPIVersion")]
    desired: String,
    #[serde(borrow)]
    objects: Vec<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    converted_objects: Vec<Box<RawValue>>,
    result: Outcome,
}

#[derive(Serialize)]
struct Outcome {
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

/// Converts devices and their models. One that cannot be converted fails the whole question, as the API server wants it.
pub fn convert(body: &[u8]) -> Result<Vec<u8>, BadReview> {
    let Request { uid, desired, objects } = request(body, MAX_CONVERSION, API_VERSION, KIND)?;
    let all = Version::parse(&desired)
        .map_err(|error| error.to_string())
        .and_then(|version| objects.iter().map(|object| one(object, version)).collect());
    let (converted_objects, result) = match all {
        Ok(objects) => (
            objects,
            Outcome {
                status: "Success",
                message: String::new(),
            },
        ),
        Err(message) => (
            Vec::new(),
            Outcome {
                status: "Failure",
                message,
            },
        ),
    };
    let answer = Answer {
        api_version: API_VERSION,
        kind: KIND,
        response: Response {
            uid,
            converted_objects,
            result,
        },
    };
    serde_json::to_vec(&answer).map_err(BadReview::Json)
}

fn one(object: &RawValue, version: Version) -> Result<Box<RawValue>, String> {
    let object: Value = crate::json::from_str(object.get()).map_err(|error| error.to_string())?;
    let name = |member: &str| {
        let name = object.get("metadata").and_then(|metadata| metadata.get(member));
        name.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (namespace, name) = (name("namespace"), name("name"));
    let failed = |error: ConversionError| format!("{namespace}/{name}: {error}");
    let object = converted(object, version).map_err(failed)?;
    to_raw_value(&object).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(request: Value) -> Value {
        let review = json!({"apiVersion": API_VERSION, "kind": KIND, "request": request});
        let answer = convert(review.to_string().as_bytes()).expect("an answer");
        serde_json::from_slice(&answer).expect("JSON")
    }

    #[test]
    fn objects_are_converted_in_their_order() {
        let device = |name: &str| json!({"apiVersion": "devices.kubeedge.io/v1alpha2", "kind": "Device", "metadata": {"name": name}});
        let objects = [device("a"), device("b")];
        let answer = ask(json!({"uid": "7", "desiredAPIVersion": "devices.kubeedge.io/v1beta1", "objects": objects}));
        let response = &answer["response"];
        assert_eq!(
            (&response["uid"], &response["result"]),
            (&json!("7"), &json!({"status": "Success"}))
        );
        let names: Vec<&Value> = [0, 1]
            .iter()
            .map(|place| &response["convertedObjects"][place]["metadata"]["name"])
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(
            response["convertedObjects"][1]["apiVersion"],
            "devices.kubeedge.io/v1beta1"
        );
        let review = json!({"apiVersion": API_VERSION, "kind": KIND});
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&review["apiVersion"], &review["kind"])
        );
    }

    #[test]
    fn what_cannot_be_converted_is_said_in_the_answer() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}});
        let answer = ask(json!({"uid": "7", "desiredAPIVersion": "devices.kubeedge.io/v1beta1", "objects": [pod]}));
        let result = &answer["response"]["result"];
        assert_eq!(result["status"], "Failure");
        assert!(
            result["message"]
                .as_str()
                .is_some_and(|text| text.starts_with("n/p: \"v1\" is neither")),
            "{result}"
        );
        let answer = ask(json!({"uid": "7", "desiredAPIVersion": "v9", "objects": []}));
        assert_eq!(answer["response"]["result"]["status"], "Failure");
    }

    #[test]
    fn another_body_is_refused() {
        let error = |body: &str| convert(body.as_bytes()).expect_err("refused").to_string();
        assert_eq!(error("{"), "body is no review");
        assert_eq!(
            error(r#"{"apiVersion":"v1","kind":"Pod","request":{}}"#),
            "\"v1 Pod\" is not the review that is answered here"
        );
        let deep = format!(
            r#"{{"apiVersion":"{API_VERSION}","kind":"{KIND}","request":{{"uid":"","desiredAPIVersion":"devices.kubeedge.io/v1beta1","objects":[{}1{}]}}}}"#,
            "[".repeat(10_000),
            "]".repeat(10_000)
        );
        let answer = convert(deep.as_bytes()).expect("an answer");
        assert!(String::from_utf8_lossy(&answer).contains("recursion limit"));
    }
}
