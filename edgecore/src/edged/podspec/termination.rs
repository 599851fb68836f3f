//! The last words of a container (spec 05 §6, row 29).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::Path;

use k8s_openapi::api::core::v1::Container;
use proto::cri;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};

use super::mounts::message_dir;
use crate::edged::context::PodContext;

/// What an exited container left as its message: from its file, or from the end of its log when it asks for that and failed.
/// Reads files, so call it where blocking is allowed.
/// `limit` bytes of it at most: a pod's messages share a budget.
pub fn termination_message(
    ctx: &PodContext,
    container: &Container,
    status: &cri::ContainerStatus,
    limit: usize,
) -> String {
    let mut message = whole_message(ctx, container, status);
    while message.len() > limit {
        message.pop();
    }
    message
}

fn whole_message(ctx: &PodContext, container: &Container, status: &cri::ContainerStatus) -> String {
    let path = container.termination_message_path.as_deref().unwrap_or_default();
    let mut from_log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
        && status.exit_code != 0
        && status.reason != "ContainerCannotRun";
    let path = if path.is_empty() || path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    // A volume may be mounted at the same path; what lies there is the pod's choice, and may be no file. Ours came last.
    let dir = message_dir(ctx, &container.name);
    let real_dir = dir.canonicalize().ok();
    let is_ours = |host_path: &str| {
        let parent = Path::new(host_path).parent();
        // Some runtimes tell the path without its links.
        parent.is_some() && (parent == Some(dir.as_path()) || parent == real_dir.as_deref())
    };
    let mount = status
        .mounts
        .iter()
        .rfind(|mount| !path.is_empty() && mount.container_path == path && is_ours(&mount.host_path));
    let mut message = String::new();
    if let Some(mount) = mount {
        match open_file(Path::new(&mount.host_path)).and_then(|file| read_tail(file, MAX_MESSAGE)) {
            Ok(bytes) => {
                from_log &= bytes.is_empty();
                message = String::from_utf8_lossy(&bytes).into_owned();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return format!("Error on reading termination log {}: {error}", mount.host_path),
        }
    }
    if from_log {
        message = match last_lines(Path::new(&status.log_path)) {
            Ok(text) => text,
            Err(error) => format!("Error on reading termination message from logs: {error}"),
        };
    }
    message
}

fn last_lines(path: &Path) -> io::Result<String> {
    let bytes = read_tail(File::open(path)?, LOG_WINDOW)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    // The first line may be cut off by the window. It has no time stamp then, and is dropped below.
    let first = lines.len().saturating_sub(MAX_LINES);
    let mut all = String::new();
    for line in lines.iter().skip(first) {
        let mut parts = line.splitn(4, ' ');
        let (stamp, stream, tag) = (parts.next(), parts.next(), parts.next());
        let (Some(_), Some("stdout" | "stderr"), Some(tag)) = (stamp, stream, tag) else {
            continue;
        };
        all.push_str(parts.next().unwrap_or_default());
        if !tag.split(':').any(|tag| tag == "P") {
            all.push('\n');
        }
    }
    let mut start = all.len().saturating_sub(MAX_LOG);
    while !all.is_char_boundary(start) {
        start += 1;
    }
    Ok(all.split_off(start))
}

/// Opens a file and nothing else: neither waits for the other end of a pipe nor wakes a device, whatever lies there.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // Through the descriptor, which is a link to what was looked at: the name may lead elsewhere by now.
    let pinned = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(pinned.as_str(), flags, Mode::empty())?;
    Ok(File::from(file))
}

fn read_tail(mut file: File, max: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max)))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes of all messages of a pod.
pub const MAX_POD: usize = 12 * 1024;
/// Bytes of the message file.
const MAX_MESSAGE: u64 = 4096;
/// Lines and bytes of the log.
const MAX_LINES: usize = 80;
const MAX_LOG: usize = 2048;
/// Bytes of the log file looked at: several of the longest lines that runtimes write (16 KiB).
const LOG_WINDOW: u64 = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::podspec::testing::context;

    /// Of a container `app` with mounts of these files at the path of the message.
    fn message(ctx: &PodContext, files: &[&Path], log: &Path, policy: &str, exit_code: i32) -> String {
        let container = Container {
            name: "app".into(),
            termination_message_path: Some("/dev/termination-log".into()),
            termination_message_policy: Some(policy.into()),
            ..Default::default()
        };
        let mut status = cri::ContainerStatus {
            exit_code,
            ..Default::default()
        };
        status.mounts.extend(files.iter().map(|file| cri::Mount {
            container_path: "/dev/termination-log".into(),
            host_path: file.to_string_lossy().into_owned(),
            ..Default::default()
        }));
        status.log_path = log.to_string_lossy().into_owned();
        termination_message(ctx, &container, &status, MAX_POD)
    }

    #[test]
    fn message_from_the_file_or_from_the_log() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (ctx, _) = context(dir.path(), serde_json::json!({"containers": []}));
        let folder = message_dir(&ctx, "app");
        std::fs::create_dir_all(&folder).expect("mkdir");
        let (file, log_file) = (folder.join("message"), dir.path().join("0.log"));
        let message = |policy, exit_code| message(&ctx, &[&file], &log_file, policy, exit_code);
        let stamp = "2026-01-01T00:00:00.000000000Z";
        let log = format!("{stamp} stdout F one\n{stamp} stderr P tw\n{stamp} stderr F o\n");
        std::fs::write(&log_file, log).expect("log");
        assert_eq!(message("File", 1), "");
        assert_eq!(message("FallbackToLogsOnError", 1), "one\ntwo\n");
        assert_eq!(message("FallbackToLogsOnError", 0), "");
        std::fs::write(&file, "x".repeat(5000)).expect("message");
        assert_eq!(message("FallbackToLogsOnError", 1).len(), 4096);
    }

    #[test]
    fn only_a_file_of_ours_is_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (ctx, _) = context(dir.path(), serde_json::json!({"containers": []}));
        let folder = message_dir(&ctx, "app");
        std::fs::create_dir_all(&folder).expect("mkdir");
        let make = |path: &Path, text: &str| std::fs::write(path, text).expect("write");
        let (volume, first, last) = (dir.path().join("volume"), folder.join("1"), folder.join("2"));
        make(&volume, "volume");
        make(&first, "first");
        make(&last, "last");
        let message = |files: &[&Path]| message(&ctx, files, Path::new("/nonexistent"), "File", 1);
        assert_eq!(message(&[&volume]), "");
        assert_eq!(message(&[&volume, &first, &last]), "last");
        assert_eq!(message(&[&first, &volume]), "first");

        let (pipe, link) = (folder.join("pipe"), folder.join("link"));
        std::os::unix::fs::symlink(&volume, &link).expect("link");
        let here = File::open(&folder).expect("folder");
        rustix::fs::mknodat(&here, "pipe", FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("pipe");
        for path in [&pipe, &link] {
            assert!(!message(&[path]).contains("volume"), "{}", path.display());
        }
        assert!(message(&[&pipe]).ends_with("not a regular file"));
    }

    #[test]
    fn the_log_is_cut_to_lines_and_bytes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let lines: String = (0..200)
            .map(|n| format!("2026-01-01T00:00:00Z stdout F line {n}\n"))
            .collect();
        std::fs::write(&path, lines).expect("log");
        let text = last_lines(&path).expect("lines");
        assert_eq!(text.lines().count(), 80);
        assert_eq!(text.lines().next(), Some("line 120"));
        std::fs::write(&path, format!("2026-01-01T00:00:00Z stdout F {}\n", "y".repeat(9000))).expect("log");
        assert_eq!(last_lines(&path).expect("lines").len(), 2048);
    }
}
