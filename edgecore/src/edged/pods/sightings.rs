//! What was seen of a pod's sandboxes and containers, and whether its worker has decided on it already.
//!
//! A worker looks at what it has just done by itself: without this every start would be followed by looks that find nothing to do.

use std::collections::BTreeMap;

use common::order;
use parking_lot::Mutex;
use proto::cri;
use tokio::sync::Notify;

use super::observed::Observed;

/// Of one pod. States are those of the runtime's lists, by id.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    states: Mutex<States>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct States {
    /// As the worker knew them when it found nothing to do.
    settled: BTreeMap<String, i32>,
    /// As they were seen since the worker asked last; `None` for what is gone.
    seen: BTreeMap<String, Option<i32>>,
}

impl Sightings {
    /// Something is in another state than before, or gone.
    pub(super) fn saw(&self, id: &str, state: Option<i32>) {
        self.states.lock().seen.insert(id.to_owned(), state);
        self.wake.notify_one();
    }

    /// Nothing is to be done about a pod that is in this state.
    pub(super) fn settled(&self, observed: &Observed) {
        let sandboxes = observed.sandboxes.iter().map(|sandbox| {
            let state = if sandbox.ready {
                cri::PodSandboxState::SandboxReady
            } else {
                cri::PodSandboxState::SandboxNotready
            };
            (sandbox.id.to_string(), state.into())
        });
        let containers = observed
            .containers
            .iter()
            .map(|container| (container.id.to_string(), container.status.state));
        self.states.lock().settled = order::map(sandboxes.chain(containers));
    }

    /// Resolves once something was seen that the worker has not decided on.
    pub(super) async fn news(&self) {
        loop {
            self.wake.notified().await;
            let mut states = self.states.lock();
            let seen = std::mem::take(&mut states.seen);
            if seen.iter().any(|(id, state)| states.settled.get(id) != state.as_ref()) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::edged::pods::observed::Sandbox;
    use crate::edged::runtime::SandboxId;

    fn with_sandbox(ready: bool) -> Observed {
        Observed {
            sandboxes: vec![Sandbox {
                id: SandboxId::new("s"),
                attempt: 0,
                ready,
                created_at: 1,
                host_network: None,
                network_known: false,
                ips: Vec::new(),
            }],
            containers: Vec::new(),
        }
    }

    #[test]
    fn only_what_the_worker_has_not_decided_on_is_news() {
        let ready = cri::PodSandboxState::SandboxReady.into();
        let lost = cri::PodSandboxState::SandboxNotready.into();
        let sightings = Sightings::default();
        let is_news = || sightings.news().now_or_never().is_some();
        assert!(!is_news(), "nothing was seen");
        sightings.saw("s", Some(ready));
        assert!(is_news(), "the worker has not looked");
        sightings.saw("s", Some(ready));
        sightings.settled(&with_sandbox(true));
        assert!(!is_news(), "the worker looked meanwhile");
        sightings.saw("s", Some(lost));
        assert!(is_news(), "it is lost");
        sightings.saw("s", None);
        assert!(is_news(), "it is gone");
        sightings.saw("other", Some(ready));
        assert!(is_news(), "another one");
        sightings.saw("other", None);
        assert!(!is_news(), "one that the worker never knew is gone");
    }
}
