//! The server that stands for kubelets: a request comes through as one request without credentials, and what a broken answer ends with
//! stands between its frames.

use proto::tunnel::{Connect, ConnectKind};

use super::{Form, Head, LastWord};

/// Bytes of a head, at most.
const LONGEST: usize = 64 * 1024;
/// How often a head is looked at while it comes, at most.
const LOOKS: usize = 256;

/// The head of a request. The first byte says in which portions it comes.
pub fn head(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let whole = Head::parse(data);
    let portion = (usize::from(choice) + 1).max(data.len() / LOOKS);
    let mut ends = (0..data.len()).step_by(portion).chain([data.len()]);
    let portioned = ends.find_map(|end| Head::parse(&data[..end]).transpose());
    match (whole, portioned) {
        (Ok(Some((head, length))), Some(Ok(same))) => {
            assert!(length <= data.len());
            assert_eq!(same, (head.clone(), length));
            passes_on(head);
        }
        (Ok(None), None) | (Err(_), Some(Err(_))) => {}
        (whole, portioned) => panic!("{whole:?}, but {portioned:?} in portions"),
    }
}

fn passes_on(head: Head) {
    let text = |headers: &[(String, String)]| {
        let mut text = format!("{} {} HTTP/1.1\r\n", head.method, head.target);
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text + "\r\n"
    };
    let written = text(&head.headers);
    // With the spaces and line ends that the caller left out it may be too long.
    if written.len() <= LONGEST {
        assert_eq!(Head::parse(written.as_bytes()), Ok(Some((head.clone(), written.len()))));
    }
    let _ = (head.bearer(), head.header("host"), head.is_upgrade());
    assert!(head.target.starts_with(head.path()) && head.target.ends_with(head.query()));
    let headers = head.forwarded_headers();
    let secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        matches!(&*name, "authorization" | "cookie" | "impersonate-user") || name.starts_with("proxy-")
    };
    assert!(!headers.iter().any(|(name, _)| secret(name)), "{headers:?}");
    let has_token = |list: &str| {
        list.split(',')
            .any(|one| one.trim().starts_with("base64url.bearer.authorization.k8s.io."))
    };
    let mut lists = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol"));
    assert!(!lists.any(|(_, list)| has_token(list)), "{headers:?}");
    let connect = Connect {
        id: 1,
        kind: ConnectKind::Exec,
        method: head.method.clone(),
        target: head.target.clone(),
        headers,
    };
    if let Ok(connect) = Connect::decode(1, ConnectKind::Exec, &connect.encode()) {
        let head = connect.head();
        assert!(
            head.ends_with("\r\n\r\n") && head.matches("\r\n\r\n").count() == 1,
            "{head:?}"
        );
    }
}

/// An edge's answer that breaks off. The first byte says in what form the client is told, in which portions the answer comes, and whether
/// the client got the beginning of a frame.
pub fn last_word(data: &[u8]) {
    const WHY: &str = "the link was cut";
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    // A longer head is followed or not, depending on the portions.
    let data = &data[..data.len().min(16 * 1024)];
    let form = if choice & 1 == 0 { Form::Line } else { Form::Status };
    let follow = |data: &[u8], portion: usize| {
        let mut word = LastWord::new(form);
        let begun = data.chunks(portion).fold(0, |_, portion| word.follow(portion));
        (word, begun)
    };
    let (mut word, begun) = follow(data, usize::MAX);
    let (mut portioned, same) = follow(data, usize::from(choice >> 2) + 1);
    assert!(begun == same && begun <= data.len());
    let held = if choice & 2 == 0 { begun } else { 0 };
    word.hold(held);
    portioned.hold(held);
    let last = word.bytes(WHY);
    assert_eq!(last, portioned.bytes(WHY));
    if held != begun {
        return assert_eq!(last, None, "within a frame");
    }
    let given = &data[..data.len() - held];
    assert_eq!(
        last,
        follow(given, usize::MAX).0.bytes(WHY),
        "what is held back decides nothing"
    );
    let Some(last) = last else { return };
    let (after, begun) = follow(&[given, &last].concat(), usize::MAX);
    assert_eq!(begun, 0);
    assert_eq!(after.bytes(WHY), Some(last), "where it stands, another could stand");
}
