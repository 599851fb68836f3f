//! Limits as a kubelet computes them, and hierarchies laid out in temporary folders.

use std::fs;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::edged::podspec::testing::context;

/// Remembers what it was told.
#[derive(Debug, Default)]
struct Fake {
    applied: Mutex<Vec<(String, Limits)>>,
    refuse: bool,
}

impl Tree for Fake {
    fn apply(&self, path: &str, limits: &Limits) -> io::Result<()> {
        self.applied.lock().push((path.to_owned(), limits.clone()));
        if self.refuse {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        } else {
            Ok(())
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.applied.lock().retain(|(known, _)| known != path);
        Ok(())
    }

    fn children(&self, path: &str) -> BTreeSet<String> {
        let applied = self.applied.lock();
        let below = applied
            .iter()
            .filter_map(|(known, _)| known.strip_prefix(path)?.strip_prefix('/'));
        below
            .filter(|rest| !rest.contains('/'))
            .map(ToOwned::to_owned)
            .collect()
    }
}

fn pod(containers: &Value) -> PodContext {
    let root = tempfile::tempdir().expect("tempdir");
    let (mut ctx, _) = context(root.path(), json!({"containers": containers}));
    let mut settings = (*ctx.settings).clone();
    settings.pod_pids_limit = Some(100);
    ctx.settings = settings.into();
    ctx
}

fn container(requests: &Value, limits: &Value) -> Value {
    json!({"name": "a", "resources": {"requests": requests, "limits": limits}})
}

#[test]
fn limits_are_those_of_kubelet() {
    let none = json!({});
    let (small, large) = (
        json!({"cpu": "100m", "memory": "100Mi"}),
        json!({"cpu": "200m", "memory": "200Mi"}),
    );
    let of = |containers: Value| {
        let limits = Limits::of(&pod(&containers)).expect("limits");
        (limits.cpu_shares, limits.cpu_quota, limits.memory, limits.pids)
    };
    assert_eq!(of(json!([container(&none, &none)])), (Some(2), None, None, Some(100)));
    assert_eq!(
        of(json!([container(&small, &none)])),
        (Some(102), None, None, Some(100))
    );
    assert_eq!(
        of(json!([container(&small, &large)])),
        (Some(102), Some((20_000, 100_000)), Some(200 << 20), Some(100))
    );
    // One container without limits leaves the pod without.
    assert_eq!(
        of(json!([container(&small, &large), container(&small, &none)])),
        (Some(204), None, None, Some(100))
    );
    assert_eq!(
        of(json!([container(&small, &small)])),
        (Some(102), Some((10_000, 100_000)), Some(100 << 20), Some(100))
    );
}

#[tokio::test]
async fn pods_come_and_go() {
    let ctx = pod(&json!([container(&json!({"cpu": "500m"}), &json!({}))]));
    let fake = Arc::<Fake>::default();
    let cgroups = PodCgroups::with_tree(ctx.settings.clone(), CgroupDriver::Systemd, fake.clone());
    let parent = cgroups.create(&ctx).await.expect("created");
    assert_eq!(
        parent,
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2_3.slice"
    );
    cgroups.balance(std::slice::from_ref(&ctx)).await.expect("balanced");
    let last = fake.applied.lock().last().cloned().expect("applied");
    assert_eq!(
        (last.0.as_str(), last.1.cpu_shares),
        ("/kubepods.slice/kubepods-burstable.slice", Some(512))
    );
    assert_eq!(cgroups.orphans().await, [ctx.uid()]);
    cgroups.remove(&ctx.uid()).await.expect("removed");
    assert!(cgroups.orphans().await.is_empty());
}

#[tokio::test]
async fn a_machine_without_cgroups_runs_pods_all_the_same() {
    let ctx = pod(&json!([]));
    let fake = Arc::new(Fake {
        refuse: true,
        ..Fake::default()
    });
    let cgroups = PodCgroups::with_tree(ctx.settings.clone(), CgroupDriver::Cgroupfs, fake);
    assert_eq!(
        cgroups.create(&ctx).await.expect("created"),
        "/kubepods/besteffort/pod1-2-3"
    );
}

#[test]
fn files_of_both_versions() {
    let limits = Limits {
        cpu_shares: Some(1024),
        cpu_quota: Some((-1, 100_000)),
        memory: Some(1 << 20),
        pids: Some(10),
        hugepages: Vec::new(),
    };
    let root = tempfile::tempdir().expect("tempdir");
    let make = |dir: &str, files: &[&str]| {
        let dir = root.path().join(dir);
        fs::create_dir_all(&dir).expect("mkdir");
        for file in files {
            fs::write(dir.join(file), "").expect("file");
        }
    };
    let read = |path: &str| fs::read_to_string(root.path().join(path)).expect(path);
    make("v2/kubepods/pod1", &["cpu.weight", "cpu.max", "memory.max", "pids.max"]);
    Kernel::at(root.path().join("v2"), true)
        .apply("/kubepods/pod1", &limits)
        .expect("v2");
    assert_eq!(read("v2/kubepods/pod1/cpu.weight"), "39");
    assert_eq!(read("v2/kubepods/pod1/cpu.max"), "max 100000");
    assert_eq!(read("v2/kubepods/pod1/memory.max"), "1048576");

    make(
        "v1/cpu/kubepods/pod1",
        &["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"],
    );
    make("v1/memory/kubepods/pod1", &["memory.limit_in_bytes"]);
    make("v1/pids", &[]);
    make("v1/cpuset", &["tasks", "cpuset.cpus", "cpuset.mems"]);
    let tree = Kernel::at(root.path().join("v1"), false);
    tree.apply("/kubepods/pod1", &limits).expect("v1");
    assert_eq!(read("v1/cpu/kubepods/pod1/cpu.shares"), "1024");
    assert_eq!(read("v1/cpu/kubepods/pod1/cpu.cfs_quota_us"), "-1");
    assert_eq!(read("v1/memory/kubepods/pod1/memory.limit_in_bytes"), "1048576");
    assert!(root.path().join("v1/pids/kubepods/pod1").is_dir());
    assert_eq!(tree.children("/kubepods"), BTreeSet::from(["pod1".to_owned()]));
}
