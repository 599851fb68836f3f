//! The task of a tunnel: the only one that touches its socket.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::brake::{self, Brake};
use super::shared::Shared;

/// A socket of any kind: one call through a table per read costs nothing, a copy of this file per kind would.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<IO: AsyncRead + AsyncWrite + Send> Duplex for IO {}

pub(super) struct Driver {
    io: Pin<Box<dyn Duplex>>,
    shared: Arc<Shared>,
    early: Vec<u8>,
    /// Frames for the socket; empty at rest.
    out: Vec<u8>,
    /// Bytes of `out` that were taken by the socket.
    written: usize,
    /// The socket may hold bytes back.
    unflushed: bool,
    /// Where streams have no windows, with the timer that looks again.
    brake: Option<(Brake, Pin<Box<Sleep>>)>,
}

impl Driver {
    pub(super) fn new(io: Pin<Box<dyn Duplex>>, shared: Arc<Shared>, early: Vec<u8>, brakes: bool) -> Self {
        let brake = || (Brake::default(), Box::pin(tokio::time::sleep(brake::PAUSE)));
        Self {
            io,
            shared,
            early,
            out: Vec::new(),
            written: 0,
            unflushed: false,
            brake: brakes.then(brake),
        }
    }

    /// Runs until the tunnel has ended and its last words were said. `stop` makes it end.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut early = std::mem::take(&mut self.early);
        if !early.is_empty() {
            self.shared.drive(|mux| mux.receive(now(), &mut early));
        }
        drop(early);
        let timer = tokio::time::sleep_until(self.deadline());
        tokio::pin!(timer);
        tokio::select! {
            // First: the stop ends the holders of streams too, and what they had not finished must not look as if it had come to its end.
            biased;
            () = stop.cancelled() => self.shared.drive(|mux| mux.close("the program stops")),
            () = poll_fn(|context| self.poll(context, timer.as_mut(), &stop)) => {}
        }
        // Nobody may be left waiting, and the peer is told why if it still listens.
        let _ = tokio::time::timeout(FAREWELL, poll_fn(|context| self.poll_farewell(context))).await;
    }

    /// Ready when the tunnel has ended. Does nothing more once `stop` says so, which wakes by itself.
    fn poll(&mut self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>, stop: &CancellationToken) -> Poll<()> {
        self.shared.driver.register(context.waker());
        loop {
            if stop.is_cancelled() {
                return Poll::Pending;
            }
            // Reading first: it brings credits, and tells a peer that is alive from one that is not.
            let progress = match self.transfer(context) {
                Ok(progress) => progress,
                Err(error) => {
                    self.shared
                        .drive(|mux| mux.lost(&format!("the connection was lost: {error}")));
                    return Poll::Ready(());
                }
            };
            if self.shared.look(|mux| mux.ended().is_some()) {
                return Poll::Ready(());
            }
            if progress {
                continue;
            }
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.shared.drive(|mux| mux.expire(now()));
            timer.as_mut().reset(self.deadline());
        }
    }

    /// Reads a portion and writes a portion; whether there was any.
    fn transfer(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let read = match self.poll_brake(context) {
            Poll::Ready(()) => self.poll_read(context)?.is_ready(),
            Poll::Pending => false,
        };
        let wrote = match self.poll_write(context) {
            Poll::Ready(result) => result?,
            Poll::Pending => false,
        };
        Ok(read || wrote)
    }

    /// Pending while the socket is to wait for the readers of its streams.
    fn poll_brake(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some((brake, timer)) = &mut self.brake else {
            return Poll::Ready(());
        };
        let waiting = self.shared.look(proto::tunnel::Mux::waiting_bytes);
        while brake.holds(now(), waiting) {
            ready!(timer.as_mut().poll(context));
            timer.as_mut().reset(Instant::now() + brake::PAUSE);
        }
        Poll::Ready(())
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(self.io.as_mut().poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the peer")));
            }
            let waiting = self.shared.drive(|mux| {
                mux.receive(now(), buffer.filled_mut());
                mux.waiting_bytes()
            });
            if let Some((brake, _)) = &mut self.brake {
                brake.read(waiting);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Whether something was written.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            if self.shared.look(proto::tunnel::Mux::has_output) {
                self.shared.drive(|mux| mux.transmit(&mut self.out, PORTION));
            }
        }
        if self.out.is_empty() {
            self.out = Vec::new();
            if self.unflushed {
                ready!(self.io.as_mut().poll_flush(context))?;
                self.unflushed = false;
            }
            return Poll::Ready(Ok(false));
        }
        let count = ready!(self.io.as_mut().poll_write(context, &self.out[self.written..]))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.written += count;
        self.unflushed = true;
        Poll::Ready(Ok(true))
    }

    /// Writes what is left and closes the socket. What the peer still sends is read: a socket closed over it would be reset, and the
    /// last words be lost.
    fn poll_farewell(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while ready!(self.poll_write(context))? {}
        ready!(self.io.as_mut().poll_shutdown(context))?;
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                let mut buffer = ReadBuf::new(scratch);
                ready!(self.io.as_mut().poll_read(context, &mut buffer))?;
                if buffer.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        })
    }

    fn deadline(&self) -> Instant {
        self.shared.look(proto::tunnel::Mux::deadline).into()
    }
}

impl Drop for Driver {
    /// Also after a panic: nobody waits for a tunnel without a task.
    fn drop(&mut self) {
        self.shared.drive(|mux| mux.lost("the tunnel's task has ended"));
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

thread_local! {
    /// Where a socket is read into. It is used within one poll only, so that a tunnel at rest holds no buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; PORTION]);
}

/// Bytes that are read or written at once: some records of TLS.
const PORTION: usize = 64 * 1024;
/// The peer gets so long to take the last words.
const FAREWELL: Duration = Duration::from_secs(2);
