//! Waits until edgecore has its certificates and the node is Ready, and says what is in the way when that takes too long.

use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use config::EdgeCore;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::paths::Paths;
use crate::process;
use crate::service::Manager;
use crate::steps::Steps;

/// Returns when the node has joined; the error says what edgecore last complained of.
pub(super) async fn until_joined(paths: &Paths, manager: Manager, config: &EdgeCore) -> anyhow::Result<()> {
    let kubelet = &config.modules.edged.tailored_kubelet_config;
    let address = format!("{}:{}", kubelet.address, kubelet.read_only_port);
    let started = Instant::now();
    let mut told = None;
    let mut absent_since = None;
    loop {
        let certificates = has_certificates(paths, config);
        if certificates && told.is_none() {
            Steps::note(&format!(
                "certificates received after {} s",
                started.elapsed().as_secs()
            ));
            told = Some(());
        }
        let state = if certificates {
            state(&address).await
        } else {
            State::Silent
        };
        if state == State::Ready {
            Steps::note(&format!("the node is Ready after {} s", started.elapsed().as_secs()));
            return Ok(());
        }
        let running = process::named(&paths.proc(), "edgecore").is_ok_and(|pids| !pids.is_empty());
        let absent = if running {
            None
        } else {
            Some(absent_since.unwrap_or_else(Instant::now))
        };
        absent_since = absent;
        // A service manager starts it again after 10 s: longer than that is not a restart.
        let gone = absent_since.is_some_and(|since| since.elapsed() > RESTART);
        if gone || started.elapsed() > LIMIT {
            return diagnose(paths, manager, certificates, running, &state);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether the cloud has issued what edgecore needs.
pub(super) fn has_certificates(paths: &Paths, config: &EdgeCore) -> bool {
    let hub = &config.modules.edge_hub;
    [&hub.tls_ca_file, &hub.tls_cert_file, &hub.tls_private_key_file]
        .iter()
        .all(|file| paths.exists(file))
}

fn diagnose(paths: &Paths, manager: Manager, certificates: bool, running: bool, state: &State) -> anyhow::Result<()> {
    let what = match (running, certificates, state) {
        (false, ..) => "edgecore has ended and was not started again".to_owned(),
        (true, false, _) => "edgecore got no certificates from cloudcore".to_owned(),
        (true, true, State::NotReady(reason)) => format!("the node has joined but is not Ready: {reason}"),
        (true, true, _) => "edgecore has its certificates but does not answer".to_owned(),
    };
    let complaints = manager.complaints(paths);
    if complaints.is_empty() {
        bail!("{what}; see {}", manager.logs(paths));
    }
    bail!(
        "{what}; its last complaints ({}):\n  {}",
        manager.logs(paths),
        complaints.join("\n  ")
    )
}

/// What edgecore says about the node.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Ready,
    NotReady(String),
    /// It does not answer.
    Silent,
}

async fn state(address: &str) -> State {
    match ask(address, "/readyz").await {
        Some((StatusCode::OK, _)) => State::Ready,
        // The Go program has no such path.
        Some((StatusCode::NOT_FOUND, _)) => match ask(address, "/healthz").await {
            Some((StatusCode::OK, _)) => State::Ready,
            Some((_, text)) => State::NotReady(text),
            None => State::Silent,
        },
        Some((_, text)) => State::NotReady(text),
        None => State::Silent,
    }
}

async fn ask(address: &str, path: &str) -> Option<(StatusCode, String)> {
    tokio::time::timeout(PATIENCE, exchange(address, path)).await.ok()?.ok()
}

async fn exchange(address: &str, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("Host", address).body(Empty::<Bytes>::new())?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, TEXT)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        anyhow::Ok((head.status, String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection's end may be seen before the answer that came with it.
        _ = connection => answer.await,
    }
}

/// Of an answer, in bytes.
const TEXT: usize = 16 * 1024;
const LOOK: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(3);
const RESTART: Duration = Duration::from_secs(15);
/// As long as the Go tool waits.
const LIMIT: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn readiness_is_asked_of_ours_and_health_of_others() -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let serve = async {
            let mut asked = Vec::new();
            for answer in ["200 OK", "503 Service Unavailable", "404 Not Found", "200 OK"] {
                let (mut stream, _) = listener.accept().await?;
                let mut buffer = [0; 1024];
                let length = stream.read(&mut buffer).await?;
                let request = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                asked.extend(request.split(' ').nth(1).map(str::to_owned));
                stream
                    .write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 4\r\n\r\nwhy\n").as_bytes())
                    .await?;
            }
            anyhow::Ok(asked)
        };
        let look = async { [state(&address).await, state(&address).await, state(&address).await] };
        let (asked, states) = tokio::join!(serve, look);
        assert_eq!(asked?, ["/readyz", "/readyz", "/readyz", "/healthz"]);
        assert_eq!(states, [State::Ready, State::NotReady("why".into()), State::Ready]);
        drop(listener);
        assert_eq!(state(&address).await, State::Silent);
        Ok(())
    }
}
