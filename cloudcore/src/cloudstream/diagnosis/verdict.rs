//! What the answer to a request that goes all the way says about the way: by status and words, which are the API server's or a stream
//! server's.

use bytes::Bytes;
use common::chain;

use super::Hop;
use crate::kubernetes::ApiError;

/// The broken hop with the words that say so; none when the edge says that it is well.
pub(super) fn verdict(answer: &Result<Bytes, ApiError>) -> (Option<Hop>, String) {
    let error = match answer {
        Ok(body) if body.starts_with(b"ok") => return (None, String::new()),
        // With `streamCompat` whatever the edge says has the status 200.
        Ok(body) => {
            let text = String::from_utf8_lossy(body);
            return (Some(of_edge(&text)), format!("not ok, but {:?}", text.trim()));
        }
        Err(error) => error,
    };
    let Some(status) = error.status() else {
        // Without a status nothing answered at all. It was not the stream server: that one would have refused after a third of the time.
        let text = format!(
            "{}: the API server's connections to the node end nowhere; {RULES}",
            chain(error)
        );
        return (Some(Hop::Redirect), text);
    };
    let text = status.message.as_str();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&[UNREACHED]) {
        return (Some(Hop::Tunnel), format!("{text}; {BETWEEN}"));
    }
    let hop = if has(&["x509:", "tls:"]) {
        Hop::Certificate
    } else if has(&["dial tcp", "connection reset", "no route to host"]) {
        return (Some(Hop::Redirect), format!("{text}; {RULES}"));
    } else if matches!(status.code, 401 | 403) {
        Hop::Access
    } else if has(&[NOT_HERE]) {
        if has(&[NO_SESSION]) && !has(&[REFUSED]) {
            Hop::Edge
        } else {
            Hop::Tunnel
        }
    } else {
        of_edge(text)
    };
    (Some(hop), text.to_owned())
}

/// The hop that an edge names.
fn of_edge(text: &str) -> Hop {
    if LOOP.iter().any(|word| text.contains(word)) {
        Hop::Runtime
    } else {
        Hop::Edge
    }
}

const RULES: &str = "are there redirect rules on the API server's host (modules.iptablesManager, or the DaemonSet cloud-iptables-manager)?";
const BETWEEN: &str = "do cloudcores reach each other's port of the tunnels (modules.cloudStream.tunnelPort)? Or that cloudcore is gone \
                       and the edge is off";
/// What our edge and a kubelet say when the loop that looks after containers is stuck.
const LOOP: [&str; 2] = ["has not listed its containers", "sync Loop took longer than expected"];
/// In our stream server's answer, when the tunnel is another's, ...
const UNREACHED: &str = "the cloudcore that has it cannot be reached";
/// ... when there is none, ...
const NOT_HERE: &str = "is not connected to this cloudcore";
/// ... and when the node is away altogether.
const NO_SESSION: &str = "nor has it a session with CloudHub";

/// It is there and tries.
const REFUSED: &str = " was refused ";

#[cfg(test)]
mod tests {
    use proto::Status;

    use super::*;

    #[test]
    fn words_of_api_servers_and_stream_servers_name_the_hop() {
        for (code, message, hop) in [
            (
                503,
                "error trying to reach service: dial tcp 10.0.0.2:10351: connect: connection refused",
                Hop::Redirect,
            ),
            (
                503,
                "error trying to reach service: tls: failed to verify certificate: x509: certificate signed by unknown authority",
                Hop::Certificate,
            ),
            (401, "Unauthorized", Hop::Access),
            (
                403,
                "Forbidden (user=a, verb=get, resource=nodes, subresource=proxy, name=b)",
                Hop::Access,
            ),
            (
                503,
                "edge node b is not connected to this cloudcore (10.0.0.1)",
                Hop::Tunnel,
            ),
            (
                503,
                "edge node b is not connected to this cloudcore (10.0.0.1), nor has it a session with CloudHub",
                Hop::Edge,
            ),
            (
                503,
                "edge node b is not connected to this cloudcore (10.0.0.1), nor has it a session with CloudHub; a connection from \
                 10.0.0.2 was refused 6 s ago: the edge does not know the CA of this cloudcore's certificate",
                Hop::Tunnel,
            ),
            (
                503,
                "edge node b is not connected to this cloudcore (10.0.0.1), nor has it a session with CloudHub; the cloudcore that \
                 has it cannot be reached: 10.0.0.2:10004: no connection within 5s",
                Hop::Tunnel,
            ),
            (
                500,
                "the container runtime has not listed its containers within the last 3 minutes",
                Hop::Runtime,
            ),
            (
                500,
                "internal server error: sync Loop took longer than expected",
                Hop::Runtime,
            ),
            (503, "edged is off (modules.edged.enable): no pod runs here", Hop::Edge),
            (504, "edge node b did not answer within 10s", Hop::Edge),
            (502, "edge node b ended the request without an answer", Hop::Edge),
        ] {
            let error = Err(ApiError::Refused {
                verb: "GET",
                path: "/".into(),
                status: Status::failure(code, "x", message).into(),
            });
            assert_eq!(verdict(&error).0, Some(hop), "{message}");
        }
        for (body, hop) in [
            ("ok", None),
            (
                "internal server error: sync Loop took longer than expected\n",
                Some(Hop::Runtime),
            ),
            ("edged is off (modules.edged.enable): no pod runs here", Some(Hop::Edge)),
            ("dial tcp 127.0.0.1:10350: connect: connection refused", Some(Hop::Edge)),
            ("", Some(Hop::Edge)),
        ] {
            assert_eq!(verdict(&Ok(Bytes::from(body))).0, hop, "{body}");
        }
    }
}
