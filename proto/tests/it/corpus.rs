//! The seeds of the fuzz targets pass through the targets' own readers.

use crate::replay::replay;
use crate::{bus, devices, join, tunnel_readers, wire};

#[test]
fn message_decode() {
    replay("message_decode", wire::message_decode);
}

#[test]
fn content_answer() {
    replay("content_answer", wire::content_answer);
}

#[test]
fn object_parse() {
    replay("object_parse", wire::object_parse);
}

#[test]
fn route() {
    replay("route", wire::route);
}

#[test]
fn quic_frames() {
    replay("quic_frames", wire::quic_frames);
}

#[test]
fn pieces() {
    replay("pieces", wire::pieces);
}

#[test]
fn join_token() {
    replay("join_token", join::join_token);
}

#[test]
fn join_request() {
    replay("join_request", join::join_request);
}

#[test]
fn join_certificate() {
    replay("join_certificate", join::join_certificate);
}

#[test]
fn tunnel_websocket() {
    replay("tunnel_websocket", tunnel_readers::websocket);
}

#[test]
fn tunnel_message() {
    replay("tunnel_message", tunnel_readers::message);
}

#[test]
fn tunnel_connect() {
    replay("tunnel_connect", tunnel_readers::connect);
}

#[test]
fn tunnel_operations() {
    replay("tunnel_operations", tunnel_readers::operations);
}

#[test]
fn device_conversion() {
    replay("device_conversion", devices::device_conversion);
}

#[test]
fn dmi_conversion() {
    replay("dmi_conversion", devices::dmi_conversion);
}

#[test]
fn twin_json() {
    replay("twin_json", devices::twin_json);
}

#[test]
fn bus_messages() {
    replay("bus", bus::bus);
}
