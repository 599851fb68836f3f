//! Programs of the host, started without a shell.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Why a program did not do what it was told to.
#[derive(Debug, Error)]
pub(super) enum RunError {
    #[error("this host has no ip6tables")]
    Missing,
    #[error("{line} cannot be started")]
    Start {
        line: String,
        #[source]
        source: io::Error,
    },
    #[error("{line} did not end within {limit:?}")]
    Late { line: String, limit: Duration },
    #[error("{line} failed ({status}): {said}")]
    Failed {
        line: String,
        status: ExitStatus,
        said: String,
    },
}

impl RunError {
    /// Whether the program ended with that code.
    pub(super) fn has_code(&self, code: i32) -> bool {
        matches!(self, Self::Failed { status, .. } if status.code() == Some(code))
    }
}

/// Runs a program to its end and returns what it printed.
pub(super) async fn run<I: AsRef<str>>(program: &Path, arguments: &[I], input: &str) -> Result<String, RunError> {
    let line = || {
        let words = arguments.iter().map(AsRef::as_ref);
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        std::iter::once(name.as_ref())
            .chain(words)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let start = |source| RunError::Start { line: line(), source };
    let work = async {
        let mut child = Command::new(program)
            .args(arguments.iter().map(AsRef::as_ref))
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input says by its status whether it minds.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        child.wait_with_output().await.map_err(start)
    };
    let output = tokio::time::timeout(LIMIT, work).await.map_err(|_| RunError::Late {
        line: line(),
        limit: LIMIT,
    })??;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(RunError::Failed {
        line: line(),
        status: output.status,
        said: said.trim().replace('\n', "; ").chars().take(LONGEST_TEXT).collect(),
    })
}

/// Where a program is: in one of the folders of `PATH`, or where administrators' programs are, which `PATH` often lacks.
pub(super) fn find(name: &str, path: Option<OsString>) -> Option<PathBuf> {
    let given = path.unwrap_or_default();
    std::env::split_paths(&given)
        .chain(SYSTEM.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_absolute() && program.is_file())
}

/// Longer than iptables waits for the lock that it shares with others.
const LIMIT: Duration = Duration::from_secs(10);
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// Characters of what a program complains of.
const LONGEST_TEXT: usize = 300;
