//! The heads before the tunnel.

use crate::Features;
use crate::tunnel::upgrade::{Answer, Request, Upgrade};

const KEY: [u8; 16] = *b"the sample nonce";

fn ours() -> Upgrade {
    Upgrade {
        node: "edge-1".to_owned(),
        internal_ip: Some("192.168.1.20".to_owned()),
        features: Features::TUNNEL,
    }
}

#[test]
fn both_sides_of_ours_agree_on_credits() {
    let head = ours().request("203.0.113.10:10004", KEY);
    for cut in 0..head.len() {
        assert!(Request::read(&head.as_bytes()[..cut]).unwrap().is_none());
    }
    let request = Request::read(head.as_bytes()).unwrap().unwrap();
    assert_eq!((&request.upgrade, request.length), (&ours(), head.len()));
    let mut accept = request.accept().into_bytes();
    // The example of RFC 6455 §1.3.
    assert!(accept.windows(28).any(|part| part == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let length = accept.len();
    accept.extend(b"\x81\x05\x01\x03hi\n");
    let answer = Answer::read(&accept, KEY, Features::TUNNEL).unwrap().unwrap();
    assert_eq!((answer.features, answer.length), (Features::TUNNEL, length));
    assert!(Answer::read(&accept, [0; 16], Features::TUNNEL).is_err());
    assert!(
        Answer::read(&accept[..length - 1], KEY, Features::TUNNEL)
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_go_peer_has_no_credits() {
    let go = "GET /v1/kubeedge/connect HTTP/1.1\r\nHost: 10.250.0.1:11004\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: mGY4KU5474rDMNJ2EDIzKQ==\r\nSec-WebSocket-Version: 13\r\nSessionhostnameoverride: edge-go\r\n\
              Sessioninternalip: 10.250.0.2\r\nUpgrade: websocket\r\n\r\n";
    let request = Request::read(go.as_bytes()).unwrap().unwrap();
    assert_eq!(request.upgrade.node, "edge-go");
    assert_eq!(request.upgrade.internal_ip.as_deref(), Some("10.250.0.2"));
    assert!(request.common_features().is_empty());
    let accept = request.accept();
    assert!(
        accept.contains("Sec-WebSocket-Accept: 9mGu5/9OmuLsjLrAwA6Ua4wVeog=\r\n"),
        "{accept}"
    );
    assert!(!accept.contains("X-KubeEdge"), "{accept}");
}

#[test]
fn the_misspelt_name_of_old_edges_counts() {
    let head = ours().request("cloud", KEY);
    let old = head.replace("SessionHostNameOverride", "SessionHostNameOveride");
    assert_eq!(Request::read(old.as_bytes()).unwrap().unwrap().upgrade, ours());
}

#[test]
fn what_is_no_upgrade_is_refused_with_a_status() {
    let head = ours().request("cloud", KEY);
    for (from, to, status) in [
        ("edge-1", "", 400),
        ("GET", "POST", 400),
        ("/v1/kubeedge/connect", "/v1/kubeedge/other", 404),
        ("Upgrade: websocket", "Upgrade: h2c", 400),
        ("Version: 13", "Version: 8", 426),
        ("Key: ", "Key: x", 400),
        ("HTTP/1.1", "HTTP", 400),
    ] {
        let refused = Request::read(head.replace(from, to).as_bytes()).expect_err(to);
        assert_eq!(refused.status.as_u16(), status, "{to}");
        assert!(refused.response().starts_with(&format!("HTTP/1.1 {status} ")));
    }
    let slash = head.replace("/connect ", "/connect/?a=b ");
    assert!(Request::read(slash.as_bytes()).unwrap().is_some());
    assert_eq!(
        Request::read(&[b'G'; 20_000]).expect_err("no head").status.as_u16(),
        431
    );
    let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    assert_eq!(
        Answer::read(refused, KEY, Features::TUNNEL).unwrap_err().to_string(),
        "403 Forbidden: no"
    );
}
