//! The quality of service of a pod (spec 05 §6, row 21).

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Container;

use crate::edged::quantity::Quantity;
use crate::pod::Pod;

/// What a pod may expect when the node runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QosClass {
    /// Every container has limits, equal to its requests.
    Guaranteed,
    /// Something in between.
    Burstable,
    /// No request and no limit.
    BestEffort,
}

impl QosClass {
    /// What the API server found, or else what follows from the containers.
    pub fn of(pod: &Pod) -> Self {
        match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
            Some("Guaranteed") => Self::Guaranteed,
            Some("Burstable") => Self::Burstable,
            Some("BestEffort") => Self::BestEffort,
            _ => Self::compute(pod),
        }
    }

    /// What follows from the containers.
    pub fn compute(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::BestEffort };
        let mut requests = BTreeMap::<&str, Quantity>::new();
        let mut limits = BTreeMap::<&str, Quantity>::new();
        let mut all_limited = true;
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let (asked, limited) = (
                positive(container, Amounts::Requests),
                positive(container, Amounts::Limits),
            );
            all_limited &= limited.len() == COUNTED.len();
            add(&mut requests, asked);
            add(&mut limits, limited);
        }
        if requests.is_empty() && limits.is_empty() {
            Self::BestEffort
        } else if all_limited && requests == limits {
            Self::Guaranteed
        } else {
            Self::Burstable
        }
    }

    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Copy)]
enum Amounts {
    Requests,
    Limits,
}

/// The resources that decide.
const COUNTED: [&str; 2] = ["cpu", "memory"];

fn positive(container: &Container, which: Amounts) -> Vec<(&'static str, Quantity)> {
    let Some(resources) = &container.resources else {
        return Vec::new();
    };
    let amounts = match which {
        Amounts::Requests => &resources.requests,
        Amounts::Limits => &resources.limits,
    };
    let Some(amounts) = amounts else { return Vec::new() };
    COUNTED
        .into_iter()
        .filter_map(|name| Some((name, Quantity::try_from(amounts.get(name)?).ok()?)))
        .filter(|(_, quantity)| quantity.is_positive())
        .collect()
}

fn add(sums: &mut BTreeMap<&str, Quantity>, amounts: Vec<(&'static str, Quantity)>) {
    for (name, quantity) in amounts {
        let sum = sums.entry(name).or_default();
        *sum = *sum + quantity;
    }
}
