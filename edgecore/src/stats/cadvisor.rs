//! `/metrics/cadvisor`: what dashboards of containers are made of, under the names that kubelets' cAdvisor gave them.
//!
//! One series for each cgroup: the machine (`id="/"`), `kubepods` and its levels, pods, sandboxes and containers. Labels that do not
//! apply are empty. What this kernel does not count is left out.

use jiff::Timestamp;
use proto::exposition::{Exposition, Kind};

use super::cgroup::{Cpu, Memory, Usage};
use super::collect::{Container, Look, Pod};
use super::machine::{Interface, Traffic};
use super::resource::{float, seconds};

/// A cgroup with its labels.
struct Group<'a> {
    id: &'a str,
    pod: Option<&'a Pod>,
    container: Option<&'a Container>,
    usage: Usage,
    created: Option<Timestamp>,
}

type Labels<'a> = [(&'static str, &'a str); 6];

impl<'a> Group<'a> {
    /// In the order of the alphabet, as cAdvisor writes them.
    fn labels(&self) -> Labels<'a> {
        let pod = |of: fn(&'a Pod) -> &'a String| self.pod.map_or("", |pod| of(pod).as_str());
        let container = |of: fn(&'a Container) -> &'a String| self.container.map_or("", |one| of(one).as_str());
        [
            ("container", container(|one| &one.name)),
            ("id", self.id),
            ("image", container(|one| &one.image)),
            ("name", container(|one| &one.id)),
            ("namespace", pod(|pod| &pod.namespace)),
            ("pod", pod(|pod| &pod.name)),
        ]
    }
}

/// The text; `None` when the runtime did not answer. `processors` are those of the machine.
pub(super) fn text(look: Option<&Look>, processors: usize) -> String {
    let mut all = Exposition::default();
    if let Some(look) = look {
        let groups = groups(look);
        for (name, help, of) in CPU {
            counter(&mut all, name, help, &groups, |usage| of(&usage.cpu?));
        }
        total(&mut all, &groups);
        for (name, kind, help, of) in MEMORY {
            usage_metric(&mut all, (name, *kind, help), &groups, |usage| {
                Some(float(of(&usage.memory?)?))
            });
        }
        faults(&mut all, &groups);
        for (name, help, of) in PROCESSES {
            usage_metric(&mut all, (name, Kind::Gauge, help), &groups, |usage| {
                Some(float(of(usage)?))
            });
        }
        times(&mut all, &groups);
        network(&mut all, look);
        machine(&mut all, look, processors);
    }
    let failed = if look.is_some() { 0.0 } else { 1.0 };
    let mut error = all.metric(
        "container_scrape_error",
        Kind::Gauge,
        "1 where the runtime did not tell of its containers, else 0.",
    );
    error.sample(&[], failed, None);
    all.finish()
}

fn groups(look: &Look) -> Vec<Group<'_>> {
    let plain = |id, usage| Group {
        id,
        pod: None,
        container: None,
        usage,
        created: None,
    };
    let mut all = vec![plain("/", look.machine)];
    all.extend(look.levels.iter().map(|level| Group {
        created: Some(level.created),
        ..plain(level.path.as_str(), level.usage)
    }));
    for pod in &look.pods {
        if let Some((path, usage)) = &pod.group {
            all.push(Group {
                pod: Some(pod),
                created: Some(pod.created),
                ..plain(path.as_str(), *usage)
            });
        }
        for container in std::iter::once(&pod.sandbox).chain(&pod.containers) {
            let Some(usage) = container.usage else { continue };
            all.push(Group {
                pod: Some(pod),
                container: Some(container),
                created: Some(container.created),
                ..plain(container.path.as_deref().unwrap_or_default(), usage)
            });
        }
    }
    all
}

type OfCpu = (&'static str, &'static str, fn(&Cpu) -> Option<f64>);
const CPU: &[OfCpu] = &[
    (
        "container_cpu_user_seconds_total",
        "Processor time outside the kernel.",
        |cpu| cpu.user.map(seconds),
    ),
    (
        "container_cpu_system_seconds_total",
        "Processor time in the kernel.",
        |cpu| cpu.system.map(seconds),
    ),
    (
        "container_cpu_cfs_periods_total",
        "Periods of the processor limit.",
        |cpu| cpu.throttled.map(|(periods, _, _)| float(periods)),
    ),
    (
        "container_cpu_cfs_throttled_periods_total",
        "Periods cut short by the limit.",
        |cpu| cpu.throttled.map(|(_, cut, _)| float(cut)),
    ),
    (
        "container_cpu_cfs_throttled_seconds_total",
        "Time waited because of the limit.",
        |cpu| cpu.throttled.map(|(_, _, nanos)| seconds(nanos)),
    ),
];

type OfMemory = (&'static str, Kind, &'static str, fn(&Memory) -> Option<u64>);
const MEMORY: &[OfMemory] = &[
    ("container_memory_usage_bytes", Kind::Gauge, "All memory.", |memory| {
        memory.usage
    }),
    (
        "container_memory_working_set_bytes",
        Kind::Gauge,
        "Memory that cannot be taken back easily.",
        |memory| Some(memory.working_set),
    ),
    ("container_memory_rss", Kind::Gauge, "Anonymous memory.", |memory| {
        memory.rss
    }),
    (
        "container_memory_cache",
        Kind::Gauge,
        "Memory that holds files.",
        |memory| memory.cache,
    ),
    (
        "container_memory_mapped_file",
        Kind::Gauge,
        "Files mapped into memory.",
        |memory| memory.mapped_file,
    ),
    ("container_memory_swap", Kind::Gauge, "Swap in use.", |memory| {
        memory.swap
    }),
    (
        "container_memory_max_usage_bytes",
        Kind::Gauge,
        "The most memory so far.",
        |memory| memory.peak,
    ),
    (
        "container_memory_failcnt",
        Kind::Counter,
        "How often the limit was reached.",
        |memory| memory.failures,
    ),
    (
        "container_oom_events_total",
        Kind::Counter,
        "Processes killed for want of memory.",
        |memory| memory.oom_kills,
    ),
];

/// 0 is written where there is none.
const LIMITS: &[OfMemory] = &[
    (
        "container_spec_memory_limit_bytes",
        Kind::Gauge,
        "The limit of memory; 0 is none.",
        |memory| memory.limit,
    ),
    (
        "container_spec_memory_swap_limit_bytes",
        Kind::Gauge,
        "The limit of memory and swap; 0 is none.",
        |memory| memory.swap_limit,
    ),
];

type OfUsage = (&'static str, &'static str, fn(&Usage) -> Option<u64>);
const PROCESSES: &[OfUsage] = &[
    ("container_processes", "Processes.", |usage| usage.processes),
    ("container_threads", "Threads.", |usage| usage.threads),
];

fn counter(all: &mut Exposition, name: &str, help: &str, groups: &[Group<'_>], of: impl Fn(&Usage) -> Option<f64>) {
    usage_metric(all, (name, Kind::Counter, help), groups, of);
}

fn usage_metric(
    all: &mut Exposition,
    (name, kind, help): (&str, Kind, &str),
    groups: &[Group<'_>],
    of: impl Fn(&Usage) -> Option<f64>,
) {
    let mut metric = all.metric(name, kind, help);
    for group in groups {
        if let Some(value) = of(&group.usage) {
            metric.sample(&group.labels(), value, Some(group.usage.at));
        }
    }
}

/// The sum over all processors has a label that says so.
fn total(all: &mut Exposition, groups: &[Group<'_>]) {
    let mut metric = all.metric("container_cpu_usage_seconds_total", Kind::Counter, "Processor time.");
    for group in groups {
        if let Some(cpu) = group.usage.cpu {
            let [container, id, image, name, namespace, pod] = group.labels();
            let labels = [container, ("cpu", "total"), id, image, name, namespace, pod];
            metric.sample(&labels, seconds(cpu.total), Some(group.usage.at));
        }
    }
}

fn faults(all: &mut Exposition, groups: &[Group<'_>]) {
    let mut metric = all.metric("container_memory_failures_total", Kind::Counter, "Page faults.");
    for group in groups {
        let memory = group.usage.memory.unwrap_or_default();
        for (kind, count) in [
            ("pgfault", memory.page_faults),
            ("pgmajfault", memory.major_page_faults),
        ] {
            let Some(count) = count else { continue };
            let [container, id, image, name, namespace, pod] = group.labels();
            let (kind, scope) = (("failure_type", kind), ("scope", "hierarchy"));
            let labels = [container, kind, id, image, name, namespace, pod, scope];
            metric.sample(&labels, float(count), Some(group.usage.at));
        }
    }
}

fn times(all: &mut Exposition, groups: &[Group<'_>]) {
    let mut metric = all.metric(
        "container_last_seen",
        Kind::Gauge,
        "When it was last looked at, since 1970.",
    );
    for group in groups {
        let at = group.usage.at;
        metric.sample(&group.labels(), at.as_duration().as_secs_f64().floor(), Some(at));
    }
    let mut metric = all.metric(
        "container_start_time_seconds",
        Kind::Gauge,
        "When it was made, since 1970.",
    );
    for group in groups {
        if let Some(created) = group.created {
            metric.sample(&group.labels(), created.as_duration().as_secs_f64().floor(), None);
        }
    }
    for (name, kind, help, of) in LIMITS {
        let mut metric = all.metric(name, *kind, help);
        for group in groups.iter().filter(|group| group.created.is_some()) {
            let limit = group.usage.memory.and_then(|memory| of(&memory)).unwrap_or_default();
            metric.sample(&group.labels(), float(limit), None);
        }
    }
}

type OfInterface = (
    &'static str,
    &'static str,
    fn(&Interface) -> &Traffic,
    fn(&Traffic) -> u64,
);
const NETWORK: &[OfInterface] = &[
    (
        "container_network_receive_bytes_total",
        "Bytes received.",
        |one| &one.received,
        |way| way.bytes,
    ),
    (
        "container_network_receive_errors_total",
        "Errors while receiving.",
        |one| &one.received,
        |way| way.errors,
    ),
    (
        "container_network_receive_packets_dropped_total",
        "Packets dropped while receiving.",
        |one| &one.received,
        |way| way.dropped,
    ),
    (
        "container_network_receive_packets_total",
        "Packets received.",
        |one| &one.received,
        |way| way.packets,
    ),
    (
        "container_network_transmit_bytes_total",
        "Bytes sent.",
        |one| &one.sent,
        |way| way.bytes,
    ),
    (
        "container_network_transmit_errors_total",
        "Errors while sending.",
        |one| &one.sent,
        |way| way.errors,
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "Packets dropped while sending.",
        |one| &one.sent,
        |way| way.dropped,
    ),
    (
        "container_network_transmit_packets_total",
        "Packets sent.",
        |one| &one.sent,
        |way| way.packets,
    ),
];

/// Of the machine and of each pod that has a network of its own, at its sandbox.
fn network(all: &mut Exposition, look: &Look) {
    let machine = Group {
        id: "/",
        pod: None,
        container: None,
        usage: look.machine,
        created: None,
    };
    let pods = look.pods.iter().filter_map(|pod| {
        let group = Group {
            id: pod.sandbox.path.as_deref().unwrap_or_default(),
            pod: Some(pod),
            container: Some(&pod.sandbox),
            usage: pod.sandbox.usage?,
            created: None,
        };
        Some((group, pod.network.as_deref()?))
    });
    let networks: Vec<_> = std::iter::once((machine, look.network.as_slice()))
        .chain(pods)
        .collect();
    for (name, help, way, of) in NETWORK {
        let mut metric = all.metric(name, Kind::Counter, help);
        for (group, interfaces) in &networks {
            for interface in *interfaces {
                let [container, id, image, name, namespace, pod] = group.labels();
                let labels = [
                    container,
                    id,
                    image,
                    ("interface", interface.name.as_str()),
                    name,
                    namespace,
                    pod,
                ];
                metric.sample(&labels, float(of(way(interface))), Some(group.usage.at));
            }
        }
    }
}

fn machine(all: &mut Exposition, look: &Look, processors: usize) {
    let cores = all.metric("machine_cpu_cores", Kind::Gauge, "Processors of the machine.");
    let (mut cores, count) = (cores, u64::try_from(processors).unwrap_or_default());
    cores.sample(&[], float(count), None);
    let memory = look.machine.memory.unwrap_or_default();
    for (name, help, value) in [
        ("machine_memory_bytes", "Memory of the machine.", memory.limit),
        ("machine_swap_bytes", "Swap of the machine.", memory.swap_limit),
    ] {
        if let Some(value) = value {
            all.metric(name, Kind::Gauge, help).sample(&[], float(value), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::collect::example;
    use super::*;

    #[test]
    fn names_and_labels_are_cadvisors() {
        let text = text(Some(&example()), 4);
        let pod = "namespace=\"default\",pod=\"web\"";
        for line in [
            "container_cpu_usage_seconds_total{container=\"\",cpu=\"total\",id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\"} 1.5 1795233586665",
            &format!(
                "container_memory_usage_bytes{{container=\"main\",id=\"/kubepods/podu1/id-main\",image=\"busybox\",name=\"id-main\",{pod}}} 1001 1795233586665"
            ),
            &format!(
                "container_memory_working_set_bytes{{container=\"\",id=\"/kubepods/podu1\",image=\"\",name=\"\",{pod}}} 3000 1795233586665"
            ),
            &format!(
                "container_network_receive_bytes_total{{container=\"\",id=\"/kubepods/podu1/id-\",image=\"busybox\",interface=\"eth0\",name=\"id-\",{pod}}} 0 1795233586665"
            ),
            "machine_cpu_cores 4",
            "machine_memory_bytes 10000",
            "container_scrape_error 0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        let metrics = text
            .lines()
            .filter(|line| line.starts_with("# TYPE container_memory_swap "))
            .count();
        assert_eq!(metrics, 0, "what is not counted is not written");
    }
}
