//! Tests of registration against a channel in place of the cloud.
