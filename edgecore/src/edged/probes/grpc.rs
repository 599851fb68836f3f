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
