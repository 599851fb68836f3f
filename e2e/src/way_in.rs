//! How the API server reaches a node that is behind a tunnel: a redirect of the machine's own connections to the stream server of a
//! cloudcore, and the certificate that Go's cloudcore wants to be given for it (spec 04 §12, §13). What the product does by
//! itself is not done here.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::hosts::HostNumber;
use crate::process::{call, run};

/// The virtual ports that cloudcores take: Go's count up from the first.
const VIRTUAL_PORTS: &str = "10351:10450";

/// Sends connections of this machine to the edge's virtual ports to a stream server. A second call replaces the first one.
pub fn redirect(edge: HostNumber, stream: u16) -> Result<()> {
    restore(edge);
    let target = format!("{}:{stream}", edge.cloud_address());
    let mut arguments = vec!["-w", "-t", "nat", "-A", "OUTPUT"];
    let address = edge.address();
    let comment = edge.netns();
    arguments.extend(matches(&address, &comment));
    arguments.extend(["-j", "DNAT", "--to-destination", &target]);
    call("iptables", &arguments).map(drop)
}

/// Takes the redirect away; none is no error.
pub fn restore(edge: HostNumber) {
    let Ok(rules) = call("iptables", &["-w", "-t", "nat", "-S", "OUTPUT"]) else {
        return;
    };
    let comment = format!("--comment {} ", edge.netns());
    for rule in rules.lines().filter(|rule| rule.contains(&comment)) {
        let mut arguments = vec!["-w", "-t", "nat"];
        let rule = rule.replacen("-A ", "-D ", 1);
        arguments.extend(rule.split(' '));
        if let Err(error) = call("iptables", &arguments) {
            eprintln!("e2e: {error:#}");
        }
    }
}

fn matches<'a>(address: &'a str, comment: &'a str) -> [&'a str; 10] {
    [
        "-p",
        "tcp",
        "-d",
        address,
        "--dport",
        VIRTUAL_PORTS,
        "-m",
        "comment",
        "--comment",
        comment,
    ]
}

/// The three files without which Go's cloudcore does not start, below its /etc/kubeedge. The API server does not look at the name in
/// the certificate.
pub fn stream_certificate(etc: &Path) -> Result<()> {
    let (ca, certs) = (etc.join("ca"), etc.join("certs"));
    if certs.join("stream.crt").exists() {
        return Ok(());
    }
    std::fs::create_dir_all(&ca)?;
    std::fs::create_dir_all(&certs)?;
    let path = |folder: &Path, name: &str| folder.join(name).to_string_lossy().into_owned();
    let (ca_key, ca_certificate) = (path(&ca, "streamCA.key"), path(&ca, "streamCA.crt"));
    let mut authority = Command::new("openssl");
    authority.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    authority.args([
        "-days",
        "30",
        "-subj",
        "/CN=e2e stream CA",
        "-keyout",
        &ca_key,
        "-out",
        &ca_certificate,
    ]);
    run(&mut authority)?;
    let mut server = Command::new("openssl");
    server.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    server.args(["-days", "30", "-subj", "/O=system:nodes/CN=system:node:cloudcore"]);
    server.args([
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "extendedKeyUsage=serverAuth",
    ]);
    server.args(["-CA", &ca_certificate, "-CAkey", &ca_key]);
    server.args([
        "-keyout",
        &path(&certs, "stream.key"),
        "-out",
        &path(&certs, "stream.crt"),
    ]);
    run(&mut server).map(drop)
}
