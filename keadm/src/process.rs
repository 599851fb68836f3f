//! Processes of the host: whether edgecore runs, scripts and programs that are started.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

/// Process ids with this name, as `pidof` finds them.
pub(crate) fn named(proc: &Path, name: &str) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|text| text.parse().ok()) else {
            continue;
        };
        // A process that ended meanwhile has no name any more.
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // A child that ended and was not waited for keeps its name: its state is the word after the name in parentheses.
        let ended = stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']));
        if comm.trim_end() == name && !ended {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Runs a script of the operator's with bash, its output shown.
pub(crate) fn script(path: &Path) -> anyhow::Result<()> {
    let status = Command::new("bash")
        .arg(path)
        .status()
        .with_context(|| format!("bash {}", path.display()))?;
    if !status.success() {
        bail!("script {} ended with {status}", path.display());
    }
    Ok(())
}

/// Runs a program to its end; what it printed is part of the error.
pub(crate) fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let line = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().with_context(line)?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    bail!("{}: {}: {}", line(), output.status, text.trim())
}

/// Waits between two looks at something that sends no event; nothing else runs meanwhile.
pub(crate) fn pause(duration: Duration) {
    std::thread::park_timeout(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_by_name() -> io::Result<()> {
        let proc = tempfile::tempdir()?;
        for (pid, comm) in [("7", "edgecore\n"), ("8", "bash\n"), ("x", "edgecore\n")] {
            std::fs::create_dir(proc.path().join(pid))?;
            std::fs::write(proc.path().join(pid).join("comm"), comm)?;
        }
        std::fs::write(proc.path().join("7/stat"), "7 (edgecore) S 1")?;
        assert_eq!(named(proc.path(), "edgecore")?, [7]);
        std::fs::write(proc.path().join("7/stat"), "7 (edgecore) Z 1")?;
        assert_eq!(named(proc.path(), "edgecore")?, [0; 0]);
        Ok(())
    }

    #[test]
    fn a_failure_says_what_was_printed() {
        let error = run("sh", &["-c", "echo out; echo err >&2; exit 3"]).expect_err("it fails");
        assert!(error.to_string().contains("out\nerr"), "{error}");
    }
}
