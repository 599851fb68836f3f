//! Configuration files as operators have them.

mod corpus;
/// The readers of the fuzz targets.
#[path = "../../../fuzz/src/files.rs"]
#[expect(unreachable_pub, reason = "the file is a public module where it comes from")]
mod files;
mod golden;
