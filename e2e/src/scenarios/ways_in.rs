//! The ways from an API server to the kubelets of edges, and whom it finds there: certificates that it can verify, and an egress
//! that needs no redirect rule. All of it is what only ours does.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::reach::fresh_edge;
use super::{Entry, IDLE, bare};
use crate::api;
use crate::cluster::ControlPlane;
use crate::edge::{EdgeHost, Wire};
use crate::process::{self, call};
use crate::settings::{is_ours, program};
use crate::system::{Context, Skip, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("ways_in_files", false, files),
    ("ways_in_verified", false, verified),
    ("ways_in_egress", false, egress),
];

/// A fresh edge has logs within 5 s of being Ready.
const SOON: u64 = 50;

fn only_ours(context: &Context) -> Result<()> {
    if is_ours(&program(&context.settings.cloud, "cloudcore")?) {
        return Ok(());
    }
    Err(Skip("only our cloudcore makes stream certificates and has an egress endpoint".to_owned()).into())
}

/// A Running pod on a node that prints one line.
fn talker(system: &System, namespace: &str, name: &str, node: &str) -> Result<()> {
    let command = IDLE.replace("trap", "echo hello; trap");
    system.cluster.apply(namespace, &bare(name, node, "", &command))?;
    system.until_pod("pod Ready", (namespace, name), 60, |pod| {
        api::is_ready(pod).then_some(())
    })
}

/// `kubectl logs` and `kubectl exec` of that pod.
fn until_reached(what: &str, system: &System, namespace: &str, name: &str) -> Result<()> {
    wait::until(&format!("logs {what}"), seconds(SOON), || {
        let text = system.cluster.kubectl(&["logs", "-n", namespace, name])?;
        ensure!(text == "hello\n", "{text:?}");
        Ok(Some(()))
    })?;
    wait::until(&format!("exec {what}"), seconds(SOON), || {
        let text = system
            .cluster
            .kubectl(&["exec", "-n", namespace, name, "--", "echo", "there"])?;
        ensure!(text == "there\n", "{text:?}");
        Ok(Some(()))
    })
}

/// What the stream server shows: issuer, subject and names of its certificate.
fn shown(system: &System, more: &[&str]) -> Result<String> {
    let address = system.cloud.stream();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address]).args(more);
    let pem = process::feed(&mut command, "")?;
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-issuer", "-subject", "-ext", "subjectAltName"]);
    process::feed(&mut command, &pem)
}

/// A certificate of an operator's own for the stream server, good for `days`.
fn put_files(certs: &Path, name: &str, days: &str) -> Result<()> {
    std::fs::create_dir_all(certs)?;
    let path = |file: &str| certs.join(file).to_string_lossy().into_owned();
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    command.args(["-subj", &format!("/CN={name}"), "-days", days]);
    command.args(["-keyout", &path("stream.key"), "-out", &path("stream.crt")]);
    process::run(&mut command).map(drop)
}

/// Without files a certificate of CloudHub's CA with the edges' names; files are taken, exchanged and let go without a restart.
fn files(context: &mut Context) -> Result<()> {
    only_ours(context)?;
    let system = context.system()?;
    let certs = system.cloud.folder().join("etc/certs");
    let until = |what: &str, expected: &str, more: &[&str]| {
        wait::until(what, seconds(20), || {
            let text = shown(system, more)?;
            ensure!(text.contains(expected), "{text}");
            Ok(Some(text))
        })
    };
    until("an issued certificate", "KubeEdge", &[])?;
    let address = system.edge.number().address();
    until("the edge's address in it", &address, &[])?;
    until(
        "the edge's by its name",
        system.edge.name(),
        &["-servername", system.edge.name()],
    )?;
    put_files(&certs, "first.example", "10")?;
    until("the operator's certificate", "first.example", &[])?;
    put_files(&certs, "second.example", "30")?;
    until("the one in its place", "second.example", &[])?;
    ensure!(
        system.cloud.log().contains("ends soon"),
        "no warning of a certificate that has 10 days"
    );
    std::fs::write(certs.join("stream.key"), "half a key")?;
    wait::until("a warning of a broken key", seconds(20), || {
        Ok(system
            .cloud
            .log()
            .contains("cannot be used: the one before it is shown")
            .then_some(()))
    })?;
    until("the certificate before it", "second.example", &[])?;
    for file in ["stream.key", "stream.crt"] {
        std::fs::remove_file(certs.join(file))?;
    }
    until("an issued one again", "KubeEdge", &[]).map(drop)
}

/// The API server verifies kubelets: with CloudHub's CA it finds a stranger, with Kubernetes' signer a kubelet, also for an edge that
/// joins later.
fn verified(context: &mut Context) -> Result<()> {
    only_ours(context)?;
    let plane = ControlPlane {
        flags: vec!["--kubelet-certificate-authority=PKI/ca.crt".to_owned()],
        ..ControlPlane::default()
    };
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    let system = context.system_with(&plane)?;
    let namespace = system.namespace("verified")?;
    talker(system, &namespace, "one", system.edge.name())?;
    wait::until("the API server's refusal", seconds(30), || {
        let said = system.cluster.kubectl(&["logs", "-n", &namespace, "one"]);
        let error = said.err().context("a certificate that it cannot know is believed")?;
        let text = format!("{error:#}");
        ensure!(text.contains("x509"), "{text}");
        Ok(Some(()))
    })?;

    system.cloud.stop()?;
    system.cloud.set_stream_key("streamCertSigner: kubelet-serving");
    system.cloud.start()?;
    system.node_ready(seconds(60))?;
    until_reached("from a verified edge", system, &namespace, "one")?;

    let mut late = EdgeHost::start(&settings, &run, "edge-late", Wire::Veth)?;
    late.write_config(&system.cloud.uplink()?)?;
    late.start_edgecore()?;
    let node = api::node_path(late.name());
    wait::until("the late node Ready", seconds(90), || {
        let node = system.api().get(&node)?;
        Ok(node.filter(|node| api::condition(node, "Ready") == "True").map(drop))
    })?;
    talker(system, &namespace, "late", late.name())?;
    until_reached("from an edge that joined later", system, &namespace, "late")?;
    let requests = system.cluster.kubectl(&["get", "csr", "--no-headers"])?;
    ensure!(
        requests.contains("kubernetes.io/kubelet-serving") && requests.contains("Approved,Issued"),
        "{requests}"
    );

    system
        .cluster
        .kubectl(&["delete", "pods", "--all", "-n", &namespace, "--wait=true"])?;
    late.stop_edgecore()?;
    system.api().delete(&node)?;
    drop(late);
    system.cloud.stop()?;
    system.cloud.set_stream_key("");
    system.cloud.start()?;
    system.clean(&namespace)
}

/// The rules of a network namespace (this one, without a name) in both families, by whatever can have made them.
fn rules(netns: Option<&str>) -> Result<String> {
    let listings: [&[&str]; 5] = [
        &["iptables-save"],
        &["iptables-legacy-save"],
        &["ip6tables-save"],
        &["ip6tables-legacy-save"],
        // Without counters, which may be any number.
        &["nft", "-s", "list", "ruleset"],
    ];
    let mut rules = String::new();
    for listing in listings {
        let mut words = netns.map_or_else(Vec::new, |name| vec!["ip", "netns", "exec", name]);
        words.extend(listing);
        let (program, arguments) = words.split_first().context("no program")?;
        let text = call(program, arguments)?;
        // After a chain's name comes what counts its packets.
        let lines = text.lines().filter(|line| !line.starts_with(':'));
        rules.extend(lines.map(|line| format!("{line}\n")));
    }
    Ok(rules)
}

/// The API server on a host of its own, verifying kubelets and told to go by the egress endpoint: everything works without one redirect
/// rule, an edge that comes later and ordinary destinations too; whoever has only an edge's certificate is refused.
fn egress(context: &mut Context) -> Result<()> {
    only_ours(context)?;
    let plane = ControlPlane {
        apart: true,
        ..ControlPlane::default()
    };
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    let system = context.system_with(&plane)?;
    let host = system.cluster.host().context("the control plane has no host")?;
    let folder = system.cloud.folder().join("egress");
    let port = system.cloud.egress_port();
    system.cloud.stop()?;
    system.cloud.set_redirects("enable: false");
    // Where the API server is told to find the endpoint.
    system.cloud.advertise_first(host.cloud_address());
    system.cloud.set_stream_key(&format!(
        "streamCertSigner: kubelet-serving\n    egress: {{enable: true, port: {port}, folder: {}}}",
        folder.display()
    ));
    system.cloud.start()?;
    let file = folder.join("egress-selector.yaml");
    wait::until("the API server's files", seconds(20), || {
        Ok(file.exists().then_some(()))
    })?;
    for name in ["egress-selector.yaml", "ca.crt", "client.crt", "client.key"] {
        let key = format!("{{.data.{}}}", name.replace('.', "\\."));
        let path = format!("jsonpath={key}");
        let shared = system
            .cluster
            .kubectl(&["get", "secret", "-n", "kubeedge", "cloudcoreegress", "-o", &path])?;
        ensure!(!shared.is_empty(), "no {name} in the secret");
    }
    let flag = format!("--egress-selector-config-file={}", file.display());
    let verifying = "--kubelet-certificate-authority=PKI/ca.crt".to_owned();
    system.cluster.set_apiserver_flags(vec![flag, verifying])?;
    system.node_ready(seconds(60))?;

    let namespace = system.namespace("egress")?;
    talker(system, &namespace, "main", system.edge.name())?;
    until_reached("through the egress endpoint", system, &namespace, "main")?;
    wait::until("the self-test names the way", seconds(120), || {
        Ok(system
            .cloud
            .log()
            .contains("reaches edges by the egress endpoint")
            .then_some(()))
    })?;
    let path = format!("/api/v1/nodes/{}/proxy/stats/summary", system.edge.name());
    ensure!(
        system.cluster.kubectl(&["get", "--raw", &path])?.contains("nodeName"),
        "no statistics of the node"
    );
    for netns in [None, Some(host.netns())] {
        let rules = rules(netns.as_deref())?;
        ensure!(!rules.contains("1035"), "there is a rule: {rules}");
    }
    drop(fresh_edge(system, &settings, &run, "fresh-egress")?);

    // What is no edge's kubelet is dialled: here a server in the network of the edge's host.
    let server = r#"    command: [sh, -c, "mkdir /w; echo page > /w/index.html; httpd -f -p 18088 -h /w"]"#;
    let pod = bare("web", system.edge.name(), "  hostNetwork: true", server);
    system.cluster.apply(&namespace, &pod)?;
    let path = format!("/api/v1/nodes/http:{}:18088/proxy/", system.edge.name());
    wait::until("a page by the endpoint", seconds(60), || {
        let page = system.cluster.kubectl(&["get", "--raw", &path])?;
        ensure!(page == "page\n", "{page:?}");
        Ok(Some(()))
    })?;
    let refusal = system.cluster.kubectl(&[
        "get",
        "--raw",
        &format!("/api/v1/nodes/{}:1/proxy/", system.edge.name()),
    ]);
    let text = format!("{:#}", refusal.err().context("nothing listens on port 1")?);
    ensure!(
        text.contains("cloudcore cannot reach"),
        "what the endpoint says does not arrive: {text}"
    );

    let address = format!("{}:{port}", host.cloud_address());
    ensure!(TcpStream::connect(&address).is_ok(), "{address} is closed");
    let certs = system.edge.folder().join("etc/certs").to_string_lossy().into_owned();
    // The end of a refused connection is an error to openssl.
    let script = r#"openssl s_client -quiet -ign_eof -connect "$1" -cert "$2/server.crt" -key "$2/server.key" || true"#;
    let mut command = Command::new("bash");
    command.args(["-c", script, "openssl", &address, &certs]);
    let request = format!(
        "CONNECT {}:10351 HTTP/1.1\r\nHost: x\r\n\r\n",
        system.edge.number().address()
    );
    let answer = process::feed(&mut command, &request)?;
    ensure!(answer.starts_with("HTTP/1.1 403 a certificate named"), "{answer:?}");

    system.clean(&namespace)?;
    system.cluster.set_apiserver_flags(Vec::new())
}
