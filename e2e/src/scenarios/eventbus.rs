//! EventBus against mosquitto and our own broker: the same questions in each mode, uploads, subscriptions of rules, outages, TLS.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Entry;
use crate::api::text;
use crate::cloud::http_body;
use crate::edge::{EdgeHost, Keys};
use crate::process::{self, Daemon};
use crate::settings::Settings;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("eventbus_external", false, external),
    ("eventbus_own_broker", false, own_broker),
    ("eventbus_tls", false, tls),
];

/// The broker of the edge host.
const EXTERNAL: u16 = 1883;
/// Where ours listens.
const INTERNAL: u16 = 1884;
/// No text: a zero, bytes that no UTF-8 has, and half a character.
const BINARY: &[u8] = b"a\0\xff\xfe\xe2\x82b\n";
/// Questions of the measurement.
const QUESTIONS: u32 = 2000;

/// Mode 2: first without a broker, which is one line and stops nothing; then with one, which goes away and comes back; uploads of a time
/// without a link; a subscription of a rule that was there before the start.
fn external(context: &mut Context) -> Result<()> {
    let settings = context.settings.clone();
    with_mode(
        context,
        &[
            "mqttMode: 2".to_owned(),
            format!("mqttServerExternal: tcp://127.0.0.1:{EXTERNAL}"),
        ],
        |system| {
            told(&system.edge, "no MQTT broker")?;
            // As long as a few tries take.
            wait::stays("one line for a missing broker", seconds(3), || {
                Ok(system.edge.log().matches("no MQTT broker").count() == 1)
            })?;
            let mut broker = mosquitto(&system.edge, "listener 1883 127.0.0.1\nallow_anonymous true\n")?;
            answers(&system.edge, EXTERNAL, &[])?;
            measure(&settings, &system.edge, EXTERNAL)?;
            uploads(system, EXTERNAL)?;

            subscriptions(system, EXTERNAL)?;
            broker.stop(seconds(5))?;
            let mut broker = mosquitto(&system.edge, "listener 1883 127.0.0.1\nallow_anonymous true\n")?;
            answers(&system.edge, EXTERNAL, &[])?;
            until_uploaded(system, EXTERNAL, "rt/topic-b", "after an outage")?;
            broker.stop(seconds(5))
        },
    )
}

/// Mode 0, and mode 1 with mosquitto beside.
fn own_broker(context: &mut Context) -> Result<()> {
    let listen = format!("mqttServerInternal: tcp://127.0.0.1:{INTERNAL}");
    with_mode(context, &["mqttMode: 0".to_owned(), listen.clone()], |system| {
        answers(&system.edge, INTERNAL, &[])?;
        uploads(system, INTERNAL)?;
        subscriptions(system, INTERNAL)
    })?;
    let server = format!("mqttServerExternal: tcp://127.0.0.1:{EXTERNAL}");
    with_mode(context, &["mqttMode: 1".to_owned(), listen, server], |system| {
        let mut broker = mosquitto(&system.edge, "listener 1883 127.0.0.1\nallow_anonymous true\n")?;
        answers(&system.edge, INTERNAL, &[])?;
        answers(&system.edge, EXTERNAL, &[])?;
        broker.stop(seconds(5))
    })
}

/// Mutual TLS with user name and password: all right; then a wrong password, then a CA that the broker is not of; and with
/// `eventBusTLS` off a `tls://` broker of any CA.
fn tls(context: &mut Context) -> Result<()> {
    let folder = context.system()?.edge.folder().join("etc/mqtt");
    certificates(&folder)?;
    let keys = |password: &str, ca: &str| {
        [
            "mqttMode: 2".to_owned(),
            "mqttServerExternal: tls://127.0.0.1:8883".to_owned(),
            "mqttUsername: edge".to_owned(),
            format!("mqttPassword: {password}"),
            "eventBusTLS:".to_owned(),
            "  enable: true".to_owned(),
            format!("  tlsMqttCAFile: /etc/kubeedge/mqtt/{ca}.crt"),
            "  tlsMqttCertFile: /etc/kubeedge/mqtt/client.crt".to_owned(),
            "  tlsMqttPrivateKeyFile: /etc/kubeedge/mqtt/client.key".to_owned(),
        ]
    };
    let path = folder.display();
    let config = format!(
        "listener 8883 127.0.0.1\ncafile {path}/ca.crt\ncertfile {path}/broker.crt\nkeyfile {path}/broker.key\nrequire_certificate true\n\
         password_file {path}/passwords\nallow_anonymous false\n"
    );
    let mut broker = mosquitto(&context.system()?.edge, &config)?;
    let outcome = with_mode(context, &keys("secret", "ca"), |system| {
        let login = ["--cafile", "ca.crt", "--cert", "client.crt", "--key", "client.key"];
        let mut login: Vec<String> = login
            .iter()
            .map(|word| {
                if word.contains('.') {
                    format!("{path}/{word}")
                } else {
                    (*word).to_owned()
                }
            })
            .collect();
        login.extend(["-u", "edge", "-P", "secret"].map(str::to_owned));
        answers(&system.edge, 8883, &login)
    })
    .and_then(|()| {
        with_mode(context, &keys("wrong", "ca"), |system| {
            told(&system.edge, "refuses user name or password")
        })
    })
    .and_then(|()| {
        with_mode(context, &keys("secret", "other"), |system| {
            told(&system.edge, "invalid peer certificate")
        })
    });
    broker.stop(seconds(5))?;
    outcome?;
    let config = format!(
        "listener 8884 127.0.0.1\ncertfile {path}/broker.crt\nkeyfile {path}/broker.key\nallow_anonymous true\n"
    );
    let mut broker = mosquitto(&context.system()?.edge, &config)?;
    let keys = ["mqttMode: 2", "mqttServerExternal: tls://127.0.0.1:8884"].map(str::to_owned);
    let outcome = with_mode(context, &keys, |system| {
        let login = ["--cafile".to_owned(), format!("{path}/ca.crt")];
        answers(&system.edge, 8884, &login)
    });
    broker.stop(seconds(5))?;
    outcome
}

/// Runs edgecore with these keys of `eventBus`, and then as it was.
fn with_mode(context: &mut Context, keys: &[String], work: impl FnOnce(&mut System) -> Result<()>) -> Result<()> {
    let system = context.system()?;
    restart(system, keys)?;
    let outcome = work(system);
    restart(system, &[])?;
    outcome
}

fn restart(system: &mut System, keys: &[String]) -> Result<()> {
    system.edge.stop_edgecore()?;
    let log = system.edge.folder().join("edgecore.log");
    let _ = std::fs::remove_file(log);
    system.edge.set_keys(Keys {
        bus: keys.to_vec(),
        ..Keys::default()
    });
    system.join()
}

fn mosquitto(edge: &EdgeHost, config: &str) -> Result<Daemon> {
    let file = edge.folder().join("mosquitto.conf");
    std::fs::write(&file, format!("{config}log_dest stderr\nuser root\n"))?;
    Daemon::start(
        edge.folder(),
        "mosquitto",
        edge.command("mosquitto").arg("-c").arg(&file),
    )
}

/// What `mosquitto_rr` hears on one topic after it published on another.
fn ask(edge: &EdgeHost, port: u16, login: &[String], topic: &str, payload: &str) -> Result<Value> {
    let port = port.to_string();
    let answer = format!("{topic}/result");
    let mut command = edge.command("mosquitto_rr");
    command.args(["-V", "311", "-h", "127.0.0.1", "-p", &port, "-q", "1", "-W", "3"]);
    command.args(login).args(["-t", topic, "-e", &answer, "-m", payload]);
    let answer = process::run(&mut command)?;
    serde_json::from_str(&answer).with_context(|| format!("{topic}: {answer:?}"))
}

/// The node tells its devices, and that it does not know one, whichever form its name has.
fn answers(edge: &EdgeHost, port: u16, login: &[String]) -> Result<()> {
    let membership = format!("$hw/events/node/{}/membership/get", edge.name());
    wait::until("an answer over MQTT", seconds(20), || {
        ask(edge, port, login, &membership, r#"{"event_id":"m1"}"#)
            .map(|answer| (text(&answer, "/event_id") == "m1").then_some(()))
    })?;
    for device in ["default/nobody", "nobody"] {
        let topic = format!("$hw/events/device/{device}/twin/get");
        let answer = ask(edge, port, login, &topic, r#"{"event_id":"g1"}"#)?;
        ensure!(
            answer.pointer("/code").and_then(Value::as_i64) == Some(404),
            "{device}: {answer}"
        );
    }
    Ok(())
}

fn publish(edge: &EdgeHost, port: u16, topic: &str, payload: &str) -> Result<()> {
    let port = port.to_string();
    let mut command = edge.command("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-m", payload]);
    process::run(&mut command).map(drop)
}

fn publish_bytes(edge: &EdgeHost, port: u16, topic: &str, payload: &[u8]) -> Result<()> {
    let (file, port) = (edge.folder().join("payload"), port.to_string());
    std::fs::write(&file, payload)?;
    let mut command = edge.command("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-f"]);
    process::run(command.arg(&file)).map(drop)
}

/// How many uploads the cloud has taken.
fn taken(system: &System) -> Result<u64> {
    let metrics = http_body(&system.cloud.monitor(), "/metrics")?;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("cloudcore_hub_uploads_total "));
    line.context("no such metric")?.trim().parse().context("a number")
}

/// Uploads reach the cloud, those of a time without a link too, and each once.
fn uploads(system: &mut System, port: u16) -> Result<()> {
    until_uploaded(system, port, "default/user/x", "an upload")?;
    let before = taken(system)?;
    system.edge.set_link(false)?;
    for number in 0..20 {
        publish(&system.edge, port, "default/user/x", &number.to_string())?;
    }
    publish_bytes(&system.edge, port, "default/user/x", BINARY)?;
    wait::until("uploads in the database", seconds(20), || {
        let count = sql(&system.edge, "SELECT count(*) FROM bus_upload")?;
        Ok((count.trim() == "21").then_some(()))
    })?;
    let newest = "SELECT hex(payload) FROM bus_upload ORDER BY sequence DESC LIMIT 1";
    let kept = sql(&system.edge, newest)?;
    let sent: String = BINARY.iter().map(|byte| format!("{byte:02X}")).collect();
    ensure!(kept.trim() == sent, "a binary payload is kept as {kept}");
    system.edge.set_link(true)?;
    wait::until("uploads of a time without a link", seconds(60), || {
        Ok((taken(system)? == before + 21).then_some(()))
    })?;
    wait::until("an empty table", seconds(20), || {
        let count = sql(&system.edge, "SELECT count(*) FROM bus_upload")?;
        Ok((count.trim() == "0").then_some(()))
    })
}

fn until_uploaded(system: &System, port: u16, topic: &str, what: &str) -> Result<()> {
    wait::until(what, seconds(20), || {
        let before = taken(system)?;
        publish(&system.edge, port, topic, "21")?;
        wait::quietly("the cloud's counter", Duration::from_secs(2), || {
            Ok((taken(system)? > before).then_some(()))
        })
        .map(Some)
    })
}

/// A row as a rule of the cloud leaves it is subscribed after a start.
fn subscriptions(system: &mut System, port: u16) -> Result<()> {
    system.edge.stop_edgecore()?;
    sql(&system.edge, "INSERT OR REPLACE INTO sub_topics VALUES ('rt/topic-b')")?;
    system.edge.start_edgecore()?;
    system.node_ready(seconds(60))?;
    until_uploaded(system, port, "rt/topic-b", "an upload by a rule's subscription")
}

fn sql(edge: &EdgeHost, statement: &str) -> Result<String> {
    let database = edge.database();
    let mut command = Command::new("sqlite3");
    command.arg("-cmd").arg(".timeout 5000").arg(&database).arg(statement);
    process::run(&mut command)
}

/// Waits for a line of edgecore's log; all else goes on.
fn told(edge: &EdgeHost, line: &str) -> Result<()> {
    wait::until(line, seconds(20), || Ok(edge.log().contains(line).then_some(())))
}

/// Questions through the broker, all at once, all answered.
fn measure(settings: &Settings, edge: &EdgeHost, port: u16) -> Result<()> {
    const SCRIPT: &str = r#"
import sys, threading
import paho.mqtt.client as mqtt
port, count = int(sys.argv[1]), int(sys.argv[2])
done, heard, ready = threading.Event(), 0, threading.Event()
def message(client, _, got):
    global heard
    heard += 1
    if heard == count: done.set()
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.max_queued_messages_set(0)
client.max_inflight_messages_set(100)
client.on_message = message
client.on_subscribe = lambda *_: ready.set()
client.connect("127.0.0.1", port)
client.subscribe("$hw/events/device/+/+/twin/get/result", 0)
client.loop_start()
assert ready.wait(5)
for n in range(count): client.publish("$hw/events/device/default/nobody/twin/get", '{"event_id":"%d"}' % n, 1)
assert done.wait(60), heard
"#;
    let start = Instant::now();
    let mut command = edge.command(&settings.python);
    command.args(["-c", SCRIPT, &port.to_string(), &QUESTIONS.to_string()]);
    process::run(&mut command)?;
    println!(
        "    {QUESTIONS} questions by MQTT answered: {:.2} s",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// A CA with a broker and a client, another CA, and mosquitto's passwords.
fn certificates(folder: &std::path::Path) -> Result<()> {
    const SCRIPT: &str = r#"
mkdir -p "$1"; cd "$1"
for ca in ca other; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$ca" -keyout $ca.key -out $ca.crt
done
for name in broker client; do
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout $name.key -out $name.csr
  printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' > ext
  openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $name.crt
done
rm -f passwords; mosquitto_passwd -b -c passwords edge secret
"#;
    process::run(Command::new("bash").args(["-ec", SCRIPT, "certificates"]).arg(folder)).map(drop)
}
