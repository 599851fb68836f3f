//! The seeds of the fuzz targets pass through the targets' own readers.

use std::path::Path;

use crate::files;

fn replay(target: &str, reader: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        reader(&std::fs::read(entry.expect("the folder is readable").path()).expect("a seed is readable"));
        seeds += 1;
    }
    assert!(seeds > 0, "{}", folder.display());
}

#[test]
fn cloudcore_config() {
    replay("cloudcore_config", files::cloudcore_config);
}

#[test]
fn edgecore_config() {
    replay("edgecore_config", files::edgecore_config);
}
