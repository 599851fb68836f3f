//! A node made by hand on an edge's host, over WebSocket or QUIC with all of our extras: it says and counts what no edgecore would.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use common::line::quic::{self, Path};
use common::line::websocket::{self, Counted, WebSocketLine};
use common::line::{Line, Received};
use proto::quic::Hello;
use proto::{FEATURES_HEADER, Features, Lane, Message};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::edge::Uplink;
use crate::hosts::HostNumber;

/// What a connection is carried by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Port 10000.
    WebSocket,
    /// Port 10001.
    Quic,
}

impl Way {
    /// Its name in figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Quic => "quic",
        }
    }
}

/// Whom to talk to, and as whom.
#[derive(Clone)]
pub struct Call {
    /// The cloud's address on the edge's link.
    pub address: String,
    /// Its ports.
    pub uplink: Uplink,
    /// The node's certificate in a TLS configuration.
    pub tls: ClientConfig,
    /// The node.
    pub node: String,
}

/// A connected node.
pub struct Talker {
    line: Box<dyn Line>,
    /// Of a connection over QUIC.
    pub path: Option<Path>,
    urgent: VecDeque<String>,
    bulk: VecDeque<String>,
}

/// Runs something asynchronous on a thread of its own inside the network namespace of a host.
pub fn inside<T, F>(host: HostNumber, work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<Result<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    std::thread::spawn(move || {
        let path = host.netns_path();
        let namespace = File::open(&path).with_context(|| format!("{}", path.display()))?;
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).context("setns")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work())
    })
}

impl Talker {
    /// Connects.
    pub async fn connect(call: &Call, way: Way) -> Result<Self> {
        let headers = [
            ("Node_id", call.node.clone()),
            ("Project_id", "e2e".to_owned()),
            ("ConnectionUse", "msg".to_owned()),
            (FEATURES_HEADER, Features::OURS.to_string()),
        ];
        let (line, path): (Box<dyn Line>, _) = match way {
            Way::Quic => {
                let hello = Hello {
                    headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
                };
                let remote = format!("{}:{}", call.address, call.uplink.quic()).parse()?;
                let (line, _, path) = quic::dial(remote, &call.address, call.tls.clone(), &hello).await?;
                (Box::new(line), Some(path))
            }
            Way::WebSocket => {
                let address = format!("{}:{}", call.address, call.uplink.websocket);
                let stream = TcpStream::connect(&address).await?;
                websocket::tune(&stream);
                let name = ServerName::try_from(call.address.clone())?;
                let tls = TlsConnector::from(Arc::new(call.tls.clone()));
                let stream = Counted::new(tls.connect(name, stream).await?);
                let mut request = format!("wss://{address}/e2e/{}/events", call.node).into_client_request()?;
                for (name, value) in headers {
                    request.headers_mut().insert(name, value.parse()?);
                }
                let (socket, _) = client_async_with_config(request, stream, Some(websocket::config())).await?;
                (Box::new(WebSocketLine::new(socket, true)), None)
            }
        };
        let mut talker = Self {
            line,
            path,
            urgent: VecDeque::new(),
            bulk: VecDeque::new(),
        };
        talker.say(&Message::keepalive());
        Ok(talker)
    }

    /// Queues a message for its lane; it leaves while [`Talker::hear`] waits.
    pub fn say(&mut self, message: &Message) {
        match message.lane() {
            Lane::Urgent => self.urgent.push_back(message.encode()),
            Lane::Bulk => self.bulk.push_back(message.encode()),
        }
    }

    /// Queues an encoded message of the bulk lane.
    pub fn say_bulk(&mut self, text: String) {
        self.bulk.push_back(text);
    }

    /// Bulk messages that have not begun to leave.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.bulk.len()
    }

    /// Writes, and waits for the next message.
    pub async fn hear(&mut self) -> Result<Message> {
        loop {
            let received = std::future::poll_fn(|context| {
                let written = self.line.poll_write(context, &mut |lane| match lane {
                    Lane::Urgent => self.urgent.pop_front(),
                    Lane::Bulk => self.bulk.pop_front(),
                });
                match written {
                    Ok(()) => self.line.poll_read(context),
                    Err(error) => Poll::Ready(Err(error)),
                }
            });
            if let Received::Message(bytes) = received.await? {
                return Ok(Message::decode(&bytes)?);
            }
        }
    }
}
