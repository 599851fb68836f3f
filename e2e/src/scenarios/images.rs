//! Images from a registry that asks for a password: when they are pulled, and with what.

use anyhow::{Context as _, Result, ensure};

use super::{Entry, IDLE, bare};
use crate::api::{self, text};
use crate::edge::BUSYBOX;
use crate::process::Daemon;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("image_pull_policies", false, image_pull_policies)];

/// Where the registry listens, on the edge: to its own host containerd speaks plain HTTP, whatever its configuration.
const SERVER: &str = "127.0.0.1:5000";
const IMAGE: &str = "127.0.0.1:5000/private/busybox:1";
const USER: &str = "edge";
const PASSWORD: &str = "sesame";
/// For the spec of a pod.
const SECRET: &str = "  imagePullSecrets: [{name: registry}]";
/// The time in which a pod must run or say why not. A kubelet that lacks the secret at first tries again after 10 s.
const SEEN: u64 = 60;

/// The image is pulled with the pod's secret and not without. Once it is there `IfNotPresent` leaves the registry alone and
/// `Always` asks it; `Never` does not, though the image is absent.
fn image_pull_policies(context: &mut Context) -> Result<()> {
    let settings = context.settings.clone();
    let system = context.system()?;
    let mut command = system.edge.command(&settings.python);
    command.arg(settings.root.join("e2e/registry/registry.py")).arg(IMAGE);
    command.arg(settings.images.join("busybox.tar")).args([USER, PASSWORD]);
    let mut registry = Daemon::start(system.edge.folder(), "registry", &mut command)?;
    let outcome = pulls(system, &registry);
    registry.kill();
    // After a failure, too: it begins without the image.
    let removed = system.edge.ctr(&["image", "rm", IMAGE]);
    outcome.with_context(|| registry.tail())?;
    removed.map(drop)
}

fn pulls(system: &System, registry: &Daemon) -> Result<()> {
    let page = format!("http://{USER}:{PASSWORD}@{SERVER}/v2/");
    wait::quietly("an answer of the registry", seconds(20), || {
        system.edge.fetch(&page).map(Some)
    })?;
    let namespace = system.namespace("pulls")?;
    let asked = |status: &str| manifests(registry, status);

    let before = asked("")?;
    create(system, &namespace, "never", "Never", SECRET)?;
    waits(system, &namespace, "never", &["ErrImageNeverPull"])?;
    ensure!(asked("")? == before, "Never asks the registry");

    let (refused, allowed) = (asked("401")?, asked("200")?);
    create(system, &namespace, "stranger", "IfNotPresent", "")?;
    waits(system, &namespace, "stranger", &["ErrImagePull", "ImagePullBackOff"])?;
    ensure!(asked("401")? > refused, "the registry refused nobody");
    ensure!(asked("200")? == allowed, "a manifest without a secret");
    system.api().delete(&api::pods_path(&namespace))?;
    wait::until("the pods that wait are gone", seconds(SEEN), || {
        Ok(system.pods(&namespace)?.is_empty().then_some(()))
    })?;

    system.cluster.kubectl(&[
        "create",
        "secret",
        "docker-registry",
        "registry",
        "--namespace",
        &namespace,
        "--docker-server",
        SERVER,
        "--docker-username",
        USER,
        "--docker-password",
        PASSWORD,
    ])?;
    runs(system, &namespace, "first", "IfNotPresent")?;
    ensure!(asked("200")? > allowed, "the image came from elsewhere");

    let before = asked("")?;
    runs(system, &namespace, "present", "IfNotPresent")?;
    ensure!(
        asked("")? == before,
        "IfNotPresent asks the registry for an image that is there"
    );

    let before = asked("200")?;
    runs(system, &namespace, "always", "Always")?;
    ensure!(
        asked("200")? > before,
        "Always does not ask the registry for an image that is there"
    );
    system.clean(&namespace)
}

/// How many requests for a manifest the registry has answered with this status; "" for any.
fn manifests(registry: &Daemon, status: &str) -> Result<usize> {
    let log = std::fs::read_to_string(registry.log())?;
    let answer = format!("\" {status}");
    let asked = log.lines().filter(|line| line.contains("/manifests/"));
    Ok(asked.filter(|line| line.contains(&answer)).count())
}

/// Creates a pod of the registry's image.
fn create(system: &System, namespace: &str, name: &str, policy: &str, spec: &str) -> Result<()> {
    let pod = bare(name, system.edge.name(), spec, IDLE)
        .replace(BUSYBOX, IMAGE)
        .replace("IfNotPresent", policy);
    system.cluster.apply(namespace, &pod)
}

/// Waits until a pod says that it waits for one of these reasons, and for which image.
fn waits(system: &System, namespace: &str, name: &str, reasons: &[&str]) -> Result<()> {
    let what = format!("{name} waits for its image");
    system.until_pod(&what, (namespace, name), SEEN, |pod| {
        let waiting = pod.pointer("/status/containerStatuses/0/state/waiting")?;
        (reasons.contains(&text(waiting, "/reason")) && text(waiting, "/message").contains(IMAGE)).then_some(())
    })
}

/// Creates a pod with the secret, waits until it runs and looks whether its image is the registry's.
fn runs(system: &System, namespace: &str, name: &str, policy: &str) -> Result<()> {
    create(system, namespace, name, policy, SECRET)?;
    let what = format!("{name} Running by {policy}");
    system.until_pod(&what, (namespace, name), SEEN, |pod| api::is_ready(pod).then_some(()))?;
    let container = system.edge.container(namespace, name, "main")?;
    // What an exec says may be lost when it ends at once.
    wait::quietly(&format!("the registry's file in {name}"), seconds(20), || {
        let file = system.edge.exec(&container, &["cat", "/pulled"])?;
        Ok((file == "from the registry\n").then_some(()))
    })
}
