//! A runtime in memory: containers end when they were told to, in the tests' time.

mod calls;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use proto::cri;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Event, RuntimeError};

/// What one life of a container does: ends after a time with a code, or runs until it is stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Life {
    Runs,
    Ends(Duration, i32),
    /// Ignores the request to end, so that its whole grace time passes.
    Stubborn,
}

#[derive(Debug, Default)]
pub(crate) struct Fake {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u32,
    epoch: Option<(Instant, i64)>,
    sandboxes: Vec<(cri::PodSandbox, String, bool)>,
    containers: Vec<Container>,
    lives: HashMap<String, Vec<Life>>,
    images: BTreeMap<String, cri::Image>,
    failing_pulls: BTreeMap<String, String>,
    failing_reopen: bool,
    failing_starts: BTreeMap<String, String>,
    calls: Vec<String>,
    pulls: Vec<Option<cri::AuthConfig>>,
    network_ready: Option<bool>,
    tells: bool,
    events: Option<mpsc::Sender<Result<Event, RuntimeError>>>,
    lists: usize,
}

#[derive(Debug)]
struct Container {
    status: cri::ContainerStatus,
    sandbox: String,
    started: Option<Instant>,
    life: Life,
    ended: Option<(Instant, i32)>,
}

impl Fake {
    /// With an image of that name.
    pub(crate) fn new(images: &[&str]) -> Self {
        let fake = Self::default();
        {
            let mut state = fake.state.lock();
            state.epoch = Some((Instant::now(), 1_700_000_000_000_000_000));
            for image in images {
                state.add_image(image);
            }
        }
        fake
    }

    /// Nanoseconds since 1970 in the tests' time.
    pub(crate) fn now(&self) -> i64 {
        self.state.lock().now()
    }

    /// The lives of containers of that name, one after the other; the last one again and again.
    pub(crate) fn lives(&self, container: &str, lives: &[Life]) {
        self.state.lock().lives.insert(container.to_owned(), lives.to_vec());
    }

    pub(crate) fn fail_pull(&self, image: &str, error: &str) {
        self.state
            .lock()
            .failing_pulls
            .insert(image.to_owned(), error.to_owned());
    }

    pub(crate) fn fail_start(&self, container: &str, error: &str) {
        self.state
            .lock()
            .failing_starts
            .insert(container.to_owned(), error.to_owned());
    }

    /// Where all containers write their logs; the file is made when it is opened anew.
    pub(crate) fn set_log(&self, path: &std::path::Path) {
        for container in &mut self.state.lock().containers {
            container.status.log_path = path.display().to_string();
        }
    }

    pub(crate) fn fail_reopen(&self, fail: bool) {
        self.state.lock().failing_reopen = fail;
    }

    /// From the next subscription on there are events.
    pub(crate) fn tell_events(&self) {
        self.state.lock().tells = true;
    }

    /// An event for who has subscribed, or the error that ends them.
    pub(crate) fn tell(&self, event: Result<Event, RuntimeError>) {
        let state = self.state.lock();
        let listener = state.events.as_ref().expect("somebody has subscribed");
        listener.try_send(event).expect("somebody listens");
    }

    /// How often all containers were listed.
    pub(crate) fn lists(&self) -> usize {
        self.state.lock().lists
    }

    /// The calls so far that change something, by name and subject.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// The credentials of each pull so far.
    pub(crate) fn pulls(&self) -> Vec<Option<cri::AuthConfig>> {
        self.state.lock().pulls.clone()
    }

    pub(crate) fn clear_calls(&self) {
        self.state.lock().calls.clear();
    }

    /// As after a reboot: nothing runs, everything is remembered.
    pub(crate) fn power_cut(&self) {
        let mut state = self.state.lock();
        let now = Instant::now();
        for container in &mut state.containers {
            container.ended.get_or_insert((now, 255));
        }
        for (sandbox, _, _) in &mut state.sandboxes {
            sandbox.state = cri::PodSandboxState::SandboxNotready as i32;
        }
    }

    /// Forgets all containers that ended, as a Go edgecore makes the runtime do when it stops.
    pub(crate) fn forget_ended(&self) {
        let mut state = self.state.lock();
        state.settle();
        state.containers.retain(|c| c.ended.is_none());
    }

    /// Makes all containers look as if a Go edgecore had made them, with that hash of their spec.
    pub(crate) fn made_by_go(&self, hash: &str) {
        for container in &mut self.state.lock().containers {
            let annotations = &mut container.status.annotations;
            annotations.retain(|key, _| key.starts_with("io.kubernetes."));
            annotations.insert("io.kubernetes.container.hash".to_owned(), hash.to_owned());
        }
    }

    /// How many containers ended and were not removed.
    pub(crate) fn dead(&self) -> usize {
        let mut state = self.state.lock();
        state.settle();
        state.containers.iter().filter(|c| c.ended.is_some()).count()
    }

    /// The containers that run, by name, with their restart count.
    pub(crate) fn running(&self) -> Vec<(String, u32)> {
        let mut state = self.state.lock();
        state.settle();
        let running = state
            .containers
            .iter()
            .filter(|c| c.started.is_some() && c.ended.is_none());
        let metadata = running.filter_map(|c| c.status.metadata.clone());
        metadata.map(|m| (m.name, m.attempt)).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.containers.is_empty() && state.sandboxes.is_empty()
    }

    pub(crate) fn sandbox_attempts(&self) -> Vec<u32> {
        self.state
            .lock()
            .sandboxes
            .iter()
            .filter_map(|(s, _, _)| s.metadata.as_ref())
            .map(|m| m.attempt)
            .collect()
    }

    pub(crate) fn set_network_ready(&self, ready: bool) {
        self.state.lock().network_ready = Some(ready);
    }
}

impl State {
    fn now(&self) -> i64 {
        self.at(Instant::now())
    }

    fn at(&self, instant: Instant) -> i64 {
        let (start, epoch) = self.epoch.expect("made by new");
        epoch + i64::try_from(instant.duration_since(start).as_nanos()).expect("tests are short")
    }

    fn id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }

    fn add_image(&mut self, name: &str) {
        let id = format!("sha256:{name}");
        let image = cri::Image {
            id: id.clone(),
            repo_tags: vec![name.to_owned()],
            ..Default::default()
        };
        self.images.insert(name.to_owned(), image);
    }

    fn settle(&mut self) {
        let now = Instant::now();
        for container in &mut self.containers {
            if let (Some(started), Life::Ends(after, code), None) = (container.started, container.life, container.ended)
                && now >= started + after
            {
                container.ended = Some((started + after, code));
            }
        }
    }

    fn status(&self, container: &Container) -> cri::ContainerStatus {
        let mut status = container.status.clone();
        status.state = match (container.started, container.ended) {
            (_, Some((at, code))) => {
                status.finished_at = self.at(at);
                status.exit_code = code;
                status.reason = if code == 0 { "Completed".into() } else { "Error".into() };
                cri::ContainerState::ContainerExited as i32
            }
            (Some(_), None) => cri::ContainerState::ContainerRunning as i32,
            (None, None) => cri::ContainerState::ContainerCreated as i32,
        };
        if let Some(started) = container.started {
            status.started_at = self.at(started);
        }
        status
    }
}
