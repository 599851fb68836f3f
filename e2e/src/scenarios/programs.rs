//! The cores as programs, before there is a cluster: what they print, and what they say of a file that is good or wrong.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::Entry;
use crate::process::call;
use crate::settings::{is_ours, program};
use crate::system::{Context, Skip};

pub(super) const LIST: &[Entry] = &[("programs_and_files", false, files)];

/// A file with several things wrong, in the folder `FOLDER`.
const CLOUDCORE: &str = r#"apiVersion: cloudcore.config.kubeedge.io/v1alpha1
kind: CloudCore
modules:
  cloudHub:
    nodeLimit: many
    https: {port: 70000}
    unixsocket: {address: "unix://FOLDER/var/kubeedge.sock"}
  cloudStream:
    streamCertSigner: nobody
  iptablesManager:
    mode: sideways
"#;
/// Its wrong keys with their lines.
const CLOUDCORE_WRONG: &[(&str, u32)] = &[
    ("modules.cloudHub.nodeLimit", 5),
    ("modules.cloudHub.https.port", 6),
    ("modules.cloudStream.streamCertSigner", 9),
    ("modules.iptablesManager.mode", 11),
];

const EDGECORE: &str = r#"apiVersion: edgecore.config.kubeedge.io/v1alpha2
kind: EdgeCore
database: {dataSource: FOLDER/var/edgecore.db}
modules:
  edgeHub:
    heartbeat: often
    websocket: {server: "192.0.2.1:70000"}
  edged:
    tailoredKubeletConfig:
      cgroupDriver: none
  eventBus:
    mqttMode: 3
"#;
const EDGECORE_WRONG: &[(&str, u32)] = &[
    ("modules.edgeHub.heartbeat", 6),
    ("modules.edgeHub.websocket.server", 7),
    ("modules.edged.tailoredKubeletConfig.cgroupDriver", 10),
    ("modules.eventBus.mqttMode", 12),
];

/// The printed files are good, an unknown key is only warned about, every wrong value is named with its line, and nothing is written.
fn files(context: &mut Context) -> Result<()> {
    let cloudcore = program(&context.settings.cloud, "cloudcore")?;
    let edgecore = program(&context.settings.edge, "edgecore")?;
    if !is_ours(&cloudcore) || !is_ours(&edgecore) {
        return Err(Skip("only our programs check a file".to_owned()).into());
    }
    let all = context.folder().join("programs");
    for (name, program, text, wrong) in [
        ("cloudcore", &cloudcore, CLOUDCORE, CLOUDCORE_WRONG),
        ("edgecore", &edgecore, EDGECORE, EDGECORE_WRONG),
    ] {
        let folder = all.join(name);
        std::fs::create_dir_all(&folder)?;
        let version = call(program, &["--version"])?;
        ensure!(
            version.starts_with("KubeEdge v") && version.lines().count() == 1,
            "{name} --version: {version:?}"
        );
        good_files(program, &folder).with_context(|| name.to_owned())?;
        let text = text.replace("FOLDER", &folder.to_string_lossy());
        wrong_files(program, &folder, &text, wrong).with_context(|| name.to_owned())?;
    }
    std::fs::remove_dir_all(all)?;
    Ok(())
}

fn good_files(program: &Path, folder: &Path) -> Result<()> {
    for flag in ["--minconfig", "--defaultconfig"] {
        // The machine's own folders are nothing to try this with.
        let own = format!("{}/var/", folder.display());
        let text = call(program, &[flag])?.replace("/var/lib/kubeedge/", &own);
        std::fs::write(folder.join("good.yaml"), &text)?;
        let (code, said) = run(program, folder, &["--check-config", "--config", "good.yaml"])?;
        ensure!(
            code == Some(0) && said == "good.yaml: good\n",
            "the file of {flag}: {code:?}\n{said}"
        );
        let more = text.replacen("modules:\n", "modules:\n  surplus: {key: 1}\n", 1);
        std::fs::write(folder.join("more.yaml"), more)?;
        let (code, said) = run(program, folder, &["--check-config", "--config", "more.yaml"])?;
        ensure!(
            code == Some(0) && said.contains("warning: modules.surplus: unknown key") && said.lines().count() == 2,
            "an unknown key: {code:?}\n{said}"
        );
    }
    Ok(())
}

fn wrong_files(program: &Path, folder: &Path, text: &str, wrong: &[(&str, u32)]) -> Result<()> {
    std::fs::write(folder.join("wrong.yaml"), text)?;
    let checked: &[&str] = &["--check-config", "--config", "wrong.yaml"];
    for arguments in [checked, &["--config", "wrong.yaml"]] {
        let (code, said) = run(program, folder, arguments)?;
        ensure!(code == Some(1), "{arguments:?}: {code:?}\n{said}");
        for (key, number) in wrong {
            let end = format!("line {number})");
            ensure!(
                said.lines().any(|line| line.contains(key) && line.ends_with(&end)),
                "{arguments:?} does not name {key} of line {number}:\n{said}"
            );
        }
        ensure!(
            said.matches("Invalid value").count() == wrong.len(),
            "{arguments:?} complains of more:\n{said}"
        );
        // A start makes the folders that the file names, as Go's does, while it checks; nothing is to be in them.
        std::fs::create_dir_all(folder.join("var"))?;
    }
    let (code, said) = run(program, folder, &["--config", "absent.yaml"])?;
    ensure!(
        code == Some(1) && said.contains("absent.yaml not exist"),
        "without the file: {code:?}\n{said}"
    );
    Ok(())
}

/// Runs a program in a folder to its end, which must come soon and leave the folder as it was: its status and all it said.
fn run(program: &Path, folder: &Path, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let before = listing(folder)?;
    let mut command = Command::new("timeout");
    command.arg("20").arg(program).args(arguments);
    let output = command.current_dir(folder).stdin(Stdio::null()).output()?;
    let after = listing(folder)?;
    ensure!(
        after == before,
        "{arguments:?} wrote something: {before:#?}, then {after:#?}"
    );
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

/// All that is below a folder, with sizes and times.
fn listing(folder: &Path) -> Result<Vec<String>> {
    let text = call("find", &[&folder.to_string_lossy(), "-printf", "%P %s %T@\n"])?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}
