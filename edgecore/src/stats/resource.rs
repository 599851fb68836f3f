//! `/metrics/resource`: what metrics-server reads, names and labels as a kubelet's.
//!
//! metrics-server leaves out a pod of which one container reports no processor time or no memory: what is not known is not written.

use proto::exposition::{Exposition, Kind};

use super::collect::{Container, Look, Pod};

/// The text; `None` when the runtime did not answer.
pub(super) fn text(look: Option<&Look>) -> String {
    let mut all = Exposition::default();
    if let Some(look) = look {
        containers(&mut all, look);
        node(&mut all, look);
        pods(&mut all, look);
    }
    let failed = if look.is_some() { 0.0 } else { 1.0 };
    let mut error = all.metric(
        "resource_scrape_error",
        Kind::Gauge,
        "1 where the runtime did not tell of its containers, else 0.",
    );
    error.sample(&[], failed, None);
    all.finish()
}

fn containers(all: &mut Exposition, look: &Look) {
    let running = || {
        look.pods
            .iter()
            .flat_map(|pod| pod.containers.iter().map(move |one| (pod, one)))
    };
    let mut cpu = all.metric(
        "container_cpu_usage_seconds_total",
        Kind::Counter,
        "Processor time of a container.",
    );
    for (pod, container) in running() {
        if let Some((usage, time)) = container.usage.and_then(|usage| Some((usage, usage.cpu?))) {
            cpu.sample(&labels(pod, container), seconds(time.total), Some(usage.at));
        }
    }
    let mut memory = all.metric(
        "container_memory_working_set_bytes",
        Kind::Gauge,
        "Memory of a container that cannot be taken back easily.",
    );
    for (pod, container) in running() {
        if let Some((usage, memory_of)) = container.usage.and_then(|usage| Some((usage, usage.memory?))) {
            memory.sample(&labels(pod, container), float(memory_of.working_set), Some(usage.at));
        }
    }
    let mut start = all.metric(
        "container_start_time_seconds",
        Kind::Gauge,
        "When a container was made, since 1970.",
    );
    for (pod, container) in running() {
        start.sample(
            &labels(pod, container),
            container.created.as_duration().as_secs_f64(),
            None,
        );
    }
    let mut swap = all.metric("container_swap_usage_bytes", Kind::Gauge, "Swap of a container.");
    for (pod, container) in running() {
        if let Some((usage, bytes)) = container.usage.and_then(|usage| Some((usage, usage.memory?.swap?))) {
            swap.sample(&labels(pod, container), float(bytes), Some(usage.at));
        }
    }
}

fn node(all: &mut Exposition, look: &Look) {
    let usage = look.machine;
    if let Some(cpu) = usage.cpu {
        let mut metric = all.metric(
            "node_cpu_usage_seconds_total",
            Kind::Counter,
            "Processor time of the node.",
        );
        metric.sample(&[], seconds(cpu.total), Some(usage.at));
    }
    if let Some(memory) = usage.memory {
        let mut metric = all.metric(
            "node_memory_working_set_bytes",
            Kind::Gauge,
            "Memory of the node that cannot be taken back easily.",
        );
        metric.sample(&[], float(memory.working_set), Some(usage.at));
    }
    if let Some(swap) = usage.memory.and_then(|memory| memory.swap) {
        let mut metric = all.metric("node_swap_usage_bytes", Kind::Gauge, "Swap of the node.");
        metric.sample(&[], float(swap), Some(usage.at));
    }
}

fn pods(all: &mut Exposition, look: &Look) {
    let groups = || look.pods.iter().filter_map(|pod| Some((pod, pod.group.as_ref()?.1)));
    let mut cpu = all.metric("pod_cpu_usage_seconds_total", Kind::Counter, "Processor time of a pod.");
    for (pod, usage) in groups() {
        if let Some(time) = usage.cpu {
            cpu.sample(&pod_labels(pod), seconds(time.total), Some(usage.at));
        }
    }
    let mut memory = all.metric(
        "pod_memory_working_set_bytes",
        Kind::Gauge,
        "Memory of a pod that cannot be taken back easily.",
    );
    for (pod, usage) in groups() {
        if let Some(memory_of) = usage.memory {
            memory.sample(&pod_labels(pod), float(memory_of.working_set), Some(usage.at));
        }
    }
    let mut swap = all.metric("pod_swap_usage_bytes", Kind::Gauge, "Swap of a pod.");
    for (pod, usage) in groups() {
        if let Some(bytes) = usage.memory.and_then(|memory| memory.swap) {
            swap.sample(&pod_labels(pod), float(bytes), Some(usage.at));
        }
    }
}

fn labels<'a>(pod: &'a Pod, container: &'a Container) -> [(&'static str, &'a str); 3] {
    [
        ("container", container.name.as_str()),
        ("namespace", pod.namespace.as_str()),
        ("pod", pod.name.as_str()),
    ]
}

fn pod_labels(pod: &Pod) -> [(&'static str, &str); 2] {
    [("namespace", pod.namespace.as_str()), ("pod", pod.name.as_str())]
}

/// Of nanoseconds.
pub(super) fn seconds(nanos: u64) -> f64 {
    float(nanos) / 1e9
}

/// Exact up to 2^53: 9 petabytes, or 104 days of nanoseconds to the nanosecond.
#[expect(clippy::cast_precision_loss, reason = "the format has no other numbers")]
pub(super) const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::super::collect::example;
    use super::*;

    #[test]
    fn names_labels_and_times_are_a_kubelets() {
        let text = text(Some(&example()));
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"main\",namespace=\"default\",pod=\"web\"} 1.5 1795233586665",
            "container_memory_working_set_bytes{container=\"main\",namespace=\"default\",pod=\"web\"} 1000 1795233586665",
            "container_start_time_seconds{container=\"main\",namespace=\"default\",pod=\"web\"} 1795233586.665",
            "node_cpu_usage_seconds_total 1.5 1795233586665",
            "node_memory_working_set_bytes 5000 1795233586665",
            "pod_cpu_usage_seconds_total{namespace=\"default\",pod=\"web\"} 1.5 1795233586665",
            "pod_memory_working_set_bytes{namespace=\"default\",pod=\"web\"} 3000 1795233586665",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        let unknown = "container_memory_working_set_bytes{container=\"side\"";
        assert!(!text.contains(unknown), "an unknown number was written");
    }

    #[test]
    fn a_runtime_that_does_not_answer_is_an_error_in_the_text() {
        let text = text(None);
        assert!(
            text.ends_with("resource_scrape_error 1\n") && !text.contains("node_"),
            "{text}"
        );
    }
}
