//! Volumes in temporary folders. Where the machine lets nobody mount, the same results come without mounts.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Once;

use serde_json::{Value, json};

use super::*;
use crate::edged::podspec::testing::{Objects, context};

struct Fixture {
    ctx: PodContext,
    objects: Arc<Objects>,
    volumes: Volumes,
    root: tempfile::TempDir,
}

impl Fixture {
    fn new(volumes: Value, more: &[(&str, Value)]) -> Self {
        let root = tempfile::tempdir().expect("tempdir");
        let names = volumes.as_array().expect("volumes").iter().map(|v| v["name"].clone());
        let mounts: Vec<Value> = names
            .enumerate()
            .map(|(i, n)| json!({"name": n, "mountPath": format!("/m{i}")}))
            .collect();
        let mut spec = json!({"volumes": volumes, "containers": [{"name": "c", "volumeMounts": mounts}]});
        for (key, value) in more {
            spec[key] = value.clone();
        }
        let (ctx, objects) = context(root.path(), spec);
        let volumes = Volumes::new(ctx.settings.clone());
        Self {
            ctx,
            objects,
            volumes,
            root,
        }
    }

    async fn mount(&self) -> Result<MountedVolumes, String> {
        self.volumes.mount(&self.ctx).await.map_err(|error| error.to_string())
    }

    fn dir(&self, plugin: &str, name: &str) -> PathBuf {
        volume_dir(&self.ctx, plugin, name)
    }
}

/// Mounts outlive the folders of failed tests otherwise.
impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = remove::pod_folder(&self.ctx.dir());
    }
}

/// Whether files can be given to others, as everything that is checked needs it. What CI is set for checks everything.
pub(super) fn is_root() -> bool {
    static SAID: Once = Once::new();
    let root = rustix::process::geteuid().is_root();
    if !root {
        let strict = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(
            !strict,
            "CI is set, and owners of files cannot be checked: this is not root"
        );
        // Not by a macro, whose text nobody sees when the test passes.
        SAID.call_once(|| drop(writeln!(std::io::stderr(), "not root: owners of files are not checked")));
    }
    root
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").permissions().mode() & 0o7777
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("read")
}

#[tokio::test]
async fn a_config_map_changes_all_at_once() {
    let f = Fixture::new(
        json!([{"name": "v", "configMap": {"name": "m", "defaultMode": 420}}]),
        &[],
    );
    assert_eq!(
        f.mount().await.expect_err("missing"),
        "volume \"v\": configmaps \"m\" not found"
    );
    f.objects.put(
        "shop/configmap/m",
        json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "/w=="}}),
    );
    let mounted = f.mount().await.expect("mounted");
    let dir = f.dir("configmap", "v");
    assert_eq!(mounted.volumes["v"].host_path, dir);
    assert!(mounted.volumes["v"].read_only);
    assert_eq!(fs::read_link(dir.join("a")).expect("link"), Path::new("..data/a"));
    assert_eq!((text(&dir.join("a")), mode(&dir.join("a"))), ("1".into(), 0o644));
    assert_eq!(fs::read(dir.join("c")).expect("bytes"), [0xff]);
    let before = fs::read_link(dir.join("..data")).expect("data");

    f.volumes.refresh(&f.ctx).await.expect("nothing new");
    assert_eq!(fs::read_link(dir.join("..data")).expect("data"), before);

    f.objects
        .put("shop/configmap/m", json!({"data": {"a": "new", "d": "4"}}));
    f.volumes.refresh(&f.ctx).await.expect("changed");
    assert_eq!((text(&dir.join("a")), text(&dir.join("d"))), ("new".into(), "4".into()));
    assert!(fs::symlink_metadata(dir.join("b")).is_err());
    assert!(!dir.join(before).exists());
    let names = fs::read_dir(&dir).expect("dir").count();
    assert_eq!(names, 4, "..data, its folder and two links");

    // A container may start again although the map is gone by now.
    f.objects.remove("shop/configmap/m");
    assert!(f.mount().await.is_ok());
    assert!(f.volumes.refresh(&f.ctx).await.is_err());
    assert_eq!(text(&dir.join("a")), "new");
}

#[tokio::test]
async fn a_write_that_was_cut_short_is_made_good() {
    let f = Fixture::new(json!([{"name": "v", "configMap": {"name": "m"}}]), &[]);
    f.objects.put("shop/configmap/m", json!({"data": {"a": "1"}}));
    f.mount().await.expect("mounted");
    let dir = f.dir("configmap", "v");
    fs::write(dir.join("..data/a"), "").expect("lost");
    symlink("nowhere", dir.join("..data_tmp")).expect("left behind");
    f.mount().await.expect("mounted again");
    assert_eq!(text(&dir.join("a")), "1");
    fs::remove_dir_all(dir.join(fs::read_link(dir.join("..data")).expect("data"))).expect("gone");
    f.mount().await.expect("and again");
    assert_eq!(text(&dir.join("a")), "1");
}

#[tokio::test]
async fn items_choose_keys_paths_and_modes() {
    let items = json!([{"key": "a", "path": "deep/er/x", "mode": 0o400}, {"key": "none", "path": "n"}]);
    let f = Fixture::new(
        json!([{"name": "v", "secret": {"secretName": "s", "items": items, "optional": true}}]),
        &[],
    );
    f.objects
        .put("shop/secret/s", json!({"data": {"a": "Yg==", "b": "Yw=="}}));
    f.mount().await.expect("mounted");
    let dir = f.dir("secret", "v");
    assert_eq!(
        (text(&dir.join("deep/er/x")), mode(&dir.join("deep/er/x"))),
        ("b".into(), 0o400)
    );
    assert!(!dir.join("b").exists());
    assert_eq!(fs::read_link(dir.join("deep")).expect("link"), Path::new("..data/deep"));

    for (items, expected) in [
        (
            json!([{"key": "none", "path": "n"}]),
            "volume \"v\": references non-existent secret key: none",
        ),
        (
            json!([{"key": "a", "path": "../x"}]),
            "volume \"v\": invalid path: must not contain '..': ../x",
        ),
        (
            json!([{"key": "a", "path": "/x"}]),
            "volume \"v\": invalid path: must be relative path: /x",
        ),
        (
            json!([{"key": "a", "path": "..x"}]),
            "volume \"v\": invalid path: must not start with '..': ..x",
        ),
    ] {
        let f = Fixture::new(
            json!([{"name": "v", "secret": {"secretName": "s", "items": items}}]),
            &[],
        );
        f.objects.put("shop/secret/s", json!({"data": {"a": "Yg=="}}));
        assert_eq!(f.mount().await.expect_err("refused"), expected);
    }
}

#[tokio::test]
async fn a_projected_volume_with_a_token_that_rotates() {
    let sources = json!([
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]);
    let security = json!({"runAsUser": 1000, "fsGroup": 2000});
    let f = Fixture::new(
        json!([{"name": "v", "projected": {"defaultMode": 420, "sources": sources}}]),
        &[("serviceAccountName", "robot".into()), ("securityContext", security)],
    );
    *f.objects.token.lock() = "first".into();
    assert_eq!(
        f.mount().await.expect_err("no authority"),
        "volume \"v\": configmaps \"kube-root-ca.crt\" not found"
    );
    f.objects
        .put("shop/configmap/kube-root-ca.crt", json!({"data": {"ca.crt": "PEM"}}));
    f.mount().await.expect("mounted");
    let dir = f.dir("projected", "v");
    assert_eq!(
        (
            text(&dir.join("token")),
            text(&dir.join("ca.crt")),
            text(&dir.join("namespace"))
        ),
        ("first".into(), "PEM".into(), "shop".into())
    );
    let question = f.objects.asked.lock().first().cloned().expect("asked");
    assert_eq!(
        (
            question.expiration_seconds,
            question.audiences.len(),
            question.uid.as_str()
        ),
        (3607, 0, "1-2-3")
    );
    if is_root() {
        let token = fs::metadata(dir.join("token")).expect("stat");
        assert_eq!(
            (token.uid(), token.gid(), token.permissions().mode() & 0o7777),
            (1000, 2000, 0o640)
        );
    }
    *f.objects.token.lock() = "second".into();
    f.volumes.refresh(&f.ctx).await.expect("refreshed");
    assert_eq!(text(&dir.join("token")), "second");
}

#[tokio::test]
async fn folders_of_the_pod_and_paths_of_the_host() {
    let f = Fixture::new(
        json!([
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "unused", "configMap": {"name": "none"}},
        ]),
        &[(
            "containers",
            json!([{"name": "c", "volumeMounts": [{"name": "disk", "mountPath": "/a"}, {"name": "memory", "mountPath": "/b"}]}]),
        )],
    );
    let mounted = f.mount().await.expect("mounted");
    assert_eq!(mounted.volumes.len(), 2);
    let disk = f.dir("empty-dir", "disk");
    assert_eq!(mode(&disk), 0o777);
    assert_eq!(mode(&f.ctx.dir()), 0o750);
    assert!(f.ctx.dir().join("plugins/kubernetes.io~empty-dir/disk/ready").exists());
    // What the pod changed stays as it is.
    fs::set_permissions(&disk, PermissionsExt::from_mode(0o700)).expect("chmod");
    f.mount().await.expect("again");
    assert_eq!(mode(&disk), 0o700);
    let memory = f.dir("empty-dir", "memory");
    if files::is_mounted(&memory).expect("stat") {
        let stat = rustix::fs::statvfs(&memory).expect("statvfs");
        assert_eq!(stat.f_blocks * stat.f_frsize, 1 << 20);
    }

    let path = f.root.path().join("host");
    let check = |kind: &str| {
        let source = serde_json::from_value(json!({"path": path, "type": kind})).expect("source");
        host_path::check(&source).map_err(|error| error.replace(&*path.to_string_lossy(), "P"))
    };
    assert!(check("").is_ok());
    assert_eq!(
        check("Directory"),
        Err("hostPath type check failed: P is not a directory".into())
    );
    assert!(check("DirectoryOrCreate").is_ok());
    assert_eq!(mode(&path), 0o755);
    assert_eq!(
        check("FileOrCreate"),
        Err("hostPath type check failed: P is not a file".into())
    );
    assert_eq!(
        check("Socket"),
        Err("hostPath type check failed: P is not a socket file".into())
    );
    assert_eq!(check("Nonsense"), Err("Nonsense is an invalid volume type".into()));
}

#[tokio::test]
async fn claims_of_local_volumes() {
    let f = Fixture::new(json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]), &[]);
    assert_eq!(
        f.mount().await.expect_err("missing"),
        "volume \"v\": persistentvolumeclaims \"c\" not found"
    );
    f.objects.put("shop/persistentvolumeclaim/c", json!({"spec": {}}));
    assert_eq!(
        f.mount().await.expect_err("unbound"),
        "volume \"v\": PVC shop/c is not bound to a volume yet"
    );
    f.objects
        .put("shop/persistentvolumeclaim/c", json!({"spec": {"volumeName": "pv"}}));
    let path = f.root.path().join("disk");
    fs::create_dir(&path).expect("mkdir");
    fs::write(path.join("kept"), "data").expect("write");
    let pv = |place: Value| json!({"spec": {"claimRef": {"name": "c", "namespace": "shop"}, "local": place}});
    f.objects.put("null/persistentvolume/pv", pv(json!({"path": path})));
    // Where nobody may mount there is no local volume.
    if let Ok(mounted) = f.mount().await {
        f.mount().await.expect("again");
        assert_eq!(text(&mounted.volumes["v"].host_path.join("kept")), "data");
        assert_eq!(mounts::below(&f.ctx.dir()).expect("mounts").len(), 1);
    }
    f.volumes.unmount(&f.ctx.uid()).await.expect("unmounted");
    assert_eq!(text(&path.join("kept")), "data");
    assert!(!f.ctx.dir().exists());
}

#[tokio::test]
async fn removal_follows_nothing_and_needs_no_stack() {
    let f = Fixture::new(
        json!([{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}}]),
        &[],
    );
    let mounted = f.mount().await.expect("mounted");
    let outside = f.root.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    fs::write(outside.join("kept"), "data").expect("write");
    let inside = &mounted.volumes["v"].host_path;
    symlink(&outside, inside.join("link")).expect("link");
    symlink("/", inside.join("root")).expect("link");
    fs::write(mounted.volumes["m"].host_path.join("x"), "y").expect("write");
    for index in 0..50 {
        fs::create_dir_all(inside.join(format!("d{index}/e/f/g"))).expect("mkdir");
        fs::write(inside.join(format!("d{index}/e/f/g/file")), "x").expect("write");
    }
    // Deeper than a path may be long.
    let mut here = rustix::fs::open(inside, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).expect("open");
    for _ in 0..1000 {
        rustix::fs::mkdirat(&here, "deep", 0o755.into()).expect("mkdir");
        let flags = rustix::fs::OFlags::DIRECTORY;
        here = rustix::fs::openat(&here, "deep", flags, rustix::fs::Mode::empty()).expect("open");
    }
    drop(here);
    assert_eq!(f.volumes.orphans().await, [f.ctx.uid()]);
    f.volumes.unmount(&f.ctx.uid()).await.expect("unmounted");
    assert!(!f.ctx.dir().exists());
    assert_eq!(text(&outside.join("kept")), "data");
    f.volumes.unmount(&f.ctx.uid()).await.expect("nothing left to do");
    for uid in ["", "..", "a/b"] {
        assert!(f.volumes.unmount(&Uid::new(uid)).await.is_err());
    }
    assert!(f.volumes.orphans().await.is_empty());
}
