//! Changing one key of an existing file and nothing else: comments, order and spelling stay.
//!
//! Owns: the place of a value in a text and its replacement. Reads and writes: the one file that the caller names. Must not:
//! change anything that it cannot prove to be the only change.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::yaml;

/// Why a file was not changed. The program goes on: its callers only warn.
#[derive(Debug, thiserror::Error)]
pub enum StampError {
    /// The file cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The text is such that the one key cannot be changed alone.
    #[error("cannot set {key} in {path}: {reason}")]
    Form {
        /// The key's path.
        key: String,
        /// Which file.
        path: PathBuf,
        /// What is in the way.
        reason: &'static str,
    },
}

/// Sets the string at `key` (`edgecoreVersion`, `modules.edgeHub.token`) in the file. Returns whether it was changed; an
/// unchanged file is not written. The new file takes the old one's mode and owner and its place in one step.
pub fn set(path: &Path, key: &str, value: &str) -> Result<bool, StampError> {
    let failed = |action| {
        move |source| StampError::File {
            action,
            path: path.to_owned(),
            source,
        }
    };
    // A link stays a link: its target is what is replaced.
    let real = fs::canonicalize(path).map_err(failed("find"))?;
    let text = fs::read_to_string(&real).map_err(failed("read"))?;
    let Some(changed) = replaced(&text, key, value).map_err(|reason| StampError::Form {
        key: key.to_owned(),
        path: path.to_owned(),
        reason,
    })?
    else {
        return Ok(false);
    };
    let old = fs::metadata(&real).map_err(failed("read"))?;
    if old.permissions().readonly() {
        return Err(failed("write")(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the file is read-only",
        )));
    }
    replace(&real, &changed, &old).map_err(failed("write"))?;
    Ok(true)
}

/// The text with the one value changed; `None` when it has that value already. A missing key is added only when it belongs on
/// the top level, and is taken as empty otherwise.
fn replaced(text: &str, key: &str, value: &str) -> Result<Option<String>, &'static str> {
    let mut before = yaml::parse(text).map_err(|_| "the file is not YAML")?;
    let parts: Vec<&str> = key.split('.').collect();
    let there = parts.iter().try_fold(&before, |node, part| node.get(part));
    let changed = match there {
        Some(node) if node.coerced().unwrap_or_default() == value => {
            return Ok(None);
        }
        None if value.is_empty() => return Ok(None),
        Some(_) => {
            let place = yaml::locate(text, &parts).ok_or("the key's value was not found in the text")?;
            let quoted = yaml::quoted_if_needed(value);
            let head = text
                .get(..place.start)
                .ok_or("the key's value was not found in the text")?;
            let tail = text
                .get(place.end..)
                .ok_or("the key's value was not found in the text")?;
            let blank = if place.is_empty() && !head.ends_with(' ') {
                " "
            } else {
                ""
            };
            format!("{head}{blank}{quoted}{tail}")
        }
        None if parts.len() == 1 => {
            let line_end = if text.is_empty() || text.ends_with('\n') {
                ""
            } else {
                "\n"
            };
            format!("{text}{line_end}{key}: {}\n", yaml::quoted_if_needed(value))
        }
        None => return Err("the section does not have the key"),
    };
    // The proof: read again, everything but this key is what it was.
    let mut after = yaml::parse(&changed).map_err(|_| "the change would break the file")?;
    let now = parts
        .iter()
        .try_fold(&after, |node, part| node.get(part))
        .and_then(yaml::Node::coerced);
    if now.as_deref() != Some(value) {
        return Err("the file's form does not allow the change");
    }
    for tree in [&mut before, &mut after] {
        forget(tree, &parts);
        tree.forget_lines();
    }
    if before == after {
        Ok(Some(changed))
    } else {
        Err("the file's form does not allow the change")
    }
}

fn forget(node: &mut yaml::Node, parts: &[&str]) {
    match parts {
        [] => {}
        [last] => {
            node.take(last);
        }
        [first, rest @ ..] => {
            if let Some(child) = node.get_mut(first) {
                forget(child, rest);
            }
        }
    }
}

fn replace(path: &Path, text: &str, old: &fs::Metadata) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("no file name"))?;
    let temporary = path.with_file_name(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    let written = write_beside(&temporary, text, old).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The error that matters is the one above; a left-over would only be litter.
        drop(fs::remove_file(&temporary));
        return written;
    }
    let folder = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}

fn write_beside(path: &Path, text: &str, old: &fs::Metadata) -> io::Result<()> {
    // Created closed to others, because the text may hold the join token.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        chown(path, Some(old.uid()), Some(old.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# head\nedgecoreVersion: \"\" # who wrote it\nmodules:\n  edgeHub:\n    token: 'a.b: #c'   # secret\n    heartbeat: 15\n";

    #[test]
    fn one_value_changes_and_nothing_else() {
        assert_eq!(
            replaced(FILE, "edgecoreVersion", "v1.23.1"),
            Ok(Some(FILE.replace("edgecoreVersion: \"\"", "edgecoreVersion: v1.23.1")))
        );
        assert_eq!(
            replaced(FILE, "modules.edgeHub.token", ""),
            Ok(Some(FILE.replace("'a.b: #c'", "\"\"")))
        );
        assert_eq!(replaced(FILE, "modules.edgeHub.token", "a.b: #c"), Ok(None));
    }

    #[test]
    fn forms_of_the_value() {
        for (text, key, value, expected) in [
            ("a: 1\n", "edgecoreVersion", "v1", "a: 1\nedgecoreVersion: v1\n"),
            ("a: 1", "b", "x", "a: 1\nb: x\n"),
            ("", "b", "x", "b: x\n"),
            ("b:\nc: 1\n", "b", "x", "b: x\nc: 1\n"),
            ("b: # note\nc: 1\n", "b", "x", "b: x # note\nc: 1\n"),
            ("{b: y, c: 1}\n", "b", "x", "{b: x, c: 1}\n"),
            ("B: y\n", "b", "x", "B: x\n"),
            ("b: y\n", "b", "1", "b: \"1\"\n"),
            ("ä: ö\nb: y\n", "b", "x", "ä: ö\nb: x\n"),
        ] {
            assert_eq!(replaced(text, key, value), Ok(Some(expected.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_changed_alone_is_refused() {
        for (text, key) in [
            ("a: [", "b"),
            ("{a: 1}\n", "b"),
            ("a: &x y\nb: *x\n", "a"),
            ("a: 1\n", "b.c"),
            ("a: 1\n...\n", "b"),
        ] {
            assert!(replaced(text, key, "x").is_err(), "{text:?}");
        }
        assert_eq!(replaced("a: 1\n", "b.c", ""), Ok(None));
    }

    #[test]
    fn files_keep_mode_and_links() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (file, link) = (dir.path().join("edgecore.yaml"), dir.path().join("link.yaml"));
        fs::write(&file, FILE)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640))?;
        std::os::unix::fs::symlink(&file, &link)?;
        assert!(matches!(set(&link, "modules.edgeHub.token", ""), Ok(true)));
        assert!(matches!(set(&link, "modules.edgeHub.token", ""), Ok(false)));
        assert_eq!(fs::metadata(&file)?.mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link)?.is_symlink());
        assert_eq!(fs::read_dir(dir.path())?.count(), 2);

        fs::set_permissions(&file, fs::Permissions::from_mode(0o444))?;
        assert!(matches!(
            set(&file, "edgecoreVersion", "v1"),
            Err(StampError::File { .. })
        ));
        assert!(matches!(
            set(&dir.path().join("none"), "edgecoreVersion", "v1"),
            Err(StampError::File { .. })
        ));
        Ok(())
    }
}
