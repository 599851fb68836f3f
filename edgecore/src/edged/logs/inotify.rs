//! The kernel's events of one folder and one file in it.
#![allow(
    unsafe_code,
    reason = "tokio cannot see that a descriptor stays open while it is registered"
)]

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Bytes of events taken at once.
const EVENTS: usize = 4096;

/// One instance of inotify.
#[derive(Debug)]
pub(super) struct Inotify {
    events: AsyncFd<OwnedFd>,
    /// The watch of the file that is read.
    file: Option<i32>,
}

/// What events told.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Another file may have the name.
    pub(super) named: bool,
    /// The writer has closed the file.
    pub(super) closed: bool,
}

impl Inotify {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&events, folder, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        Ok(Self {
            // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives, and it lives in here.
            events: unsafe { AsyncFd::register(events) }?,
            file: None,
        })
    }

    /// Watches a file by what is open: its name may be another's by now.
    pub(super) fn follow(&mut self, file: &File) {
        if let Some(old) = self.file.take() {
            let _ = inotify::remove_watch(self.events.get_ref(), old);
        }
        let open = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE;
        self.file = inotify::add_watch(self.events.get_ref(), open, flags).ok();
    }

    pub(super) async fn next(&mut self, name: &OsStr) -> Seen {
        loop {
            let Ok(mut ready) = self.events.readable().await else {
                return std::future::pending().await;
            };
            let mut buffer = [MaybeUninit::uninit(); EVENTS];
            let mut reader = inotify::Reader::new(self.events.get_ref(), &mut buffer);
            let mut seen = None;
            loop {
                match reader.next() {
                    Ok(event) => {
                        let seen: &mut Seen = seen.get_or_insert_default();
                        let kind = event.events();
                        // Events that were lost may have been any.
                        seen.named |= kind.contains(ReadFlags::QUEUE_OVERFLOW)
                            || event
                                .file_name()
                                .is_some_and(|found| found.to_bytes() == name.as_bytes());
                        seen.closed |= kind.contains(ReadFlags::CLOSE_WRITE) && Some(event.wd()) == self.file;
                        if reader.is_buffer_empty() {
                            break;
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(_) => {
                        ready.clear_ready();
                        break;
                    }
                }
            }
            if let Some(seen) = seen {
                return seen;
            }
        }
    }
}
