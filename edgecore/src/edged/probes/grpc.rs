//! The standard health question of gRPC, `grpc.health.v1.Health/Check`: too small for generated code.

use std::net::{IpAddr, SocketAddr};

use http::uri::PathAndQuery;
use tonic::Code;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use crate::edged::http_get::KUBERNETES;

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Whether the service says that it serves; the error is for people.
pub(super) async fn check(ip: IpAddr, port: i32, service: String) -> Result<(), String> {
    let port = u16::try_from(port).map_err(|_| format!("invalid port number: {port}"))?;
    let address = SocketAddr::new(ip, port);
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .and_then(|endpoint| endpoint.user_agent(format!("kube-probe/{KUBERNETES}")))
        .map_err(|error| common::chain(&error))?;
    let channel = endpoint.connect().await;
    let channel = channel.map_err(|error| {
        format!(
            "error: failed to connect service at \"{address}\": {}",
            common::chain(&error)
        )
    })?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| common::chain(&error))?;
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = tonic::Request::new(HealthCheckRequest { service });
    let answer = client
        .unary(request, path, codec)
        .await
        .map_err(|status| match status.code() {
            Code::Unimplemented => format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message()
            ),
            _ => format!("error: health rpc probe failed: {status}"),
        })?;
    let words = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
    match answer.into_inner().status {
        SERVING => Ok(()),
        other => {
            let word = usize::try_from(other)
                .ok()
                .and_then(|index| words.get(index))
                .copied()
                .unwrap_or("UNKNOWN");
            Err(format!("service unhealthy (responded with {word:?})"))
        }
    }
}

const SERVING: i32 = 1;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use common::Tasks;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    const ACK: u8 = 1;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut all = length.get(1..).expect("three").to_vec();
        all.extend([kind, flags]);
        all.extend(stream.to_be_bytes());
        all.extend(payload);
        all
    }

    /// A header that is written out.
    fn literal(name: &str, value: &str) -> Vec<u8> {
        let mut all = vec![0];
        for text in [name, value] {
            all.push(u8::try_from(text.len()).expect("short"));
            all.extend(text.bytes());
        }
        all
    }

    /// Speaks just enough HTTP/2 to answer one call, and returns the call's message.
    async fn answer(mut stream: TcpStream, message: &[u8], grpc_status: &str) -> std::io::Result<Vec<u8>> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await?;
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).expect("fits");
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await?;
            if kind == SETTINGS && flags & ACK == 0 {
                stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await?;
            }
            if kind == DATA && flags & END_STREAM != 0 {
                let id = u32::from_be_bytes(id);
                let status_200 = 0x88;
                let head = [vec![status_200], literal("content-type", "application/grpc")].concat();
                let mut body = vec![0, 0, 0, 0, u8::try_from(message.len()).expect("short")];
                body.extend(message);
                stream.write_all(&frame(HEADERS, END_HEADERS, id, &head)).await?;
                stream.write_all(&frame(DATA, 0, id, &body)).await?;
                let end = literal("grpc-status", grpc_status);
                stream
                    .write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, &end))
                    .await?;
                let _ = stream.read(&mut head.clone()).await;
                return Ok(payload);
            }
        }
    }

    async fn ask(message: &'static [u8], grpc_status: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let tasks = Tasks::new();
        tasks.spawn("server", async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let asked = answer(stream, message, grpc_status).await.expect("call");
            assert_eq!(asked, b"\0\0\0\0\x05\x0a\x03web");
        });
        check(Ipv4Addr::LOCALHOST.into(), port.into(), "web".into()).await
    }

    #[tokio::test]
    async fn only_a_service_that_serves_is_healthy() {
        assert_eq!(ask(b"\x08\x01", "0").await, Ok(()));
        assert_eq!(
            ask(b"\x08\x02", "0").await,
            Err("service unhealthy (responded with \"NOT_SERVING\")".into())
        );
        assert_eq!(
            ask(b"", "0").await,
            Err("service unhealthy (responded with \"UNKNOWN\")".into())
        );
        assert!(
            ask(b"", "12")
                .await
                .is_err_and(|error| error.contains("does not implement the grpc health protocol"))
        );
        let refused = check(Ipv4Addr::LOCALHOST.into(), 1, String::new()).await;
        assert!(refused.is_err_and(|error| error.contains("failed to connect service at \"127.0.0.1:1\"")));
    }
}
