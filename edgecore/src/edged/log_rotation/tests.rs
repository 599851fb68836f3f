use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use tempfile::TempDir;

use super::*;
use crate::edged::runtime::fake::Fake;

const MAX_FILES: usize = 4;

/// A running container whose log lies where a kubelet would put it.
struct Node {
    folder: TempDir,
    runtime: Arc<Fake>,
    rotation: Rotation,
    log: PathBuf,
}

impl Node {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings {
            pod_logs_directory: folder.path().join("pods"),
            container_logs_directory: folder.path().join("containers"),
            ..Settings::default()
        };
        let runtime = Arc::new(Fake::new(&[]));
        let labels = [
            (LABEL_POD_NAMESPACE, "default"),
            (LABEL_POD_NAME, "web"),
            (LABEL_POD_UID, "u1"),
            (LABEL_CONTAINER_NAME, "main"),
        ];
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: "main".into(),
                attempt: 2,
            }),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..Default::default()
        };
        let sandbox = crate::edged::runtime::SandboxId::new("s1");
        let id = runtime
            .create_container(&sandbox, config, Default::default())
            .await
            .expect("made");
        runtime.start_container(&id).await.expect("started");
        let log = folder.path().join("pods/default_web_u1/main/2.log");
        fs::create_dir_all(log.parent().expect("a folder")).expect("made");
        runtime.set_log(&log);
        let policy = Policy {
            max_size: 10,
            max_files: MAX_FILES,
            period: Duration::from_secs(10),
        };
        let rotation = Rotation::new(runtime.clone(), Arc::new(settings), policy);
        Self {
            folder,
            runtime,
            rotation,
            log,
        }
    }

    fn write(&self, text: &str) {
        let before = fs::read_to_string(&self.log).unwrap_or_default();
        fs::write(&self.log, before + text).expect("written");
    }

    /// The logs by name, with what they hold.
    fn logs(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(self.log.parent().expect("a folder")).expect("read");
        let mut all: Vec<_> = entries
            .flatten()
            .map(|entry| (name(&entry.path()), content(&entry.path())))
            .collect();
        all.sort();
        all
    }

    async fn look(&mut self, second: fn() -> Timestamp) {
        self.rotation.look(second).await;
    }
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn content(path: &Path) -> String {
    let bytes = fs::read(path).expect("read");
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        GzDecoder::new(&*bytes).read_to_string(&mut text).expect("gzip");
    } else {
        text = String::from_utf8(bytes).expect("text");
    }
    text
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).expect("a time") // 2026-01-01
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect()
}

#[tokio::test]
async fn logs_are_turned_over_compressed_and_bounded() {
    let mut node = Node::new().await;
    node.write("small");
    node.look(|| at(0)).await;
    assert_eq!(node.logs(), pairs(&[("2.log", "small")]));

    node.write(" but grown");
    node.look(|| at(1)).await;
    assert_eq!(
        node.logs(),
        pairs(&[("2.log", ""), ("2.log.20260101-000001", "small but grown")])
    );

    let times: [fn() -> Timestamp; 3] = [|| at(2), || at(3), || at(4)];
    for (text, time) in ["second log", "third log!", "fourth log"].into_iter().zip(times) {
        node.write(text);
        node.look(time).await;
    }
    let expected = [
        ("2.log", ""),
        ("2.log.20260101-000002.gz", "second log"),
        ("2.log.20260101-000003.gz", "third log!"),
        ("2.log.20260101-000004", "fourth log"),
    ];
    assert_eq!(node.logs(), pairs(&expected));
    assert_eq!(expected.len(), MAX_FILES);
}

#[tokio::test]
async fn a_clock_that_was_set_back_neither_overwrites_nor_disorders() {
    let mut node = Node::new().await;
    for text in ["first log!", "second log"] {
        node.write(text);
        node.look(|| at(0)).await;
    }
    node.write("third log!");
    node.look(|| Timestamp::UNIX_EPOCH).await;
    let expected = [
        ("2.log", ""),
        ("2.log.20260101-000000.gz", "first log!"),
        ("2.log.20260101-000001.gz", "second log"),
        ("2.log.20260101-000002", "third log!"),
    ];
    assert_eq!(node.logs(), pairs(&expected));
}

#[tokio::test]
async fn a_runtime_that_refuses_gets_its_log_back() {
    let mut node = Node::new().await;
    node.runtime.fail_reopen(true);
    node.write("more than ten");
    node.look(|| at(0)).await;
    assert_eq!(node.logs(), pairs(&[("2.log", "more than ten")]));
    assert_eq!(node.rotation.troubled.len(), 1, "told once");
    node.runtime.fail_reopen(false);
    node.look(|| at(9)).await;
    assert_eq!(
        node.logs(),
        pairs(&[("2.log", ""), ("2.log.20260101-000009", "more than ten")])
    );
    assert!(node.rotation.troubled.is_empty());
}

#[tokio::test]
async fn what_a_failure_left_is_tidied_up() {
    let mut node = Node::new().await;
    // Renamed, then this program was killed: the runtime writes to the renamed file.
    let folder = node.log.parent().expect("a folder").to_owned();
    fs::write(folder.join("2.log.20251231-000000"), "a").expect("written");
    node.look(|| at(0)).await;
    assert_eq!(node.logs(), pairs(&[("2.log", ""), ("2.log.20251231-000000", "a")]));
    // Killed while it was compressing, and after that.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut encoder, b"b").expect("written");
    fs::write(folder.join("2.log.20251231-000001.gz"), encoder.finish().expect("gzip")).expect("written");
    fs::write(folder.join("2.log.20251231-000001"), "b").expect("written");
    fs::write(folder.join("2.log.20251231-000000.tmp"), "half of").expect("written");
    node.write("more than ten");
    node.look(|| at(1)).await;
    let expected = [
        ("2.log", ""),
        ("2.log.20251231-000000.gz", "a"),
        ("2.log.20251231-000001.gz", "b"),
        ("2.log.20260101-000001", "more than ten"),
    ];
    assert_eq!(node.logs(), pairs(&expected));
}

#[tokio::test]
async fn logs_go_with_their_container() {
    let mut node = Node::new().await;
    node.write("more than ten");
    node.look(|| at(0)).await;
    let other = node.log.with_file_name("3.log");
    fs::write(&other, "of another").expect("written");
    let links = node.folder.path().join("containers");
    fs::create_dir(&links).expect("made");
    let container = node.runtime.list_containers(None).await.expect("listed").remove(0);
    let link = links.join(format!("web_default_main-{}.log", container.id));
    std::os::unix::fs::symlink(&node.log, &link).expect("linked");
    remove(&node.rotation.settings, &container).await;
    assert_eq!(node.logs(), pairs(&[("3.log", "of another")]));
    assert!(fs::symlink_metadata(link).is_err(), "the link is left");
}
