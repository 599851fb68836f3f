//! Files that cannot be used, and disks that refuse.

use super::*;

/// The files beside the database that were set aside.
fn aside(folder: &TempDir) -> usize {
    let names = std::fs::read_dir(folder).expect("a folder").flatten();
    names
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("mqtt.db.damaged"))
        .count()
}

/// Some pages full.
fn filled(path: &Path) {
    const PAYLOAD: &[u8] = &[b'x'; 10_000];
    let mut owner = Owner::new(path.to_owned());
    let ops = (0..20).map(|number| Op::Retained(retained(&format!("t/{number}"), PAYLOAD, Qos::AtLeastOnce)));
    write(&mut owner, ops.collect());
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_begins() {
    type Damage<'a> = &'a dyn Fn(&Path);
    let other_tables = |path: &Path| {
        let connection = Connection::open(path).expect("a file");
        connection.execute_batch("CREATE TABLE session (x)").expect("a table");
    };
    let other_values = |path: &Path| {
        let connection = Connection::open(path).expect("a file");
        connection
            .execute_batch("INSERT INTO session VALUES (x'ff', NULL)")
            .expect("a row");
    };
    let cases: [(&str, Damage<'_>); 5] = [
        ("no database", &|path| {
            std::fs::write(path, [b'x'; 8192]).expect("written")
        }),
        ("half of one", &|path| {
            filled(path);
            let file = std::fs::OpenOptions::new().write(true).open(path).expect("a file");
            file.set_len(file.metadata().expect("a length").len() / 2).expect("cut");
        }),
        ("one with holes", &|path| {
            filled(path);
            let mut bytes = std::fs::read(path).expect("a file");
            bytes.iter_mut().skip(4096).step_by(100).for_each(|byte| *byte ^= 0xff);
            std::fs::write(path, bytes).expect("written");
        }),
        ("other tables", &other_tables),
        ("other values", &|path| {
            filled(path);
            other_values(path);
        }),
    ];
    for (case, damage) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        damage(&path);
        let mut owner = Owner::new(path.clone());
        assert_eq!(owner.load(), Stored::default(), "{case}");
        assert_eq!(aside(&folder), 1, "{case}");
        let kept = retained("a", b"new", Qos::AtLeastOnce);
        write(&mut owner, vec![Op::Retained(kept.clone())]);
        drop(owner);
        assert_eq!(Owner::new(path).load().retained, [kept], "{case}");
    }
}

#[test]
fn a_file_that_was_not_read_is_replaced_and_not_mixed_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    // SQLite can open no folder, and that is no damage.
    std::fs::create_dir(&path).expect("a folder");
    let mut owner = Owner::new(path.clone());
    assert_eq!(owner.load(), Stored::default());
    assert_eq!(aside(&folder), 0);
    std::fs::remove_dir(&path).expect("removed");
    filled(&path);
    let kept = |topic| retained(topic, b"new", Qos::AtLeastOnce);
    write(&mut owner, vec![Op::Retained(kept("a"))]);
    write(&mut owner, vec![Op::Retained(kept("b"))]);
    assert_eq!(Owner::new(path).load().retained, [kept("a"), kept("b")]);
}

#[test]
fn after_a_disk_that_refused_the_whole_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let way = folder.path().join("way");
    let path = way.join(FILE);
    let mut owner = Owner::new(path.clone());
    std::fs::write(&way, "in the way").expect("a file");
    let kept = |topic| retained(topic, b"x", Qos::AtLeastOnce);
    let batch = |topic, whole| Batch {
        ops: vec![Op::Retained(kept(topic))],
        whole,
    };
    assert!(owner.write(&batch("a", false)).is_err());
    std::fs::remove_file(&way).expect("removed");
    owner.write(&batch("b", false)).expect("a commit");
    owner.write(&batch("c", true)).expect("a commit");
    assert_eq!(Owner::new(path).load().retained, [kept("c")]);
}

#[tokio::test]
async fn the_thread_says_how_each_batch_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    let (mut store, stored) = Store::open(path.clone()).await.expect("a thread");
    assert_eq!(stored, Stored::default());
    for topic in ["a", "b"] {
        let ops = vec![Op::Retained(retained(topic, b"x", Qos::AtLeastOnce))];
        store.write(Batch { ops, whole: false });
        assert_eq!(store.done().await, Ok(()));
    }
    let (_, stored) = Store::open(path).await.expect("a thread");
    assert_eq!(stored.retained.len(), 2);
}
