//! A steady load: pods come and go, a Deployment is scaled, objects change, without regard to who is there to hear of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::api::{self, Api};
use crate::edge::BUSYBOX;
use crate::wait;

/// Time between two requests.
const PERIOD: Duration = Duration::from_millis(300);
/// Pods that it keeps, beside those of the Deployment.
const PODS: usize = 3;

/// A thread that changes what runs on a node, every `PERIOD`. Requests that nobody answers are counted. It ends when dropped.
pub struct Load {
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    done: AtomicU32,
    failed: AtomicU32,
}

struct Worker {
    api: Api,
    namespace: String,
    node: String,
    /// Its pods, the oldest first; one whose creation was not answered may not exist.
    pods: VecDeque<String>,
}

impl Load {
    /// Begins in a namespace that has the Deployment and the ConfigMap `web`.
    #[must_use]
    pub fn start(api: &Api, namespace: &str, node: &str) -> Self {
        let counts = Arc::new(Counts::default());
        let mut worker = Worker {
            api: api.clone(),
            namespace: namespace.to_owned(),
            node: node.to_owned(),
            pods: VecDeque::new(),
        };
        let shared = counts.clone();
        let thread = std::thread::spawn(move || {
            let mut step = 0;
            while !shared.stop.load(Ordering::Relaxed) {
                let count = match worker.step(step) {
                    Ok(()) => &shared.done,
                    Err(_) => &shared.failed,
                };
                count.fetch_add(1, Ordering::Relaxed);
                step += 1;
                wait::pause(PERIOD);
            }
        });
        Self {
            counts,
            thread: Some(thread),
        }
    }

    /// Waits until `count` more requests were granted.
    pub fn goes_on(&self, what: &str, count: u32, limit: Duration) -> Result<()> {
        let enough = self.counts.done.load(Ordering::Relaxed) + count;
        wait::until(what, limit, || {
            Ok((self.counts.done.load(Ordering::Relaxed) >= enough).then_some(()))
        })
    }

    /// Ends it, and tells how many requests were granted and how many were not.
    #[must_use]
    pub fn end(mut self) -> (u32, u32) {
        self.stop();
        let count = |count: &AtomicU32| count.load(Ordering::Relaxed);
        (count(&self.counts.done), count(&self.counts.failed))
    }

    fn stop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has counted all that went wrong; there is nothing more to be told.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Worker {
    fn step(&mut self, step: u32) -> Result<()> {
        let pods = api::pods_path(&self.namespace);
        match step % 8 {
            0 | 4 => {
                let name = format!("load-{step}-{:x}", std::process::id());
                self.pods.push_back(name.clone());
                self.api.create(&pods, &self.pod(&name)).map(drop)
            }
            1 | 5 => match self.pods.back() {
                Some(name) => self.change(
                    &format!("{pods}/{name}"),
                    &json!({"metadata": {"annotations": {"step": step.to_string()}}}),
                ),
                None => Ok(()),
            },
            2 | 6 => match self.pods.front() {
                Some(name) if self.pods.len() > PODS => {
                    self.api.delete(&format!("{pods}/{name}"))?;
                    self.pods.pop_front();
                    Ok(())
                }
                _ => Ok(()),
            },
            3 => {
                let path = format!("/apis/apps/v1/namespaces/{}/deployments/web", self.namespace);
                self.change(&path, &json!({"spec": {"replicas": 2 + step / 8 % 3}}))
            }
            _ => {
                let path = format!("/api/v1/namespaces/{}/configmaps/web", self.namespace);
                self.change(&path, &json!({"data": {"page": format!("hello {step}\n")}}))
            }
        }
    }

    fn change(&self, path: &str, patch: &Value) -> Result<()> {
        self.api.patch(path, patch).map(drop)
    }

    fn pod(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "nodeName": self.node,
                "terminationGracePeriodSeconds": 1,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": "main",
                    "image": BUSYBOX,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"],
                }],
            },
        })
    }
}
