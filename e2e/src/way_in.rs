//! The stream certificate that Go's cloudcore wants to be given (spec 04 §13). What the product does by itself is not done here.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process::run;

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
