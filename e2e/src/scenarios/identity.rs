//! Certificates and tokens: renewed in time, issued anew, wrong, expired. Each trouble is one clear line, no trouble touches a
//! container, and what is put right is used without a restart by hand where edgecore can know of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use proto::join::ServerNames;

use super::authorizer::{door_of, now};
use super::faults::{no_restarts, workload};
use super::kubectl::Transport;
use super::stream_ends::Running;
use super::{Entry, needs_our_edge, our_edge};
use crate::api::text;
use crate::cloud::http_body;
use crate::hub::Card;
use crate::system::{Context, System};
use crate::wait::{self, pause, seconds};

pub(super) const LIST: &[Entry] = &[
    ("certificate_rotation", false, certificate_rotation),
    ("advertise_address_changed", false, advertise_address_changed),
    ("certificate_troubles", false, certificate_troubles),
];

/// Life of a certificate in `certificate_rotation`.
const LIFE: u64 = 180;
/// The longest time that a node may be without a session while its certificate is renewed.
const GAP: Duration = Duration::from_secs(2);
/// Between two looks at cloudcore's metrics.
const LOOK: Duration = Duration::from_millis(50);

/// edgecore starts without a certificate, with a token.
fn join_anew(system: &mut System) -> Result<()> {
    system.edge.stop_edgecore()?;
    for file in system.edge.certificate_files() {
        let _ = std::fs::remove_file(file);
    }
    system.join()?;
    // The Node may still be shown as Ready from before.
    let [_, certificate, _] = system.edge.certificate_files();
    wait::until("a certificate", seconds(30), || Ok(certificate.exists().then_some(())))?;
    wait::until("a session", seconds(60), || Ok(connected(system)?.then_some(())))
}

/// Certificates of 3 minutes are renewed without a gap. The gap is measured at the receiver, as the longest time for which
/// cloudcore's own count of sessions (looked at every 50 ms) was 0. The longest time between renewals of the node's lease, which edgecore
/// renews through the session every 10 s, is printed. A command through the tunnel that began before goes on, and a new one works.
fn certificate_rotation(context: &mut Context) -> Result<()> {
    // Go's edge ends its session to renew its certificate, and dials again half a minute later.
    let (settles, most) = if our_edge(context)? {
        (seconds(12), GAP)
    } else {
        (seconds(60), seconds(60))
    };
    let system = context.system()?;
    let (namespace, before) = workload(system, "rotation", 1)?;
    system.cloud.set_hub_key(&format!("edgeCertSigningSeconds: {LIFE}"));
    system.cloud.stop()?;
    system.cloud.start()?;
    join_anew(system)?;
    let pods = system.pods(&namespace)?;
    let pod = crate::api::name(pods.first().context("a pod")?).to_owned();
    let mut exec = talking(system, &namespace, &pod)?;
    let [_, certificate, _] = system.edge.certificate_files();
    let (first, start) = (std::fs::read(&certificate)?, Instant::now());
    let lease = format!(
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}",
        system.edge.name()
    );
    let (mut absent, mut gap) = (None, Duration::ZERO);
    let (mut renewed, mut renewal, mut late) = (Instant::now(), String::new(), Duration::ZERO);
    let mut rotated = None;
    while start.elapsed() < seconds(LIFE) {
        if connected(system)? {
            absent = None;
        } else {
            gap = gap.max(absent.get_or_insert_with(Instant::now).elapsed() + LOOK);
        }
        let time = text(&system.api().must(&lease)?, "/spec/renewTime").to_owned();
        if time != renewal {
            (renewal, renewed) = (time, Instant::now());
        }
        late = late.max(renewed.elapsed());
        if rotated.is_none() && std::fs::read(&certificate)? != first {
            rotated = Some(start.elapsed());
        }
        // The new session has to have lived for a moment.
        if rotated.is_some_and(|at| start.elapsed() > at + settles) {
            break;
        }
        pause(LOOK);
    }
    let at = rotated.context("the certificate was not renewed in its time")?;
    println!(
        "    renewed after {:.0} s; longest time without a session {gap:.2?}, between lease renewals {late:.1?}",
        at.as_secs_f64()
    );
    exec.say("after\n")?;
    let heard = exec.line()?;
    ensure!(heard == "after\n", "a command that began before the renewal: {heard:?}");
    drop(exec);
    drop(talking(system, &namespace, &pod)?);
    ensure!(gap <= most, "the node had no session for {gap:?}");
    ensure!(system.edge.containers(&namespace)? == before, "containers changed");
    system.cloud.set_hub_key("");
    system.cloud.stop()?;
    system.cloud.start()?;
    join_anew(system)?;
    system.clean(&namespace)
}

/// A command whose input comes back as its output, once it does.
fn talking(system: &System, namespace: &str, pod: &str) -> Result<Running> {
    wait::until("exec works", seconds(60), || {
        let exec = ["exec", "-i", "-n", namespace, pod, "--", "cat"];
        let mut exec = Running::start(system, &exec, Transport::WebSocket)?;
        exec.say("before\n")?;
        Ok((exec.line()? == "before\n").then_some(exec))
    })
}

fn connected(system: &System) -> Result<bool> {
    let metrics = http_body(&system.cloud.monitor(), "/metrics")?;
    let count = metrics
        .lines()
        .find(|line| line.starts_with("KubeEdge_CloudHub_connected_nodes"))
        .and_then(|line| line.rsplit(' ').next())
        .context("cloudcore's metrics do not count sessions")?;
    Ok(count != "0")
}

/// The address that `advertise_address_changed` adds.
const ADDED: &str = "10.251.251.251";

/// What a certificate is good for, as secrets hold it.
fn names(stored: &str) -> Result<ServerNames> {
    let der = base64::engine::general_purpose::STANDARD.decode(stored)?;
    ServerNames::of_certificate(&der).context("the server certificate cannot be read")
}

/// Another advertised address: the server certificate is issued anew by the same CA and holds the old names too; edges come back.
fn advertise_address_changed(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let (namespace, before) = workload(system, "address", 1)?;
    let secret = |name: &str, key: &str| -> Result<String> {
        let secret = system
            .api()
            .must(&format!("/api/v1/namespaces/kubeedge/secrets/{name}"))?;
        Ok(text(&secret, key).to_owned())
    };
    let ca = secret("casecret", "/data/cadata")?;
    let server = secret("cloudcoresecret", "/data/cloudcoredata")?;
    let system = context.system()?;
    let log = system.cloud.log().len();
    system.cloud.advertise(ADDED.to_owned());
    system.cloud.stop()?;
    system.cloud.start()?;
    wait::until(
        "the edge is back",
        seconds(120),
        || Ok(connected(system)?.then_some(())),
    )?;
    let secret = |name: &str, key: &str| -> Result<String> {
        let secret = system
            .api()
            .must(&format!("/api/v1/namespaces/kubeedge/secrets/{name}"))?;
        Ok(text(&secret, key).to_owned())
    };
    ensure!(secret("casecret", "/data/cadata")? == ca, "the CA changed");
    let issued = secret("cloudcoresecret", "/data/cloudcoredata")?;
    ensure!(issued != server, "the server certificate did not change");
    let (old, new) = (names(&server)?, names(&issued)?);
    let added: std::net::IpAddr = ADDED.parse()?;
    ensure!(
        new.contain(&old) && new.addresses.contains(&added),
        "the new server certificate is for {new:?}, the old one was for {old:?}"
    );
    let lines = system.cloud.log();
    ensure!(
        lines
            .get(log..)
            .unwrap_or_default()
            .contains("server certificate issued"),
        "the log does not tell of a new certificate"
    );
    system.node_ready(seconds(60))?;
    ensure!(system.edge.containers(&namespace)? == before, "containers changed");
    system.clean(&namespace)
}

/// What these troubles are about.
pub(super) const SAYS: &str = "saying what is wrong in one line";

/// The trouble that ends while edgecore runs.
const FOREIGN: &str = "another node's certificate";

/// A trouble: a name, the token in the file, the certificate, what the line says.
type Trouble = (&'static str, String, Option<Card>, &'static str);

/// Wrong tokens and wrong certificates. A clock that is a year off is, to TLS, a certificate whose time is a year off: it is played
/// by such certificates, as a machine has one clock for all its programs. The right certificate in the place of another node's is used
/// without a restart. In the end an expired certificate with a good token beside it: that is used by itself, the node is Ready again, its
/// containers the same.
fn certificate_troubles(context: &mut Context) -> Result<()> {
    needs_our_edge(context, SAYS)?;
    let system = context.system()?;
    let (namespace, before) = workload(system, "trouble", 1)?;
    let door = door_of(system)?;
    let node = system.edge.name().to_owned();
    let (hour, year) = (seconds(3600), seconds(365 * 86_400));
    let good = system.cloud.token()?;
    let wrong = good
        .rsplit_once('.')
        .map(|(head, _)| format!("{head}.AAAA"))
        .context("token")?;
    let foreign = format!("{}{}", "0".repeat(64), good.get(64..).context("token")?);
    let none = String::new();
    let expired = || door.forge(&node, now().saturating_sub(year), hour, "[2]");
    let troubles: [Trouble; 7] = [
        (
            "a wrong token",
            wrong,
            None,
            "cloudcore refuses the token: get the right one",
        ),
        (
            "a token of another cluster",
            foreign,
            None,
            "the token belongs to another cluster",
        ),
        (
            "an expired token",
            door.token(now().saturating_sub(hour))?,
            None,
            "the token, which has expired",
        ),
        ("no token", none.clone(), None, "no certificate yet"),
        (
            FOREIGN,
            none.clone(),
            Some(door.forge("another", now(), hour, "[2]")?),
            "the certificate belongs to system:node:another",
        ),
        (
            "an expired certificate",
            none.clone(),
            Some(expired()?),
            "this node's certificate is not valid now",
        ),
        (
            "a clock a year behind",
            none,
            Some(door.forge(&node, now() + year, hour, "[2]")?),
            "this node's certificate is not valid now",
        ),
    ];
    let last = expired()?;
    let kept: Vec<(std::path::PathBuf, Vec<u8>)> = system
        .edge
        .certificate_files()
        .into_iter()
        .map(|path| std::fs::read(&path).map(|bytes| (path, bytes)))
        .collect::<Result<_, _>>()?;
    for trouble in troubles {
        let what = trouble.0;
        begin(system, trouble)?;
        ensure!(
            system.edge.containers(&namespace)? == before,
            "{what}: containers changed"
        );
        if what == FOREIGN {
            ensure!(!connected(system)?, "{what}: there is a session");
        }
        for (path, bytes) in &kept {
            std::fs::write(path, bytes)?;
        }
        if what == FOREIGN {
            // edgecore looks at the files again after at most 30 s.
            wait::until("a session, by the certificate that was put back", seconds(60), || {
                Ok(connected(system)?.then_some(()))
            })?;
        }
    }
    let (forged, _) = last.pem();
    let what = "an expired certificate beside a token";
    begin(system, (what, good, Some(last), "the certificate expired at"))?;
    let [_, certificate, _] = system.edge.certificate_files();
    wait::until("another certificate, by the token", seconds(30), || {
        Ok((std::fs::read_to_string(&certificate)? != forged).then_some(()))
    })?;
    wait::until("a session", seconds(60), || Ok(connected(system)?.then_some(())))?;
    system.node_ready(seconds(60))?;
    ensure!(system.edge.containers(&namespace)? == before, "containers changed");
    no_restarts(system, &namespace)?;
    system.clean(&namespace)
}

/// Starts edgecore with this token, and this certificate in the place of its own.
fn begin(system: &mut System, (what, token, card, said): Trouble) -> Result<()> {
    system.edge.stop_edgecore()?;
    let [_, certificate, key] = system.edge.certificate_files();
    match card {
        Some(card) => {
            let (certificate_pem, key_pem) = card.pem();
            std::fs::write(certificate, certificate_pem)?;
            std::fs::write(key, key_pem)?;
        }
        None => {
            std::fs::remove_file(certificate)?;
            std::fs::remove_file(key)?;
        }
    }
    let mut uplink = system.cloud.uplink()?;
    uplink.token = token;
    system.edge.write_config(&uplink)?;
    one_line(system, what, said)
}

/// Starts edgecore; it says this once in the time in which it tries several times, and runs on.
pub(super) fn one_line(system: &mut System, what: &str, said: &str) -> Result<()> {
    let from = system.edge.log().len();
    system.edge.start_edgecore()?;
    let lines = |system: &System| -> Vec<String> {
        let log = system.edge.log();
        let new = log.get(from..).unwrap_or_default();
        new.lines()
            .filter(|line| line.contains(said))
            .map(str::to_owned)
            .collect()
    };
    wait::quietly(&format!("{what}: a line with {said:?}"), seconds(60), || {
        Ok((!lines(system).is_empty()).then_some(()))
    })?;
    pause(seconds(4));
    let found = lines(system);
    ensure!(
        found.len() == 1,
        "{what}: said {} times: {}",
        found.len(),
        found.join("\n")
    );
    ensure!(system.edge.edgecore()?.alive(), "{what}: edgecore ended");
    println!("    {what}: {}", found.join(""));
    Ok(())
}
