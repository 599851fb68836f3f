//! Tests of the streams of a tunnel, with virtual time.
