//! The thread that owns the database, and the handle to ask it.
//!
//! Writes of one call are one transaction, and calls that wait together share one commit: the disk is forced to write once for all.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::inventory::Item;
use proto::{Group, Namespace, Object, ObjectName, ObjectPath, Route, Uid};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use super::database::{self, Database};
use crate::sqlite;

/// Calls that wait for the thread; a full queue makes callers wait.
const QUEUE: usize = 64;
/// The least time between two tries to open a database that cannot be opened.
const REOPEN: Duration = Duration::from_secs(5);

/// Why the database did not do what it was asked.
#[derive(Clone, Debug, Error)]
pub(super) enum StoreError {
    /// It cannot be opened, written or read.
    #[error("{0}")]
    Failed(Arc<str>),
    /// Its thread has ended.
    #[error("the database is closed")]
    Closed,
}

/// One change.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Stores an object unless a newer one of the same uid is there, in `meta` and, where it names its type, in `meta_v2`.
    Put {
        /// Key and type.
        path: ObjectPath,
        /// The object.
        object: Object,
    },
    /// Removes an object; with a uid only if the stored one has it.
    Remove {
        /// Key and type.
        path: ObjectPath,
        /// The uid, empty for any.
        uid: Uid,
        /// What was removed, for its type; empty objects name none.
        object: Option<Object>,
    },
    /// Stores text under a key as it is.
    PutText {
        /// `meta.key`.
        key: String,
        /// `meta.type`.
        kind: String,
        /// `meta.value`.
        value: String,
    },
    /// Stores a newer state of an object that is still there under the same uid.
    Refresh {
        /// Key and type.
        path: ObjectPath,
        /// The object.
        object: Object,
    },
    /// Removes the status that waited to be sent.
    DropPatch {
        /// The pod.
        path: ObjectPath,
    },
    /// Removes the status that a pod had before it went, unless another pod took its name.
    RemovePatch {
        /// The pod.
        path: ObjectPath,
    },
    /// Removes the tokens bound to a pod.
    RemoveTokens(Uid),
    /// Notes that the cloud's objects are in the database.
    MarkFilled,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// Done.
    Changed,
    /// Nothing to do: the same or a newer object is stored, or nothing to remove.
    Unchanged,
}

/// What the thread is asked.
enum Call {
    Apply(Write),
    Read(Query),
    /// Reads and writes: a database that could not be written is tried again.
    Change(Query),
}

/// Changes and who waits for them.
type Write = (Vec<Op>, oneshot::Sender<Result<Vec<Applied>, StoreError>>);
/// Reads and answers by itself; what it returns tells of damage.
type Query = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Result<(), rusqlite::Error> + Send>;

/// The handle.
#[derive(Clone, Debug)]
pub(super) struct Store {
    calls: mpsc::Sender<Call>,
    state: watch::Receiver<State>,
}

/// What is known about the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Grows each time a damaged database was replaced while running.
    pub(super) replaced: u64,
    /// Whether the cloud's objects are in it.
    pub(super) filled: bool,
    /// Whether it was opened.
    pub(super) open: bool,
}

impl Store {
    /// Starts the thread; returns once the database was opened or could not be.
    pub(super) async fn start(path: &Path) -> std::io::Result<Self> {
        let (calls, receiver) = mpsc::channel(QUEUE);
        let (state_end, state) = watch::channel(State::default());
        let (opened, wait) = oneshot::channel();
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("database".into())
            .stack_size(512 * 1024)
            .spawn(move || {
                let mut owner = Owner::new(path, state_end);
                let _ = opened.send(());
                owner.run(receiver);
            })?;
        let _ = wait.await;
        Ok(Self { calls, state })
    }

    /// What is known about the database.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Makes changes, all or none; returns after they are on the disk.
    pub(super) async fn apply(&self, ops: Vec<Op>) -> Result<Vec<Applied>, StoreError> {
        let (answer, wait) = oneshot::channel();
        self.calls
            .send(Call::Apply((ops, answer)))
            .await
            .map_err(|_| StoreError::Closed)?;
        wait.await.map_err(|_| StoreError::Closed)?
    }

    /// The value of a key.
    pub(super) async fn get(&self, key: String) -> Result<Option<String>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT value FROM meta WHERE key=?1")?
                .query_row([&key], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// All values of a type with their keys.
    pub(super) async fn rows(&self, kind: impl Into<Cow<'static, str>>) -> Result<Vec<(String, String)>, StoreError> {
        let kind = kind.into();
        self.read(move |connection| {
            let mut statement = connection.prepare("SELECT key, value FROM meta WHERE type=?1")?;
            let rows = statement.query_map([&*kind], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
        .await
    }

    /// Key, uid and version of every object that the cloud keeps in step.
    pub(super) async fn inventory(&self) -> Result<Vec<Item>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT key, value FROM meta
                 WHERE type IN ('pod', 'configmap', 'secret', 'node', 'device', 'devicemodel') ORDER BY key",
            )?;
            let mut rows = statement.query([])?;
            let mut stored = Vec::new();
            while let Some(row) = rows.next()? {
                let value: String = row.get(1)?;
                let key: String = row.get(0)?;
                if let (Route::Object(path), Ok(object)) = (Route::parse(&Group::Resource, &key), Object::parse(&value))
                {
                    stored.push(Item::of(path, &object));
                }
            }
            Ok(stored)
        })
        .await
    }

    /// Makes the disk look full, or not.
    #[cfg(test)]
    pub(super) async fn pragma(&self, name: &'static str, value: bool) {
        self.read(move |connection| connection.pragma_update(None, name, value))
            .await
            .expect("pragma");
    }

    /// Reads as if SQLite had found damage.
    #[cfg(test)]
    pub(super) async fn pretend_damage(&self) {
        let damage = || rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), None);
        let read: Result<(), _> = self.read(move |_| Err(damage())).await;
        assert!(read.is_err());
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call(Call::Read, query).await
    }

    /// Statements that change rows.
    pub(super) async fn write_with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call(Call::Change, work).await
    }

    async fn call<T: Send + 'static>(
        &self,
        kind: fn(Query) -> Call,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, wait) = oneshot::channel();
        let call = kind(Box::new(move |connection| {
            let connection = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    let _ = answer.send(Err(error));
                    return Ok(());
                }
            };
            match query(connection) {
                Ok(value) => {
                    let _ = answer.send(Ok(value));
                    Ok(())
                }
                Err(error) => {
                    let _ = answer.send(Err(failed(&error)));
                    Err(error)
                }
            }
        }));
        self.calls.send(call).await.map_err(|_| StoreError::Closed)?;
        wait.await.map_err(|_| StoreError::Closed)?
    }
}

/// The thread's state.
struct Owner {
    path: PathBuf,
    database: Option<Database>,
    last_try: Instant,
    failure: StoreError,
    said_read_only: bool,
    state: watch::Sender<State>,
}

impl Owner {
    fn new(path: PathBuf, state: watch::Sender<State>) -> Self {
        let mut owner = Self {
            path,
            database: None,
            last_try: Instant::now(),
            failure: StoreError::Closed,
            said_read_only: false,
            state,
        };
        owner.open();
        owner
    }

    fn run(&mut self, mut calls: mpsc::Receiver<Call>) {
        while let Some(call) = calls.blocking_recv() {
            let mut waiting = vec![call];
            while let Ok(call) = calls.try_recv() {
                waiting.push(call);
            }
            let mut writes = Vec::new();
            for call in waiting {
                match call {
                    Call::Apply(write) => writes.push(write),
                    Call::Read(query) => {
                        // What was written before is read after.
                        self.write(std::mem::take(&mut writes));
                        self.read(query, false);
                    }
                    Call::Change(query) => {
                        self.write(std::mem::take(&mut writes));
                        self.read(query, true);
                    }
                }
            }
            self.write(writes);
        }
    }

    fn open(&mut self) {
        let opened = database::open(&self.path);
        self.take(opened);
    }

    fn take(&mut self, opened: Result<Database, rusqlite::Error>) {
        self.last_try = Instant::now();
        match opened {
            Ok(database) => {
                let filled = database.filled;
                if database.read_only && !std::mem::replace(&mut self.said_read_only, true) {
                    warn!(
                        database = %self.path.display(),
                        "the disk of the database is read-only or full: stored objects are used, changes are refused"
                    );
                }
                self.database = Some(database);
                self.state.send_modify(|state| {
                    state.filled = filled;
                    state.open = true;
                });
            }
            Err(error) => {
                let failure = failed(&error);
                if self.failure.to_string() != failure.to_string() {
                    warn!(database = %self.path.display(), %error, "the database cannot be opened; tried again while running");
                }
                self.failure = failure;
            }
        }
    }

    /// A database that could not be opened, or only for reading, is tried again now and then.
    fn reopen(&mut self, for_writing: bool) {
        let wanted = self
            .database
            .as_ref()
            .is_none_or(|database| database.read_only && for_writing);
        if !wanted || self.last_try.elapsed() < REOPEN {
            return;
        }
        let was_open = self.database.take().is_some();
        self.open();
        if was_open && self.database.as_ref().is_some_and(|database| !database.read_only) {
            self.said_read_only = false;
            info!(database = %self.path.display(), "the database can be written again");
        }
    }

    fn read(&mut self, query: Query, changes: bool) {
        self.reopen(changes);
        let outcome = match &self.database {
            Some(database) => query(Ok(&database.connection)),
            None => query(Err(self.failure.clone())),
        };
        if let Err(error) = outcome {
            self.handle(&error);
        }
    }

    fn write(&mut self, calls: Vec<Write>) {
        if calls.is_empty() {
            return;
        }
        self.reopen(true);
        let outcome = match &mut self.database {
            Some(database) => commit(&mut database.connection, calls.iter().map(|(ops, _)| ops.as_slice())),
            None => {
                for (_, answer) in calls {
                    let _ = answer.send(Err(self.failure.clone()));
                }
                return;
            }
        };
        match outcome {
            Ok(applied) => {
                for ((_, answer), applied) in calls.into_iter().zip(applied) {
                    let _ = answer.send(Ok(applied));
                }
            }
            Err(error) => {
                let failure = failed(&error);
                for (_, answer) in calls {
                    let _ = answer.send(Err(failure.clone()));
                }
                self.handle(&error);
            }
        }
    }

    /// Damage that shows while running: the file is set aside, and the owner of the objects told to store them again.
    fn handle(&mut self, error: &rusqlite::Error) {
        if let Some(database) = &mut self.database
            && error.sqlite_error_code() == Some(ErrorCode::ReadOnly)
        {
            // Opened anew before the next change: the disk may be writable again.
            database.read_only = true;
        }
        if !sqlite::is_damage(error) {
            return;
        }
        self.database = None;
        let replaced = database::replace(&self.path, error);
        self.take(replaced);
        self.state.send_modify(|state| state.replaced += 1);
    }
}

fn failed(error: &rusqlite::Error) -> StoreError {
    StoreError::Failed(error.to_string().into())
}

fn commit<'a>(
    connection: &mut Connection,
    calls: impl Iterator<Item = &'a [Op]>,
) -> Result<Vec<Vec<Applied>>, rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let applied = calls
        .map(|ops| {
            ops.iter()
                .map(|op| perform(&transaction, op))
                .collect::<Result<Vec<_>, _>>()
        })
        .collect::<Result<Vec<_>, _>>()?;
    let changed = applied.iter().flatten().any(|applied| *applied == Applied::Changed);
    // Nothing changed: nothing is written to the flash.
    if changed {
        transaction.commit()?
    } else {
        transaction.rollback()?
    }
    Ok(applied)
}

fn perform(connection: &Connection, op: &Op) -> Result<Applied, rusqlite::Error> {
    let rows = match op {
        Op::Put { path, object } => return put(connection, path, object),
        Op::Remove { path, uid, object } => return remove(connection, path, uid, object.as_ref()),
        Op::PutText { key, kind, value } => connection
            .prepare_cached("INSERT OR REPLACE INTO meta (key, type, value) VALUES (?1, ?2, ?3)")?
            .execute([key, kind, value])?,
        Op::Refresh { path, object } => {
            return match stored(connection, &path.to_string())? {
                Some(stored) if stored.meta().uid == object.meta().uid => put(connection, path, object),
                _ => Ok(Applied::Unchanged),
            };
        }
        Op::DropPatch { path } => connection
            .prepare_cached("DELETE FROM meta WHERE key=?1")?
            .execute([patch_key(path)])?,
        Op::RemovePatch { path } => connection
            .prepare_cached("DELETE FROM meta WHERE key=?1 AND NOT EXISTS (SELECT 1 FROM meta WHERE key=?2)")?
            .execute([patch_key(path), path.to_string()])?,
        Op::RemoveTokens(uid) if uid.is_empty() => 0,
        Op::RemoveTokens(uid) => connection.execute(
            "DELETE FROM meta WHERE type='serviceaccounttoken' AND instr(key, ?1) > 0",
            [format!("UID:\"{uid}\"")],
        )?,
        Op::MarkFilled => {
            database::mark_filled(connection)?;
            1
        }
    };
    Ok(if rows > 0 { Applied::Changed } else { Applied::Unchanged })
}

fn put(connection: &Connection, path: &ObjectPath, object: &Object) -> Result<Applied, rusqlite::Error> {
    let key = path.to_string();
    if let Some(stored) = stored(connection, &key)?
        && !supersedes(object, &stored)
    {
        return Ok(Applied::Unchanged);
    }
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (key, type, value) VALUES (?1, ?2, ?3)")?
        .execute(params![key, path.kind.as_str(), object.json()])?;
    if let Some(api) = ApiKey::new(path, object) {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO meta_v2 (key, group_version_resource, namespace, name, resource_version, value) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                api.key,
                api.resource,
                api.namespace,
                api.name,
                object.version().and_then(|version| i64::try_from(version).ok()).unwrap_or_default(),
                object.json()
            ])?;
    }
    Ok(Applied::Changed)
}

fn remove(
    connection: &Connection,
    path: &ObjectPath,
    uid: &Uid,
    object: Option<&Object>,
) -> Result<Applied, rusqlite::Error> {
    let key = path.to_string();
    let Some(stored) = stored(connection, &key)? else {
        return Ok(Applied::Unchanged);
    };
    // The row of a successor with the same name stays.
    if !uid.is_empty() && !stored.meta().uid.is_empty() && stored.uid() != *uid {
        return Ok(Applied::Unchanged);
    }
    connection
        .prepare_cached("DELETE FROM meta WHERE key=?1")?
        .execute([&key])?;
    for object in [Some(&stored), object].into_iter().flatten() {
        if let Some(api) = ApiKey::new(path, object) {
            connection
                .prepare_cached("DELETE FROM meta_v2 WHERE key=?1")?
                .execute([api.key])?;
        }
    }
    Ok(Applied::Changed)
}

fn stored(connection: &Connection, key: &str) -> Result<Option<Object>, rusqlite::Error> {
    let value: Option<String> = connection
        .prepare_cached("SELECT value FROM meta WHERE key=?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    Ok(value.and_then(|value| Object::parse(&value).ok()))
}

/// Whether an object replaces the stored one: newest wins by version, and a successor replaces whoever had its name before,
/// unless it is that one's predecessor on its way out.
pub(super) fn supersedes(new: &Object, stored: &Object) -> bool {
    let (Some(new_version), Some(stored_version)) = (new.version(), stored.version()) else {
        return new.json() != stored.json();
    };
    if new.meta().uid == stored.meta().uid {
        new_version > stored_version
    } else {
        new_version > stored_version || !new.is_deleting()
    }
}

/// The key of an object in `meta_v2`, as a Go edgecore builds it: the plural is guessed from the kind (spec 05 §2, §4.3).
struct ApiKey {
    key: String,
    resource: String,
    namespace: String,
    name: String,
}

impl ApiKey {
    fn new(path: &ObjectPath, object: &Object) -> Option<Self> {
        let meta = object.meta();
        if meta.kind.is_empty() || meta.api_version.is_empty() {
            return None;
        }
        let name = path.name.as_ref().map(ObjectName::as_str)?;
        let (group, version) = meta.api_version.split_once('/').unwrap_or(("", &meta.api_version));
        let plural = plural(&meta.kind);
        let group_in_key = if group.is_empty() { "core" } else { group };
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let namespace_in_key = if namespace.is_empty() {
            Namespace::CLUSTER
        } else {
            namespace
        };
        Some(Self {
            key: format!("/{group_in_key}/{version}/{plural}/{namespace_in_key}/{name}"),
            resource: format!(
                "{}, Resource={plural}",
                if group.is_empty() {
                    format!("/{version}")
                } else {
                    meta.api_version.clone()
                }
            ),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

fn plural(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    match lower.as_str() {
        "endpoints" | "leases" => return lower,
        _ => {}
    }
    if let Some(stem) = lower.strip_suffix('y') {
        format!("{stem}ies")
    } else if lower.ends_with('s') {
        format!("{lower}es")
    } else {
        format!("{lower}s")
    }
}

/// Where the status of a pod waits that could not be sent.
pub(super) fn patch_key(pod: &ObjectPath) -> String {
    format!("{}/podpatch/{}", pod.namespace, pod.name_str())
}
