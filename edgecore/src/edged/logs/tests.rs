//! Logs of real files, written as containerd writes them: each line whole, at a rotation the next file before the last word in the
//! old one.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{Log, LogOptions, read};
use crate::edged::runtime::fake::Fake;
use crate::edged::runtime::{ContainerId, Runtime as _, SandboxId};

/// A container whose log lies in a folder of its own.
struct World {
    runtime: Arc<Fake>,
    container: ContainerId,
    folder: TempDir,
    file: Option<File>,
    turns: u32,
    tasks: Tasks,
}

impl World {
    async fn new() -> Self {
        let runtime = Arc::new(Fake::new(&[]));
        let sandbox = SandboxId::new("sandbox");
        let container = runtime
            .create_container(&sandbox, Default::default(), Default::default())
            .await
            .expect("created");
        runtime.start_container(&container).await.expect("started");
        let folder = tempfile::tempdir().expect("a folder");
        let file = Some(File::create(folder.path().join("0.log")).expect("a file"));
        Self {
            runtime,
            container,
            folder,
            file,
            turns: 0,
            tasks: Tasks::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("0.log")
    }

    fn write(&mut self, text: &str) {
        let file = self.file.as_mut().expect("open");
        file.write_all(text.as_bytes()).expect("written");
    }

    /// Renames the file and begins the next; what is said meanwhile still goes to the old one.
    fn turn_over(&mut self, late: &str) {
        self.turns += 1;
        let name = format!("0.log.20240101-{:06}", self.turns);
        fs::rename(self.path(), self.folder.path().join(name)).expect("renamed");
        let next = File::create(self.path()).expect("a file");
        self.write(late);
        self.file = Some(next);
    }

    async fn end(&mut self) {
        self.file = None;
        let grace = Duration::from_secs(1);
        self.runtime
            .stop_container(&self.container, grace)
            .await
            .expect("stopped");
    }

    fn read(&self, options: LogOptions) -> tokio::sync::mpsc::Receiver<bytes::Bytes> {
        let log = Log {
            container: self.container.clone(),
            path: self.path(),
        };
        read(self.runtime.clone(), log, options, &self.tasks)
    }

    async fn text(&self, options: LogOptions) -> String {
        let mut pieces = self.read(options);
        let mut text = Vec::new();
        while let Some(piece) = pieces.recv().await {
            text.extend_from_slice(&piece);
        }
        String::from_utf8(text).expect("text")
    }
}

fn line(number: u32, content: &str) -> String {
    format!("2024-01-01T00:00:{number:02}.5Z stdout F {content}\n")
}

fn follow() -> LogOptions {
    LogOptions {
        follow: true,
        ..LogOptions::default()
    }
}

/// A log with all that a kubelet treats in its own way.
const MIXED: &str = "\
2024-01-01T00:00:01.5Z stdout F one
2024-01-01T00:00:02Z stderr F two
2024-01-01T00:00:03.123456789Z stdout P three,
2024-01-01T00:00:04.1Z stdout F  and its rest
garbage
2024-01-01T00:00:05.1Z stdout F 
2024-01-01T00:00:06.1Z stdout F six
";

#[tokio::test]
async fn a_log_is_printed_as_a_kubelet_prints_it() {
    let mut world = World::new().await;
    world.write(MIXED);
    let of = |change: fn(&mut LogOptions)| {
        let mut options = LogOptions::default();
        change(&mut options);
        options
    };
    assert_eq!(world.text(of(|_| {})).await, "one\ntwo\nthree, and its rest\n\nsix\n");
    assert_eq!(
        world.text(of(|o| o.timestamps = true)).await,
        "2024-01-01T00:00:01.500000000Z one\n2024-01-01T00:00:02.000000000Z two\n\
         2024-01-01T00:00:03.123456789Z three, and its rest\n2024-01-01T00:00:05.100000000Z \n\
         2024-01-01T00:00:06.100000000Z six\n"
    );
    // The rest of a cut line is a line of its own; garbage is counted when the start is looked for, not when lines are printed.
    assert_eq!(
        world.text(of(|o| o.tail_lines = Some(4))).await,
        " and its rest\n\nsix\n"
    );
    assert_eq!(world.text(of(|o| o.tail_lines = Some(0))).await, "");
    assert_eq!(world.text(of(|o| o.limit_bytes = Some(6))).await, "one\ntw");
    assert_eq!(
        world.text(of(|o| o.stream = Some(super::Stream::Stderr))).await,
        "two\n"
    );
    let since = |o: &mut LogOptions| o.since_time = "2024-01-01T00:00:04.1Z".parse().ok();
    assert_eq!(world.text(of(since)).await, " and its rest\n\nsix\n");
    world.write("2024-01-01T00:00:07.1Z stdout F no end of line");
    assert_eq!(world.text(of(|o| o.tail_lines = Some(1))).await, "six\n");
    assert!(world.text(of(|_| {})).await.ends_with("six\nno end of line"));
}

#[tokio::test]
async fn what_cannot_be_read_is_told_at_the_end_of_the_text() {
    let mut world = World::new().await;
    world.write("garbage\n");
    assert_eq!(
        world.text(LogOptions::default()).await,
        "failed to get parse function: unsupported log format: \"garbage\\n\""
    );
    fs::remove_file(world.path()).expect("removed");
    assert!(world.text(follow()).await.starts_with("failed to open log file"));
}

#[tokio::test]
async fn a_line_longer_than_anybody_holds_is_printed_whole() {
    let mut world = World::new().await;
    let long = "x".repeat(3_000_000);
    world.write(&line(1, &long));
    world.write(&line(2, "next"));
    assert_eq!(world.text(LogOptions::default()).await, format!("{long}\nnext\n"));
}

#[tokio::test]
async fn a_log_is_followed_until_the_container_ends() {
    let mut world = World::new().await;
    world.write(&line(1, "before"));
    let mut pieces = world.read(follow());
    assert_eq!(pieces.recv().await.as_deref(), Some(b"before\n".as_slice()));
    world.write("2024-01-01T00:00:02.5Z stdout F incomp");
    world.write("lete\n");
    assert_eq!(pieces.recv().await.as_deref(), Some(b"incomplete\n".as_slice()));
    world.write(&line(3, "last words"));
    world.end().await;
    assert_eq!(pieces.recv().await.as_deref(), Some(b"last words\n".as_slice()));
    assert_eq!(pieces.recv().await, None);
    // One that has ended before is read, and that is all.
    assert_eq!(world.text(follow()).await, "before\nincomplete\nlast words\n");
    let tail = LogOptions {
        tail_lines: Some(1),
        ..follow()
    };
    assert_eq!(world.text(tail).await, "last words\n");
}

#[tokio::test]
async fn nobody_reads_for_a_receiver_that_is_gone() {
    let world = World::new().await;
    let pieces = world.read(follow());
    tokio::task::yield_now().await;
    drop(pieces);
    assert!(world.tasks.stop(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_file_that_was_cut_is_read_from_its_start() {
    let mut world = World::new().await;
    world.write(&line(1, "a line that is longer than the next"));
    let mut pieces = world.read(follow());
    assert!(pieces.recv().await.is_some());
    world.file = Some(File::create(world.path()).expect("cut"));
    world.write(&line(2, "short"));
    assert_eq!(pieces.recv().await.as_deref(), Some(b"short\n".as_slice()));
}

/// What happens to a log while it is followed.
#[derive(Clone, Debug)]
enum Event {
    Write(u8),
    TurnOver(u8),
    Compress,
    Pause,
    Take,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..40u8).prop_map(Event::Write),
        2 => (0..3u8).prop_map(Event::TurnOver),
        1 => Just(Event::Compress),
        2 => Just(Event::Pause),
        2 => Just(Event::Take),
    ]
}

/// As the rotation does with files that are not the last one.
fn compress_all_but_the_last(folder: &Path, turns: u32) {
    for turn in 1..turns {
        let _ = fs::remove_file(folder.join(format!("0.log.20240101-{turn:06}")));
    }
}

async fn loses_nothing(events: Vec<Event>) {
    let mut world = World::new().await;
    let mut pieces = world.read(follow());
    // Following begins with the file that is there when it is opened.
    world.write(&line(0, "first"));
    assert_eq!(pieces.recv().await.as_deref(), Some(b"first\n".as_slice()));
    let (mut expected, mut found, mut count) = (String::new(), Vec::new(), 0u32);
    let mut lines = |number: u8, expected: &mut String| -> String {
        let mut text = String::new();
        for _ in 0..number {
            count += 1;
            text.push_str(&line(count % 60, &format!("line {count}")));
            expected.push_str(&format!("line {count}\n"));
        }
        text
    };
    // Beyond five files the oldest may be lost to a reader that takes nothing: the follower catches up before.
    let mut unread = 0;
    for event in events {
        match event {
            Event::Write(number) => {
                let text = lines(number, &mut expected);
                world.write(&text);
            }
            Event::TurnOver(late) if unread < 4 => {
                unread += 1;
                let late = lines(late, &mut expected);
                world.turn_over(&late);
            }
            Event::Compress => {
                // Once the follower has had the time to see the last rotation, which comes seconds before the next.
                tokio::time::sleep(Duration::from_millis(50)).await;
                compress_all_but_the_last(world.folder.path(), world.turns);
            }
            Event::Pause => tokio::time::sleep(Duration::from_millis(3)).await,
            Event::TurnOver(_) | Event::Take => {
                while found.len() < expected.len() {
                    let piece = tokio::time::timeout(Duration::from_secs(20), pieces.recv()).await;
                    let piece = piece.unwrap_or_else(|_| {
                        panic!(
                            "never came: {:?} after {:?}",
                            &expected[found.len()..],
                            String::from_utf8_lossy(&found).lines().last()
                        )
                    });
                    found.extend_from_slice(&piece.expect("the container runs"));
                }
                unread = 0;
            }
        }
    }
    world.end().await;
    while let Some(piece) = pieces.recv().await {
        found.extend_from_slice(&piece);
    }
    assert_eq!(String::from_utf8(found).expect("text"), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_follower_loses_nothing_at_rotations(events in prop::collection::vec(event(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(loses_nothing(events));
    }
}
