//! Tests against a channel in place of edgehub.
