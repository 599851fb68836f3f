//! What reports ask to be changed, and how it is brought together with what is there (spec 03 §2.4). Pure.

use std::collections::BTreeMap;

use proto::device::{DeviceStatus, StateUpdate, StatusTwin, StatusValue, TwinUpdate};

/// The newest of what was reported of one device and is not written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Change {
    pub(super) twins: BTreeMap<String, Values>,
    pub(super) state: Option<State>,
}

/// The values of one property.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Values {
    reported: Option<StatusValue>,
    observed: Option<StatusValue>,
}

/// Whether the device is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    state: String,
    last_online_time: String,
    timestamp: Option<i64>,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) changed: bool,
    /// Values that were older than those that were there.
    pub(super) older: usize,
}

impl From<TwinUpdate> for Change {
    fn from(update: TwinUpdate) -> Self {
        let twins = update.twin.unwrap_or_default().into_iter().filter_map(|(name, twin)| {
            let twin = twin?;
            let value = |value: Option<_>| value.and_then(|value| StatusValue::of(&value, twin.kind.as_deref()));
            let (reported, observed) = (value(twin.actual.clone()), value(twin.expected.clone()));
            (reported.is_some() || observed.is_some()).then_some((name, Values { reported, observed }))
        });
        Self {
            twins: twins.collect(),
            state: None,
        }
    }
}

impl From<StateUpdate> for Change {
    fn from(update: StateUpdate) -> Self {
        let state = State {
            state: update.state,
            last_online_time: update.last_online_time,
            timestamp: Some(update.timestamp),
        };
        let is_empty = state.state.is_empty() && state.last_online_time.is_empty();
        Self {
            twins: BTreeMap::new(),
            state: (!is_empty).then_some(state),
        }
    }
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.twins.is_empty() && self.state.is_none()
    }

    /// Takes in what was reported after it: the newest of each value stays. Returns how many were older after all.
    pub(super) fn absorb(&mut self, later: Self, now: i64) -> usize {
        let mut older = 0;
        for (name, values) in later.twins {
            let known = self.twins.entry(name).or_default();
            for (known, value) in [
                (&mut known.reported, values.reported),
                (&mut known.observed, values.observed),
            ] {
                let Some(value) = value else { continue };
                if known
                    .as_ref()
                    .is_some_and(|known| is_older(value.timestamp(), known.timestamp(), now))
                {
                    older += 1;
                } else {
                    *known = Some(value);
                }
            }
        }
        if let Some(state) = later.state {
            let known = self.state.as_ref().and_then(|known| known.timestamp);
            if is_older(state.timestamp, known, now) {
                older += 1;
            } else {
                self.state = Some(state);
            }
        }
        older
    }

    /// Leaves the state to whoever the edge reports it to now. Returns whether there was one.
    pub(super) fn leave_state(&mut self) -> bool {
        self.state.take().is_some()
    }

    /// Brings it into a DeviceStatus. Go keeps what is there of properties that the Device lost; so does this.
    pub(super) fn merge(&self, status: &mut DeviceStatus, now: i64) -> Merged {
        let mut merged = Merged::default();
        for (name, values) in &self.twins {
            let known = status.twins.iter().position(|twin| twin.property_name == *name);
            let at = known.unwrap_or_else(|| {
                status.twins.push(StatusTwin::new(name));
                status.twins.len() - 1
            });
            let Some(twin) = status.twins.get_mut(at) else { continue };
            for (known, value) in [
                (&mut twin.reported, &values.reported),
                (&mut twin.observed_desired, &values.observed),
            ] {
                let Some(value) = value else { continue };
                if is_older(value.timestamp(), known.timestamp(), now) {
                    merged.older += 1;
                } else if known != value {
                    known.clone_from(value);
                    merged.changed = true;
                }
            }
        }
        // Of a state that is not one of being there, no time is kept: see [`Change::leave_state`].
        match &self.state {
            Some(state) if is_older(state.timestamp, status.last_online(), now) => merged.older += 1,
            Some(state) => {
                for (known, text) in [
                    (&mut status.state, &state.state),
                    (&mut status.last_online_time, &state.last_online_time),
                ] {
                    if !text.is_empty() && known != text {
                        known.clone_from(text);
                        merged.changed = true;
                    }
                }
            }
            None => {}
        }
        merged
    }
}

/// Whether a value is older than another. Only times that a set clock can have given are compared: an edge may start in 1970, and one
/// whose clock ran ahead must not be shut out until its time has come. Such values count in the order of their coming.
fn is_older(value: Option<i64>, known: Option<i64>, now: i64) -> bool {
    let is_plausible = |time: &i64| (SET..=now.saturating_add(AHEAD)).contains(time);
    match (value.filter(is_plausible), known.filter(is_plausible)) {
        (Some(value), Some(known)) => value < known,
        _ => false,
    }
}

/// 2020-01-01 in milliseconds: no clock that was set is before it.
const SET: i64 = 1_577_836_800_000;
/// How far an edge's clock may be ahead of ours, in milliseconds.
const AHEAD: i64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_217_800_000;

    fn report(name: &str, value: &str, at: i64) -> Change {
        let text = format!(
            r#"{{"twin":{{"{name}":{{"actual":{{"value":"{value}","metadata":{{"timestamp":{at}}}}},"metadata":{{"type":"int"}}}}}}}}"#
        );
        TwinUpdate::parse(text.as_bytes()).expect("twin").into()
    }

    fn value(status: &DeviceStatus) -> &str {
        &status.twins[0].reported.value
    }

    #[test]
    fn the_first_value_of_a_property_is_stored_and_others_stay() {
        let mut status = DeviceStatus::default();
        assert!(report("a", "1", NOW).merge(&mut status, NOW).changed);
        assert!(report("b", "2", NOW).merge(&mut status, NOW).changed);
        assert_eq!((status.twins.len(), value(&status)), (2, "1"));
        assert_eq!(report("b", "2", NOW).merge(&mut status, NOW), Merged::default());
    }

    #[test]
    fn an_older_value_is_dropped_in_whatever_order_they_come() {
        let mut status = DeviceStatus::default();
        report("a", "new", NOW).merge(&mut status, NOW);
        let merged = report("a", "old", NOW - 1).merge(&mut status, NOW);
        assert_eq!((merged.changed, merged.older, value(&status)), (false, 1, "new"));
        let mut change = report("a", "new", NOW);
        assert_eq!(change.absorb(report("a", "old", NOW - 1), NOW), 1);
        assert_eq!(change, report("a", "new", NOW));
    }

    #[test]
    fn clocks_that_are_wrong_shut_nothing_out() {
        let mut status = DeviceStatus::default();
        for (text, at) in [
            ("2070", 3_155_760_000_000),
            ("future", NOW + 3_600_000),
            ("now", NOW),
            ("1970", 7_000),
            ("set", NOW + 1),
        ] {
            assert!(report("a", text, at).merge(&mut status, NOW).changed, "{text}");
            assert_eq!(value(&status), text);
        }
    }

    #[test]
    fn a_deletion_and_an_absent_value_change_nothing() {
        let text = br#"{"twin":{"a":{"actual":{},"metadata":{"type":"deleted"}},"b":null}}"#;
        assert!(Change::from(TwinUpdate::parse(text).expect("twin")).is_empty());
    }

    #[test]
    fn a_state_of_before_the_device_was_last_there_is_dropped() {
        let state = |state: &str, time: &str, timestamp: i64| {
            Change::from(StateUpdate {
                state: state.into(),
                last_online_time: time.into(),
                timestamp,
                ..StateUpdate::default()
            })
        };
        let there = "2026-11-20T23:36:40Z";
        for (late, time) in [("offline", ""), ("ok", "2026-11-20T23:36:38Z")] {
            let mut status = DeviceStatus::default();
            state("online", there, NOW).merge(&mut status, NOW);
            let known = status.last_online().expect("a time");
            let merged = state(late, time, known - 1).merge(&mut status, NOW);
            assert_eq!((merged.changed, merged.older), (false, 1), "{late}");
            assert_eq!(
                (status.state.as_str(), status.last_online_time.as_str()),
                ("online", there)
            );
            // In the same second, or from a clock that was never set.
            for timestamp in [known, 7_000] {
                assert!(
                    state(late, "", timestamp).merge(&mut status.clone(), NOW).changed,
                    "{late}"
                );
            }
        }
    }

    #[test]
    fn a_time_without_a_zone_shuts_no_state_out() {
        let mut status = DeviceStatus {
            state: "online".into(),
            last_online_time: "2026-11-20 23:36:40".into(),
            ..DeviceStatus::default()
        };
        let offline = StateUpdate {
            state: "offline".into(),
            timestamp: NOW - 3_600_000,
            ..StateUpdate::default()
        };
        assert!(Change::from(offline).merge(&mut status, NOW).changed);
    }

    #[test]
    fn a_state_without_a_time_keeps_the_last_one() {
        let state = |state: &str, time: &str| StateUpdate {
            state: state.into(),
            last_online_time: time.into(),
            timestamp: NOW,
            ..StateUpdate::default()
        };
        let mut status = DeviceStatus::default();
        Change::from(state("online", "2026-01-02T03:04:05Z")).merge(&mut status, NOW);
        Change::from(state("offline", "")).merge(&mut status, NOW);
        assert_eq!(
            (status.state.as_str(), status.last_online_time.as_str()),
            ("offline", "2026-01-02T03:04:05Z")
        );
    }
}
