//! Bytes to packets.

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};

use super::{BadPacket, Connect, Packet, PacketId, Publish, Qos, Will, topic};

/// Takes the next packet from what was received; `None` while it is not complete. A packet longer than `limit` is refused as soon as its
/// header is there.
pub fn decode(input: &mut BytesMut, limit: usize) -> Result<Option<Packet>, BadPacket> {
    let Some((header, length)) = header(input)? else {
        return Ok(None);
    };
    let total = header + length;
    if total > limit {
        return Err(BadPacket::TooLong { length: total, limit });
    }
    if input.len() < total {
        // Nothing is reserved for what is only promised: the buffer grows with what arrives.
        return Ok(None);
    }
    let first = input.first().copied().unwrap_or_default();
    let mut packet = input.split_to(total);
    packet.advance(header);
    body(first, packet.freeze()).map(Some)
}

/// The lengths of header and body.
fn header(input: &[u8]) -> Result<Option<(usize, usize)>, BadPacket> {
    let mut length = 0;
    for (index, byte) in input.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((index + 2, length)));
        }
    }
    if input.len() >= 5 {
        return Err(malformed("header", "the length has more than four bytes"));
    }
    Ok(None)
}

fn body(first: u8, bytes: Bytes) -> Result<Packet, BadPacket> {
    let (kind, flags) = (first >> 4, first & 0x0f);
    let name = NAMES.get(usize::from(kind)).copied().unwrap_or_default();
    // PUBREL, SUBSCRIBE and UNSUBSCRIBE carry a fixed 2; the flags of PUBLISH are its own.
    let expected = match kind {
        3 => flags,
        6 | 8 | 10 => 2,
        _ => 0,
    };
    if flags != expected {
        return Err(malformed(name, "reserved flags are set"));
    }
    let mut body = Body { name, bytes };
    let packet = match kind {
        1 => Packet::Connect(connect(&mut body)?),
        3 => Packet::Publish(publish(flags, &mut body)?),
        4 => Packet::PubAck(body.id()?),
        5 => Packet::PubRec(body.id()?),
        6 => Packet::PubRel(body.id()?),
        7 => Packet::PubComp(body.id()?),
        8 => subscribe(&mut body)?,
        10 => unsubscribe(&mut body)?,
        12 => Packet::PingReq,
        14 => Packet::Disconnect,
        _ => return Err(body.wrong("it is not for a client to send")),
    };
    if !body.bytes.is_empty() {
        return Err(body.wrong("bytes after its end"));
    }
    Ok(packet)
}

fn connect(body: &mut Body) -> Result<Connect, BadPacket> {
    let protocol = body.text()?;
    let level = body.byte()?;
    // Brokers that bridge set the upper bit of the level; nothing here depends on it.
    let old = match (&*protocol, level & 0x7f) {
        ("MQTT", 4) => false,
        ("MQIsdp", 3) => true,
        _ => {
            let name = protocol.chars().take(16).collect();
            return Err(BadPacket::Protocol { name, level });
        }
    };
    let flags = body.byte()?;
    let keep_alive = body.number()?;
    let client = body.text()?;
    if flags & 0x01 != 0 {
        return Err(body.wrong("the reserved flag is set"));
    }
    let qos = Qos::from_number((flags >> 3) & 3).ok_or_else(|| body.wrong("a will of QoS 3"))?;
    let retain = flags & 0x20 != 0;
    let will = if flags & 0x04 != 0 {
        let topic = body.text()?;
        let payload = body.data()?;
        if !topic::is_name(&topic) {
            return Err(body.wrong("the will's topic is empty or has wildcards"));
        }
        Some(Will {
            topic,
            payload,
            qos,
            retain,
        })
    } else if retain || qos != Qos::AtMostOnce {
        return Err(body.wrong("flags of a will without a will"));
    } else {
        None
    };
    let (has_user, has_password) = (flags & 0x80 != 0, flags & 0x40 != 0);
    if has_password && !has_user {
        return Err(body.wrong("a password without a user name"));
    }
    let user = has_user.then(|| body.text()).transpose()?;
    let password = has_password.then(|| body.data()).transpose()?;
    Ok(Connect {
        old,
        client,
        clean: flags & 0x02 != 0,
        keep_alive,
        will,
        user,
        password,
    })
}

fn publish(flags: u8, body: &mut Body) -> Result<Publish, BadPacket> {
    let qos = Qos::from_number((flags >> 1) & 3).ok_or_else(|| body.wrong("QoS 3"))?;
    let dup = flags & 0x08 != 0;
    if dup && qos == Qos::AtMostOnce {
        return Err(body.wrong("QoS 0 is never sent again"));
    }
    let topic = body.text()?;
    if !topic::is_name(&topic) {
        return Err(body.wrong("the topic is empty or has wildcards"));
    }
    let id = (qos != Qos::AtMostOnce).then(|| body.id()).transpose()?;
    Ok(Publish {
        topic,
        payload: std::mem::take(&mut body.bytes),
        qos,
        retain: flags & 0x01 != 0,
        dup,
        id,
    })
}

fn subscribe(body: &mut Body) -> Result<Packet, BadPacket> {
    let id = body.id()?;
    let mut filters = Vec::new();
    while !body.bytes.is_empty() {
        let filter = body.filter()?;
        let qos = Qos::from_number(body.byte()?).ok_or_else(|| body.wrong("a QoS beyond 2"))?;
        filters.push((filter, qos));
    }
    if filters.is_empty() {
        return Err(body.wrong("no filter in it"));
    }
    Ok(Packet::Subscribe { id, filters })
}

fn unsubscribe(body: &mut Body) -> Result<Packet, BadPacket> {
    let id = body.id()?;
    let mut filters = Vec::new();
    while !body.bytes.is_empty() {
        filters.push(body.filter()?);
    }
    if filters.is_empty() {
        return Err(body.wrong("no filter in it"));
    }
    Ok(Packet::Unsubscribe { id, filters })
}

/// What is left of a packet.
struct Body {
    name: &'static str,
    bytes: Bytes,
}

impl Body {
    const fn wrong(&self, rule: &'static str) -> BadPacket {
        malformed(self.name, rule)
    }

    fn byte(&mut self) -> Result<u8, BadPacket> {
        self.bytes.try_get_u8().map_err(|_| self.wrong(SHORT))
    }

    fn number(&mut self) -> Result<u16, BadPacket> {
        self.bytes.try_get_u16().map_err(|_| self.wrong(SHORT))
    }

    fn id(&mut self) -> Result<PacketId, BadPacket> {
        PacketId::new(self.number()?).ok_or_else(|| self.wrong("the packet id is 0"))
    }

    fn data(&mut self) -> Result<Bytes, BadPacket> {
        let length = usize::from(self.number()?);
        if self.bytes.len() < length {
            return Err(self.wrong(SHORT));
        }
        Ok(self.bytes.split_to(length))
    }

    fn text(&mut self) -> Result<Arc<str>, BadPacket> {
        let data = self.data()?;
        let text = std::str::from_utf8(&data).map_err(|_| self.wrong("a string is not UTF-8"))?;
        if text.contains('\0') {
            return Err(self.wrong("U+0000 in a string"));
        }
        Ok(text.into())
    }

    fn filter(&mut self) -> Result<Arc<str>, BadPacket> {
        let filter = self.text()?;
        if topic::is_filter(&filter) {
            Ok(filter)
        } else {
            Err(self.wrong("a filter is empty or has wildcards within a level"))
        }
    }
}

const fn malformed(packet: &'static str, rule: &'static str) -> BadPacket {
    BadPacket::Malformed { packet, rule }
}

const SHORT: &str = "it ends too early";

const NAMES: [&str; 16] = [
    "packet of type 0",
    "CONNECT",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGRESP",
    "DISCONNECT",
    "packet of type 15",
];
