//! The seeds of the fuzz targets pass through the same readers.

use std::path::Path;

use proto::{Content, Group, Object, Route};

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let seeds: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| std::fs::read(entry.expect("the folder is readable").path()).expect("a seed is readable"))
        .collect();
    assert!(!seeds.is_empty(), "{}", folder.display());
    seeds
}

#[test]
fn message_decode() {
    seeds("message_decode")
        .iter()
        .for_each(|seed| crate::frames::read_all(seed));
}

#[test]
fn content_answer() {
    for seed in seeds("content_answer") {
        let Ok(text) = String::from_utf8(seed) else { continue };
        let Ok(content) = Content::from_json_text(text) else {
            continue;
        };
        let _ = (content.answer(), content.document());
    }
}

#[test]
fn object_parse() {
    for seed in seeds("object_parse") {
        let Ok(text) = std::str::from_utf8(&seed) else { continue };
        let Ok(object) = Object::parse(text) else { continue };
        let typed = object.with_type("v1", "Pod");
        assert!(!typed.meta().kind.is_empty());
        let _ = (typed.version(), typed.spec_node_name());
    }
}

#[test]
fn route() {
    for seed in seeds("route") {
        let Ok(text) = std::str::from_utf8(&seed) else { continue };
        let (group, resource) = text.split_once('\n').unwrap_or(("", text));
        assert_eq!(Route::parse(&Group::from(group), resource).render(), resource);
    }
}
