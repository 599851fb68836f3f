//! Notices what happens in the runtime and tells the workers of the pods it happens to; who knows it already sleeps on.
//!
//! Owns a summary of states by id. Driven by the runtime's events where it has them, with a slow list as a check; else by listing
//! every second. Details are the workers' business. Behaviour: spec 05 §6 row 2.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::order;
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::{Uid, cri};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::edged::pods::Waker;
use crate::edged::runtime::{LABEL_POD_UID, Runtime, RuntimeError};

/// Without events: a container that ended is noticed within this time, as kubelet does.
const LIST: Duration = Duration::from_secs(1);
/// With events: in case one was lost.
const CHECK: Duration = Duration::from_secs(60);

type Events = BoxStream<'static, Result<cri::ContainerEventResponse, RuntimeError>>;

/// Runs for ever. `listed` tells when the last list succeeded.
pub(crate) async fn run(runtime: Arc<dyn Runtime>, waker: Waker, listed: watch::Sender<Option<Instant>>) {
    let mut seen = Summary::new();
    let mut events = subscribe(&*runtime).await;
    let mut reachable = true;
    loop {
        match summarize(&*runtime).await {
            Ok(now) => {
                compare(&seen, &now, &waker);
                seen = now;
                listed.send_replace(Some(Instant::now()));
                if !reachable {
                    reachable = true;
                    info!("the container runtime answers again");
                    events = subscribe(&*runtime).await;
                    waker.wake_all();
                }
            }
            Err(error) => {
                if reachable {
                    warn!(%error, "the container runtime's state cannot be listed");
                }
                reachable = false;
                events = None;
            }
        }
        match events.as_mut() {
            Some(stream) => {
                if !follow(stream, &waker).await {
                    events = None;
                }
            }
            None => tokio::time::sleep(LIST).await,
        }
    }
}

async fn subscribe(runtime: &dyn Runtime) -> Option<Events> {
    match runtime.events().await {
        Ok(events) => {
            debug!("the runtime tells of events");
            Some(events)
        }
        Err(error) => {
            debug!(%error, "the runtime tells of no events, its state is listed instead");
            None
        }
    }
}

/// Passes events on until it is time for a check. Returns whether there may be more.
async fn follow(events: &mut Events, waker: &Waker) -> bool {
    let check = tokio::time::sleep(CHECK);
    tokio::pin!(check);
    loop {
        let event = tokio::select! {
            () = &mut check => return true,
            event = events.next() => event,
        };
        match event {
            Some(Ok(event)) => {
                let uid = event
                    .pod_sandbox_status
                    .and_then(|s| s.metadata)
                    .map(|m| Uid::from(m.uid));
                match uid.filter(|uid| !uid.is_empty()) {
                    Some(uid) => waker.wake(&uid),
                    None => return true,
                }
            }
            Some(Err(error)) => {
                debug!(%error, "the runtime's events ended");
                return false;
            }
            None => return false,
        }
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
