//! Which device.

use std::fmt;

use crate::ids::{Namespace, ObjectName};

/// `<namespace>/<name>` of a Device (spec 03 §0: since v1.16.2; older peers have the name alone).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId {
    /// Its namespace; empty in messages of peers before v1.16.
    pub namespace: Namespace,
    /// Its name.
    pub name: ObjectName,
}

impl DeviceId {
    /// The device of a namespace.
    pub fn new(namespace: impl Into<Namespace>, name: impl Into<ObjectName>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Reads `<namespace>/<name>`, or a name alone; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/').unwrap_or(("", text));
        let is_one = |part: &str| !part.is_empty() && !part.contains('/');
        (is_one(name) && (namespace.is_empty() != text.contains('/'))).then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.as_str().is_empty() {
            return f.write_str(self.name.as_str());
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
