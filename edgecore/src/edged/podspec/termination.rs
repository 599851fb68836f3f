//! The last words of a container (spec 05 §6, row 29).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;
use proto::cri;

/// What an exited container left as its message: from its file, or from the end of its log when it asks for that and failed.
/// Reads files, so call it where blocking is allowed.
/// `limit` bytes of it at most: a pod's messages share a budget.
pub fn termination_message(container: &Container, status: &cri::ContainerStatus, limit: usize) -> String {
    let mut message = whole_message(container, status);
    while message.len() > limit {
        message.pop();
    }
    message
}

fn whole_message(container: &Container, status: &cri::ContainerStatus) -> String {
    let path = container.termination_message_path.as_deref().unwrap_or_default();
    let mut from_log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
        && status.exit_code != 0
        && status.reason != "ContainerCannotRun";
    let path = if path.is_empty() || path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let mount = status
        .mounts
        .iter()
        .find(|mount| !path.is_empty() && mount.container_path == path);
    let mut message = String::new();
    if let Some(mount) = mount {
        match read_tail(Path::new(&mount.host_path), MAX_MESSAGE) {
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
    let bytes = read_tail(path, LOG_WINDOW)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    // A line that the window cuts has no time stamp and falls out below.
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

fn read_tail(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
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

    fn message(dir: &Path, policy: &str, exit_code: i32) -> String {
        let container = Container {
            termination_message_path: Some("/dev/termination-log".into()),
            termination_message_policy: Some(policy.into()),
            ..Default::default()
        };
        let mut status = cri::ContainerStatus {
            exit_code,
            ..Default::default()
        };
        status.mounts.push(cri::Mount {
            container_path: "/dev/termination-log".into(),
            host_path: dir.join("message").to_string_lossy().into_owned(),
            ..Default::default()
        });
        status.log_path = dir.join("0.log").to_string_lossy().into_owned();
        termination_message(&container, &status, MAX_POD)
    }

    #[test]
    fn message_from_the_file_or_from_the_log() {
        let dir = tempfile::tempdir().expect("tempdir");
        let stamp = "2026-01-01T00:00:00.000000000Z";
        let log = format!("{stamp} stdout F one\n{stamp} stderr P tw\n{stamp} stderr F o\n");
        std::fs::write(dir.path().join("0.log"), log).expect("log");
        assert_eq!(message(dir.path(), "File", 1), "");
        assert_eq!(message(dir.path(), "FallbackToLogsOnError", 1), "one\ntwo\n");
        assert_eq!(message(dir.path(), "FallbackToLogsOnError", 0), "");
        std::fs::write(dir.path().join("message"), "x".repeat(5000)).expect("message");
        assert_eq!(message(dir.path(), "FallbackToLogsOnError", 1).len(), 4096);
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
