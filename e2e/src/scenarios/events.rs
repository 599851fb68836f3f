//! What `kubectl describe pod` and `kubectl get events` tell of pods on the edge, with `edged.reportEvent`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Entry, IDLE, bare};
use crate::api::{number, text};
use crate::edge::Keys;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("pod_events", false, pod_events)];

/// Fails its liveness probe once, and the container after it lives.
const SICK: &str = r#"    command: [sh, -c, "trap 'exit 0' TERM; sleep 1000000 & wait"]
    livenessProbe: {exec: {command: [sh, -c, "echo not well; exit 1"]}, periodSeconds: 1, failureThreshold: 3}"#;
/// Ends again and again.
const CRASHING: &str = r#"    command: [sh, -c, "exit 1"]"#;
const MISSING: &str = r"  volumes:
  - {name: absent, hostPath: {path: /nobody/made/it, type: Directory}}";

/// Events of a pod's life, of trouble with its image, its volumes, its probe, of a crash loop; counted when they repeat; those of a
/// time without a link arrive after it, whatever was restarted meanwhile.
fn pod_events(context: &mut Context) -> Result<()> {
    let ours = context.ours();
    let system = context.system()?;
    let outcome = report(system, true).and_then(|()| look(system, ours));
    report(system, false)?;
    outcome
}

/// Turns events on or off.
fn report(system: &mut System, on: bool) -> Result<()> {
    system.edge.stop_edgecore()?;
    system.edge.set_keys(Keys {
        edged: if on {
            vec!["reportEvent: true".to_owned()]
        } else {
            Vec::new()
        },
        ..Keys::default()
    });
    system.join()
}

fn look(system: &mut System, ours: bool) -> Result<()> {
    let namespace = system.namespace("events")?;
    let node = system.edge.name().to_owned();
    let node = node.as_str();
    let pods = [
        bare("fine", node, "", IDLE),
        bare("sick", node, "", SICK),
        bare("crashing", node, "", CRASHING),
        bare(
            "waiting",
            node,
            MISSING,
            &format!("{IDLE}\n    volumeMounts: [{{name: absent, mountPath: /absent}}]"),
        ),
        bare("imageless", node, "", IDLE).replace(crate::edge::BUSYBOX, "localhost:1/no/such:image"),
    ];
    for pod in &pods {
        system.cluster.apply(&namespace, pod)?;
    }
    for (pod, wanted) in [
        ("fine", &["Normal Pulled", "Normal Created", "Normal Started"][..]),
        (
            "sick",
            &[
                "Warning Unhealthy Liveness probe failed: not well",
                "Normal Killing Container main failed liveness probe, will be restarted",
            ],
        ),
        (
            "crashing",
            &["Warning BackOff Back-off restarting failed container main in pod crashing_"],
        ),
        (
            "waiting",
            &["Warning FailedMount MountVolume.SetUp failed for volume \"absent\""],
        ),
        (
            "imageless",
            &[
                "Normal Pulling Pulling image",
                "Warning Failed Failed to pull image",
                "Normal BackOff Back-off pulling image",
                "Warning Failed Error: ErrImagePull",
            ],
        ),
    ] {
        wait::until(&format!("events of {pod}"), seconds(120), || {
            let told = events(system, &namespace, pod)?;
            let missing = wanted
                .iter()
                .find(|wanted| !told.keys().any(|told| told.starts_with(**wanted)));
            ensure!(missing.is_none(), "{missing:?} is not among {:?}", told.keys());
            Ok(Some(()))
        })?;
    }
    let started = &events(system, &namespace, "fine")?["Normal Started Started container main"];
    ensure!(
        text(started, "/involvedObject/fieldPath") == "spec.containers{main}",
        "{started}"
    );
    ensure!(
        text(started, "/source/host") == node && text(started, "/source/component") == "kubelet",
        "{started}"
    );
    let pod = system.pod(&namespace, "fine")?;
    ensure!(
        text(started, "/involvedObject/uid") == text(&pod, "/metadata/uid"),
        "{started}"
    );
    let described = system.cluster.kubectl(&["describe", "pod", "fine", "-n", &namespace])?;
    ensure!(
        described.contains("Started container main"),
        "kubectl describe says\n{described}"
    );
    wait::until("a repeated event is counted", seconds(120), || {
        let told = events(system, &namespace, "crashing")?;
        let mut counts = told
            .iter()
            .filter(|(text, _)| text.starts_with("Warning BackOff"))
            .map(|(_, event)| number(event, "/count"));
        let count = counts.next().context("no BackOff")?;
        ensure!(counts.next().is_none(), "it is there more than once");
        Ok((count > 1).then_some(()))
    })?;
    if ours {
        let fine = system.edge.container(&namespace, "fine", "main")?;
        system.edge.set_link(false)?;
        let told = |system: &System| -> Result<bool> {
            let told = events(system, &namespace, "fine")?;
            Ok(number(&told["Normal Started Started container main"], "/count") > 1)
        };
        let killed = system.edge.ctr(&["task", "kill", "-s", "KILL", &fine.id]);
        let started = format!("container started pod={namespace}/fine ");
        wait::until("the container is started again", seconds(30), || {
            Ok((system.edge.log().matches(&started).count() > 1).then_some(()))
        })?;
        killed?;
        system.edge.stop_edgecore()?;
        system.edge.start_edgecore()?;
        system.edge.set_link(true)?;
        wait::until(
            "what happened without a link, before a restart, is told",
            seconds(60),
            || Ok(told(system)?.then_some(())),
        )?;
    }
    system.clean(&namespace)
}

/// The events of a pod by type, reason and message.
fn events(system: &System, namespace: &str, pod: &str) -> Result<BTreeMap<String, Value>> {
    let all = system.api().list(&format!("/api/v1/namespaces/{namespace}/events"))?;
    let of_pod = all
        .into_iter()
        .filter(|event| text(event, "/involvedObject/name") == pod);
    Ok(of_pod
        .map(|event| {
            let words = [text(&event, "/type"), text(&event, "/reason"), text(&event, "/message")];
            (words.join(" "), event)
        })
        .collect())
}
