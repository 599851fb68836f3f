//! What the API server sends for a list and for a watch, with the objects left as raw JSON.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::object::{BadObject, Object};
use crate::status::Status;

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// The objects; API servers leave out `kind` and `apiVersion` of an item as a rule.
    pub items: Vec<Object>,
    /// `metadata.resourceVersion` of the list.
    pub version: String,
    /// `metadata.continue`; empty after the last page.
    pub next: String,
}

/// One line of a watch.
#[derive(Debug)]
pub enum WatchLine {
    /// A new object, or one that entered the selection.
    Added(Object),
    /// A changed object.
    Modified(Object),
    /// A deleted object, or one that left the selection.
    Deleted(Object),
    /// Nothing happened up to this version.
    Bookmark(String),
    /// The watch ends: most often code 410, the version is too old.
    Error(Status),
}

impl Page {
    /// Reads a page.
    pub fn parse(body: &[u8]) -> Result<Self, BadObject> {
        let list: List = serde_json::from_slice(body).map_err(BadObject::Json)?;
        let metadata = list.metadata.unwrap_or_default();
        Ok(Self {
            items: list
                .items
                .unwrap_or_default()
                .into_iter()
                .map(Object::from_raw)
                .collect::<Result<_, _>>()?,
            version: metadata.resource_version.unwrap_or_default(),
            next: metadata.next.unwrap_or_default(),
        })
    }
}

impl WatchLine {
    /// Reads a line; an event type of a later API is no error but `None`.
    pub fn parse(line: &[u8]) -> Result<Option<Self>, BadObject> {
        let event: Event = serde_json::from_slice(line).map_err(BadObject::Json)?;
        Ok(Some(match event.kind.as_str() {
            "ADDED" => Self::Added(Object::from_raw(event.object)?),
            "MODIFIED" => Self::Modified(Object::from_raw(event.object)?),
            "DELETED" => Self::Deleted(Object::from_raw(event.object)?),
            "BOOKMARK" => Self::Bookmark(Object::from_raw(event.object)?.meta().resource_version.clone()),
            "ERROR" => Self::Error(crate::json::from_str(event.object.get()).map_err(BadObject::Json)?),
            _ => return Ok(None),
        }))
    }
}

#[derive(Deserialize)]
struct List {
    metadata: Option<ListMetadata>,
    items: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ListMetadata {
    #[serde(rename = "resourceVersion")]
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Box<RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_lines() {
        let page = Page::parse(br#"{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"c"},"items":[{"metadata":{"name":"a"}}]}"#)
            .expect("page");
        assert_eq!(
            (page.items.len(), page.version.as_str(), page.next.as_str()),
            (1, "7", "c")
        );
        assert!(
            Page::parse(br#"{"metadata":{},"items":null}"#)
                .expect("empty")
                .items
                .is_empty()
        );
        let line =
            WatchLine::parse(br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#).expect("line");
        assert!(matches!(line, Some(WatchLine::Bookmark(version)) if version == "9"));
        let line = WatchLine::parse(br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#);
        assert!(matches!(line.expect("line"), Some(WatchLine::Error(status)) if status.code == 410));
        assert!(
            WatchLine::parse(br#"{"type":"X","object":{}}"#)
                .expect("line")
                .is_none()
        );
        assert!(WatchLine::parse(b"{").is_err());
    }
}
