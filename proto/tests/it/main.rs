//! Tests of the wire formats against captured traffic and against random input.
mod answers;
/// The readers of the fuzz targets.
#[path = "../../../fuzz/src/bus.rs"]
#[expect(unreachable_pub, reason = "the file is a public module where it comes from")]
mod bus;
mod comparer;
mod corpus;
#[path = "../../../fuzz/src/devices.rs"]
#[expect(unreachable_pub, reason = "the file is a public module where it comes from")]
mod devices;
mod frames;
/// The readers of the fuzz targets.
#[path = "../../../fuzz/src/join.rs"]
#[expect(unreachable_pub, reason = "the file is a public module where it comes from")]
mod join;
mod objects;
/// The seeds of the fuzz targets.
#[path = "../../../fuzz/src/replay.rs"]
mod replay;
mod routes;
mod tunnel;
/// The readers of the fuzz targets.
#[path = "../../../fuzz/src/tunnel.rs"]
#[expect(unreachable_pub, reason = "the file is a public module where it comes from")]
mod tunnel_readers;
/// The readers of the fuzz targets.
#[path = "../../../fuzz/src/wire.rs"]
#[expect(unreachable_pub, reason = "the file is a public module where it comes from")]
mod wire;
