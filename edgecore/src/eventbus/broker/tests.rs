//! The whole broker over sockets, with the client crate as the peer.

#[allow(unreachable_pub)]
#[path = "../../../../fuzz/src/mqtt.rs"]
mod mqtt;
#[path = "../../../../fuzz/src/replay.rs"]
mod replay;

use std::time::Duration;

use bytes::Bytes;
use common::Tasks;
use prometheus_client::registry::Registry;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, PublishOptions, QoS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::core as state;
use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

type Outcome = Result<(), Box<dyn std::error::Error>>;

struct Bench {
    broker: Broker,
    tasks: Tasks,
    address: SocketAddr,
    registry: Registry,
}

impl Bench {
    async fn start(change: impl FnOnce(&mut Settings)) -> Result<Self, StartError> {
        let mut settings = Settings {
            listen: "tcp://127.0.0.1:0".to_owned(),
            database: "/nonexistent/mqtt.db".into(),
            ..Settings::default()
        };
        change(&mut settings);
        let (mut registry, tasks) = (Registry::default(), Tasks::new());
        let mut broker = Broker::start(settings, &mut registry, &tasks).await?;
        let address = timeout(DEADLINE, broker.bound()).await.expect("listens")[0];
        Ok(Self {
            broker,
            tasks,
            address,
            registry,
        })
    }

    fn client(&self, name: &str, clean: bool) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(name, (self.address.ip().to_string(), self.address.port()));
        options.set_clean_session(clean);
        AsyncClient::builder(options).capacity(16).build()
    }
}

/// The next packet that this finds.
async fn wait<T>(events: &mut EventLoop, mut find: impl FnMut(&Packet) -> Option<T>) -> T {
    let search = async {
        loop {
            if let Ok(Event::Incoming(packet)) = events.poll().await
                && let Some(found) = find(&packet)
            {
                return found;
            }
        }
    };
    timeout(DEADLINE, search).await.expect("the packet comes")
}

fn payload(packet: &Packet) -> Option<Bytes> {
    match packet {
        Packet::Publish(publish) => Some(publish.payload.clone()),
        _ => None,
    }
}

fn options(qos: QoS, retain: bool) -> PublishOptions {
    PublishOptions::new(qos).retain(retain)
}

fn suback(packet: &Packet) -> Option<()> {
    matches!(packet, Packet::SubAck(_)).then_some(())
}

#[tokio::test]
async fn between_a_client_and_the_process() -> Outcome {
    let mut bench = Bench::start(|_| {}).await?;
    let mut received = bench.broker.take_receiver().expect("once");
    bench.broker.subscribe("$hw/events/device/+/+/twin/update");
    let (client, mut events) = bench.client("mapper", true);
    client.subscribe("$hw/#", QoS::AtLeastOnce).await?;
    wait(&mut events, suback).await;
    let topic = "$hw/events/device/default/lamp/twin/update";
    client.publish(topic, "{}", options(QoS::AtLeastOnce, false)).await?;
    let own = wait(&mut events, payload).await;
    assert_eq!(own, "{}");
    let publication = timeout(DEADLINE, received.recv()).await?.expect("open");
    assert_eq!(
        (publication.topic.as_str(), publication.payload),
        (topic, Bytes::from("{}"))
    );

    // The process's answer, on a topic that it subscribed itself: it comes to the client and not back.
    bench.broker.publish(topic, Bytes::from("answer"), 1, false);
    assert_eq!(wait(&mut events, payload).await, "answer");
    client.publish(topic, "last", options(QoS::ExactlyOnce, false)).await?;
    wait(&mut events, |packet| {
        payload(packet).filter(|payload| payload == "last")
    })
    .await;
    let publication = timeout(DEADLINE, received.recv()).await?.expect("open");
    assert_eq!(publication.payload, "last");
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &bench.registry)?;
    assert!(text.contains("mqtt_messages_received_total 2"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_stalled_process_holds_up_who_publishes_to_it_and_nobody_else() -> Outcome {
    let bench = Bench::start(|_| {}).await?;
    bench.broker.subscribe("up/#");
    let (writer, mut written) = bench.client("writer", true);
    let (other, mut events) = bench.client("other", true);
    other.subscribe("aside", QoS::AtMostOnce).await?;
    wait(&mut events, suback).await;
    let flood = async {
        for _ in 0..20_000 {
            let _ = writer.publish("up/x", "x", options(QoS::AtMostOnce, false)).await;
        }
    };
    let drive = async { while written.poll().await.is_ok() {} };
    let meanwhile = async {
        other.publish("aside", "fine", options(QoS::AtMostOnce, false)).await?;
        assert_eq!(wait(&mut events, payload).await, "fine");
        Outcome::Ok(())
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(flood, drive) } => panic!("the flood never ends while nobody takes it"),
        outcome = meanwhile => outcome,
    }
}

#[tokio::test]
async fn sessions_and_retained_messages_survive_a_restart() -> Outcome {
    let folder = tempfile::tempdir()?;
    let database = folder.path().join("mqtt.db");
    let bench = Bench::start(|settings| settings.database.clone_from(&database)).await?;
    let (client, mut events) = bench.client("reader", false);
    client.subscribe("a/#", QoS::ExactlyOnce).await?;
    wait(&mut events, suback).await;
    client.disconnect().await?;
    while events.poll().await.is_ok() {}
    let (writer, mut events) = bench.client("writer", true);
    writer.publish("a/1", "waits", options(QoS::ExactlyOnce, false)).await?;
    writer.publish("b", "stays", options(QoS::AtLeastOnce, true)).await?;
    wait(&mut events, |packet| matches!(packet, Packet::PubAck(_)).then_some(())).await;
    bench.tasks.stop(DEADLINE).await;

    let bench = Bench::start(|settings| settings.database.clone_from(&database)).await?;
    let (client, mut events) = bench.client("reader", false);
    assert_eq!(wait(&mut events, payload).await, "waits");
    client.subscribe("b", QoS::AtMostOnce).await?;
    assert_eq!(wait(&mut events, payload).await, "stays");
    bench.tasks.stop(DEADLINE).await;
    // A file that is no database is set aside.
    std::fs::write(&database, vec![b'x'; 8192])?;
    let bench = Bench::start(|settings| settings.database.clone_from(&database)).await?;
    let kept = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.file_name());
    assert!(
        kept.into_iter()
            .any(|name| name.to_string_lossy().starts_with("mqtt.db.damaged"))
    );
    bench.tasks.stop(DEADLINE).await;
    Ok(())
}

#[tokio::test]
async fn strangers_are_turned_away() -> Outcome {
    let bench = Bench::start(|settings| {
        settings.users = [("u".to_owned(), "p".into())].into();
        settings.connections = 1;
        settings.connect_deadline = Duration::from_millis(300);
    })
    .await?;
    let exchange = async |bytes: &[u8]| {
        let mut stream = tokio::net::TcpStream::connect(bench.address).await?;
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut answer)).await??;
        Ok::<_, Box<dyn std::error::Error>>(answer)
    };
    // One after the other: there is room for one, and the place is free when the connection has ended.
    let until = async |bytes: &'static [u8], expected: &'static [u8]| {
        let search = async { while exchange(bytes).await.is_ok_and(|answer| answer != expected) {} };
        timeout(DEADLINE, search).await.unwrap_or_else(|_| panic!("{bytes:?}"));
    };
    until(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a", b"\x20\x02\x00\x04").await;
    until(b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x01a", b"\x20\x02\x00\x01").await;
    until(b"\xc0\x00", b"").await;
    until(b"", b"").await;
    until(b"\x10\xff\xff\xff\x7f", b"").await;
    until(
        b"\x10\x13\x00\x04MQTT\x04\xc2\x00\x00\x00\x01a\x00\x01u\x00\x01p\xe0\x00",
        b"\x20\x02\x00\x00",
    )
    .await;
    Ok(())
}

#[tokio::test]
async fn what_is_open_to_the_network_is_refused() {
    let error = |listen: &'static str| async move {
        let change = |settings: &mut Settings| settings.listen = listen.to_owned();
        Bench::start(change)
            .await
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert!(error("tcp://0.0.0.0:0").await.contains("modules.eventBus.broker.users"));
    assert!(error("tls://127.0.0.1:0").await.contains("tls.certFile"));
    let web_socket = error("wss://127.0.0.1:0").await;
    assert!(
        web_socket.contains("mqttServerInternal") && web_socket.contains("not supported"),
        "{web_socket}"
    );
    let with_users = Bench::start(|settings| {
        settings.listen = "tcp://0.0.0.0:0".to_owned();
        settings.users = [("u".to_owned(), "p".into())].into();
    });
    assert!(with_users.await.is_ok());
}

#[test]
fn the_corpus_of_packets() {
    replay::replay("mqtt_packets", mqtt::packets);
}
