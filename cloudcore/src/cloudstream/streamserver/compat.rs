//! The answer to a request whose stream carries a body only, as Go's cloudcore makes it up: status 200 whatever the kubelet said, in
//! chunks (spec 04 §6, `streamCompat`). The head is held back until there is a byte or an end, so that a missing edge is an error.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};

use super::refuse;
use super::relay::{First, Opening, discard, first};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\
                      Connection: close\r\n\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const BUFFER: usize = 32 * 1024;

pub(super) async fn relay_body<C, E>(client: &mut C, edge: E, mut opening: Opening)
where
    C: AsyncRead + AsyncWrite + Unpin + Send,
    E: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut edge_read, _edge_write) = split(edge);
    let body = match first(client, &mut edge_read, &mut opening, 1).await {
        First::Bytes(bytes) => bytes,
        First::Nothing => Vec::new(),
        First::Refused(refusal) => return refuse(client, &refusal).await,
        First::ClientLeft => return,
    };
    let (mut client_read, mut client_write) = split(client);
    let down = async {
        client_write.write_all(HEAD).await?;
        if !body.is_empty() {
            chunk(&mut client_write, &body).await?;
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match edge_read.read(&mut buffer).await {
                Ok(length) => length,
                Err(error) => {
                    let why = format!("edge node {} lost its connection: {error}", opening.node);
                    if let Some(line) = opening.last_word.line(&why) {
                        chunk(&mut client_write, line.as_bytes()).await?;
                    }
                    return Err(error);
                }
            };
            let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            chunk(&mut client_write, bytes).await?;
        }
        client_write.write_all(LAST_CHUNK).await?;
        client_write.shutdown().await
    };
    tokio::select! {
        // Without the last chunk the client sees that the body was cut.
        _cut = down => {}
        () = discard(&mut client_read) => {}
    }
}

async fn chunk(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
    to.write_all(bytes).await?;
    to.write_all(b"\r\n").await?;
    to.flush().await
}
