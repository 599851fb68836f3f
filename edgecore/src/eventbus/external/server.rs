//! The broker's address, in the forms that the Go edge takes.

use crate::eventbus::error::StartError;

/// Where the broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl Server {
    /// Reads `mqttServerExternal`.
    pub(super) fn parse(url: &str) -> Result<Self, StartError> {
        let bad = |reason| StartError::Server {
            url: url.to_owned(),
            reason,
        };
        let (scheme, rest) = url.split_once("://").unwrap_or(("tcp", url));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "tcp" | "mqtt" => false,
            "tls" | "ssl" | "mqtts" | "tcps" | "mqtt+ssl" => true,
            "ws" | "wss" => return Err(bad("MQTT over WebSocket is not supported: use tcp:// or tls://")),
            _ => return Err(bad("use tcp:// or tls://")),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| bad("a ] is missing"))?;
                (host, port.strip_prefix(':').unwrap_or(port))
            }
            None => authority.split_once(':').unwrap_or((authority, "")),
        };
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        let port = match port {
            "" if tls => 8883,
            "" => 1883,
            port => port.parse().map_err(|_| bad("the port is no number up to 65535"))?,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_brokers_are_read() {
        for (url, host, port, tls) in [
            ("tcp://127.0.0.1:1883", "127.0.0.1", 1883, false),
            ("127.0.0.1:1884", "127.0.0.1", 1884, false),
            ("mqtt://broker.example", "broker.example", 1883, false),
            ("TLS://[fd00::1]:18883/", "fd00::1", 18883, true),
            ("mqtts://u:p@b", "b", 8883, true),
            ("ssl://[::1]", "::1", 8883, true),
        ] {
            let server = Server::parse(url).map_err(|error| error.to_string());
            let expected = Server {
                host: host.to_owned(),
                port,
                tls,
            };
            assert_eq!(server, Ok(expected), "{url}");
        }
        for bad in [
            "",
            "tcp://",
            "ws://a:1",
            "wss://a",
            "http://a",
            "tcp://a:70000",
            "tcp://[::1",
        ] {
            assert!(Server::parse(bad).is_err(), "{bad}");
        }
    }
}
