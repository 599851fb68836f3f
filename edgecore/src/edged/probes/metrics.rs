//! How probes went, for `/metrics/probes`; names and labels are a kubelet's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::exposition::{Exposition, Kind as Form, Metric};

use super::worker::Kind;
use crate::edged::context::PodContext;

/// Upper bounds of durations, seconds.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The counters of containers that have probes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ProbeMetrics {
    all: Arc<Mutex<BTreeMap<Series, Counts>>>,
}

/// The counters of one container in one of its lives; they go when it is dropped.
#[derive(Debug)]
pub(super) struct ContainerMetrics {
    metrics: ProbeMetrics,
    series: Series,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
    probe: &'static str,
    /// A container that begins anew may do so before the last one is forgotten.
    id: String,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    successful: u64,
    failed: u64,
    unknown: u64,
    /// By bound.
    durations: [u64; BOUNDS.len()],
    observed: u64,
    seconds: f64,
}

impl ProbeMetrics {
    pub(super) fn container(&self, ctx: &PodContext, container: &str, id: &str) -> ContainerMetrics {
        ContainerMetrics {
            metrics: self.clone(),
            series: Series {
                namespace: ctx.namespace().to_owned(),
                pod: ctx.name().to_owned(),
                uid: ctx.uid().to_string(),
                container: container.to_owned(),
                probe: "",
                id: id.to_owned(),
            },
        }
    }

    /// What Prometheus reads.
    pub fn text(&self) -> String {
        let mut sums: BTreeMap<Series, Counts> = BTreeMap::new();
        for (series, counts) in &*self.all.lock() {
            let series = Series {
                id: String::new(),
                ..series.clone()
            };
            sums.entry(series).or_default().add(counts);
        }
        let mut text = Exposition::default();
        let mut durations = text.metric(
            "prober_probe_duration_seconds",
            Form::Histogram,
            "Time that a probe took.",
        );
        for (series, counts) in &sums {
            series.durations(&mut durations, counts);
        }
        let mut total = text.metric(
            "prober_probe_total",
            Form::Counter,
            "Probes of a container by their outcome.",
        );
        for (series, counts) in &sums {
            let [container, namespace, pod, probe] = series.labels();
            for (outcome, count) in [
                ("failed", counts.failed),
                ("successful", counts.successful),
                ("unknown", counts.unknown),
            ] {
                if count > 0 {
                    let uid = ("pod_uid", series.uid.as_str());
                    let labels = [container, namespace, pod, uid, probe, ("result", outcome)];
                    total.sample(&labels, float(count), None);
                }
            }
        }
        text.finish()
    }
}

impl ContainerMetrics {
    /// Tells of an outcome; `None` is an answer that says nothing.
    pub(super) fn note(&self, kind: Kind, outcome: Option<bool>, took: Duration) {
        let series = Series {
            probe: kind.title(),
            ..self.series.clone()
        };
        let mut all = self.metrics.all.lock();
        let counts = all.entry(series).or_default();
        match outcome {
            Some(true) => counts.successful += 1,
            Some(false) => counts.failed += 1,
            None => counts.unknown += 1,
        }
        // As a kubelet's: failures are not timed.
        if outcome != Some(false) {
            counts.observe(took.as_secs_f64());
        }
    }
}

impl Drop for ContainerMetrics {
    fn drop(&mut self) {
        let mut all = self.metrics.all.lock();
        for kind in [Kind::Startup, Kind::Readiness, Kind::Liveness] {
            self.series.probe = kind.title();
            all.remove(&self.series);
        }
    }
}

impl Series {
    fn labels(&self) -> [(&'static str, &str); 4] {
        [
            ("container", self.container.as_str()),
            ("namespace", self.namespace.as_str()),
            ("pod", self.pod.as_str()),
            ("probe_type", self.probe),
        ]
    }

    fn durations(&self, metric: &mut Metric<'_>, counts: &Counts) {
        if counts.observed == 0 {
            return;
        }
        let [container, namespace, pod, probe] = self.labels();
        for (bound, count) in BOUNDS.iter().zip(counts.durations) {
            let bound = bound.to_string();
            let labels = [container, namespace, pod, probe, ("le", bound.as_str())];
            metric.suffixed("_bucket", &labels, float(count), None);
        }
        let all = float(counts.observed);
        metric.suffixed(
            "_bucket",
            &[container, namespace, pod, probe, ("le", "+Inf")],
            all,
            None,
        );
        metric.suffixed("_sum", &self.labels(), counts.seconds, None);
        metric.suffixed("_count", &self.labels(), all, None);
    }
}

impl Counts {
    fn observe(&mut self, seconds: f64) {
        self.observed += 1;
        self.seconds += seconds;
        for (count, bound) in self.durations.iter_mut().zip(BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
    }

    fn add(&mut self, other: &Self) {
        self.successful += other.successful;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.observed += other.observed;
        self.seconds += other.seconds;
        for (count, more) in self.durations.iter_mut().zip(other.durations) {
            *count += more;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of probes is far below 2^53")]
const fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(metrics: &ProbeMetrics, id: &str) -> ContainerMetrics {
        ContainerMetrics {
            metrics: metrics.clone(),
            series: Series {
                namespace: "default".into(),
                pod: "web".into(),
                uid: "u1".into(),
                container: "main".into(),
                probe: "",
                id: id.into(),
            },
        }
    }

    #[test]
    fn lives_of_one_container_are_one_series() {
        let metrics = ProbeMetrics::default();
        let (first, second) = (container(&metrics, "c1"), container(&metrics, "c2"));
        first.note(Kind::Liveness, Some(true), Duration::from_millis(30));
        first.note(Kind::Liveness, Some(false), Duration::from_millis(30));
        second.note(Kind::Liveness, Some(true), Duration::from_secs(20));
        let text = metrics.text();
        let labels = r#"container="main",namespace="default",pod="web""#;
        for line in [
            format!(r#"prober_probe_duration_seconds_bucket{{{labels},probe_type="Liveness",le="0.025"}} 0"#),
            format!(r#"prober_probe_duration_seconds_bucket{{{labels},probe_type="Liveness",le="0.05"}} 1"#),
            format!(r#"prober_probe_duration_seconds_bucket{{{labels},probe_type="Liveness",le="+Inf"}} 2"#),
            format!(r#"prober_probe_duration_seconds_count{{{labels},probe_type="Liveness"}} 2"#),
            format!(r#"prober_probe_total{{{labels},pod_uid="u1",probe_type="Liveness",result="failed"}} 1"#),
            format!(r#"prober_probe_total{{{labels},pod_uid="u1",probe_type="Liveness",result="successful"}} 2"#),
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        drop(first);
        assert!(metrics.text().contains("result=\"successful\"} 1"));
        drop(second);
        assert_eq!(metrics.text(), "");
    }
}
