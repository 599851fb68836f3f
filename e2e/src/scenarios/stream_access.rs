//! Who may use the stream server: whom a kubelet would let in, and everybody where that was turned off. Go's lets in everybody.

use std::process::Command;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nix::unistd::Pid;

use super::streams::{checksum, with_stream_key};
use super::{Entry, IDLE, bare, needs_our_cloud};
use crate::edge::EdgeHost;
use crate::process;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("streams_access", false, access), ("streams_access_off", false, off)];

const ASKED: &str = "asking callers who they are";

/// The status that the stream server answers with when somebody asks the edge's kubelet; `more` are curl's arguments.
fn ask_for(system: &System, path: &str, more: &[&str]) -> Result<String> {
    process::run(asking(&system.edge, &system.cloud.stream(), path).args(more))
}

/// A curl that asks an edge's kubelet by way of this stream server, and says the status of the answer.
pub(super) fn asking(edge: &EdgeHost, server: &str, path: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sk", "-m", "35", "-o", "/dev/null", "-w", "%{http_code}", "-H"]);
    command.arg(format!("Host: {}:10351", edge.number().address()));
    command.arg(format!("https://{server}/{path}"));
    command
}

/// Waits until the stream server answers somebody who asks for the edge's /healthz with this status.
pub(super) fn until_status(system: &System, what: &str, more: &[&str], wanted: &str) -> Result<()> {
    wait::until(what, seconds(50), || {
        let status = ask_for(system, "healthz", more)?;
        ensure!(status == wanted, "{status}");
        Ok(Some(()))
    })
}

/// Nobody without credentials is let in; a token with the right is, and the API server's certificate. What a caller shows goes no
/// further: the edge never sees the token.
fn access(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, ASKED)?;
    let pki = context.folder().join("cluster/pki");
    let system = context.system()?;
    let namespace = system.namespace("access")?;
    let token = token_of(system, &namespace, "caller")?;
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let certificate = |name: &str| {
        let file = |end: &str| pki.join(format!("{name}.{end}")).to_string_lossy().into_owned();
        ["--cert".to_owned(), file("crt"), "--key".to_owned(), file("key")]
    };
    let (api_server, scheduler) = (certificate("kubelet-client"), certificate("scheduler"));
    let (api_server, scheduler) = (words(&api_server), words(&scheduler));
    until_status(system, "the API server's certificate is let in", &api_server, "200")?;
    for (what, more, wanted) in [
        ("no credentials", [].as_slice(), "401"),
        ("a token that is none", &["-H", "Authorization: Bearer none"], "401"),
        ("a token without the right", &["-H", &bearer], "403"),
        ("a certificate without the right", scheduler.as_slice(), "403"),
    ] {
        let status = ask_for(system, "healthz", more)?;
        ensure!(status == wanted, "{what}: {status}");
    }
    scraper(system, &namespace)?;
    let account = format!("--serviceaccount={namespace}:caller");
    let binding = ["clusterrolebinding", namespace.as_str()];
    let mut bind = vec!["create"];
    bind.extend(binding);
    bind.extend(["--clusterrole=system:kubelet-api-admin", &account]);
    system.cluster.kubectl(&bind)?;
    let allowed = until_status(system, "a token with the right is let in", &["-H", &bearer], "200");
    // As Prometheus asks, by its service account.
    let scraped = allowed.and_then(|()| {
        for path in ["metrics", "metrics/cadvisor", "metrics/resource", "metrics/probes"] {
            let status = ask_for(system, path, &["-H", &bearer])?;
            ensure!(status == "200", "{path}: {status}");
        }
        Ok(())
    });
    let unseen = scraped.and_then(|()| unseen_by_edge(system, &namespace, token.trim(), &api_server));
    system.cluster.kubectl(&["delete", binding[0], binding[1]])?;
    unseen?;
    system.clean(&namespace)
}

/// What a caller with this token asks for, plainly and by upgrades, comes to the edge without it.
fn unseen_by_edge(system: &mut System, namespace: &str, token: &str, certificate: &[&str]) -> Result<()> {
    let edgecore = system.edge.edgecore()?.pid();
    let system = &*system;
    let bearer = format!("Authorization: Bearer {token}");
    unseen("healthz", edgecore, token, &|mark| {
        let status = ask_for(system, "healthz", &["-H", &bearer, "-H", mark])?;
        ensure!(status == "200", "{status}");
        Ok(())
    })?;
    let exec = format!("exec/{namespace}/main/main?command=true&output=1");
    let plain = "Sec-WebSocket-Protocol: v4.channel.k8s.io";
    let encoded = URL_SAFE_NO_PAD.encode(token);
    let listed = format!("{plain}, base64url.bearer.authorization.k8s.io.{encoded}");
    let mut beside = certificate.to_vec();
    beside.extend(["-H", listed.as_str()]);
    for (what, more) in [
        (
            "exec, token in the header",
            ["-H", bearer.as_str(), "-H", plain].as_slice(),
        ),
        ("exec, token as sub-protocol", &["-H", listed.as_str()]),
        ("exec, token as sub-protocol beside a certificate", beside.as_slice()),
    ] {
        unseen(what, edgecore, token, &|mark| upgrade(system, &exec, mark, more))?;
    }
    Ok(())
}

/// A WebSocket of which nothing but the head of its answer is read: curl takes the rest for a body, whose end it awaits for a while.
fn upgrade(system: &System, path: &str, mark: &str, more: &[&str]) -> Result<()> {
    let mut command = asking(&system.edge, &system.cloud.stream(), path);
    command.args(["-m", "5", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"]);
    command.args(["-H", "Sec-WebSocket-Version: 13"]);
    command.args(["-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "-H", mark]);
    let output = command.args(more).output()?;
    let status = String::from_utf8_lossy(&output.stdout);
    ensure!(status == "101", "{status}");
    Ok(())
}

/// Asks with a harmless header, which `ask` is given, until that is found in edgecore's memory, as what the edge has read can be. The
/// token is then not there in either form.
pub(super) fn unseen(what: &str, edgecore: Pid, token: &str, ask: &dyn Fn(&str) -> Result<()>) -> Result<()> {
    let mark = format!("mark-{}", checksum(format!("{what} {token}").as_bytes())?);
    let header = format!("X-Mark: {mark}");
    let found = format!("{what}: a harmless header is found in edgecore's memory");
    wait::until(&found, seconds(60), || {
        ask(&header)?;
        Ok(process::holds(edgecore, mark.as_bytes())?.then_some(()))
    })?;
    for form in [token, &URL_SAFE_NO_PAD.encode(token)] {
        let seen = process::holds(edgecore, form.as_bytes())?;
        ensure!(!seen, "{what}: the caller's token is in edgecore's memory");
    }
    Ok(())
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// A token of a new service account.
pub(super) fn token_of(system: &System, namespace: &str, account: &str) -> Result<String> {
    let kubectl = |words: &[&str]| system.cluster.kubectl(words);
    kubectl(&["create", "serviceaccount", "-n", namespace, account])?;
    kubectl(&["create", "token", "-n", namespace, account])
}

/// Who may read metrics and no more, as the role of a Prometheus has it, gets them, and runs no command.
fn scraper(system: &System, namespace: &str) -> Result<()> {
    let bearer = format!(
        "Authorization: Bearer {}",
        token_of(system, namespace, "scraper")?.trim()
    );
    let kubectl = |words: &[&str]| system.cluster.kubectl(words);
    let pod = bare("main", system.edge.name(), "", IDLE);
    system.cluster.apply(namespace, &pod)?;
    let role = format!("{namespace}-metrics");
    kubectl(&["create", "clusterrole", &role, "--verb=get", "--resource=nodes/metrics"])?;
    let (of_role, account) = (
        format!("--clusterrole={role}"),
        format!("--serviceaccount={namespace}:scraper"),
    );
    kubectl(&["create", "clusterrolebinding", &role, &of_role, &account])?;
    let metrics = wait::until("metrics for who may read them", seconds(50), || {
        let status = ask_for(system, "metrics", &["-H", &bearer])?;
        ensure!(status == "200", "{status}");
        Ok(Some(()))
    });
    let exec = format!("exec/{namespace}/main/main?command=true&output=1");
    let refused = metrics.and_then(|()| {
        for path in [exec.as_str(), "healthz"] {
            let status = ask_for(system, path, &["-H", &bearer])?;
            ensure!(status == "403", "{path} for who may read metrics: {status}");
        }
        Ok(())
    });
    kubectl(&["delete", "clusterrolebinding", &role])?;
    kubectl(&["delete", "clusterrole", &role])?;
    refused
}

/// What cloudcore warns of.
const WARNING: &str = "modules.cloudStream.streamAuthorization is false: whoever reaches port";

/// With `streamAuthorization: false` everybody who reaches the port is let in, and cloudcore warns of it at its start; by default nobody
/// is, and there is nothing to warn of.
fn off(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, ASKED)?;
    let before = context.system()?.cloud.log().len();
    let outcome = with_stream_key(context, "streamAuthorization: false").and_then(|()| {
        let system = context.system()?;
        until_status(system, "somebody without credentials is let in", &[], "200")
    });
    let log = context.system()?.cloud.log();
    with_stream_key(context, "")?;
    outcome?;
    let said = log.get(before..).unwrap_or_default();
    let warned = said.lines().any(|line| line.contains("WARN") && line.contains(WARNING));
    ensure!(warned, "there is no warning:\n{said}");
    let system = context.system()?;
    until_status(system, "without the key it is 401", &[], "401")?;
    let since = system.cloud.log().split_off(log.len());
    ensure!(!since.contains(WARNING), "a warning of what is not so:\n{since}");
    Ok(())
}
