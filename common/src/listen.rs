//! Opening ports. An unspecified address, of either family, means all addresses of the host of both families, as Go's listeners take
//! it: with `0.0.0.0`, which is in every configuration, a host that has only IPv6 is within reach.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Listens for TCP connections. Peers of IPv4 may be told in IPv6's words, see [`peer`].
///
/// # Errors
/// When the address cannot be had.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    open(address, |address| {
        let socket = bound(address, Type::STREAM, Protocol::TCP)?;
        socket.listen(WAITING)?;
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket.into())
    })
}

/// Opens a socket for datagrams.
///
/// # Errors
/// When the address cannot be had.
pub fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    open(address, |address| {
        bound(address, Type::DGRAM, Protocol::UDP).map(UdpSocket::from)
    })
}

/// A peer by the address that it has itself.
pub fn peer(seen: SocketAddr) -> SocketAddr {
    SocketAddr::new(seen.ip().to_canonical(), seen.port())
}

/// Waits a moment after a connection could not be accepted: as a rule the process is out of file descriptors, and some of them may come
/// free.
pub async fn pause() {
    tokio::time::sleep(PAUSE).await;
}

fn open<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    if !address.ip().is_unspecified() {
        return bind(address);
    }
    match bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port())) {
        // A kernel without IPv6.
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => bind(address),
        opened => opened,
    }
}

fn bound(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        // The kernel's default may be set to the opposite.
        socket.set_only_v6(false)?;
    }
    if kind == Type::STREAM {
        // Connections of the process before may not have ended yet.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Connections that wait to be accepted.
const WAITING: i32 = 1024;
/// See [`pause`].
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};
    use std::path::Path;

    use super::*;

    fn any() -> SocketAddr {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    }

    #[tokio::test]
    async fn the_unspecified_address_is_both_families() {
        let listener = tcp(any()).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("by IPv4");
        let (_, seen) = listener.accept().await.expect("a connection");
        assert_eq!(peer(seen).ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        if !Path::new("/proc/net/if_inet6").exists() {
            return;
        }
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).expect("by IPv6");
        let (_, seen) = listener.accept().await.expect("a connection");
        assert_eq!(peer(seen).ip(), IpAddr::V6(Ipv6Addr::LOCALHOST));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_in_one_family_is_taken() {
        let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a port");
        let taken = other.local_addr().expect("bound").port();
        let error = tcp((Ipv4Addr::UNSPECIFIED, taken).into()).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn an_address_is_that_address() {
        let listener = tcp((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        assert_eq!(
            listener.local_addr().expect("bound").ip(),
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        );
    }

    #[test]
    fn datagrams_come_from_both_families() {
        let socket = udp(any()).expect("a port");
        let port = socket.local_addr().expect("bound").port();
        let mut buffer = [0; 8];
        let locals: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for local in locals {
            if local.is_ipv6() && !Path::new("/proc/net/if_inet6").exists() {
                continue;
            }
            let sender = UdpSocket::bind((local, 0)).expect("a socket");
            sender.send_to(b"x", (local, port)).expect("sent");
            let (_, from) = socket.recv_from(&mut buffer).expect("a datagram");
            assert_eq!(peer(from).ip(), local);
        }
    }
}
