//! The broker's database: one thread, one file beside the edge's own, made when the first thing has to be kept.
//!
//! A batch of changes is one transaction and one forced write. Where the disk refuses, the broker goes on from memory, says so once, and
//! gives the whole state again later.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::mqtt::{PacketId, Publish, Qos};
use rusqlite::{Connection, ErrorCode, params};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::core::{Op, Stored, StoredMessage};
use crate::sqlite;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS session (client TEXT PRIMARY KEY, user TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS subscription (client TEXT, filter TEXT, qos INTEGER, PRIMARY KEY (client, filter)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS message (number INTEGER PRIMARY KEY, client TEXT, topic TEXT, payload BLOB, qos INTEGER, retain INTEGER, id INTEGER, released INTEGER);
CREATE TABLE IF NOT EXISTS received (client TEXT, id INTEGER, PRIMARY KEY (client, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retained (topic TEXT PRIMARY KEY, payload BLOB, qos INTEGER) WITHOUT ROWID;
";
const TABLES: [&str; 5] = ["session", "subscription", "message", "received", "retained"];
/// How long `sqlite3` in an operator's hands may hold it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Changes that belong together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) ops: Vec<Op>,
    /// Whether they are all there is, and what is in the file goes.
    pub(super) whole: bool,
}

/// The handle. One batch at a time is at the thread; what comes meanwhile makes the next one.
#[derive(Debug)]
pub(super) struct Store {
    batches: mpsc::Sender<Batch>,
    done: mpsc::Receiver<Result<(), String>>,
}

impl Store {
    /// Starts the thread, and gives what the file holds. A file that is damaged, or not the broker's, is set aside.
    pub(super) async fn open(path: PathBuf) -> std::io::Result<(Self, Stored)> {
        let (batches, mut receiver) = mpsc::channel::<Batch>(1);
        let (answers, done) = mpsc::channel(1);
        let (opened, wait) = oneshot::channel();
        std::thread::Builder::new()
            .name("mqtt-database".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                let mut owner = Owner::new(path);
                let _ = opened.send(owner.load());
                while let Some(batch) = receiver.blocking_recv() {
                    let result = owner.write(&batch).map_err(|error| error.to_string());
                    if answers.blocking_send(result).is_err() {
                        return;
                    }
                }
            })?;
        Ok((Self { batches, done }, wait.await.unwrap_or_default()))
    }

    /// Gives a batch to the thread. The one before must be done.
    pub(super) fn write(&self, batch: Batch) {
        // The queue is full only if a caller broke the rule above. It is closed only after the thread has panicked, which `done` reports.
        let _ = self.batches.try_send(batch);
    }

    /// How the batch ended.
    pub(super) async fn done(&mut self) -> Result<(), String> {
        let ended = self.done.recv().await;
        ended.unwrap_or_else(|| Err("its thread has ended".to_owned()))
    }
}

struct Owner {
    path: PathBuf,
    connection: Option<Connection>,
    /// There is a file that could not be read. The broker did not begin from it, so nothing of it may mix with what is written.
    unread: bool,
}

impl Owner {
    const fn new(path: PathBuf) -> Self {
        Self {
            path,
            connection: None,
            unread: false,
        }
    }

    fn load(&mut self) -> Stored {
        if !self.path.exists() {
            return Stored::default();
        }
        let loaded = open(&self.path).and_then(|connection| {
            let stored = read(&connection)?;
            Ok((connection, stored))
        });
        match loaded {
            Ok((connection, stored)) => {
                self.connection = Some(connection);
                stored
            }
            Err(error) => {
                self.unread = true;
                if is_out_of_reach(&error) {
                    warn!(database = %self.path.display(), %error,
                        "MQTT sessions and retained messages cannot be read: they begin anew, and the first write replaces them");
                } else {
                    self.set_aside(&error);
                }
                Stored::default()
            }
        }
    }

    fn write(&mut self, batch: &Batch) -> Result<(), rusqlite::Error> {
        let result = self.try_write(batch);
        if let Err(error) = &result {
            self.connection = None;
            if sqlite::is_damage(error) {
                self.set_aside(error);
            }
        }
        result
    }

    fn try_write(&mut self, batch: &Batch) -> Result<(), rusqlite::Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(open(&self.path)?),
        };
        let transaction = connection.transaction()?;
        if batch.whole || self.unread {
            for table in TABLES {
                transaction.execute(&format!("DELETE FROM {table}"), [])?;
            }
        }
        for op in &batch.ops {
            perform(&transaction, op)?;
        }
        transaction.commit()?;
        self.unread = false;
        Ok(())
    }

    fn set_aside(&self, cause: &rusqlite::Error) {
        let kept = sqlite::set_aside(&self.path);
        warn!(database = %self.path.display(), ?kept, error = %cause,
            "the database of MQTT sessions is damaged, or not one: it was set aside, and a new one begins");
    }
}

/// Whether the file may be as good as ever: somebody holds it, or the disk or its rights are in the way.
fn is_out_of_reach(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::OutOfMemory
        )
    )
}

fn open(path: &Path) -> Result<Connection, rusqlite::Error> {
    if let Some(folder) = path.parent() {
        // The error of opening says more than this one.
        let _ = std::fs::create_dir_all(folder);
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    connection.execute_batch("PRAGMA synchronous=FULL; PRAGMA cache_size=-128; PRAGMA mmap_size=0;")?;
    connection.query_row("PRAGMA wal_autocheckpoint=64", [], |_| Ok(()))?;
    sqlite::check(&connection)?;
    connection.execute_batch(SCHEMA)?;
    // Messages may be secrets.
    sqlite::restrict(path);
    Ok(connection)
}

fn perform(connection: &Connection, op: &Op) -> Result<(), rusqlite::Error> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| connection.prepare_cached(sql)?.execute(values);
    match op {
        Op::Session { client, user } => run(
            "INSERT OR REPLACE INTO session VALUES (?1, ?2)",
            params![&**client, user.as_deref()],
        )?,
        Op::Gone(client) => {
            for table in ["session", "subscription", "message", "received"] {
                run(&format!("DELETE FROM {table} WHERE client=?1"), params![&**client])?;
            }
            0
        }
        Op::Subscribed(client, filter, qos) => run(
            "INSERT OR REPLACE INTO subscription VALUES (?1, ?2, ?3)",
            params![&**client, &**filter, qos.number()],
        )?,
        Op::Unsubscribed(client, filter) => run(
            "DELETE FROM subscription WHERE client=?1 AND filter=?2",
            params![&**client, &**filter],
        )?,
        Op::Queued(
            client,
            StoredMessage {
                number,
                publish,
                released,
            },
        ) => run(
            "INSERT OR REPLACE INTO message VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                number,
                &**client,
                &*publish.topic,
                &*publish.payload,
                publish.qos.number(),
                publish.retain,
                publish.id.map(PacketId::get),
                released
            ],
        )?,
        Op::Sent(number, id) => run("UPDATE message SET id=?2 WHERE number=?1", params![number, id.get()])?,
        // It has arrived: only the packet id is needed any more.
        Op::Released(number) => run(
            "UPDATE message SET released=1, payload=x'' WHERE number=?1",
            params![number],
        )?,
        Op::Done(number) => run("DELETE FROM message WHERE number=?1", params![number])?,
        Op::Received(client, id) => run(
            "INSERT OR REPLACE INTO received VALUES (?1, ?2)",
            params![&**client, id.get()],
        )?,
        Op::Forgotten(client, id) => run(
            "DELETE FROM received WHERE client=?1 AND id=?2",
            params![&**client, id.get()],
        )?,
        Op::Retained(publish) => run(
            "INSERT OR REPLACE INTO retained VALUES (?1, ?2, ?3)",
            params![&*publish.topic, &*publish.payload, publish.qos.number()],
        )?,
        Op::Cleared(topic, _) => run("DELETE FROM retained WHERE topic=?1", params![&**topic])?,
    };
    Ok(())
}

fn read(connection: &Connection) -> Result<Stored, rusqlite::Error> {
    let mut stored = Stored::default();
    let text = |row: &rusqlite::Row<'_>, index| row.get::<_, String>(index).map(Arc::<str>::from);
    let qos = |row: &rusqlite::Row<'_>, index| {
        let number: u8 = row.get(index)?;
        Ok::<_, rusqlite::Error>(Qos::from_number(number).unwrap_or(Qos::AtMostOnce))
    };
    let mut each = |sql: &str, take: &mut dyn FnMut(&rusqlite::Row<'_>, &mut Stored) -> Result<(), rusqlite::Error>| {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            take(row, &mut stored)?;
        }
        Ok::<_, rusqlite::Error>(())
    };
    each("SELECT client, user FROM session", &mut |row, stored| {
        let user: Option<String> = row.get(1)?;
        stored.sessions.entry(text(row, 0)?).or_default().user = user.map(Arc::from);
        Ok(())
    })?;
    each("SELECT client, filter, qos FROM subscription", &mut |row, stored| {
        if let Some(session) = stored.sessions.get_mut(&*text(row, 0)?) {
            session.subscriptions.push((text(row, 1)?, qos(row, 2)?));
        }
        Ok(())
    })?;
    let messages = "SELECT client, number, topic, payload, qos, retain, id, released FROM message ORDER BY number";
    each(messages, &mut |row, stored| {
        if let Some(session) = stored.sessions.get_mut(&*text(row, 0)?) {
            let id: Option<u16> = row.get(6)?;
            session.messages.push(StoredMessage {
                number: row.get(1)?,
                released: row.get(7)?,
                publish: Publish {
                    topic: text(row, 2)?,
                    payload: Bytes::from(row.get::<_, Vec<u8>>(3)?),
                    qos: qos(row, 4)?,
                    retain: row.get(5)?,
                    dup: false,
                    id: id.and_then(PacketId::new),
                },
            });
        }
        Ok(())
    })?;
    each("SELECT client, id FROM received", &mut |row, stored| {
        if let (Some(session), Some(id)) = (stored.sessions.get_mut(&*text(row, 0)?), PacketId::new(row.get(1)?)) {
            session.received.push(id);
        }
        Ok(())
    })?;
    each("SELECT topic, payload, qos FROM retained", &mut |row, stored| {
        stored.retained.push(Publish {
            topic: text(row, 0)?,
            payload: Bytes::from(row.get::<_, Vec<u8>>(1)?),
            qos: qos(row, 2)?,
            retain: true,
            dup: false,
            id: None,
        });
        Ok(())
    })?;
    Ok(stored)
}
