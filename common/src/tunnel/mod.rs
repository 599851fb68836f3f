//! The stream tunnel on a socket: [`start`] runs [`proto::tunnel::Mux`] over anything that was upgraded, and hands out its streams as
//! [`AsyncRead`] and [`AsyncWrite`].
//!
//! One task per tunnel reads and writes the socket; holders of streams only touch queues in memory, so none of them can stop it.
//! At rest a tunnel holds the socket and a few hundred bytes. A tunnel ends with a reason, which all readers and writers get.

mod brake;
mod driver;
mod metrics;
mod shared;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use proto::Features;
use proto::tunnel::{Connect, Mux, MuxSettings, RefusedOpen, Role};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub use self::metrics::TunnelMetrics;
use self::shared::Shared;
pub use self::stream::{Incoming, TunnelStream};
use crate::tasks::Tasks;

/// How a tunnel runs.
#[derive(Clone, Debug)]
pub struct TunnelSettings {
    /// This side.
    pub role: Role,
    /// What both sides have.
    pub features: Features,
    /// Bytes that were read behind the head of the upgrade.
    pub early: Vec<u8>,
    /// Where it is counted; shared by all tunnels of the process.
    pub metrics: TunnelMetrics,
}

/// One tunnel. Cheap to clone; dropping it does not end the tunnel.
#[derive(Clone)]
pub struct Tunnel {
    shared: Arc<Shared>,
}

/// The streams that the cloud opens, for the edge to serve. When it is dropped they are refused.
pub struct Requests {
    shared: Arc<Shared>,
}

/// Runs a tunnel over a connection behind its upgrade. The task ends with the tunnel; when `tasks` stop it says farewell first.
///
/// Only the edge gets requests.
pub fn start<IO>(io: IO, settings: TunnelSettings, tasks: &Tasks) -> (Tunnel, Requests)
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let mux = MuxSettings {
        role: settings.role,
        credits: settings.features.has_credits(),
        seed: uuid::Uuid::new_v4().as_u64_pair().0,
    };
    let mux = Mux::new(&mux, tokio::time::Instant::now().into_std());
    let shared = Arc::new(Shared::new(mux, settings.metrics));
    // A cloud's readers may be kubectls behind slow lines: they must not hold back other streams.
    let brakes = settings.role == Role::Edge && !settings.features.has_credits();
    let driver = driver::Driver::new(Box::pin(io), shared.clone(), settings.early, brakes);
    tasks.spawn_draining("tunnel", |stop| driver.run(stop));
    let requests = Requests { shared: shared.clone() };
    (Tunnel { shared }, requests)
}

/// Sets a socket so that keystrokes leave at once and signs of life do not wait in the kernel behind megabytes of a dump. One without
/// these options works as well.
pub fn tune(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let _ = socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT);
}

impl Tunnel {
    /// Opens a stream (cloud). It does not wait for the edge: what the edge has to say comes as bytes of the stream.
    ///
    /// # Errors
    /// When the tunnel is over, or the request cannot be sent.
    #[expect(
        clippy::unused_async,
        reason = "a tunnel may come to have a limit of streams to wait for"
    )]
    pub async fn open(&self, connect: Connect) -> Result<TunnelStream, RefusedOpen> {
        let id = connect.id;
        let now = tokio::time::Instant::now().into_std();
        let key = self.shared.with(|mux| mux.open(now, &connect))?;
        Ok(TunnelStream::new(self.shared.clone(), key, id))
    }

    /// Ends the tunnel from this side: a cloud says why in a CloseConnect, then the socket is closed.
    pub fn close(&self, reason: &str) {
        self.shared.with(|mux| mux.close(reason));
    }

    /// Resolves when the tunnel has ended, with the reason.
    pub async fn closed(&self) -> String {
        self.shared.closed().await
    }

    /// Why the tunnel has ended, if it has.
    pub fn ended(&self) -> Option<String> {
        self.shared.look(|mux| mux.ended().map(ToOwned::to_owned))
    }

    /// Whether both are the same tunnel.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Live streams.
    pub fn open_streams(&self) -> usize {
        self.shared.look(|mux| mux.open_streams())
    }
}

impl Requests {
    /// The next stream to serve; `None` when the tunnel has ended. Cancel safe.
    pub async fn recv(&mut self) -> Option<Incoming> {
        std::future::poll_fn(|context| self.shared.poll_accept(context)).await
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.shared.with(Mux::refuse_all);
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("ended", &self.ended())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

/// Bytes that the kernel holds beyond those under way: half a second at 1 Mbit/s.
const UNSENT: u32 = 64 * 1024;
