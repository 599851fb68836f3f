//! One request of the cloud, served by the kubelet's API (spec 04 §4, §5.4).
//!
//! Whatever the type of its connect message, any path may be asked for: the type only says whether the answer goes back as HTTP, or
//! without status and headers.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use bytes::{Buf as _, Bytes};
use common::chain;
use common::tunnel::{Incoming, TunnelStream};
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proto::tunnel::Connect;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tower::ServiceExt as _;
use tracing::debug;

/// Ends with the stream.
pub(super) async fn serve(incoming: Incoming, router: Router) {
    let Incoming { connect, stream } = incoming;
    debug!(
        stream = connect.id,
        method = connect.method,
        target = connect.target,
        "request of the cloud"
    );
    if connect.kind.is_body_only() {
        body_only(&connect, stream, router).await;
    } else {
        exchange(&connect, stream, router).await;
    }
}

/// The whole exchange goes back, and what follows an upgrade both ways.
async fn exchange(connect: &Connect, stream: TunnelStream, router: Router) {
    let io = Prefixed {
        head: connect.head().into(),
        stream,
    };
    let service = service_fn(move |request| {
        let router = router.clone();
        async move {
            let mut answer = router.oneshot(request).await?;
            // One request, one stream: a Go cloud would wait for the end of a connection that is kept.
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                answer
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<Response, Infallible>(answer)
        }
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(io), service);
    if let Err(error) = served.with_upgrades().await {
        debug!(stream = connect.id, error = chain(&error), "request of the cloud");
    }
}

/// Only the body goes back, errors as text. The cloud has nothing more to say, but that it leaves.
async fn body_only(connect: &Connect, mut stream: TunnelStream, router: Router) {
    let mut request = Request::builder().method(connect.method.as_str()).uri(&connect.target);
    for (name, value) in &connect.headers {
        request = request.header(name, value);
    }
    let answer = async {
        match request.body(Body::empty()) {
            Ok(request) => match router.oneshot(request).await {
                Ok(answer) => answer.into_body(),
                Err(never) => match never {},
            },
            Err(error) => Body::from(chain(&error)),
        }
    };
    let mut body = tokio::select! {
        body = answer => body,
        () = stream.over() => return,
    };
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = stream.over() => return,
        };
        let Some(Ok(frame)) = frame else { break };
        if let Ok(bytes) = frame.into_data()
            && stream.write_all(&bytes).await.is_err()
        {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

/// A stream with the head of its request before it.
struct Prefixed {
    head: Bytes,
    stream: TunnelStream,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.head.len().min(buffer.remaining());
        buffer.put_slice(self.head.get(..count).unwrap_or_default());
        self.head.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
