//! Go's `url.URL` as far as the connect message has it: how a request target becomes Path, RawPath, RawQuery and back.

/// The path decoded, and as it was where Go's own encoding of the decoded one would differ.
pub(super) fn split_path(raw: &str) -> (String, String) {
    let Some(decoded) = decode(raw) else {
        return (raw.to_owned(), raw.to_owned());
    };
    match String::from_utf8(decoded) {
        Ok(path) if encode(path.as_bytes()) == raw => (path, String::new()),
        // Bytes that JSON cannot carry.
        Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), raw.to_owned()),
        Ok(path) => (path, raw.to_owned()),
    }
}

/// The path of a request from its parts.
pub(super) fn join_path(path: &str, raw_path: &str) -> String {
    let raw = if raw_path.is_empty() {
        encode(path.as_bytes())
    } else {
        raw_path.to_owned()
    };
    if raw.starts_with('/') { raw } else { format!("/{raw}") }
}

/// `None` when an escape is broken.
fn decode(raw: &str) -> Option<Vec<u8>> {
    let mut bytes = raw.bytes();
    let mut decoded = Vec::with_capacity(raw.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            hex(bytes.next()?)? << 4 | hex(bytes.next()?)?
        } else {
            byte
        });
    }
    Some(decoded)
}

/// What Go leaves as it is in a path: letters, digits and `-_.~$&+,/:;=@`.
fn encode(path: &[u8]) -> String {
    let mut encoded = String::with_capacity(path.len());
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            for digit in [byte >> 4, byte & 0xf] {
                encoded.push(char::from(HEX[usize::from(digit)]));
            }
        }
    }
    encoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_raw_path_is_kept_where_go_would_encode_it_otherwise() {
        for (raw, path, raw_path) in [
            ("/exec/default/web-0/nginx", "/exec/default/web-0/nginx", ""),
            ("/a%20b", "/a b", ""),
            ("/a%2Fb", "/a/b", "/a%2Fb"),
            ("/a%2fb%20", "/a/b ", "/a%2fb%20"),
            ("/logs/%E2%82%AC", "/logs/€", ""),
            ("/%FF", "/\u{fffd}", "/%FF"),
            ("/%zz", "/%zz", "/%zz"),
            ("/half%2", "/half%2", "/half%2"),
        ] {
            assert_eq!(split_path(raw), (path.to_owned(), raw_path.to_owned()), "{raw}");
            assert_eq!(join_path(path, raw_path), raw);
        }
        assert_eq!(join_path("", ""), "/");
        assert_eq!(join_path("/a b&c\n", ""), "/a%20b&c%0A");
    }
}
