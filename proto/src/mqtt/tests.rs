use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not 0")
}

fn read(bytes: &[u8]) -> Result<Option<Packet>, BadPacket> {
    decode(&mut BytesMut::from(bytes), 1024)
}

#[test]
fn a_connect_as_mosquitto_pub_sends_it() {
    let bytes = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abc";
    let Ok(Some(Packet::Connect(connect))) = read(bytes) else {
        panic!("{:?}", read(bytes))
    };
    assert_eq!((&*connect.client, connect.clean, connect.keep_alive), ("abc", true, 60));
    assert!(!connect.old && connect.will.is_none());
}

#[test]
fn other_protocols_are_named() {
    let five = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03abc";
    assert_eq!(
        read(five).expect_err("MQTT 5").to_string(),
        "protocol \"MQTT\" level 5: MQTT 3.1.1 and 3.1 are spoken here"
    );
    let old = b"\x10\x11\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x03abc";
    assert!(matches!(
        read(old),
        Ok(Some(Packet::Connect(Connect { old: true, .. })))
    ));
}

#[test]
fn broken_rules() {
    let cases: &[(&[u8], &str)] = &[
        (b"\x30\xff\xff\xff\xff", "four bytes"),
        (b"\xc1\x00", "reserved flags"),
        (b"\xc0\x01x", "after its end"),
        (b"\x60\x02\x00\x01", "reserved flags"),
        (b"\x62\x02\x00\x00", "packet id is 0"),
        (b"\x36\x05\x00\x01a\x00\x01", "QoS 3"),
        (b"\x38\x03\x00\x01a", "never sent again"),
        (b"\x30\x02\x00\x00", "empty or has wildcards"),
        (b"\x30\x03\x00\x01+", "wildcards"),
        (b"\x30\x03\x00\x02a", "too early"),
        (b"\x30\x03\x00\x01\xff", "UTF-8"),
        (b"\x30\x03\x00\x01\x00", "U+0000"),
        (b"\x32\x03\x00\x01a", "too early"),
        (b"\x82\x02\x00\x01", "no filter"),
        (b"\x82\x06\x00\x01\x00\x01a\x03", "beyond 2"),
        (b"\x82\x07\x00\x01\x00\x02a#\x00", "wildcards within"),
        (b"\xa2\x02\x00\x01", "no filter"),
        (b"\x20\x02\x00\x00", "not for a client"),
        (b"\xf0\x00", "not for a client"),
        (b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x00\x00\x00", "reserved flag"),
        (b"\x10\x0c\x00\x04MQTT\x04\x42\x00\x00\x00\x00", "password without"),
        (b"\x10\x0c\x00\x04MQTT\x04\x22\x00\x00\x00\x00", "without a will"),
        (b"\x10\x0c\x00\x04MQTT\x04\x1e\x00\x00\x00\x00", "will of QoS 3"),
        (
            b"\x10\x12\x00\x04MQTT\x04\x06\x00\x00\x00\x00\x00\x02a#\x00\x00",
            "the will's topic",
        ),
    ];
    for (bytes, expected) in cases {
        let error = read(bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "{bytes:x?}: {error}");
    }
}

#[test]
fn a_long_packet_is_refused_by_its_header() {
    let error = read(b"\x30\x80\x80\x01").expect_err("too long");
    assert_eq!(
        error,
        BadPacket::TooLong {
            length: 16388,
            limit: 1024
        }
    );
}

#[test]
fn filters_and_names() {
    for good in [
        "a",
        "/",
        "a//b",
        "+",
        "#",
        "a/#",
        "+/+/#",
        "$hw/events/device/+/+/twin/+",
        " ",
    ] {
        assert!(topic::is_filter(good), "{good}");
    }
    for bad in ["", "a#", "#/a", "a+/b", "a/+b", "++", "a/#/b"] {
        assert!(!topic::is_filter(bad), "{bad}");
    }
    assert!(topic::is_name("a/b") && !topic::is_name("a/+") && !topic::is_name(""));
}

#[test]
fn matching() {
    for (filter, name) in [
        ("a", "a"),
        ("#", "a/b"),
        ("a/#", "a"),
        ("a/#", "a/b/c"),
        ("+", "a"),
        ("a/+", "a/"),
        ("+/+", "/a"),
        ("/+", "/a"),
        ("$hw/#", "$hw/events/node/x"),
        (
            "$hw/+/device/+/+/twin/update",
            "$hw/events/device/default/lamp/twin/update",
        ),
    ] {
        assert!(topic::matches(filter, name), "{filter} {name}");
    }
    for (filter, name) in [
        ("a", "A"),
        ("a", "a/"),
        ("+", "a/b"),
        ("+", "/a"),
        ("a/+", "a"),
        ("#", "$SYS/broker/uptime"),
        ("+/broker/uptime", "$SYS/broker/uptime"),
    ] {
        assert!(!topic::matches(filter, name), "{filter} {name}");
    }
}

fn arc() -> impl Strategy<Value = std::sync::Arc<str>> {
    "[a-z/$]{1,12}".prop_map(Into::into)
}

fn qos() -> impl Strategy<Value = Qos> {
    (0u8..3).prop_map(|number| Qos::from_number(number).expect("0 to 2"))
}

fn packets() -> impl Strategy<Value = Packet> {
    let publish = (arc(), any::<Vec<u8>>(), qos(), any::<bool>(), any::<bool>(), 1u16..).prop_map(
        |(topic, payload, qos, retain, dup, number)| {
            let waits = qos != Qos::AtMostOnce;
            Packet::Publish(Publish {
                topic,
                payload: payload.into(),
                qos,
                retain,
                dup: dup && waits,
                id: waits.then(|| id(number)),
            })
        },
    );
    let will = (arc(), any::<Vec<u8>>(), qos(), any::<bool>()).prop_map(|(topic, payload, qos, retain)| Will {
        topic,
        payload: payload.into(),
        qos,
        retain,
    });
    let who = proptest::option::of((arc(), proptest::option::of(any::<Vec<u8>>())));
    let connect = (
        any::<bool>(),
        arc(),
        any::<bool>(),
        any::<u16>(),
        proptest::option::of(will),
        who,
    )
        .prop_map(|(old, client, clean, keep_alive, will, who)| {
            let (user, password) = who.unzip();
            Packet::Connect(Connect {
                old,
                client,
                clean,
                keep_alive,
                will,
                user,
                password: password.flatten().map(Bytes::from),
            })
        });
    let subscribe =
        (1u16.., proptest::collection::vec((arc(), qos()), 1..4)).prop_map(|(number, filters)| Packet::Subscribe {
            id: id(number),
            filters,
        });
    let unsubscribe =
        (1u16.., proptest::collection::vec(arc(), 1..4)).prop_map(|(number, filters)| Packet::Unsubscribe {
            id: id(number),
            filters,
        });
    let short = (1u16.., 0usize..6).prop_map(|(number, which)| match which {
        0 => Packet::PubAck(id(number)),
        1 => Packet::PubRec(id(number)),
        2 => Packet::PubRel(id(number)),
        3 => Packet::PubComp(id(number)),
        4 => Packet::PingReq,
        _ => Packet::Disconnect,
    });
    prop_oneof![publish, connect, subscribe, unsubscribe, short]
}

proptest! {
    /// What is written is read again, however the bytes are cut.
    #[test]
    fn round_trip(all in proptest::collection::vec(packets(), 1..5), cut in 1usize..40) {
        let mut bytes = BytesMut::new();
        all.iter().for_each(|packet| packet.encode(&mut bytes));
        let mut input = BytesMut::new();
        let mut read = Vec::new();
        for piece in bytes.chunks(cut) {
            input.extend_from_slice(piece);
            while let Some(packet) = decode(&mut input, MAX_PACKET).expect("well formed") {
                read.push(packet);
            }
        }
        prop_assert_eq!(read, all);
    }
}
