//! When a device's properties are written, read and reported. No I/O: time comes in, steps go out.

use std::time::Duration;

use tokio::time::Instant;

use crate::device::Device;

/// Before a desired value that the device refused is tried again.
const REFUSED: Duration = Duration::from_secs(30);

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write the desired value of this property.
    Write(usize),
    /// Read these.
    Read(Vec<usize>),
    /// Nothing before this time.
    Wait(Instant),
}

#[derive(Debug)]
pub(crate) struct Plan(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    /// When the desired value is to be written; `None` when it is, or there is none.
    write: Option<Instant>,
    read: Instant,
    collect: Duration,
    report: Duration,
    told: Option<(String, Instant)>,
}

impl Plan {
    /// Of a device that was just connected: what is desired is written first.
    pub(crate) fn new(device: &Device, now: Instant) -> Self {
        let entries = device.properties.iter().map(|property| Entry {
            write: property.desired.as_ref().filter(|_| property.writable).map(|_| now),
            read: now,
            collect: property.collect,
            report: property.report,
            told: None,
        });
        Self(entries.collect())
    }

    pub(crate) fn next(&self, now: Instant) -> Step {
        let due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if let Some(index) = self.0.iter().position(|entry| due(entry.write)) {
            return Step::Write(index);
        }
        let entries = self.0.iter().enumerate();
        let reads: Vec<usize> = entries
            .filter(|(_, entry)| entry.read <= now)
            .map(|(index, _)| index)
            .collect();
        if !reads.is_empty() {
            return Step::Read(reads);
        }
        let times = self
            .0
            .iter()
            .flat_map(|entry| entry.write.into_iter().chain([entry.read]));
        // A device without properties has nothing to do.
        Step::Wait(times.min().unwrap_or(now + REFUSED))
    }

    /// A desired value was written, or refused.
    pub(crate) fn written(&mut self, index: usize, done: bool, now: Instant) {
        if let Some(entry) = self.0.get_mut(index) {
            entry.write = (!done).then(|| now + REFUSED);
            // What came of it is worth knowing.
            entry.read = now;
        }
    }

    /// A property was read, or could not be.
    pub(crate) fn read(&mut self, index: usize, now: Instant) {
        if let Some(entry) = self.0.get_mut(index) {
            // A slow device is not asked for what it missed.
            entry.read = (entry.read + entry.collect).max(now);
        }
    }

    /// Whether a value is to be reported: it changed, or was not for long.
    pub(crate) fn is_news(&self, index: usize, value: &str, now: Instant) -> bool {
        self.0.get(index).is_some_and(|entry| match &entry.told {
            Some((told, at)) => told != value || *at + entry.report <= now,
            None => true,
        })
    }

    /// edgecore took it.
    pub(crate) fn reported(&mut self, index: usize, value: String, now: Instant) {
        if let Some(entry) = self.0.get_mut(index) {
            entry.told = Some((value, now));
        }
    }
}
