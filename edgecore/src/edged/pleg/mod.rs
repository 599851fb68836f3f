//! Notices what happens in the runtime and tells the workers of the pods it happens to; who knows it already sleeps on.
//!
//! Owns a summary of states by id. Driven by the runtime's events where it has them (containerd's or CRI's), with a slow list as a
//! check; else by listing every second. Details are the workers' business. Behaviour: spec 05 §6 row 2.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::order;
use futures::StreamExt;
use proto::Uid;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::edged::pods::Waker;
use crate::edged::runtime::{Event, Events, LABEL_POD_UID, Runtime, RuntimeError};

/// Without events: a container that ended is noticed within this time, as kubelet does.
const LIST: Duration = Duration::from_secs(1);
/// With events: in case one was lost.
const CHECK: Duration = Duration::from_secs(60);
/// After an event the runtime's lists are not changed at once.
const SOON: Duration = Duration::from_millis(50);
/// Between two lists, however much happens.
const SPARE: Duration = Duration::from_millis(500);
/// After an event the runtime may take its time until its lists know of it, and then says nothing more.
const SETTLE: Duration = Duration::from_secs(30);
/// A runtime says nothing until something happens. By then it has refused, or listens.
const TRUST: Duration = Duration::from_secs(5);

/// Runs for ever. `listed` tells when the last list succeeded.
pub(crate) async fn run(runtime: Arc<dyn Runtime>, waker: Waker, listed: watch::Sender<Option<Instant>>) {
    let mut seen = Summary::new();
    let mut reachable = true;
    let mut source = Source::new(&*runtime);
    let mut pace = Pace::new(Instant::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(pace.next) => {}
            event = source.next() => {
                match event {
                    Event::Of(uid) => waker.wake(&uid),
                    Event::Somewhere => pace.happened(Instant::now()),
                }
                continue;
            }
        }
        match summarize(&*runtime).await {
            Ok(now) => {
                compare(&seen, &now, &waker);
                seen = now;
                listed.send_replace(Some(Instant::now()));
                if !reachable {
                    reachable = true;
                    info!("the container runtime answers again");
                    waker.wake_all();
                    // It may be another version now, with other ways to tell of events.
                    source = Source::new(&*runtime);
                }
            }
            Err(error) => {
                if reachable {
                    warn!(%error, "the container runtime's state cannot be listed");
                }
                reachable = false;
            }
        }
        source.mend(&*runtime);
        pace.listed(Instant::now(), reachable && source.is_trusted());
    }
}

/// Where events come from.
struct Source {
    events: Option<Events>,
    since: Instant,
    /// There will be none: the runtime has no such thing.
    never: bool,
}

impl Source {
    fn new(runtime: &dyn Runtime) -> Self {
        Self {
            events: Some(runtime.events()),
            since: Instant::now(),
            never: false,
        }
    }

    /// The next event; pending where none come.
    async fn next(&mut self) -> Event {
        let Some(events) = &mut self.events else {
            return std::future::pending().await;
        };
        match events.next().await {
            Some(Ok(event)) => return event,
            Some(Err(error)) if error.is_unimplemented() => {
                debug!(%error, "the runtime tells of no events, its state is listed instead");
                self.never = true;
            }
            Some(Err(error)) => debug!(%error, "the runtime's events ended"),
            None => debug!("the runtime's events ended"),
        }
        self.events = None;
        self.since = Instant::now();
        // What happened meanwhile is in the lists.
        Event::Somewhere
    }

    /// Whether an event that matters would come.
    fn is_trusted(&self) -> bool {
        self.events.is_some() && self.since.elapsed() >= TRUST
    }

    /// Asks anew after events ended.
    fn mend(&mut self, runtime: &dyn Runtime) {
        if self.events.is_none() && !self.never && self.since.elapsed() >= CHECK {
            *self = Self::new(runtime);
        }
    }
}

/// When to list.
struct Pace {
    next: Instant,
    last: Option<Instant>,
    /// Something happened not long before.
    busy_until: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            next: now,
            last: None,
            busy_until: now,
        }
    }

    fn happened(&mut self, now: Instant) {
        let soon = self.last.map_or(now, |last| (last + SPARE).max(now + SOON));
        self.next = self.next.min(soon);
        self.busy_until = now + SETTLE;
    }

    fn listed(&mut self, now: Instant, events: bool) {
        self.last = Some(now);
        self.next = now + if events && now >= self.busy_until { CHECK } else { LIST };
    }
}

/// States by id, with the uid of the pod they belong to.
type Summary = BTreeMap<String, (Uid, i32)>;

async fn summarize(runtime: &dyn Runtime) -> Result<Summary, RuntimeError> {
    let (sandboxes, containers) = futures::try_join!(runtime.list_sandboxes(None), runtime.list_containers(None))?;
    let sandboxes = sandboxes.into_iter().map(|s| (s.id, s.labels, s.state));
    let containers = containers.into_iter().map(|c| (c.id, c.labels, c.state));
    let all = sandboxes.chain(containers);
    Ok(order::map(all.filter_map(|(id, labels, state)| {
        Some((id, (Uid::new(labels.get(LABEL_POD_UID)?), state)))
    })))
}

fn compare(before: &Summary, now: &Summary, waker: &Waker) {
    for (id, (uid, state)) in now.iter().filter(|(id, state)| before.get(*id) != Some(*state)) {
        waker.saw(uid, id, Some(*state));
    }
    for (id, (uid, _)) in before.iter().filter(|(id, _)| !now.contains_key(*id)) {
        waker.saw(uid, id, None);
    }
}

#[cfg(test)]
mod tests;
