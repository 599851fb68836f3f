//! The seeds of the fuzz targets pass through the targets' own readers.

use crate::files;
use crate::replay::replay;

#[test]
fn cloudcore_config() {
    replay("cloudcore_config", files::cloudcore_config);
}

#[test]
fn edgecore_config() {
    replay("edgecore_config", files::edgecore_config);
}
