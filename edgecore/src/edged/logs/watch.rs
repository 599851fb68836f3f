//! Notices what happens to a log file: more in it, its writer gone, another under its name.
//!
//! Every file that gets the name is opened at once and kept in order, so that a reader that is slow, or that nobody takes text from,
//! finds them all, renamed and compressed as they may be by then. Without inotify (the kernel allows a user only so many instances)
//! the name is looked at every second, which is rarer than files are turned over.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use common::order;
use tracing::debug;

use super::inotify::Inotify;

/// Files that are held for a reader that lags, as many as a kubelet keeps of a container; the oldest are lost first: they hold disk.
const MAX_WAITING: usize = 5;

/// The file behind a name, whatever it is called now.
type Identity = (u64, u64);

#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    inotify: Option<Inotify>,
    /// What is read.
    current: Identity,
    /// Opened last under the name.
    newest: Identity,
    /// Opened and not read yet.
    waiting: VecDeque<File>,
    /// Names of files that had the name before.
    turned: BTreeSet<OsString>,
    /// Whether the writer of the file that is read has closed it.
    is_closed: bool,
}

impl Watch {
    /// Begins with the file that is read, which may have lost its name already.
    pub(super) fn new(path: &Path, file: &File) -> io::Result<Self> {
        let inotify = match Inotify::new(path.parent().unwrap_or(path)) {
            Ok(inotify) => Some(inotify),
            Err(error) => {
                debug!(%error, path = %path.display(), "no events of this log, it is looked at every second");
                None
            }
        };
        let current = identity(file)?;
        let mut watch = Self {
            path: path.to_owned(),
            inotify,
            current,
            newest: current,
            waiting: VecDeque::new(),
            turned: BTreeSet::new(),
            is_closed: false,
        };
        watch.follow(file);
        // Of those that are there only what came after the file is to be read, should it have been renamed since it was opened.
        let mut turned = watch.turned_over();
        let own = turned
            .iter()
            .position(|(_, file)| identity(file).is_ok_and(|found| found == current));
        let later = turned.split_off(own.map_or(turned.len(), |own| own + 1));
        watch.turned.extend(turned.into_iter().map(|(name, _)| name));
        drop(later);
        watch.look();
        Ok(watch)
    }

    /// Waits until something happened. May be dropped and called again.
    pub(super) async fn changed(&mut self) {
        let Some(inotify) = &mut self.inotify else {
            return std::future::pending().await;
        };
        let seen = inotify.next(self.path.file_name().unwrap_or_default()).await;
        self.is_closed |= seen.closed;
        if seen.named {
            self.look();
        }
    }

    /// Looks whether another file has the name by now.
    pub(super) fn look(&mut self) {
        // Between a rename and the next file there is none.
        while let Ok(file) = File::open(&self.path)
            && let Ok(found) = identity(&file)
            && found != self.newest
        {
            // The name may have gone from file to file more than once since the last look.
            for (name, file) in self.turned_over() {
                if self.turned.insert(name) && identity(&file).is_ok_and(|id| id != found && !self.is_known(id)) {
                    self.push(file);
                }
            }
            self.newest = found;
            if !self.is_known(found) {
                self.push(file);
            }
        }
    }

    fn push(&mut self, file: File) {
        self.waiting.push_back(file);
        if self.waiting.len() > MAX_WAITING {
            self.waiting.pop_front();
            debug!(path = %self.path.display(), "a log was turned over before its follower had read it");
        }
    }

    fn is_known(&self, id: Identity) -> bool {
        let is = |file: &File| identity(file).is_ok_and(|found| found == id);
        id == self.current || self.waiting.iter().any(is)
    }

    /// Files that had the name before and are not compressed yet, the oldest first; those known by name are left out.
    fn turned_over(&self) -> Vec<(OsString, File)> {
        let Some((folder, name)) = self.path.parent().zip(self.path.file_name()) else {
            return Vec::new();
        };
        let is_turned = |other: &OsStr| {
            let rest = other.as_bytes().strip_prefix(name.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b".") && !rest.ends_with(b".gz") && !rest.ends_with(b".tmp"))
        };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name());
        let mut names: Vec<OsString> = names
            .filter(|name| is_turned(name) && !self.turned.contains(name))
            .collect();
        order::sort(&mut names);
        let open = |name: OsString| File::open(folder.join(&name)).ok().map(|file| (name, file));
        names.into_iter().filter_map(open).collect()
    }

    /// Whether there is another file to read after this one.
    pub(super) fn has_next(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether nobody writes to the file that is read any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed || self.waiting.len() > 1
    }

    /// The next file; from now on its events count.
    pub(super) fn next_file(&mut self) -> Option<File> {
        let file = self.waiting.pop_front()?;
        self.is_closed = false;
        self.current = identity(&file).unwrap_or(self.newest);
        self.follow(&file);
        Some(file)
    }

    fn follow(&mut self, file: &File) {
        if let Some(inotify) = &mut self.inotify {
            inotify.follow(file);
        }
    }
}

fn identity(file: &File) -> io::Result<Identity> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}
