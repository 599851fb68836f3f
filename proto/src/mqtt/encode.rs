//! Packets to bytes. Clients' packets too, for tests that play a client.

use bytes::{BufMut as _, BytesMut};

use super::{Connect, Packet, Publish, Qos};

impl Packet {
    /// Appends the packet. What cannot be told on the wire (a string beyond 65,535 bytes) is cut at the decoder of whoever made it: no
    /// packet that was decoded has such a thing.
    pub fn encode(&self, out: &mut BytesMut) {
        let length = self.body_length();
        out.reserve(length + 5);
        out.put_u8(self.first_byte());
        put_length(out, length);
        match self {
            Self::Connect(connect) => put_connect(out, connect),
            Self::ConnAck { session_present, code } => {
                out.put_u8(u8::from(*session_present));
                out.put_u8(*code as u8);
            }
            Self::Publish(publish) => {
                put_data(out, publish.topic.as_bytes());
                if let Some(id) = publish.id {
                    out.put_u16(id.get());
                }
                out.put_slice(&publish.payload);
            }
            Self::PubAck(id) | Self::PubRec(id) | Self::PubRel(id) | Self::PubComp(id) | Self::UnsubAck(id) => {
                out.put_u16(id.get());
            }
            Self::Subscribe { id, filters } => {
                out.put_u16(id.get());
                for (filter, qos) in filters {
                    put_data(out, filter.as_bytes());
                    out.put_u8(qos.number());
                }
            }
            Self::SubAck { id, granted } => {
                out.put_u16(id.get());
                for qos in granted {
                    out.put_u8(qos.map_or(0x80, Qos::number));
                }
            }
            Self::Unsubscribe { id, filters } => {
                out.put_u16(id.get());
                for filter in filters {
                    put_data(out, filter.as_bytes());
                }
            }
            Self::PingReq | Self::PingResp | Self::Disconnect => {}
        }
    }

    /// Bytes on the wire, but for the header's two to five.
    pub fn body_length(&self) -> usize {
        match self {
            Self::Connect(connect) => connect.body_length(),
            Self::ConnAck { .. }
            | Self::PubAck(_)
            | Self::PubRec(_)
            | Self::PubRel(_)
            | Self::PubComp(_)
            | Self::UnsubAck(_) => 2,
            Self::Publish(publish) => publish.body_length(),
            Self::Subscribe { filters, .. } => 2 + filters.iter().map(|(filter, _)| filter.len() + 3).sum::<usize>(),
            Self::SubAck { granted, .. } => 2 + granted.len(),
            Self::Unsubscribe { filters, .. } => 2 + filters.iter().map(|filter| filter.len() + 2).sum::<usize>(),
            Self::PingReq | Self::PingResp | Self::Disconnect => 0,
        }
    }

    fn first_byte(&self) -> u8 {
        match self {
            Self::Connect(_) => 0x10,
            Self::ConnAck { .. } => 0x20,
            Self::Publish(publish) => {
                0x30 | u8::from(publish.dup) << 3 | publish.qos.number() << 1 | u8::from(publish.retain)
            }
            Self::PubAck(_) => 0x40,
            Self::PubRec(_) => 0x50,
            Self::PubRel(_) => 0x62,
            Self::PubComp(_) => 0x70,
            Self::Subscribe { .. } => 0x82,
            Self::SubAck { .. } => 0x90,
            Self::Unsubscribe { .. } => 0xa2,
            Self::UnsubAck(_) => 0xb0,
            Self::PingReq => 0xc0,
            Self::PingResp => 0xd0,
            Self::Disconnect => 0xe0,
        }
    }
}

impl Publish {
    fn body_length(&self) -> usize {
        2 + self.topic.len() + self.payload.len() + if self.id.is_some() { 2 } else { 0 }
    }
}

impl Connect {
    fn protocol(&self) -> (&'static str, u8) {
        if self.old { ("MQIsdp", 3) } else { ("MQTT", 4) }
    }

    fn body_length(&self) -> usize {
        let will = self.will.as_ref().map(|will| 4 + will.topic.len() + will.payload.len());
        let user = self.user.as_ref().map(|user| 2 + user.len());
        let password = self.password.as_ref().map(|password| 2 + password.len());
        8 + self.protocol().0.len() + self.client.len() + [will, user, password].into_iter().flatten().sum::<usize>()
    }
}

fn put_connect(out: &mut BytesMut, connect: &Connect) {
    let (name, level) = connect.protocol();
    put_data(out, name.as_bytes());
    out.put_u8(level);
    let mut flags = u8::from(connect.clean) << 1;
    if let Some(will) = &connect.will {
        flags |= 0x04 | will.qos.number() << 3 | u8::from(will.retain) << 5;
    }
    flags |= u8::from(connect.user.is_some()) << 7 | u8::from(connect.password.is_some()) << 6;
    out.put_u8(flags);
    out.put_u16(connect.keep_alive);
    put_data(out, connect.client.as_bytes());
    if let Some(will) = &connect.will {
        put_data(out, will.topic.as_bytes());
        put_data(out, &will.payload);
    }
    if let Some(user) = &connect.user {
        put_data(out, user.as_bytes());
    }
    if let Some(password) = &connect.password {
        put_data(out, password);
    }
}

fn put_data(out: &mut BytesMut, data: &[u8]) {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    out.put_u16(length);
    out.put_slice(data.get(..usize::from(length)).unwrap_or(data));
}

fn put_length(out: &mut BytesMut, mut length: usize) {
    loop {
        let low = u8::try_from(length & 0x7f).unwrap_or_default();
        length >>= 7;
        if length == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}
