//! Waits until edgecore has its certificates and is healthy, and says what is in the way when that takes too long.

use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use config::EdgeCore;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::paths::Paths;
use crate::process;
use crate::service::Manager;
use crate::steps::Steps;

/// Returns when the node has joined; the error says what edgecore last complained of.
pub(super) async fn until_joined(paths: &Paths, manager: Manager, config: &EdgeCore) -> anyhow::Result<()> {
    let hub = &config.modules.edge_hub;
    let kubelet = &config.modules.edged.tailored_kubelet_config;
    let files = [&hub.tls_ca_file, &hub.tls_cert_file, &hub.tls_private_key_file];
    let health = format!("{}:{}", kubelet.address, kubelet.read_only_port);
    let started = Instant::now();
    let mut told = None;
    let mut absent_since = None;
    loop {
        let certificates = files.iter().all(|file| paths.exists(file));
        if certificates && told.is_none() {
            Steps::note(&format!(
                "certificates received after {} s",
                started.elapsed().as_secs()
            ));
            told = Some(());
        }
        if certificates && healthy(&health).await {
            Steps::note(&format!("edgecore is healthy after {} s", started.elapsed().as_secs()));
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
            return diagnose(paths, manager, certificates, running);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn diagnose(paths: &Paths, manager: Manager, certificates: bool, running: bool) -> anyhow::Result<()> {
    let what = match (running, certificates) {
        (false, _) => "edgecore has ended and was not started again",
        (true, false) => "edgecore got no certificates from cloudcore",
        (true, true) => "edgecore has its certificates but is not healthy",
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

async fn healthy(address: &str) -> bool {
    tokio::time::timeout(PATIENCE, ask(address))
        .await
        .is_ok_and(|answer| answer.is_ok_and(|status| status == StatusCode::OK))
}

async fn ask(address: &str) -> anyhow::Result<StatusCode> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/healthz")
        .header("Host", address)
        .body(Empty::<Bytes>::new())?;
    let answer = async move { sender.send_request(request).await };
    tokio::pin!(answer);
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // The connection's end may be seen before the answer that came with it.
        _ = connection => answer.await,
    };
    Ok(answer?.status())
}

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
    async fn health_is_an_answer_of_200() -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let serve = async {
            for status in ["200 OK", "500 Internal Server Error"] {
                let (mut stream, _) = listener.accept().await?;
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await?;
                stream
                    .write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())
                    .await?;
            }
            anyhow::Ok(())
        };
        let look = async { (healthy(&address).await, healthy(&address).await) };
        let (served, looked) = tokio::join!(serve, look);
        served?;
        assert_eq!(looked, (true, false));
        assert!(!healthy("127.0.0.1:1").await);
        Ok(())
    }
}
