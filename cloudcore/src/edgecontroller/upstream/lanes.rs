//! Which request is worked on next: in order for one object of one node, side by side otherwise, and no node before all others.

use std::collections::{HashMap, HashSet, VecDeque};

use proto::{Kind, Message, NodeName, Route};

/// What has to stay in order within a node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Lane {
    /// The node and its status, however peers of different age write its path.
    Node,
    /// One object, its status and its patches.
    Object(Box<str>),
    /// Everything else.
    Other,
}

/// The requests that wait. Pure: it starts nothing.
pub(super) struct Lanes<T> {
    nodes: HashMap<NodeName, Waiting<T>>,
    /// Nodes that may have a request to start, each once.
    ready: VecDeque<NodeName>,
    running: usize,
    limits: Limits,
}

/// How much at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Requests being worked on.
    pub(super) running: usize,
    /// Of these, of one node.
    pub(super) running_of_node: usize,
    /// Requests of one node that wait.
    pub(super) waiting_of_node: usize,
}

struct Waiting<T> {
    queue: VecDeque<(Lane, T)>,
    busy: HashSet<Lane>,
    is_ready: bool,
}

impl Lane {
    pub(super) fn of(message: &Message) -> Self {
        let Route::Object(path) = &message.route else {
            return Self::Other;
        };
        let kind = match path.kind {
            Kind::Node | Kind::NodePatch | Kind::NodeStatus => return Self::Node,
            Kind::PodPatch | Kind::PodStatus => Kind::Pod.as_str(),
            ref kind => kind.as_str(),
        };
        Self::Object(format!("{}/{kind}/{}", path.namespace, path.name_str()).into())
    }
}

impl<T> Lanes<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            nodes: HashMap::new(),
            ready: VecDeque::new(),
            running: 0,
            limits,
        }
    }

    /// Takes a request in, or gives it back when the node has too many waiting.
    pub(super) fn push(&mut self, node: NodeName, lane: Lane, request: T) -> Result<(), T> {
        let waiting = self.nodes.entry(node.clone()).or_default();
        if waiting.queue.len() >= self.limits.waiting_of_node {
            return Err(request);
        }
        waiting.queue.push_back((lane, request));
        self.mark(node);
        Ok(())
    }

    /// The next request to start; [`Lanes::done`] must follow.
    pub(super) fn next(&mut self) -> Option<(NodeName, Lane, T)> {
        while self.running < self.limits.running {
            let node = self.ready.pop_front()?;
            let Some(waiting) = self.nodes.get_mut(&node) else {
                continue;
            };
            waiting.is_ready = false;
            if waiting.busy.len() >= self.limits.running_of_node {
                continue;
            }
            // The first whose lane is free: an earlier one of the same lane would have been found before it.
            let Some(at) = waiting.queue.iter().position(|(lane, _)| !waiting.busy.contains(lane)) else {
                continue;
            };
            let Some((lane, request)) = waiting.queue.remove(at) else {
                continue;
            };
            waiting.busy.insert(lane.clone());
            self.running += 1;
            self.mark(node.clone());
            return Some((node, lane, request));
        }
        None
    }

    /// The request of this lane has ended.
    pub(super) fn done(&mut self, node: &NodeName, lane: &Lane) {
        let Some(waiting) = self.nodes.get_mut(node) else {
            return;
        };
        if waiting.busy.remove(lane) {
            self.running -= 1;
        }
        if waiting.busy.is_empty() && waiting.queue.is_empty() {
            self.nodes.remove(node);
        } else {
            self.mark(node.clone());
        }
    }

    fn mark(&mut self, node: NodeName) {
        if let Some(waiting) = self.nodes.get_mut(&node)
            && !waiting.is_ready
            && !waiting.queue.is_empty()
        {
            waiting.is_ready = true;
            self.ready.push_back(node);
        }
    }
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            busy: HashSet::new(),
            is_ready: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        running: 4,
        running_of_node: 2,
        waiting_of_node: 8,
    };

    fn lane(name: &str) -> Lane {
        Lane::Object(name.into())
    }

    #[test]
    fn one_lane_stays_in_order_and_others_pass() {
        let mut lanes = Lanes::new(LIMITS);
        let node = NodeName::from("n");
        for (name, number) in [("a", 1), ("a", 2), ("b", 3)] {
            lanes.push(node.clone(), lane(name), number).expect("room");
        }
        assert_eq!(lanes.next().map(|job| job.2), Some(1));
        assert_eq!(lanes.next().map(|job| job.2), Some(3));
        assert!(lanes.next().is_none());
        lanes.done(&node, &lane("a"));
        assert_eq!(lanes.next().map(|job| job.2), Some(2));
    }

    #[test]
    fn a_busy_node_leaves_room_and_gets_told_when_it_asks_too_much() {
        let mut lanes = Lanes::new(LIMITS);
        let busy = NodeName::from("busy");
        for number in 0..8 {
            lanes
                .push(busy.clone(), lane(&number.to_string()), number)
                .expect("room");
        }
        assert_eq!(lanes.push(busy.clone(), lane("more"), 9), Err(9));
        lanes.push("calm".into(), lane("x"), 10).expect("room");
        let started: Vec<i32> = std::iter::from_fn(|| lanes.next().map(|job| job.2)).collect();
        assert_eq!(started, [0, 10, 1]);
    }

    proptest! {
        #[test]
        fn all_requests_run_once_and_in_order(requests in proptest::collection::vec((0..3u8, 0..3u8), 0..24), ends in proptest::collection::vec(any::<prop::sample::Index>(), 64)) {
            let mut lanes = Lanes::new(LIMITS);
            let mut accepted = Vec::new();
            for (number, (node, name)) in requests.into_iter().enumerate() {
                let job = (NodeName::from(node.to_string()), lane(&name.to_string()));
                if lanes.push(job.0.clone(), job.1.clone(), number).is_ok() {
                    accepted.push((job.0, job.1, number));
                }
            }
            let (mut running, mut started, mut ends) = (Vec::new(), Vec::new(), ends.into_iter());
            loop {
                while let Some(job) = lanes.next() {
                    running.push((job.0.clone(), job.1.clone()));
                    started.push(job);
                }
                prop_assert!(running.len() <= LIMITS.running);
                if running.is_empty() { break; }
                let at = ends.next().map_or(0, |end| end.index(running.len()));
                let (node, lane) = running.remove(at);
                lanes.done(&node, &lane);
            }
            prop_assert_eq!(started.len(), accepted.len());
            for job in &accepted {
                let of_lane = |jobs: &[(NodeName, Lane, usize)]| -> Vec<usize> {
                    jobs.iter().filter(|other| (&other.0, &other.1) == (&job.0, &job.1)).map(|other| other.2).collect()
                };
                prop_assert_eq!(of_lane(&started), of_lane(&accepted));
            }
            prop_assert!(lanes.nodes.is_empty() && lanes.running == 0);
        }
    }
}
