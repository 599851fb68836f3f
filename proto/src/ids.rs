//! Names and identifiers as types of their own, so that no function takes two bare strings.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta] $name:ident),* $(,)?) => {$(
        #[$doc]
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text as it is; nothing is checked.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether the text is empty.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    )*};
}

text_id! {
    /// The name of a Node object; also an edge's `Node_id` on the upgrade request.
    NodeName,
    /// A namespace; the wire writes `null` for cluster-scoped objects ([`Namespace::CLUSTER`]).
    Namespace,
    /// The name of an object within its namespace and kind.
    ObjectName,
    /// `metadata.uid` of an object.
    Uid,
    /// `header.msg_id`: a UUIDv4 text from Go peers, any text from others.
    MsgId,
}

impl Namespace {
    /// What stands in the namespace segment for cluster-scoped objects.
    pub const CLUSTER: &'static str = "null";

    /// The namespace of cluster-scoped objects.
    pub fn cluster() -> Self {
        Self::new(Self::CLUSTER)
    }

    /// Whether this stands for the cluster scope.
    pub fn is_cluster(&self) -> bool {
        self.as_str() == Self::CLUSTER
    }
}

impl MsgId {
    /// A new random id.
    pub fn random() -> Self {
        Self::new(uuid::Uuid::new_v4().to_string())
    }
}
