//! The seeds of the fuzz targets pass through the targets' own readers.

use super::head::Head;
use super::lastword::{Form, LastWord};

#[allow(unreachable_pub)]
#[path = "../../../../fuzz/src/kubelet.rs"]
mod readers;

#[test]
fn stream_head() {
    crate::replay::replay("stream_head", readers::head);
}

#[test]
fn stream_last_word() {
    crate::replay::replay("stream_last_word", readers::last_word);
}
