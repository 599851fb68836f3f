//! News from the kernel that somebody changed nftables, which the newer variant of iptables is made of: a flushed rule is then put back
//! at once. The legacy variant tells nobody.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram as StdDatagram;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use tokio::net::UnixDatagram;

/// A subscription. To the runtime a netlink socket is like any other that has datagrams.
pub(super) struct Changes(UnixDatagram);

impl Changes {
    /// Subscribes; an error where the kernel has no nftables or the process may not listen.
    pub(super) fn subscribe() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            flags,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, NFTABLES_GROUP))?;
        Ok(Self(UnixDatagram::from_std(StdDatagram::from(socket))?))
    }

    /// Waits for a change; several at once count as one.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        loop {
            self.0.readable().await?;
            let mut changed = false;
            loop {
                match self.0.try_recv(&mut buffer) {
                    // The content of a message does not matter: each one means a change, and so does an overflow of the socket's buffer
                    // (ENOBUFS).
                    Ok(_) => changed = true,
                    Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => changed = true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if changed {
                return Ok(());
            }
        }
    }
}

/// The bit of group `NFNLGRP_NFTABLES`, the seventh.
const NFTABLES_GROUP: u32 = 1 << 6;
