//! The message that opens a stream.

use serde_json::{Value, json};

use crate::tunnel::connect::{BadConnect, Connect, ConnectKind};

const EXEC: &str = r#"{"MessID":301,"url":{"Scheme":"http","Opaque":"","User":null,"Host":"127.0.0.1:10350","Path":"/exec/default/web-0/nginx","RawPath":"","OmitHost":false,"ForceQuery":false,"RawQuery":"command=sh\u0026command=-c\u0026command=ls+%2Ftmp\u0026error=1\u0026output=1","Fragment":"","RawFragment":""},"header":{"Connection":["Upgrade"],"Content-Length":["0"],"Upgrade":["SPDY/3.1"],"User-Agent":["Go-http-client/1.1"],"X-Stream-Protocol-Version":["v5.channel.k8s.io","v4.channel.k8s.io"]},"method":"POST"}"#;

fn exec() -> Connect {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Connect {
        id: 301,
        kind: ConnectKind::Exec,
        method: "POST".to_owned(),
        target: "/exec/default/web-0/nginx?command=sh&command=-c&command=ls+%2Ftmp&error=1&output=1".to_owned(),
        headers: vec![
            header("Connection", "Upgrade"),
            header("Content-Length", "0"),
            header("Upgrade", "SPDY/3.1"),
            header("User-Agent", "Go-http-client/1.1"),
            header("X-Stream-Protocol-Version", "v5.channel.k8s.io"),
            header("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
        ],
    }
}

fn changed(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = serde_json::from_str(EXEC).unwrap();
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

fn decode(payload: &[u8]) -> Result<Connect, BadConnect> {
    Connect::decode(301, ConnectKind::Exec, payload)
}

#[test]
fn the_example_of_the_specification_both_ways() {
    assert_eq!(decode(EXEC.as_bytes()).unwrap(), exec());
    let ours: Value = serde_json::from_slice(&exec().encode()).unwrap();
    assert_eq!(ours, serde_json::from_str::<Value>(EXEC).unwrap());
}

#[test]
fn other_spellings_mean_the_same() {
    for payload in [
        changed(|value| drop(value["url"].as_object_mut().unwrap().remove("OmitHost"))),
        changed(|value| value["url"]["User"] = json!({"name": "x"})),
        changed(|value| value["more"] = json!([1, {"a": null}])),
        EXEC.replace(r"\u0026", "&").into_bytes(),
    ] {
        assert_eq!(decode(&payload).unwrap(), exec());
    }
    let bare = br#"{"MessID":301,"url":{"Path":"/pods"},"header":null}"#;
    let bare = decode(bare).unwrap();
    assert_eq!(
        (bare.method.as_str(), bare.target.as_str(), bare.headers.len()),
        ("GET", "/pods", 0)
    );
}

#[test]
fn headers_are_written_as_a_go_edge_looks_them_up_and_never_null() {
    let mut connect = exec();
    connect.headers = vec![
        ("x-stream-protocol-version".to_owned(), "v4".to_owned()),
        ("X-Stream-Protocol-Version".to_owned(), "v1".to_owned()),
    ];
    let value: Value = serde_json::from_slice(&connect.encode()).unwrap();
    assert_eq!(value["header"], json!({"X-Stream-Protocol-Version": ["v4", "v1"]}));
    connect.headers.clear();
    let value: Value = serde_json::from_slice(&connect.encode()).unwrap();
    assert_eq!(value["header"], json!({}));
}

#[test]
fn body_only_kinds_have_no_method() {
    let logs = Connect {
        kind: ConnectKind::Logs,
        method: "GET".to_owned(),
        ..exec()
    };
    let payload = logs.encode();
    assert!(
        serde_json::from_slice::<Value>(&payload)
            .unwrap()
            .get("method")
            .is_none()
    );
    let read = Connect::decode(301, ConnectKind::Logs, &payload).unwrap();
    assert_eq!(read, logs);
    let head = read.head();
    assert!(
        head.contains("Connection: close\r\n") && !head.contains("SPDY"),
        "{head}"
    );
}

#[test]
fn what_is_no_request_is_refused() {
    for payload in [
        changed(|value| value["url"] = json!("http://127.0.0.1:10350/pods")),
        changed(|value| value["MessID"] = json!(302)),
        changed(|value| value["MessID"] = json!("301")),
        changed(|value| value["method"] = json!("GET /x HTTP/1.1\r\nA: b\r\n\r\n")),
        changed(|value| value["url"]["RawQuery"] = json!("a b")),
        changed(|value| value["url"]["RawPath"] = json!("/x\r\nA: b")),
        changed(|value| value["header"]["A"] = json!(["b\r\nC: d"])),
        changed(|value| value["header"]["A: x\r\nB"] = json!(["b"])),
        b"[1,2]".to_vec(),
        b"".to_vec(),
        b"{".repeat(100_000),
    ] {
        decode(&payload).expect_err("refused");
    }
    // The path is decoded, so whatever is in it is encoded again.
    let odd = changed(|value| value["url"]["Path"] = json!("/x\r\nA: b"));
    assert!(decode(&odd).unwrap().target.starts_with("/x%0D%0AA:%20b?"));
}

#[test]
fn the_head_says_what_was_asked() {
    assert_eq!(
        exec().head(),
        "POST /exec/default/web-0/nginx?command=sh&command=-c&command=ls+%2Ftmp&error=1&output=1 HTTP/1.1\r\n\
         Host: 127.0.0.1:10350\r\nConnection: Upgrade\r\nContent-Length: 0\r\nUpgrade: SPDY/3.1\r\n\
         User-Agent: Go-http-client/1.1\r\nX-Stream-Protocol-Version: v5.channel.k8s.io\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    );
}

#[test]
fn targets_survive() {
    for target in [
        "/",
        "/a?",
        "/a%2Fb?x=%zz&y",
        "/%FF/(x)?%00",
        "/%zz?a?b",
        "/a%20b+c;d,e=f@g:h$i&j?k",
    ] {
        let connect = Connect {
            target: target.to_owned(),
            ..exec()
        };
        assert_eq!(decode(&connect.encode()).unwrap().target, target);
    }
}
