//! User name and password, and TLS with certificates on both sides, at either kind of broker.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::super::needs_our_edge;
use super::{Bench, Door, answers, publish, until_uploaded, with_keys};
use crate::edge::EdgeHost;
use crate::mqtt::Mosquitto;
use crate::process;
use crate::system::Context;
use crate::wait::seconds;

/// Where a broker with TLS listens.
const PORT: u16 = 8883;
/// Where one listens that asks nobody who it is.
const OPEN: u16 = 8884;
/// The folder of certificates as its host's programs see it.
const FOLDER: &str = "/etc/kubeedge/mqtt";

/// mosquitto: who may come in; edgecore with all that is right, with a wrong password, and with a CA that the broker is not of; with
/// `eventBusTLS` off, a `tls://` broker of any CA.
pub(super) fn external(context: &mut Context) -> Result<()> {
    let path = certificates(&context.system()?.edge)?;
    let keys = |password: &str, ca: &str| {
        [
            "mqttMode: 2".to_owned(),
            format!("mqttServerExternal: tls://127.0.0.1:{PORT}"),
            "mqttUsername: edge".to_owned(),
            format!("mqttPassword: {password}"),
            "eventBusTLS:".to_owned(),
            "  enable: true".to_owned(),
            format!("  tlsMqttCAFile: {FOLDER}/{ca}.crt"),
            format!("  tlsMqttCertFile: {FOLDER}/client.crt"),
            format!("  tlsMqttPrivateKeyFile: {FOLDER}/client.key"),
        ]
    };
    let folder = path.display();
    let config = format!(
        "listener {PORT} 127.0.0.1\ncafile {folder}/ca.crt\ncertfile {folder}/broker.crt\nkeyfile {folder}/broker.key\n\
         require_certificate true\npassword_file {folder}/passwords\nallow_anonymous false\n"
    );
    let broker = Mosquitto::start(&context.system()?.edge, &config)?;
    with_keys(context, &keys("secret", "ca"), |bench| who_may_come_in(bench, &path))?;
    refused(context, &keys("wrong", "ca"), "refuses user name or password")?;
    refused(context, &keys("secret", "other"), "invalid peer certificate")?;
    drop(broker);
    let config = format!(
        "listener {OPEN} 127.0.0.1\ncertfile {folder}/broker.crt\nkeyfile {folder}/broker.key\nallow_anonymous true\n"
    );
    let _broker = Mosquitto::start(&context.system()?.edge, &config)?;
    let keys = [
        "mqttMode: 2".to_owned(),
        format!("mqttServerExternal: tls://127.0.0.1:{OPEN}"),
    ];
    with_keys(context, &keys, |bench| {
        let login = vec!["--cafile".to_owned(), format!("{folder}/ca.crt")];
        answers(bench, &Door { port: OPEN, login })
    })
}

/// edgecore's own broker, which Go's has no keys for.
pub(super) fn own_broker(context: &mut Context) -> Result<()> {
    needs_our_edge(context, "a broker in edgecore with passwords and TLS")?;
    let path = certificates(&context.system()?.edge)?;
    let keys = [
        "mqttMode: 0".to_owned(),
        format!("mqttServerInternal: tls://127.0.0.1:{PORT}"),
        "broker:".to_owned(),
        "  users: {edge: secret}".to_owned(),
        "  tls:".to_owned(),
        format!("    certFile: {FOLDER}/broker.crt"),
        format!("    keyFile: {FOLDER}/broker.key"),
        format!("    clientCAFile: {FOLDER}/ca.crt"),
    ];
    with_keys(context, &keys, |bench| who_may_come_in(bench, &path))
}

/// A broker that asks for a certificate and a password: with both right, questions are answered and uploads reach the cloud; with one of
/// them wrong or missing, or with a CA that the broker is not of, nobody comes in.
fn who_may_come_in(bench: &Bench<'_>, folder: &Path) -> Result<()> {
    let door = |ca: &str, client: Option<&str>, password: Option<&str>| {
        let file = |name: String| folder.join(name).display().to_string();
        let mut login = vec!["--cafile".to_owned(), file(format!("{ca}.crt"))];
        if let Some(client) = client {
            login.extend(["--cert".to_owned(), file(format!("{client}.crt"))]);
            login.extend(["--key".to_owned(), file(format!("{client}.key"))]);
        }
        if let Some(password) = password {
            login.extend(["-u", "edge", "-P", password].map(str::to_owned));
        }
        Door { port: PORT, login }
    };
    let right = door("ca", Some("client"), Some("secret"));
    answers(bench, &right)?;
    until_uploaded(bench, &right, &bench.cloud.always(), "an upload by TLS")?;
    for (what, wrong) in [
        ("a wrong password", door("ca", Some("client"), Some("wrong"))),
        ("no password", door("ca", Some("client"), None)),
        ("no certificate", door("ca", None, Some("secret"))),
        (
            "a certificate of another CA",
            door("ca", Some("stranger"), Some("secret")),
        ),
        (
            "a CA that the broker is not of",
            door("other", Some("client"), Some("secret")),
        ),
        ("no TLS", Door::open(PORT)),
    ] {
        let outcome = publish(bench.edge(), &wrong, &bench.cloud.nobodys(), b"x");
        ensure!(outcome.is_err(), "{what} is taken");
    }
    // It was not the broker that had gone.
    answers(bench, &right)
}

/// edgecore says why it is not let in, ours in these words; all else goes on.
fn refused(context: &mut Context, keys: &[String], words: &str) -> Result<()> {
    with_keys(context, keys, |bench| {
        if bench.sides.edge {
            bench.told(words)?;
        }
        bench.system.node_ready(seconds(60))
    })
}

/// A CA with a broker and a client, another CA with a stranger, and mosquitto's passwords.
fn certificates(edge: &EdgeHost) -> Result<PathBuf> {
    const SCRIPT: &str = r#"
mkdir -p "$1"; cd "$1"
sign() { # sign CA NAME
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" -keyout $2.key -out $2.csr
  printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' > ext
  openssl x509 -req -in $2.csr -CA $1.crt -CAkey $1.key -CAcreateserial -days 2 -extfile ext -out $2.crt
}
for ca in ca other; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$ca" -keyout $ca.key -out $ca.crt
done
sign ca broker; sign ca client; sign other stranger
rm -f passwords; mosquitto_passwd -b -c passwords edge secret
"#;
    let folder = edge.folder().join("etc/mqtt");
    process::run(Command::new("bash").args(["-ec", SCRIPT, "certificates"]).arg(&folder))?;
    Ok(folder)
}
