//! The edge's own MQTT broker, by clients that others wrote: paho-mqtt and mosquitto's. No cloud is needed.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

use super::Entry;
use crate::edge::{EdgeHost, Wire};
use crate::process::{Daemon, run};
use crate::settings::{is_ours, program};
use crate::system::{Context, Skip};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("mqtt_conformance", false, conformance),
    ("mqtt_conformance_mosquitto", false, mosquitto),
    ("mqtt_who_may_come_in", false, who_may_come_in),
    ("mqtt_as_configured", false, as_configured),
];

/// Where the broker listens.
const PORT: &str = "1883";

/// All of `e2e/mqtt/conformance.py`; edgecore is killed and started again whenever a check asks for that. Then mosquitto's clients.
fn conformance(context: &mut Context) -> Result<()> {
    let mut edge = start(context, "mqtt-1")?;
    begin(&mut edge, "    mqttServerInternal: tcp://127.0.0.1:1883\n")?;
    let mark = edge.folder().join("restart");
    let mut command = script(context, &edge);
    let mut checks = command.arg("--restart").arg(&mark).spawn().context("python")?;
    let mut kills = 0;
    finish(&mut checks, || {
        if mark.exists() {
            edge.kill_edgecore();
            edge.start_edgecore()?;
            listening(&edge)?;
            std::fs::remove_file(&mark)?;
            kills += 1;
        }
        Ok(())
    })?;
    ensure!(kills > 0, "no check asked for a kill");
    let listened = edge.log().matches("the MQTT broker listens").count();
    ensure!(
        listened == kills + 1,
        "the broker listened {listened} times\n{}",
        edge.log()
    );
    mosquittos_clients(&edge).with_context(|| edge.log())
}

/// The same checks against mosquitto: one that fails here is a wrong check.
fn mosquitto(context: &mut Context) -> Result<()> {
    let edge = EdgeHost::start(&context.settings, context.folder(), "mqtt-2", Wire::Veth)?;
    let configuration = edge.folder().join("mosquitto.conf");
    std::fs::write(
        &configuration,
        "listener 1883 127.0.0.1\nallow_anonymous true\nsys_interval 2\n",
    )?;
    let mut command = edge.command("mosquitto");
    let daemon = Daemon::start(edge.folder(), "mosquitto", command.arg("-c").arg(&configuration));
    let Ok(mut daemon) = daemon else {
        return Err(Skip("there is no mosquitto here".to_owned()).into());
    };
    listening(&edge)?;
    let checks = script(context, &edge).arg("--lenient").spawn();
    let outcome = checks
        .context("python")
        .and_then(|mut checks| finish(&mut checks, || Ok(())))
        .and_then(|()| mosquittos_clients(&edge));
    daemon.stop(seconds(5))?;
    outcome
}

/// Passwords, TLS, client certificates; and nothing is open to the network by accident.
fn who_may_come_in(context: &mut Context) -> Result<()> {
    let mut edge = start(context, "mqtt-3")?;
    let keys = edge.folder().join("etc/mqtt");
    certificates(&keys)?;

    begin(
        &mut edge,
        "    mqttServerInternal: tcp://0.0.0.0:1883\n    broker:\n      users: {mapper: secret}\n",
    )?;
    let with = |user: &str, password: &str| publish(&edge, &["-u", user, "-P", password]);
    ensure!(
        with("mapper", "secret"),
        "the right password is refused\n{}",
        edge.log()
    );
    ensure!(!with("mapper", "wrong"), "a wrong password is taken");
    ensure!(!with("other", "secret"), "an unknown user is taken");
    ensure!(!publish(&edge, &[]), "a client without a name is taken");

    edge.stop_edgecore()?;
    let tls = "    mqttServerInternal: mqtts://0.0.0.0:1883\n    broker:\n      tls:\n        certFile: /etc/kubeedge/mqtt/server.crt\n        \
               keyFile: /etc/kubeedge/mqtt/server.key\n        clientCAFile: /etc/kubeedge/mqtt/ca.crt\n";
    begin(&mut edge, tls)?;
    let file = |name: &str| keys.join(name).display().to_string();
    let (ca, stranger) = (file("ca.crt"), file("stranger.crt"));
    let client = [file("client.crt"), file("client.key")];
    let [certificate, key] = &client;
    let both = ["--cafile", &ca, "--cert", certificate, "--key", key];
    ensure!(publish(&edge, &both), "mutual TLS does not work\n{}", edge.log());
    ensure!(
        !publish(&edge, &["--cafile", &ca]),
        "a client without a certificate is taken"
    );
    ensure!(
        !publish(&edge, &["--cafile", &stranger, "--cert", certificate, "--key", key]),
        "a broker of another CA is believed"
    );
    let (other, other_key) = (file("stranger-client.crt"), file("stranger-client.key"));
    ensure!(
        !publish(&edge, &["--cafile", &ca, "--cert", &other, "--key", &other_key]),
        "a client of another CA is taken"
    );
    ensure!(!publish(&edge, &[]), "a client without TLS is taken");

    edge.stop_edgecore()?;
    write(&edge, "    mqttServerInternal: tcp://0.0.0.0:1883\n")?;
    edge.start_edgecore()?;
    let named = "modules.eventBus.broker.users";
    wait::until("the refusal to be open to the network", seconds(20), || {
        Ok(edge.log().contains(named).then_some(()))
    })?;
    ensure!(!publish(&edge, &[]), "it listens all the same");
    ensure!(edge.edgecore()?.alive(), "edgecore ended for it");
    Ok(())
}

/// The broker as edgecore.yaml has it, by clients of another host, over the link: where it listens, how many come in, what each may
/// subscribe, and how edgecore's own messages are sent.
fn as_configured(context: &mut Context) -> Result<()> {
    let mut edge = start(context, "mqtt-4")?;
    let host = edge.number().address();
    let bus = format!(
        "    mqttServerInternal: tcp://{host}:{PORT}\n    mqttQOS: 1\n    mqttRetain: true\n    broker:\n      \
         users: {{mapper: secret}}\n      limits: {{connections: 2, subscriptions: 1}}\n"
    );
    write(&edge, &bus)?;
    edge.start_edgecore()?;
    let publishes = || afar(&host, "mosquitto_pub", &["-t", "door/kept", "-r", "-m", "kept"]).is_ok();
    let listens = wait::until("the broker listens on the link", seconds(20), || {
        Ok(publishes().then_some(()))
    });
    listens.with_context(|| edge.log())?;
    ensure!(
        !publish(&edge, &["-u", "mapper", "-P", "secret"]),
        "it listens on 127.0.0.1 as well"
    );
    let said = afar(&host, "mosquitto_sub", &["-d", "-E", "-t", "a", "-t", "b"])?;
    ensure!(said.contains("): 1, 128"), "a second subscription is taken: {said}");
    own_messages(&host).with_context(|| edge.log())?;

    let mut held = [stays(&edge, &host, "held-1")?, stays(&edge, &host, "held-2")?];
    let full = "modules.eventBus.broker.limits.connections are there";
    wait::until("two clients are there: a third is turned away", seconds(60), || {
        Ok((!publishes() && edge.log().contains(full)).then_some(()))
    })?;
    held[0].kill();
    wait::until("one has gone: another comes in", seconds(20), || {
        Ok(publishes().then_some(()))
    })?;
    held[1].kill();
    Ok(())
}

/// What edgecore publishes comes with `mqttQOS`, and, with `mqttRetain`, to who subscribes later, too.
fn own_messages(host: &str) -> Result<()> {
    let topic = |device: &str| format!("$hw/events/device/default/{device}/twin/get");
    let ask = |device: &str| -> Result<String> {
        let (topic, payload) = (topic(device), r#"{"event_id":"g"}"#);
        let answer = format!("{topic}/result");
        let mut question = vec!["-V", "311", "-W", "4", "-F", "%q %r"];
        question.extend(["-t", &topic, "-e", &answer, "-m", payload]);
        Ok(afar(host, "mosquitto_rr", &question)?.trim().to_owned())
    };
    wait::until("edgecore answers", seconds(60), || ask("first").map(Some))?;
    let live = ask("second")?;
    ensure!(live == "1 0", "QoS and retention of an answer are {live}");
    let answer = format!("{}/result", topic("second"));
    let kept = afar(
        host,
        "mosquitto_sub",
        &["-C", "1", "-W", "4", "-t", &answer, "-F", "%q %r"],
    )?;
    ensure!(kept.trim() == "1 1", "QoS and retention of a kept answer are {kept}");
    Ok(())
}

/// How the client of [`as_configured`] comes in.
const fn login(host: &str) -> [&str; 10] {
    ["-h", host, "-p", PORT, "-q", "1", "-u", "mapper", "-P", "secret"]
}

/// What one of mosquitto's clients says at the other end of the link.
fn afar(host: &str, program: &str, arguments: &[&str]) -> Result<String> {
    run(Command::new("timeout")
        .args(["5", program])
        .args(login(host))
        .args(arguments))
}

/// A client that stays; it has a retained message, so it is in.
fn stays(edge: &EdgeHost, host: &str, name: &str) -> Result<Daemon> {
    let begin = || {
        let mut command = edge.command("mosquitto_sub");
        command.args(login(host)).args(["-t", "door/kept"]);
        Daemon::start(edge.folder(), name, &mut command)
    };
    let mut client = begin()?;
    wait::quietly("a client that stays", seconds(60), || {
        // Turned away while one before it was still leaving.
        if !client.alive() {
            client = begin()?;
        }
        let heard = std::fs::read_to_string(client.log())?.contains("kept");
        Ok(heard.then_some(()))
    })?;
    Ok(client)
}

fn start(context: &Context, name: &str) -> Result<EdgeHost> {
    if !is_ours(&program(&context.settings.edge, "edgecore")?) {
        return Err(Skip("only ours has this broker".to_owned()).into());
    }
    EdgeHost::start(&context.settings, context.folder(), name, Wire::Veth)
}

/// edgecore with MQTT alone.
fn write(edge: &EdgeHost, bus: &str) -> Result<()> {
    let name = edge.name();
    let text = format!(
        "apiVersion: edgecore.config.kubeedge.io/v1alpha2
kind: EdgeCore
database: {{dataSource: /var/lib/kubeedge/edgecore.db}}
modules:
  edgeHub: {{enable: false}}
  edgeStream: {{enable: false}}
  metaManager: {{metaServer: {{enable: false}}}}
  edged: {{enable: false, hostnameOverride: {name}}}
  eventBus:
    mqttMode: 0
{bus}"
    );
    Ok(std::fs::write(edge.folder().join("etc/config/edgecore.yaml"), text)?)
}

fn begin(edge: &mut EdgeHost, bus: &str) -> Result<()> {
    write(edge, bus)?;
    edge.start_edgecore()?;
    listening(edge)
}

fn listening(edge: &EdgeHost) -> Result<()> {
    wait::until("the broker listens", seconds(20), || {
        let probe = format!("exec 3<>/dev/tcp/127.0.0.1/{PORT}");
        Ok(run(edge.command("bash").args(["-c", &probe])).ok())
    })
    .map(drop)
    .with_context(|| edge.log())
}

fn script(context: &Context, edge: &EdgeHost) -> Command {
    let mut command = edge.command(&context.settings.python);
    let path = context.settings.root.join("e2e/mqtt/conformance.py");
    command.arg(path).args(["127.0.0.1", PORT]);
    command
}

/// Waits for the end of the checks; `meanwhile` is done again and again.
fn finish(checks: &mut Child, mut meanwhile: impl FnMut() -> Result<()>) -> Result<()> {
    let status = wait::until("the checks end", seconds(180), || {
        meanwhile()?;
        Ok(checks.try_wait()?)
    });
    if status.is_err() {
        checks.kill()?;
    }
    ensure!(status?.success(), "checks failed: see their lines above");
    Ok(())
}

/// mosquitto's clients with each QoS of the publisher and of the subscriber.
fn mosquittos_clients(edge: &EdgeHost) -> Result<()> {
    let begin = Instant::now();
    for published in 0..=2 {
        for subscribed in 0..=2 {
            each_once(edge, published, subscribed)
                .with_context(|| format!("published with QoS {published}, subscribed with QoS {subscribed}"))?;
        }
    }
    println!("mosquitto's clients took {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// A retained message and two more arrive once, in order, with the lower QoS of the two. Who has the first one is subscribed.
fn each_once(edge: &EdgeHost, published: u8, subscribed: u8) -> Result<()> {
    let topic = format!("clients/{published}-{subscribed}");
    let publish = |lines: &str, option: &str| {
        let client = format!("mosquitto_pub -h 127.0.0.1 -p {PORT} -q {published} -t {topic} -l {option}");
        let script = format!("printf '{lines}' | {client}");
        run(edge.command("timeout").args(["10", "bash", "-c", &script]))
    };
    publish(r"one\n", "-r")?;
    let qos = subscribed.to_string();
    // It ends after three messages, or after ten seconds.
    let fixed = ["-h", "127.0.0.1", "-p", PORT, "-C", "3", "-W", "10", "-F", "%q %p"];
    let mut subscriber = edge.command("mosquitto_sub");
    subscriber.args(fixed).args(["-q", &qos, "-t", &topic]);
    let mut subscriber = subscriber.stdout(Stdio::piped()).spawn().context("mosquitto_sub")?;
    let mut lines = BufReader::new(subscriber.stdout.take().context("standard output")?).lines();
    let mut heard = Vec::from_iter(lines.next().transpose()?);
    publish(r"two\nthree\n", "")?;
    for line in lines {
        heard.push(line?);
    }
    let ended = subscriber.wait()?;
    let wanted = ["one", "two", "three"].map(|payload| format!("{} {payload}", published.min(subscribed)));
    ensure!(ended.success() && heard == wanted, "{heard:?} arrived, {ended}");
    Ok(())
}

/// Whether mosquitto's client gets a message of QoS 1 acknowledged.
fn publish(edge: &EdgeHost, options: &[&str]) -> bool {
    let fixed = [
        "10",
        "mosquitto_pub",
        "-h",
        "127.0.0.1",
        "-p",
        PORT,
        "-q",
        "1",
        "-t",
        "door/x",
        "-m",
        "x",
    ];
    run(edge.command("timeout").args(fixed).args(options)).is_ok()
}

/// A CA with a server and a client, and a stranger's CA with a client.
fn certificates(folder: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for (ca, names) in [
        ("ca", ["server", "client"]),
        ("stranger", ["stranger-server", "stranger-client"]),
    ] {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, ca);
        std::fs::write(folder.join(format!("{ca}.crt")), parameters.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(parameters, key);
        for name in names {
            let key = KeyPair::generate()?;
            let mut parameters = CertificateParams::new(Vec::new())?;
            parameters.distinguished_name.push(DnType::CommonName, name);
            parameters.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
            parameters.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let certificate = parameters.signed_by(&key, &issuer)?;
            std::fs::write(folder.join(format!("{name}.crt")), certificate.pem())?;
            std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
        }
    }
    Ok(())
}
