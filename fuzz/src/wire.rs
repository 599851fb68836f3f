//! Readers of what other processes send: none may panic, and what they accept they write back the same.

use proto::inventory::{Digest, Listing, Outcome, Verdict};
use proto::tunnelport::TunnelPortRecord;
use proto::watching::{Page, WatchLine};
use proto::{Content, Group, Message, Object, Route};

/// A frame of the hub channel.
pub fn message_decode(data: &[u8]) {
    let Ok(message) = Message::decode(data) else { return };
    let text = message.encode();
    let again = Message::decode(text.as_bytes()).expect("our own frame decodes");
    assert_eq!(again.encode(), text);
    let _ = (
        message.content.answer(),
        message.content.as_text(),
        message.content.object(),
        message.route.kind(),
    );
}

/// The content of an answer.
pub fn content_answer(data: &[u8]) {
    let Some(content) = text(data).and_then(|text| Content::from_json_text(text.to_owned()).ok()) else {
        return;
    };
    let _ = (content.answer(), content.document(), content.object());
    inventory(&content);
}

/// What our own peers say of what they hold.
fn inventory(content: &Content) {
    if let Ok(listing) = content.parse::<Listing>() {
        assert!(proto::inventory::difference(&listing.items, &listing.items).is_empty());
        let again = Content::json(&listing).parse::<Listing>();
        assert_eq!(again.expect("our own listing is read"), listing);
    }
    if let Ok(digest) = content.parse::<Digest>() {
        let again = Content::json(&digest).parse::<Digest>();
        assert_eq!(again.expect("our own digest is read"), digest);
    }
    let _ = (content.parse::<Verdict>(), content.parse::<Outcome>());
}

/// A Kubernetes object, and what else an API server sends: a page, a line of a watch, the record of the virtual ports.
pub fn object_parse(data: &[u8]) {
    let _ = (Page::parse(data), WatchLine::parse(data));
    if let Some(record) = text(data).and_then(|text| TunnelPortRecord::parse(text).ok()) {
        ports(record);
    }
    let Some(object) = text(data).and_then(|text| Object::parse(text).ok()) else {
        return;
    };
    let _ = (
        object.version(),
        object.spec_node_name(),
        object.is_deleting(),
        object.namespace(),
    );
    let _ = TunnelPortRecord::of(&object);
    let typed = object.with_type("v1", "Pod");
    assert!(!typed.meta().kind.is_empty() && !typed.meta().api_version.is_empty());
}

/// A record of virtual ports is written back the same, with one more cloudcore in it too.
fn ports(mut record: TunnelPortRecord) {
    let ip = std::net::IpAddr::from([192, 0, 2, 1]);
    let _ = (record.claim(ip), record.entries().count(), record.reached().count());
    let text = record.render();
    // Numbers may be longer as we write them, and the whole too long to be read.
    if text.len() <= 256 * 1024 {
        let again = TunnelPortRecord::parse(&text).expect("our own record is read");
        assert_eq!(again, record);
    }
}

/// A group and a resource, one a line.
pub fn route(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (group, resource) = text.split_once('\n').unwrap_or(("", text));
    assert_eq!(Route::parse(&Group::from(group), resource).render(), resource);
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// The streams of the hub's QUIC: frames with their lengths, however they are cut; the first byte says how.
pub fn quic_frames(data: &[u8]) {
    use proto::quic::{Frames, Hello, Welcome, parse_greeting};
    let Some((size, bytes)) = data.split_first() else {
        return;
    };
    let read = |size: usize| {
        let (mut frames, mut found) = (Frames::new(4096), Vec::new());
        for mut chunk in bytes.chunks(size) {
            loop {
                assert!(frames.wanted() > 0);
                match frames.next(&mut chunk) {
                    Ok(Some(frame)) => found.push(frame),
                    Ok(None) => break,
                    Err(_) => return found,
                }
            }
        }
        found
    };
    let found = read(usize::from(*size).max(1));
    assert_eq!(found, read(bytes.len().max(1)));
    for frame in &found {
        assert!(!frame.is_empty() && frame.len() <= 4096);
        let _ = (parse_greeting::<Hello>(frame), parse_greeting::<Welcome>(frame));
    }
}

/// The pieces of a message over WebSocket; each is preceded by its length.
pub fn pieces(data: &[u8]) {
    let (mut pieces, mut rest) = (proto::lanes::Pieces::default(), data);
    while let Some((length, bytes)) = rest.split_first() {
        let (piece, after) = bytes.split_at(usize::from(*length).min(bytes.len()));
        rest = after;
        if pieces.push(piece).is_err() {
            return;
        }
    }
}
