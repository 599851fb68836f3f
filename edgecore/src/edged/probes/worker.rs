//! The rhythm of one container's probes, and what is made of their answers.

use std::time::Duration;

use common::backoff::random_unit;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::edged::context::{Finding, ProbeEvent};
use crate::edged::runtime::ContainerId;

/// What one probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// As kubelets write it in events and metrics.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
}

/// Asks once. `None` is no answer at all, which changes nothing.
pub(super) trait Check: Sync {
    fn check<'a>(&'a self, kind: Kind, probe: &'a Probe) -> BoxFuture<'a, Option<bool>>;
}

/// The probes of one container in one of its lives.
pub(super) struct Worker {
    container: String,
    id: ContainerId,
    startup: Option<Probe>,
    readiness: Option<Probe>,
    liveness: Option<Probe>,
    started: Instant,
    /// How old the container was when we came.
    age: Duration,
    spread: bool,
    events: mpsc::Sender<ProbeEvent>,
}

impl Worker {
    pub(super) fn new(
        container: &Container,
        id: &ContainerId,
        age: Duration,
        spread: bool,
        events: mpsc::Sender<ProbeEvent>,
    ) -> Self {
        Self {
            container: container.name.clone(),
            id: id.clone(),
            startup: container.startup_probe.clone(),
            readiness: container.readiness_probe.clone(),
            liveness: container.liveness_probe.clone(),
            started: Instant::now(),
            age,
            spread,
            events,
        }
    }

    /// Ends when the container is to be killed or nobody listens.
    pub(super) async fn run(&self, check: &impl Check) {
        if let Some(probe) = &self.startup
            && !self.watch_startup(check, probe).await
        {
            return;
        }
        // Side by side: a slow answer to one must not delay the other. Readiness never ends by itself, liveness with the container.
        let readiness = async {
            match &self.readiness {
                Some(probe) => self.watch_readiness(check, probe).await,
                None => std::future::pending().await,
            }
        };
        let liveness = async {
            match &self.liveness {
                Some(probe) => self.watch_liveness(check, probe).await,
                None => std::future::pending().await,
            }
        };
        if self.readiness.is_some() || self.liveness.is_some() {
            tokio::select! {
                () = readiness => {}
                () = liveness => {}
            }
        }
    }

    /// Whether the container is up; otherwise it is to be killed.
    async fn watch_startup(&self, check: &impl Check, probe: &Probe) -> bool {
        let mut series = Series::new(self, Kind::Startup, probe);
        let up = series.next(check).await;
        let finding = if up {
            Finding::Started
        } else {
            kill(Kind::Startup, probe)
        };
        self.tell(finding).await && up
    }

    async fn watch_readiness(&self, check: &impl Check, probe: &Probe) {
        let mut series = Series::new(self, Kind::Readiness, probe);
        let mut ready = false;
        loop {
            let now = series.next(check).await;
            if now != ready {
                ready = now;
                if !self.tell(Finding::Ready(ready)).await {
                    return;
                }
            }
        }
    }

    async fn watch_liveness(&self, check: &impl Check, probe: &Probe) {
        let mut series = Series::new(self, Kind::Liveness, probe);
        while series.next(check).await {}
        // Not asked again until there is a new container: a command in a dying one may confuse the runtime.
        self.tell(kill(Kind::Liveness, probe)).await;
    }

    async fn tell(&self, finding: Finding) -> bool {
        let event = ProbeEvent {
            container: self.container.clone(),
            id: self.id.clone(),
            finding,
        };
        self.events.send(event).await.is_ok()
    }
}

/// The answers to one probe, a verdict whenever enough of them agree.
struct Series<'a> {
    kind: Kind,
    probe: &'a Probe,
    ticks: tokio::time::Interval,
    last: Option<bool>,
    run: u32,
}

impl<'a> Series<'a> {
    fn new(worker: &Worker, kind: Kind, probe: &'a Probe) -> Self {
        let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
        let delay = seconds(probe.initial_delay_seconds, 0).saturating_sub(worker.age);
        let spread = if worker.spread {
            period.mul_f64(random_unit())
        } else {
            Duration::ZERO
        };
        // After a startup probe the delay may be over long since.
        let first = (worker.started + delay + spread).max(Instant::now());
        let mut ticks = interval_at(first, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            kind,
            probe,
            ticks,
            last: None,
            run: 0,
        }
    }

    async fn next(&mut self, check: &impl Check) -> bool {
        loop {
            self.ticks.tick().await;
            let Some(answer) = check.check(self.kind, self.probe).await else {
                continue;
            };
            self.run = if self.last == Some(answer) {
                self.run.saturating_add(1)
            } else {
                1
            };
            self.last = Some(answer);
            let (threshold, default) = if answer {
                (self.probe.success_threshold, 1)
            } else {
                (self.probe.failure_threshold, 3)
            };
            if self.run >= threshold.and_then(|count| u32::try_from(count).ok()).unwrap_or(default) {
                return answer;
            }
        }
    }
}

const fn kill(kind: Kind, probe: &Probe) -> Finding {
    Finding::Kill {
        probe: kind.word(),
        grace_seconds: probe.termination_grace_period_seconds,
    }
}

/// Seconds of a field, or the API's default.
pub(super) fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.map_or(default, |value| u64::try_from(value).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::FutureExt;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::*;

    /// Answers by script; the last answer of each kind goes on.
    #[derive(Default)]
    struct Script {
        answers: Mutex<Vec<(Kind, VecDeque<Option<bool>>)>>,
        asked: Mutex<Vec<(Kind, u64)>>,
        begin: Mutex<Option<Instant>>,
    }

    impl Check for Script {
        fn check<'a>(&'a self, kind: Kind, _: &'a Probe) -> BoxFuture<'a, Option<bool>> {
            let begin = *self.begin.lock().get_or_insert_with(Instant::now);
            self.asked.lock().push((kind, (Instant::now() - begin).as_secs()));
            let mut answers = self.answers.lock();
            let script = answers
                .iter_mut()
                .find(|(known, _)| *known == kind)
                .map(|(_, script)| script);
            let answer = script.and_then(|script| {
                if script.len() > 1 {
                    script.pop_front()
                } else {
                    script.front().copied()
                }
            });
            async move { answer.flatten() }.boxed()
        }
    }

    /// Runs the probes for some seconds and returns what was told, with the second, and when they were asked.
    async fn run(
        container: Value,
        age: u64,
        script: &[(Kind, &[Option<bool>])],
        seconds: u64,
    ) -> (Vec<(Finding, u64)>, Vec<(Kind, u64)>) {
        let mut container = container;
        container["name"] = "app".into();
        let container: Container = serde_json::from_value(container).expect("container");
        let (sender, mut events) = mpsc::channel(16);
        let begin = Instant::now();
        let worker = Worker::new(
            &container,
            &ContainerId::new("c1"),
            Duration::from_secs(age),
            false,
            sender,
        );
        let answers = script
            .iter()
            .map(|(kind, answers)| (*kind, answers.iter().copied().collect()))
            .collect();
        let script = Script {
            answers: Mutex::new(answers),
            begin: Mutex::new(Some(begin)),
            ..Script::default()
        };
        let mut told = Vec::new();
        let listen = async {
            while let Some(event) = events.recv().await {
                told.push((event.finding, (Instant::now() - begin).as_secs()));
            }
        };
        let limit = tokio::time::sleep(Duration::from_secs(seconds));
        tokio::select! {
            () = async { tokio::join!(worker.run(&script), listen); } => {}
            () = limit => {}
        }
        let asked = script.asked.lock().clone();
        (told, asked)
    }

    const YES: Option<bool> = Some(true);
    const NO: Option<bool> = Some(false);

    #[tokio::test(start_paused = true)]
    async fn readiness_follows_its_thresholds() {
        let container = json!({"readinessProbe": {"periodSeconds": 5, "successThreshold": 2, "failureThreshold": 2}});
        let answers = [YES, NO, YES, YES, NO, None, YES, NO, NO, NO];
        let (told, asked) = run(container, 0, &[(Kind::Readiness, &answers)], 48).await;
        assert_eq!(told, [(Finding::Ready(true), 15), (Finding::Ready(false), 40)]);
        assert_eq!(
            asked.iter().map(|(_, at)| *at).collect::<Vec<_>>(),
            [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_question_waits_from_the_start_of_the_container() {
        let container = json!({"readinessProbe": {"initialDelaySeconds": 20}});
        let (told, _) = run(container.clone(), 0, &[(Kind::Readiness, &[YES])], 60).await;
        assert_eq!(told, [(Finding::Ready(true), 20)]);
        let (told, _) = run(container.clone(), 15, &[(Kind::Readiness, &[YES])], 60).await;
        assert_eq!(told, [(Finding::Ready(true), 5)]);
        let (told, _) = run(container, 500, &[(Kind::Readiness, &[YES])], 60).await;
        assert_eq!(told, [(Finding::Ready(true), 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn startup_goes_before_the_others() {
        let container = json!({
            "startupProbe": {"periodSeconds": 4, "failureThreshold": 5},
            "readinessProbe": {"initialDelaySeconds": 1},
            "livenessProbe": {"periodSeconds": 10, "failureThreshold": 2, "terminationGracePeriodSeconds": 7},
        });
        let script: [(Kind, &[Option<bool>]); 3] = [
            (Kind::Startup, &[NO, NO, NO, YES]),
            (Kind::Readiness, &[YES]),
            (Kind::Liveness, &[YES, NO]),
        ];
        let (told, asked) = run(container.clone(), 0, &script, 100).await;
        let kill = Finding::Kill {
            probe: "liveness",
            grace_seconds: Some(7),
        };
        assert_eq!(told, [(Finding::Started, 12), (Finding::Ready(true), 12), (kill, 32)]);
        assert!(
            asked
                .iter()
                .filter(|(kind, _)| *kind != Kind::Startup)
                .all(|(_, at)| *at >= 12)
        );

        let script: [(Kind, &[Option<bool>]); 2] = [(Kind::Startup, &[NO]), (Kind::Liveness, &[YES])];
        let (told, asked) = run(container, 0, &script, 100).await;
        assert_eq!(
            told,
            [(
                Finding::Kill {
                    probe: "startup",
                    grace_seconds: None
                },
                16
            )]
        );
        assert!(asked.iter().all(|(kind, at)| *kind == Kind::Startup && *at <= 16));
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_changes_nothing() {
        let container = json!({"livenessProbe": {"periodSeconds": 1, "failureThreshold": 2}});
        let (told, _) = run(container, 0, &[(Kind::Liveness, &[NO, None, None, None])], 30).await;
        assert_eq!(told, []);
    }
}
