//! `keadm reset edge`: takes edgecore off this machine.
//!
//! The cluster is never touched from here, and what is mounted below the folders survives: a mount that cannot be taken away keeps its
//! folder, and no deletion crosses one.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::mount::{MntFlags, umount2};

use crate::cli::ResetEdge;
use crate::paths::Paths;
use crate::process;
use crate::service::Manager;
use crate::steps::Steps;

pub(crate) fn run(options: &ResetEdge, force: bool) -> anyhow::Result<()> {
    if !force {
        confirm(&mut std::io::stdin().lock())?;
    }
    let paths = Paths::host();
    let mut steps = Steps::default();
    if let Some(script) = &options.pre_run {
        steps.begin(&format!("executing pre-run script: {}", script.display()));
        process::script(script)?;
    }
    if options.kube_config.is_some() {
        Steps::warn(
            "--kube-config has no effect: an edge never changes the cluster; `kubectl delete node` removes the Node object",
        );
    }
    steps.begin("kill edgecore and remove edgecore service");
    Manager::of_host(&paths).remove(&paths)?;
    steps.begin("clean up mounts of pods");
    let folders: Vec<PathBuf> = folders(&paths);
    let mounts =
        std::fs::read_to_string(paths.at("/proc/self/mountinfo")).context("/proc/self/mountinfo could not be read")?;
    for mount in mounts_below(&mounts, &folders) {
        umount2(&mount, MntFlags::UMOUNT_NOFOLLOW).with_context(|| {
            format!(
                "{} is still mounted and in use: stop the pods' containers first, nothing was deleted",
                mount.display()
            )
        })?;
    }
    steps.begin("clean up dirs created by KubeEdge");
    for folder in folders {
        remove(&folder)?;
    }
    let network = paths.cni().join(crate::join::NETWORK_FILE);
    if network.exists() {
        std::fs::remove_file(&network).with_context(|| format!("{} could not be removed", network.display()))?;
    }
    if let Some(script) = &options.post_run {
        steps.begin(&format!("executing post-run script: {}", script.display()));
        process::script(script)?;
    }
    Ok(())
}

fn confirm(input: &mut impl std::io::BufRead) -> anyhow::Result<()> {
    print!(
        "[reset] WARNING: Changes made to this host by 'keadm join' will be reverted.\n[reset] Are you sure you want to proceed? [y/N]: "
    );
    std::io::stdout().flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    if !answer.trim().eq_ignore_ascii_case("y") {
        bail!("aborted reset operation");
    }
    Ok(())
}

fn folders(paths: &Paths) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = [
        "/etc/kubeedge",
        "/var/log/kubeedge",
        "/var/lib/kubeedge",
        "/var/lib/edged",
    ]
    .iter()
    .map(|folder| paths.at(folder))
    .collect();
    // The file may name another folder for volumes, and may be gone already.
    let text = std::fs::read_to_string(paths.config()).unwrap_or_default();
    let host = config::HostFacts::detect();
    let root = config::EdgeCore::parse(&text, &host, &config::LookOnly)
        .map(|loaded| loaded.config.modules.edged.root_directory)
        .ok()
        .filter(|root| root.starts_with('/') && root.trim_end_matches('/').matches('/').count() > 1);
    found.push(paths.at(root.as_deref().unwrap_or("/var/lib/kubelet")));
    found
}

/// Mount points below the folders, the deepest first.
fn mounts_below(mountinfo: &str, folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| folders.iter().any(|folder| point.starts_with(folder)))
        .collect();
    found.reverse();
    found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    found
}

/// The kernel writes blanks in paths as octal numbers.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Deletes a folder without following links; fails at a mount point rather than emptying it.
fn remove(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} could not be removed", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_goes_on() {
        assert!(confirm(&mut "y\n".as_bytes()).is_ok());
        for no in ["", "\n", "n\n", "yes\n"] {
            assert!(confirm(&mut no.as_bytes()).is_err(), "{no:?}");
        }
    }

    #[test]
    fn mounts_come_deepest_first() {
        let info = "1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /var/lib/kubelet/pods/a/v rw - tmpfs t rw\n\
                    3 2 0:3 / /var/lib/kubelet/pods/a/v/x\\040y rw - tmpfs t rw\n4 1 0:4 / /var/lib/kubelets rw - tmpfs t rw\n";
        let found = mounts_below(info, &["/var/lib/kubelet".into()]);
        assert_eq!(
            found,
            [
                PathBuf::from("/var/lib/kubelet/pods/a/v/x y"),
                "/var/lib/kubelet/pods/a/v".into()
            ]
        );
    }

    #[test]
    fn the_configured_folder_is_taken_unless_it_is_a_top_one() -> anyhow::Result<()> {
        let root = tempfile::tempdir()?;
        let paths = Paths::below(root.path());
        let last = || folders(&paths).pop().expect("there is one");
        assert_eq!(last(), paths.at("/var/lib/kubelet"));
        std::fs::create_dir_all(paths.at("/etc/kubeedge/config"))?;
        std::fs::write(paths.config(), "modules: {edged: {rootDirectory: /data/edged}}\n")?;
        assert_eq!(last(), paths.at("/data/edged"));
        std::fs::write(paths.config(), "modules: {edged: {rootDirectory: /data}}\n")?;
        assert_eq!(last(), paths.at("/var/lib/kubelet"));
        Ok(())
    }
}
