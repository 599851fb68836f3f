//! Where a redirected client wanted to go.

use std::net::{IpAddr, SocketAddr};

use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};
use tokio::net::TcpStream;

use crate::informers::Host;

/// The destination before this host's redirect rules changed it; `None` when they did not. A rule on another host leaves no trace.
pub fn original_destination(stream: &TcpStream) -> Option<Host> {
    let local = stream.local_addr().ok()?;
    let original = match local.ip().to_canonical() {
        IpAddr::V4(_) => ip_original_dst(stream).ok().map(SocketAddr::V4),
        IpAddr::V6(_) => ipv6_original_dst(stream).ok().map(SocketAddr::V6),
    }?;
    let (local, original) = (local.ip().to_canonical(), original.ip().to_canonical());
    (original != local).then_some(Host::Address(original))
}
