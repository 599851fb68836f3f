//! Topics: what is subscribed anyway, who gets what was published, what a filter may look like (spec 03 §4).

use thiserror::Error;

/// What is always subscribed: of devices with a namespace and of those without (peers up to v1.16.1), and the topics for the cloud.
pub(super) const ALWAYS: [&str; 8] = [
    "$hw/events/upload/#",
    "$hw/events/device/+/+/state/update",
    "$hw/events/device/+/+/twin/+",
    "$hw/events/device/+/state/update",
    "$hw/events/device/+/twin/+",
    "$hw/events/node/+/membership/get",
    "SYS/dis/upload_records",
    "+/user/#",
];

/// More of a topic is not taken from a rule.
const MAX_TOPIC: usize = 4096;

/// Who gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// DeviceTwin.
    Twin,
    /// The cloud's rules.
    Cloud,
}

impl To {
    /// The receiver of what was published on a topic.
    pub(super) fn of(topic: &str) -> Self {
        let mut levels = topic.split('/');
        match [levels.next(), levels.next(), levels.next()] {
            [Some("$hw"), Some("events"), Some("device" | "node")] => Self::Twin,
            _ => Self::Cloud,
        }
    }
}

/// Why nothing can be subscribed or published by a name.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum BadTopic {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is too long.
    #[error("it is longer than {MAX_TOPIC} bytes")]
    Long,
    /// It has a character that MQTT forbids.
    #[error("it has a NUL in it")]
    Nul,
    /// A wildcard is not a level of its own, `#` not the last one, or there is one where none may be.
    #[error("it has a wildcard in the wrong place")]
    Wildcard,
}

/// Whether a filter can be subscribed.
pub(super) fn check_filter(filter: &str) -> Result<(), BadTopic> {
    check(filter)?;
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_last = levels.peek().is_none();
        let is_right = match level {
            "+" => true,
            "#" => is_last,
            other => !other.contains(['+', '#']),
        };
        if !is_right {
            return Err(BadTopic::Wildcard);
        }
    }
    Ok(())
}

/// Whether something can be published on a topic.
pub(super) fn check_topic(topic: &str) -> Result<(), BadTopic> {
    check(topic)?;
    if topic.contains(['+', '#']) {
        return Err(BadTopic::Wildcard);
    }
    Ok(())
}

fn check(name: &str) -> Result<(), BadTopic> {
    if name.is_empty() {
        return Err(BadTopic::Empty);
    }
    if name.len() > MAX_TOPIC {
        return Err(BadTopic::Long);
    }
    if name.contains('\0') {
        return Err(BadTopic::Nul);
    }
    Ok(())
}

/// Whether all that a filter matches comes by what is subscribed anyway: a broker may deliver twice what two filters match.
pub(super) fn is_always(filter: &str) -> bool {
    ALWAYS.iter().any(|wide| covers(wide, filter))
}

fn covers(wide: &str, filter: &str) -> bool {
    // A wildcard in the first place does not match a leading `$`.
    if filter.starts_with('$') && !wide.starts_with('$') {
        return false;
    }
    let (mut wide, mut filter) = (wide.split('/'), filter.split('/'));
    loop {
        match (wide.next(), filter.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_devices_and_of_the_node_go_to_the_twin_and_the_rest_to_the_cloud() {
        for topic in [
            "$hw/events/device/default/t1/twin/update",
            "$hw/events/device/t1/twin/get",
            "$hw/events/node/n/membership/get",
            "$hw/events/device",
        ] {
            assert_eq!(To::of(topic), To::Twin, "{topic}");
        }
        for topic in [
            "$hw/events/upload/x",
            "SYS/dis/upload_records",
            "default/user/x",
            "a/$hw/events/device/x",
            "$hw/events/devices/x",
            "",
            "rt/topic-b",
        ] {
            assert_eq!(To::of(topic), To::Cloud, "{topic}");
        }
    }

    #[test]
    fn filters_and_topics_are_checked() {
        for good in ["a", "/", "a//b", "+", "#", "a/+/b/#", "$hw/+", "ü"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        let long = "x".repeat(MAX_TOPIC + 1);
        for (bad, why) in [
            ("", BadTopic::Empty),
            ("a/#/b", BadTopic::Wildcard),
            ("a+", BadTopic::Wildcard),
            ("a/b#", BadTopic::Wildcard),
            ("a\0", BadTopic::Nul),
            (long.as_str(), BadTopic::Long),
        ] {
            assert_eq!(check_filter(bad), Err(why), "{bad:?}");
            assert!(check_topic(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_topic("a/+/b"), Err(BadTopic::Wildcard));
        assert_eq!(check_topic("topic-a/sub/x?q=1"), Ok(()));
    }

    #[test]
    fn what_comes_anyway_is_not_subscribed_again() {
        assert!(
            ALWAYS
                .iter()
                .all(|filter| is_always(filter) && check_filter(filter).is_ok())
        );
        for covered in [
            "default/user/x",
            "default/user",
            "+/user/+/y",
            "default/user/#",
            "$hw/events/upload/a/b",
        ] {
            assert!(is_always(covered), "{covered}");
        }
        for other in [
            "#",
            "+/#",
            "rt/topic-b",
            "$x/user/y",
            "default/+/x",
            "$hw/events/device/+/+/#",
            "$hw/events/device/a/b/updated",
        ] {
            assert!(!is_always(other), "{other}");
        }
    }
}
