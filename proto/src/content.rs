//! `content` of a message: JSON kept as text, and the shapes it takes (spec 01 §2.3, spec 02 §3.2).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json;
use crate::object::{BadObject, Object};
use crate::status::Status;

/// Raw JSON; cheap to clone. Nothing inside is re-encoded on the way through.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Content(Arc<RawValue>);

/// What an answer says.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The text `OK`.
    Ok,
    /// A bare `ErrStatus`, an envelope with a non-null `Err` of whatever shape, or an empty object.
    Failed(Status),
    /// The envelope `{"Object":…,"Err":null}`; the object may be missing.
    Envelope(Option<Content>),
    /// Anything else: an object, a text, a list.
    Plain(Content),
}

impl Content {
    /// `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// A JSON string.
    pub fn text(text: &str) -> Self {
        Self::json(&text)
    }

    /// The JSON string `"OK"`.
    pub fn ok() -> Self {
        Self::text("OK")
    }

    /// Any value that serialises; one that does not (a map with odd keys) becomes `null`.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Self {
        serde_json::value::to_raw_value(value).map_or_else(|_| Self::null(), |raw| Self(raw.into()))
    }

    /// JSON text as it is.
    pub fn from_json_text(text: String) -> Result<Self, serde_json::Error> {
        Ok(Self(RawValue::from_string(text)?.into()))
    }

    /// The bare error form: `{"ErrStatus":{…}}`.
    pub fn error(status: &Status) -> Self {
        Self::json(&ErrStatus { status })
    }

    /// The API envelope: `{"Object":…,"Err":null}` or `{"Object":…,"Err":{"ErrStatus":{…}}}`.
    pub fn envelope(object: Option<&Self>, error: Option<&Status>) -> Self {
        Self::json(&Envelope {
            object,
            error: error.map(|status| ErrStatus { status }),
        })
    }

    /// The JSON text.
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// Whether this is `null`.
    pub fn is_null(&self) -> bool {
        self.get() == "null"
    }

    /// The text of a JSON string, if it is one.
    pub fn as_text(&self) -> Option<Cow<'_, str>> {
        if !self.get().starts_with('"') {
            return None;
        }
        match serde_json::from_str::<&str>(self.get()) {
            Ok(text) => Some(Cow::Borrowed(text)),
            Err(_) => serde_json::from_str::<String>(self.get()).ok().map(Cow::Owned),
        }
    }

    /// What Go's consumers decode: the bytes of a string, the JSON of anything else.
    pub fn document(&self) -> Cow<'_, str> {
        self.as_text().unwrap_or_else(|| Cow::Borrowed(self.get()))
    }

    /// The document, or the JSON object inside of a base64 text: v1.12.0 edges send patches and delete options so (spec 02 §3.5).
    pub fn loose_document(&self) -> Cow<'_, str> {
        let document = self.document();
        if document.trim_start().starts_with('{') {
            return document;
        }
        decoded(&document).map_or(document, Cow::Owned)
    }

    /// The document as a value; a string is decoded as the JSON inside of it.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        json::from_str(&self.document())
    }

    /// The document as a Kubernetes object.
    pub fn object(&self) -> Result<Object, BadObject> {
        Object::parse(&self.document())
    }

    /// Whether an answer is a success, an error, or an object. Errors that look like success are found here, once.
    pub fn answer(&self) -> Answer {
        if let Some(text) = self.as_text()
            && text == "OK"
        {
            return Answer::Ok;
        }
        let document = self.document();
        let Some(probe) = Probe::of(&document) else {
            return Answer::Plain(self.clone());
        };
        if probe.is_empty(&document) {
            // What Go makes of an error that is not the API's (spec 01 §2.3).
            return Answer::Failed(Status::internal("the cloud failed without a reason"));
        }
        if let Some(status) = probe.err_status {
            return Answer::Failed(status_of(status.get()));
        }
        match (probe.object, probe.err) {
            (_, Some(err)) if err.get() != "null" => {
                let status = serde_json::from_str::<Probe<'_>>(err.get())
                    .ok()
                    .and_then(|inner| inner.err_status);
                Answer::Failed(status.map_or_else(
                    || Status::internal(format!("the cloud failed without a reason: {}", shortened(err.get()))),
                    |status| status_of(status.get()),
                ))
            }
            (Some(object), Some(_)) => {
                Answer::Envelope((object.get() != "null").then(|| Self(object.to_owned().into())))
            }
            _ => Answer::Plain(self.clone()),
        }
    }
}

impl From<&Object> for Content {
    fn from(object: &Object) -> Self {
        Self(object.raw().clone())
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Contents may be Secrets: a log line gets the size only.
        write!(f, "{} bytes", self.get().len())
    }
}

/// The keys that tell an envelope or an error from an object; all others are skipped.
#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(borrow, default, rename = "Object", deserialize_with = "present")]
    object: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "Err", deserialize_with = "present")]
    err: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "ErrStatus", deserialize_with = "present")]
    err_status: Option<&'a RawValue>,
}

impl<'a> Probe<'a> {
    /// `None` for all but objects; a derived reader would take a list for the fields in order.
    fn of(document: &'a str) -> Option<Self> {
        if !document.trim_start().starts_with('{') {
            return None;
        }
        serde_json::from_str(document).ok()
    }

    /// Whether the object has no keys at all.
    fn is_empty(&self, document: &str) -> bool {
        self.object.is_none()
            && self.err.is_none()
            && self.err_status.is_none()
            && document.trim().trim_matches(['{', '}']).trim().is_empty()
    }
}

/// A key that is there with `null` is not an absent one: both keys present make an envelope.
pub(crate) fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Serialize)]
struct ErrStatus<'a> {
    #[serde(rename = "ErrStatus")]
    status: &'a Status,
}

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "Object")]
    object: Option<&'a Content>,
    #[serde(rename = "Err")]
    error: Option<ErrStatus<'a>>,
}

/// The JSON object in a base64 text of either alphabet, padded or not.
fn decoded(text: &str) -> Option<String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    let text = text.trim().trim_end_matches('=');
    let bytes = STANDARD_NO_PAD
        .decode(text)
        .or_else(|_| URL_SAFE_NO_PAD.decode(text))
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    // Nothing is made of its values yet: whoever looks at them checks first how deep they are.
    let is_object = text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(&text).is_ok();
    is_object.then_some(text)
}

fn status_of(json: &str) -> Status {
    json::from_str(json).unwrap_or_else(|_| Status::internal(format!("unreadable status: {}", shortened(json))))
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}
