//! Installing an edge as an operator does, on hosts where nothing is installed: `keadm join` under systemd and without a service
//! manager, `keadm reset`. Only ours: the Go tool wants an image registry.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::{Entry, bare};
use crate::api::{self, text};
use crate::edge::{FreshHost, Init, PROGRAMS, Uplink};
use crate::system::{Context, Skip, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("install_systemd", false, systemd),
    ("install_detached", false, detached),
    ("install_openrc", true, openrc),
];

/// What the detached edgecore leaves and `keadm reset` takes away.
const PID_FILE: &str = "/run/edgecore.pid";
const LOG: &str = "/var/log/kubeedge/edgecore.log";
const UNIT: &str = "/etc/systemd/system/edgecore.service";

/// Join, restart, journal, a kill and the restart after it, reset, join from an archive; the containers stay what they are
/// until the reset.
fn systemd(context: &mut Context) -> Result<()> {
    let host = boot(context, "install-1", Init::Systemd)?;
    let system = context.system()?;
    let uplink = uplink_for(system, &host)?;
    let installed = join(&host, &uplink, &[])?;
    steps(
        &installed,
        &[
            "Generate systemd service file",
            "Run EdgeCore daemon",
            "Install Complete!",
        ],
    )?;
    ready(system, &host)?;
    ensure!(host.exists(UNIT)?, "{UNIT} is not there");
    ensure!(
        host.run("systemctl", &["is-enabled", "edgecore"])?.trim() == "enabled",
        "the unit does not start with the host"
    );
    let (namespace, before) = workload(system, &host, "systemd")?;

    host.run("systemctl", &["restart", "edgecore"])?;
    wait::until("edgecore well after systemctl restart", seconds(60), || well(&host))?;
    same(&host, &before, "systemctl restart edgecore")?;

    let journal = journal(&host, "edgecore")?;
    ensure!(
        journal.contains(" INFO ") && journal.contains("Started"),
        "the journal has not edgecore's lines:\n{journal}"
    );
    ensure!(!journal.contains(&uplink.token), "the journal has the join token");

    let old = main_pid(&host, "edgecore")?;
    host.run("kill", &["-9", &old])?;
    // After 10 s.
    wait::until("systemd has started the killed edgecore again", seconds(100), || {
        let new = main_pid(&host, "edgecore")?;
        Ok((new != "0" && new != old).then_some(()))
    })?;
    wait::until("edgecore well after the kill", seconds(60), || well(&host))?;
    same(&host, &before, "kill -9 of edgecore")?;
    system.api().delete(&format!("/api/v1/namespaces/{namespace}"))?;
    wait::until("the workload's containers gone", seconds(60), || {
        Ok(host.tasks()?.is_empty().then_some(()))
    })?;

    reset(&host)?;
    ensure!(!host.exists(UNIT)?, "{UNIT} is left");
    ensure!(
        !host.output("systemctl", &["status", "edgecore"])?.status.success(),
        "edgecore is still a service"
    );
    system.api().delete(&api::node_path(host.name()))?;

    let archive = pack(&host)?;
    let installed = join(&host, &uplink, &["--tarballpath", &archive])?;
    steps(&installed, &["Copy resources", "Install Complete!"])?;
    ready(system, &host)?;
    reset(&host)?;
    forget(system, &host)
}

/// Without a service manager: a process of its own with a pid file and a log, which goes on when keadm has ended.
fn detached(context: &mut Context) -> Result<()> {
    let host = boot(context, "install-2", Init::Plain)?;
    let keadm = context.settings.edge.join("keadm");
    let system = context.system()?;
    let uplink = uplink_for(system, &host)?;
    gettoken(system, &keadm)?;
    let refusals = |system: &System| system.cloud.log().matches("no certificate issued").count();
    let before = refusals(system);
    write_scripts(&host)?;
    let installed = join(&host, &uplink, OPTIONS)?;
    ensure!(
        refusals(system) == before,
        "cloudcore complains of a good join:\n{}",
        system.cloud.log()
    );
    steps(
        &installed,
        &[
            "Executing pre-run script",
            "No service manager",
            "Run EdgeCore daemon",
            "Install Complete!",
        ],
    )?;
    ready(system, &host)?;
    obeyed(system, &host)?;
    let pid = host.run("cat", &[PID_FILE])?;
    let name = host.run("cat", &[&format!("/proc/{}/comm", pid.trim())])?;
    ensure!(name.trim() == "edgecore", "{PID_FILE} names {name:?}");
    let log = host.run("cat", &[LOG])?;
    ensure!(log.contains(" INFO "), "{LOG} has not edgecore's lines:\n{log}");
    ensure!(!log.contains(&uplink.token), "{LOG} has the join token");
    let (namespace, _) = workload(system, &host, "detached")?;
    system.api().delete(&format!("/api/v1/namespaces/{namespace}"))?;
    wait::until("the workload's containers gone", seconds(60), || {
        Ok(host.tasks()?.is_empty().then_some(()))
    })?;
    reset(&host)?;
    ensure!(!host.exists(PID_FILE)?, "{PID_FILE} is left");
    forget(system, &host)
}

/// What [`detached`] joins with beside the usual.
const OPTIONS: &[&str] = &[
    "--pre-run",
    "/root/pre-run",
    "--post-run",
    "/root/post-run",
    "--labels",
    "site=harbour",
    "--set",
    "modules.edgeHub.heartbeat=20",
];

/// The scripts of [`OPTIONS`]: each writes its name, if it is run at its time.
fn write_scripts(host: &FreshHost) -> Result<()> {
    const SCRIPT: &str = r#"echo '! test -e /etc/kubeedge/config && echo pre >> /root/scripts-ran' > /root/pre-run
echo 'test -s /etc/kubeedge/config/edgecore.yaml && echo post >> /root/scripts-ran' > /root/post-run"#;
    host.run("bash", &["-ec", SCRIPT]).map(drop)
}

/// What [`OPTIONS`] ask for was done.
fn obeyed(system: &System, host: &FreshHost) -> Result<()> {
    let ran = host.run("cat", &["/root/scripts-ran"])?;
    ensure!(ran == "pre\npost\n", "--pre-run and --post-run: {ran:?}");
    let node = system.api().must(&api::node_path(host.name()))?;
    ensure!(text(&node, "/metadata/labels/site") == "harbour", "--labels: {node}");
    let file = host.run("cat", &["/etc/kubeedge/config/edgecore.yaml"])?;
    ensure!(
        file.lines().any(|line| line.trim() == "heartbeat: 20"),
        "--set is not in edgecore.yaml"
    );
    Ok(())
}

/// `keadm gettoken` prints what the secret holds and nothing else; without a kubeconfig or the secret it says what is missing.
fn gettoken(system: &System, keadm: &Path) -> Result<()> {
    const SECRET: &str = "/api/v1/namespaces/kubeedge/secrets/tokensecret";
    let get = |kubeconfig: &Path| {
        let mut command = Command::new(keadm);
        command.args(["gettoken", "--kube-config"]).arg(kubeconfig);
        command.output().context("keadm gettoken")
    };
    let kubeconfig = system.cluster.kubeconfig();
    let printed = get(kubeconfig)?;
    // What it prints is a secret: not for the message.
    ensure!(
        printed.status.success() && printed.stdout == format!("{}\n", system.cloud.token()?).as_bytes(),
        "keadm gettoken does not print the secret's token: {}",
        String::from_utf8_lossy(&printed.stderr)
    );
    let secret = system.api().must(SECRET)?;
    system.api().delete(SECRET)?;
    let without = get(kubeconfig);
    // As it was: cloudcore writes it only now and then.
    let again = json!({"apiVersion": "v1", "kind": "Secret", "type": text(&secret, "/type"),
        "metadata": {"name": "tokensecret", "namespace": "kubeedge"}, "data": secret.get("data")});
    system.api().create("/api/v1/namespaces/kubeedge/secrets", &again)?;
    let absent = Path::new("/nowhere/kubeconfig");
    for (what, output, says) in [
        (
            "gettoken without the secret",
            without?,
            "kubeedge/tokensecret not found",
        ),
        ("gettoken without the file", get(absent)?, "/nowhere/kubeconfig"),
    ] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{what}: {}\n{said}", output.status);
        one_line(what, said.lines(), says)?;
    }
    Ok(())
}

/// Under OpenRC, which Debian has as packages: join, a kill and the restart after it, `rc-service restart`, reset. It is not PID 1
/// here, and need not be.
fn openrc(context: &mut Context) -> Result<()> {
    // Beside the images, where `e2e/setup` puts what it fetches.
    let packages = context.settings.images.with_file_name("openrc");
    if !std::fs::read_dir(&packages).is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".deb")))
    }) {
        bail!(Skip(format!(
            "there are no packages in {}: apt-get download openrc librc1 libeinfo1 there",
            packages.display()
        )));
    }
    let host = boot(context, "install-4", Init::Plain)?;
    host.run("bash", &["-ec", OPENRC, "openrc", &packages.to_string_lossy()])?;
    let system = context.system()?;
    let uplink = uplink_for(system, &host)?;
    let installed = join(&host, &uplink, &[])?;
    steps(
        &installed,
        &[
            "Generate OpenRC service file",
            "Run EdgeCore daemon",
            "Install Complete!",
        ],
    )?;
    ready(system, &host)?;
    let levels = host.run("rc-update", &["show", "default"])?;
    ensure!(
        levels.contains("edgecore"),
        "it does not start with the host: {levels:?}"
    );
    let (namespace, before) = workload(system, &host, "openrc")?;

    host.run("rc-service", &["edgecore", "restart"])?;
    wait::until("edgecore well after rc-service restart", seconds(60), || well(&host))?;
    same(&host, &before, "rc-service edgecore restart")?;

    let old = host.run("pidof", &["edgecore"])?;
    host.run("kill", &["-9", old.trim()])?;
    wait::until("OpenRC has started the killed edgecore again", seconds(60), || {
        Ok((host.run("pidof", &["edgecore"])? != old).then_some(()))
    })?;
    wait::until("edgecore well after the kill", seconds(60), || well(&host))?;
    same(&host, &before, "kill -9 of edgecore")?;
    let log = host.run("cat", &[LOG])?;
    ensure!(log.contains(" INFO "), "{LOG} has not edgecore's lines:\n{log}");
    system.api().delete(&format!("/api/v1/namespaces/{namespace}"))?;
    wait::until("the workload's containers gone", seconds(60), || {
        Ok(host.tasks()?.is_empty().then_some(()))
    })?;
    reset(&host)?;
    ensure!(!host.exists("/etc/init.d/edgecore")?, "the script is left");
    ensure!(
        !host.run("rc-update", &["show", "default"])?.contains("edgecore"),
        "it still starts with the host"
    );
    forget(system, &host)
}

/// Unpacks OpenRC's packages, without the machine's own init scripts, and begins its default run level.
const OPENRC: &str = r#"rm -rf /etc/init.d; mkdir -p /etc/init.d
for package in "$1"/*.deb; do dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C /; done
mkdir -p /etc/runlevels/default; ldconfig; openrc default; [ -d /run/openrc ]"#;

pub(super) fn boot(context: &Context, name: &str, init: Init) -> Result<FreshHost> {
    if !context.settings.edge.join("keadm").is_file() {
        bail!(Skip(format!(
            "there is no keadm in {}",
            context.settings.edge.display()
        )));
    }
    if init == Init::Systemd && !Path::new("/lib/systemd/systemd").exists() {
        bail!(Skip("systemd is not installed".into()));
    }
    let host = FreshHost::start(&context.settings, context.folder(), name, init)?;
    if init == Init::Systemd {
        let state = host.output("systemctl", &["is-system-running", "--wait"])?;
        println!("    systemd is {}", String::from_utf8_lossy(&state.stdout).trim());
    }
    Ok(host)
}

pub(super) fn uplink_for(system: &mut System, host: &FreshHost) -> Result<Uplink> {
    if system.cloud.advertise(host.cloud_address()) {
        system.cloud.stop()?;
        system.cloud.start()?;
    }
    system.cloud.uplink()
}

pub(super) fn keadm_join(host: &FreshHost, uplink: &Uplink, more: &[&str]) -> Result<Output> {
    let (address, port) = (
        format!("{}:{}", host.cloud_address(), uplink.websocket),
        uplink.https.to_string(),
    );
    let runtime = host.runtime();
    let mut line = vec![
        "join",
        "--cloudcore-ipport",
        &address,
        "--certport",
        &port,
        "--token",
        &uplink.token,
    ];
    line.extend(["--edgenode-name", host.name(), "--remote-runtime-endpoint", &runtime]);
    // A flag that is given again counts.
    line.extend_from_slice(more);
    host.output(&format!("{PROGRAMS}/keadm"), &line)
}

fn join(host: &FreshHost, uplink: &Uplink, more: &[&str]) -> Result<String> {
    let start = std::time::Instant::now();
    let output = keadm_join(host, uplink, more)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("    keadm join: {:.2} s", start.elapsed().as_secs_f64());
    ensure!(output.status.success(), "keadm join: {}\n{said}", output.status);
    ensure!(!said.contains(&uplink.token), "keadm printed the token");
    Ok(said)
}

/// The steps were printed in order, each with its number.
fn steps(said: &str, wanted: &[&str]) -> Result<()> {
    let numbered: Vec<&str> = said
        .lines()
        .filter(|line| {
            line.split_once(". ")
                .is_some_and(|(number, _)| number.parse::<u32>().is_ok())
        })
        .collect();
    for (index, line) in numbered.iter().enumerate() {
        ensure!(
            line.starts_with(&format!("{}. ", index + 1)),
            "step {line:?} is out of order:\n{said}"
        );
    }
    let mut rest = numbered.iter();
    for text in wanted {
        ensure!(
            rest.any(|line| line.contains(text)),
            "no step {text:?}, or out of order:\n{said}"
        );
    }
    Ok(())
}

/// keadm ends when the node is Ready: nothing is waited for.
fn ready(system: &System, host: &FreshHost) -> Result<()> {
    let node = system.api().must(&api::node_path(host.name()))?;
    ensure!(
        api::condition(&node, "Ready") == "True",
        "keadm has ended, the node is not Ready: {node}"
    );
    Ok(())
}

/// Runs a pod on the host; the second value is all that its containerd runs then.
fn workload(system: &System, host: &FreshHost, name: &str) -> Result<(String, Vec<String>)> {
    let namespace = system.namespace(name)?;
    system
        .cluster
        .apply(&namespace, &bare("main", host.name(), "", super::IDLE))?;
    system.until_pod("pod Running", (&namespace, "main"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    let tasks = host.tasks()?;
    ensure!(tasks.len() == 2, "not one sandbox and one container: {tasks:?}");
    Ok((namespace, tasks))
}

fn well(host: &FreshHost) -> Result<Option<()>> {
    let url = "http://127.0.0.1:10350/readyz";
    Ok(host
        .output("curl", &["-sf", "-m", "3", url])?
        .status
        .success()
        .then_some(()))
}

fn same(host: &FreshHost, before: &[String], what: &str) -> Result<()> {
    let after = host.tasks()?;
    ensure!(
        after == before,
        "{what} changed the containers: {before:?}, then {after:?}"
    );
    Ok(())
}

pub(super) fn main_pid(host: &FreshHost, unit: &str) -> Result<String> {
    let text = host.run("systemctl", &["show", "-p", "MainPID", "--value", unit])?;
    Ok(text.trim().to_owned())
}

pub(super) fn journal(host: &FreshHost, unit: &str) -> Result<String> {
    host.run("journalctl", &["-u", unit, "-o", "cat", "--no-pager"])
}

fn reset(host: &FreshHost) -> Result<()> {
    host.run(&format!("{PROGRAMS}/keadm"), &["reset", "edge", "--force"])?;
    for path in ["/etc/kubeedge", "/var/lib/kubeedge", "/var/log/kubeedge"] {
        ensure!(!host.exists(path)?, "keadm reset left {path}");
    }
    ensure!(
        !host.output("pidof", &["edgecore"])?.status.success(),
        "keadm reset left edgecore running"
    );
    Ok(())
}

pub(super) fn forget(system: &System, host: &FreshHost) -> Result<()> {
    system.api().delete(&api::node_path(host.name()))
}

/// An archive with edgecore as releases are laid out.
fn pack(host: &FreshHost) -> Result<String> {
    const SCRIPT: &str = r#"folder=/root/kubeedge-v1.23.1-linux-amd64; mkdir -p $folder/edge
cp "$1/edgecore" $folder/edge/; cd /root; tar -cf kubeedge.tar.gz -I 'gzip -1' "${folder#/root/}"; rm -r $folder"#;
    host.run("bash", &["-ec", SCRIPT, "pack", PROGRAMS])?;
    Ok("/root/kubeedge.tar.gz".to_owned())
}

/// Exactly one line, and it says what it should.
pub(super) fn one_line<'a>(what: &str, lines: impl Iterator<Item = &'a str>, says: &str) -> Result<()> {
    let lines: Vec<&str> = lines.collect();
    let [line] = lines.as_slice() else {
        bail!("{what}: not one line but {lines:#?}");
    };
    ensure!(line.contains(says), "{what}: {line:?} does not say {says:?}");
    println!("    {what}: {line}");
    Ok(())
}
