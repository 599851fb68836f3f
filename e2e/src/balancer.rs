//! A small TCP balancer: what stands before several cloudcores.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result};

use crate::wait;

/// One address before several. Dropping it ends the listening; connections end with their sides.
pub struct Balancer {
    port: u16,
    stopped: Arc<AtomicBool>,
}

/// Who gets a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// One after the other.
    Each,
    /// The first that can be reached.
    First,
}

impl Balancer {
    /// Listens on a free port of all addresses; `backends` are ports of this machine. One that refuses is passed over.
    pub fn start(turn: Turn, backends: Vec<u16>) -> Result<Self> {
        let listener = TcpListener::bind(("0.0.0.0", 0)).context("a port for the balancer")?;
        let port = listener.local_addr()?.port();
        let stopped = Arc::new(AtomicBool::new(false));
        let (flag, next) = (stopped.clone(), AtomicUsize::new(0));
        thread::spawn(move || {
            for client in listener.incoming() {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                let first = match turn {
                    Turn::Each => next.fetch_add(1, Ordering::Relaxed),
                    Turn::First => 0,
                };
                if let Ok(client) = client {
                    let order: Vec<u16> = (0..backends.len())
                        .filter_map(|number| backends.get((first + number) % backends.len()).copied())
                        .collect();
                    thread::spawn(move || join(client, &order));
                }
            }
        });
        Ok(Self { port, stopped })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that listens.
        let _ = TcpStream::connect_timeout(&([127, 0, 0, 1], self.port).into(), wait::seconds(1));
    }
}

fn join(client: TcpStream, backends: &[u16]) {
    let Some(server) = backends
        .iter()
        .find_map(|port| TcpStream::connect(("127.0.0.1", *port)).ok())
    else {
        return;
    };
    let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let up = thread::spawn(move || pass(from_client, server));
    pass(from_server, client);
    // The other direction ends with its sockets.
    let _ = up.join();
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
