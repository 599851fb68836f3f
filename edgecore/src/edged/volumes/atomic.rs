//! Files that change all at once: `..data` points to a folder that is complete before the link moves.
//!
//! The layout is the kubelet's, because programs in containers watch `..data`. A power cut may leave a folder with half its files; the
//! next write compares contents and makes a new one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use common::order;

/// A file to show in a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) data: Vec<u8>,
    pub(super) mode: u32,
    /// Who owns it; root when unset.
    pub(super) user: Option<u32>,
}

/// Files by path below the volume.
pub(super) type Payload = BTreeMap<PathBuf, Entry>;

/// Whether a volume was written once.
pub(super) fn is_filled(dir: &Path) -> bool {
    fs::symlink_metadata(dir.join(DATA)).is_ok()
}

/// A path as it may stand in a volume.
pub(super) fn checked_path(path: &str) -> Result<PathBuf, String> {
    let clean: PathBuf = Path::new(path)
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect();
    if clean.as_os_str().is_empty() {
        return Err(format!("invalid path: must not be empty: {path:?}"));
    }
    for part in clean.components() {
        match part {
            Component::Normal(name) if name.len() > MAX_NAME => {
                return Err(format!(
                    "invalid path: filenames must be less than or equal to {MAX_NAME} characters"
                ));
            }
            Component::Normal(_) => {}
            Component::ParentDir => return Err(format!("invalid path: must not contain '..': {path}")),
            _ => return Err(format!("invalid path: must be relative path: {path}")),
        }
    }
    if path.starts_with("..") {
        return Err(format!("invalid path: must not start with '..': {path}"));
    }
    Ok(clean)
}

/// Shows these files and no others in `dir`. `own` sets ownership before the files become visible. Returns whether anything changed.
pub(super) fn write(dir: &Path, payload: &Payload, own: impl Fn() -> io::Result<()>) -> io::Result<bool> {
    let data = dir.join(DATA);
    let old = match fs::read_link(&data) {
        Ok(target) => Some(dir.join(target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let known = match &old {
        Some(old) => read_tree(old)?,
        None => BTreeMap::new(),
    };
    let same = known.len() == payload.len()
        && payload
            .iter()
            .all(|(path, entry)| known.get(path).is_some_and(|data| *data == entry.data));
    let changed = old.is_none() || !same;
    if changed {
        let fresh = make_folder(dir, payload)?;
        let swap = || {
            own()?;
            let link = dir.join(NEW_DATA);
            match fs::remove_file(&link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            symlink(fresh.file_name().unwrap_or_default(), &link)?;
            fs::rename(&link, &data)
        };
        if let Err(error) = swap() {
            let _ = fs::remove_dir_all(&fresh);
            return Err(error);
        }
    }
    show(dir, payload, &known)?;
    if let Some(old) = old.filter(|_| changed) {
        remove_folder(&old)?;
    }
    Ok(changed)
}

/// Links the first part of every path into the volume, and removes links that lead nowhere now.
fn show(dir: &Path, payload: &Payload, known: &BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    let first = |path: &PathBuf| path.components().next().map(|part| PathBuf::from(part.as_os_str()));
    let wanted = order::set(payload.keys().filter_map(first));
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let before = order::set(known.keys().filter_map(first));
    for name in before.difference(&wanted) {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn make_folder(dir: &Path, payload: &Payload) -> io::Result<PathBuf> {
    let now = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
    let unique = uuid::Uuid::new_v4().as_u128() % 10_000_000_000;
    let folder = dir.join(format!("..{now}.{unique}"));
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o755))?;
    let fill = || {
        for (path, entry) in payload {
            let full = folder.join(path);
            if let Some(parent) = full.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            }
            fs::write(&full, &entry.data)?;
            // Explicitly: the umask must not matter.
            fs::set_permissions(&full, PermissionsExt::from_mode(entry.mode & 0o7777))?;
            if entry.user.is_some() {
                chown(&full, entry.user, None)?;
            }
        }
        Ok(())
    };
    match fill() {
        Ok(()) => Ok(folder),
        Err(error) => {
            let _ = fs::remove_dir_all(&folder);
            Err(error)
        }
    }
}

/// All files below a folder with their contents. Nobody but us writes here: containers see these volumes read-only.
fn read_tree(root: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // The link survived, the folder did not: as if nothing had been written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.insert(relative.to_owned(), fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
const MAX_NAME: usize = 255;
