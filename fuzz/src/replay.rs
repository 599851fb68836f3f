//! The seeds of a target through its reader: for the tests of the crates, which include this file; a target has no use for it.

use std::path::Path;

/// Gives every file of `fuzz/corpus/TARGET` to the target's own reader.
pub(crate) fn replay(target: &str, reader: fn(&[u8])) {
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
