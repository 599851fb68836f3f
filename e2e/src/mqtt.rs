//! MQTT as programs on an edge's host use it: a client (rumqttc) whose connection is made in the host's network namespace, and a
//! mosquitto for edges that are told to use one.
//!
//! A client owns a thread that keeps it connected and subscribed, and remembers all that it heard. It must not be used to test
//! brokers: it says nothing of what a broker did wrong.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rumqttc::{Connection, Event, Incoming, MqttOptions, PublishOptions, QoS};

use crate::edge::EdgeHost;
use crate::process::Daemon;
use crate::wait::{self, seconds};

/// Where edgecore's own broker listens by default.
pub const INTERNAL: u16 = 1884;
/// Where edgecore looks for another broker by default.
pub const EXTERNAL: u16 = 1883;
/// The longest packet, either way: a payload of 1 MiB and more fits.
const MAX_PACKET: usize = 4 * 1024 * 1024;
/// Publications that may wait for the connection; the next one waits in [`Client::publish`].
const QUEUE: usize = 100;
/// Time before a lost connection is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// A message that a client heard.
#[derive(Clone, Debug)]
pub struct Heard {
    /// When.
    pub at: Instant,
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Heard {
    /// The payload as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }
}

/// A client. Dropping it ends its connection.
pub struct Client {
    client: rumqttc::Client,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    heard: Mutex<Vec<Heard>>,
    /// Subscriptions that the broker took since the connection was made.
    subscribed: AtomicUsize,
    /// Publications with QoS 1 that the broker took.
    taken: AtomicUsize,
    stopped: AtomicBool,
}

impl Client {
    /// Connects from an edge's host to a broker there and subscribes; waits until the broker has taken that.
    pub fn connect(edge: &EdgeHost, port: u16, filters: &[&str]) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut options = MqttOptions::new(format!("e2e-{}-{number}", std::process::id()), ("127.0.0.1", port));
        options.set_max_packet_size(MAX_PACKET, MAX_PACKET).set_keep_alive(30);
        let (client, connection) = rumqttc::Client::builder(options).capacity(QUEUE).build();
        let shared = Arc::new(Shared::default());
        let namespace = File::open(edge.number().netns_path())?;
        let driver = Driver {
            client: client.clone(),
            shared: Arc::clone(&shared),
            filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        };
        // A thread of its own, because entering a namespace is for a thread's whole life.
        thread::spawn(
            move || match nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET) {
                Ok(()) => driver.run(connection),
                Err(errno) => eprintln!("e2e: the network namespace of an MQTT client: {errno}"),
            },
        );
        let all = filters.len();
        wait::quietly("an MQTT connection with its subscriptions", seconds(30), || {
            Ok((shared.subscribed.load(Ordering::Acquire) >= all).then_some(()))
        })?;
        Ok(Self { client, shared })
    }

    /// Hands a message to the connection; waits for room while it is busy.
    pub fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>, qos: QoS) -> Result<()> {
        self.client
            .publish(topic, payload.into(), PublishOptions::new(qos))
            .with_context(|| format!("publishing on {topic}"))
    }

    /// How many publications with QoS 1 the broker took.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.shared.taken.load(Ordering::Acquire)
    }

    /// How many messages it heard so far: where [`Self::since`] may go on from.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.lock().len()
    }

    /// What it heard from a mark on.
    #[must_use]
    pub fn since(&self, mark: usize) -> Vec<Heard> {
        self.lock().get(mark..).unwrap_or_default().to_vec()
    }

    /// How many of the messages from a mark on are like this.
    #[must_use]
    pub fn count(&self, mark: usize, wanted: impl Fn(&Heard) -> bool) -> usize {
        let heard = self.lock();
        heard
            .get(mark..)
            .unwrap_or_default()
            .iter()
            .filter(|one| wanted(one))
            .count()
    }

    /// Waits for a message from a mark on that gives a value.
    pub fn expect<T>(&self, what: &str, mark: usize, limit: Duration, look: impl Fn(&Heard) -> Option<T>) -> Result<T> {
        wait::until(what, limit, || Ok(self.find(mark, &look)))
            .with_context(|| format!("heard meanwhile: {}", self.excerpt(mark)))
    }

    /// As [`Self::expect`], without a line of output.
    pub fn expect_quietly<T>(
        &self,
        what: &str,
        mark: usize,
        limit: Duration,
        look: impl Fn(&Heard) -> Option<T>,
    ) -> Result<T> {
        wait::quietly(what, limit, || Ok(self.find(mark, &look)))
    }

    fn find<T>(&self, mark: usize, look: impl Fn(&Heard) -> Option<T>) -> Option<T> {
        self.lock().get(mark..).unwrap_or_default().iter().find_map(look)
    }

    fn excerpt(&self, mark: usize) -> String {
        let heard = self.since(mark);
        let text = |one: &Heard| format!("\n  {} {}", one.topic, String::from_utf8_lossy(&one.payload));
        let last = heard.iter().rev().take(10).map(text).collect::<String>();
        format!(
            "{} messages, the last first:{}",
            heard.len(),
            last.chars().take(4000).collect::<String>()
        )
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Heard>> {
        self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        let _ = self.client.try_disconnect_now();
    }
}

/// What keeps a client connected.
struct Driver {
    client: rumqttc::Client,
    shared: Arc<Shared>,
    filters: Vec<String>,
}

impl Driver {
    fn run(&self, mut connection: Connection) {
        while let Ok(event) = connection.recv() {
            if self.shared.stopped.load(Ordering::Acquire) {
                return;
            }
            match event {
                Ok(Event::Incoming(packet)) => self.take(packet),
                Ok(_) => {}
                Err(_) => wait::pause(RETRY),
            }
        }
    }

    fn take(&self, packet: Incoming) {
        match packet {
            Incoming::ConnAck(_) => {
                self.shared.subscribed.store(0, Ordering::Release);
                for filter in &self.filters {
                    // The queue is empty after a connection was made, or a publisher fills it: then the next connection does it.
                    let _ = self.client.try_subscribe(filter, QoS::AtLeastOnce);
                }
            }
            Incoming::SubAck(_) => {
                self.shared.subscribed.fetch_add(1, Ordering::AcqRel);
            }
            Incoming::PubAck(_) => {
                self.shared.taken.fetch_add(1, Ordering::AcqRel);
            }
            Incoming::Publish(message) => {
                let one = Heard {
                    at: Instant::now(),
                    topic: String::from_utf8_lossy(&message.topic).into_owned(),
                    payload: message.payload.to_vec(),
                };
                self.shared
                    .heard
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(one);
            }
            _ => {}
        }
    }
}

/// A mosquitto on an edge's host, killed when it is dropped.
pub struct Mosquitto(Daemon);

impl Mosquitto {
    /// Starts one. What it is told says where it listens; it may not do that yet.
    pub fn start(edge: &EdgeHost, config: &str) -> Result<Self> {
        let file = edge.folder().join("mosquitto.conf");
        std::fs::write(&file, format!("{config}log_dest stderr\nuser root\n"))?;
        let mut command = edge.command("mosquitto");
        Daemon::start(edge.folder(), "mosquitto", command.arg("-c").arg(&file)).map(Self)
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        self.0.kill();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a mosquitto on an edge's host that lets everybody in, and waits until it takes connections.
pub fn start_mosquitto(edge: &EdgeHost) -> Result<Mosquitto> {
    let config = format!("listener {EXTERNAL} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n");
    let mut broker = Mosquitto::start(edge, &config)?;
    let port = EXTERNAL.to_string();
    let ready = wait::quietly("mosquitto", seconds(20), || {
        ensure!(broker.0.alive(), "mosquitto ended");
        let mut knock = edge.command("mosquitto_pub");
        crate::process::run(knock.args(["-p", &port, "-t", "e2e", "-n"])).map(Some)
    });
    ready.with_context(|| broker.0.tail())?;
    Ok(broker)
}
