//! The extras that only our programs have, announced on the upgrade and echoed (`X-KubeEdge-Features: name/version,…`).
//!
//! Go peers send no such header and ignore ours. A side uses what both announced, in the lower of the two versions.

use std::fmt;

/// The header that carries the features, in the request and in the answer to it.
pub const FEATURES_HEADER: &str = "X-KubeEdge-Features";

/// More of a header is not read.
const MAX_HEADER: usize = 1024;

/// What one side offers, or what both agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// `inventory`: the edge reports what it holds and the cloud answers with the difference; 0 when absent.
    pub inventory: u16,
    /// `credits`: each stream of the tunnel has a window of its own; 0 when absent.
    pub credits: u16,
    /// `lanes`: over WebSocket, large messages come in pieces between which urgent ones find their place; 0 when absent.
    pub lanes: u16,
    /// `uploads`: the cloud acknowledges what MQTT clients upload, and reads payloads that are no text; 0 when absent.
    pub uploads: u16,
    /// `events`: the cloud answers Events that the edge sends; 0 when absent.
    pub events: u16,
}

impl Features {
    /// What this release offers on the hub channel.
    pub const OURS: Self = Self {
        inventory: 1,
        credits: 0,
        lanes: 1,
        uploads: 1,
        events: 1,
    };

    /// What this release offers on the tunnel.
    pub const TUNNEL: Self = Self {
        inventory: 0,
        credits: 1,
        lanes: 0,
        uploads: 0,
        events: 0,
    };

    /// Reads the header's value. Unknown names and unreadable versions are skipped.
    pub fn parse(header: &str) -> Self {
        let mut features = Self::default();
        for item in header.get(..MAX_HEADER).unwrap_or(header).split(',') {
            let Some((name, version)) = item.trim().split_once('/') else {
                continue;
            };
            let Ok(version) = version.trim().parse() else { continue };
            match name.trim() {
                "inventory" => features.inventory = version,
                "credits" => features.credits = version,
                "lanes" => features.lanes = version,
                "uploads" => features.uploads = version,
                "events" => features.events = version,
                _ => {}
            }
        }
        features
    }

    /// What both sides have.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        Self {
            inventory: self.inventory.min(other.inventory),
            credits: self.credits.min(other.credits),
            lanes: self.lanes.min(other.lanes),
            uploads: self.uploads.min(other.uploads),
            events: self.events.min(other.events),
        }
    }

    /// Whether nothing is offered: a Go peer.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Whether objects are reconciled by inventory, without ObjectSync.
    pub const fn has_inventory(self) -> bool {
        self.inventory > 0
    }

    /// Whether the streams of a tunnel have windows.
    pub const fn has_credits(self) -> bool {
        self.credits > 0
    }

    /// Whether large messages come in pieces over WebSocket.
    pub const fn has_lanes(self) -> bool {
        self.lanes > 0
    }

    /// Whether uploads are acknowledged.
    pub const fn has_uploads(self) -> bool {
        self.uploads > 0
    }

    /// Whether Events are answered.
    pub const fn has_events(self) -> bool {
        self.events > 0
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let all = [
            ("inventory", self.inventory),
            ("credits", self.credits),
            ("lanes", self.lanes),
            ("uploads", self.uploads),
            ("events", self.events),
        ];
        for (name, version) in all {
            if version > 0 {
                write!(f, "{separator}{name}/{version}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_skips_the_unknown() {
        let all = Features {
            inventory: 2,
            credits: 3,
            lanes: 4,
            uploads: 5,
            events: 6,
        };
        for features in [Features::OURS, Features::TUNNEL, all, Features::default()] {
            assert_eq!(Features::parse(&features.to_string()), features);
        }
        assert_eq!(
            Features::parse(" credits/3 ,inventory/2,odd,lanes/4,uploads/5,events/6,x/y"),
            all
        );
        assert_eq!(Features::parse("inventory/-1"), Features::default());
        assert_eq!(Features::parse(""), Features::default());
    }

    #[test]
    fn both_use_the_lower_version() {
        let newer = Features {
            inventory: 4,
            credits: 9,
            lanes: 3,
            uploads: 7,
            events: 2,
        };
        assert_eq!(newer.common(Features::OURS), Features::OURS);
        assert_eq!(newer.common(Features::TUNNEL), Features::TUNNEL);
        assert!(Features::default().common(Features::OURS).is_empty());
    }
}
