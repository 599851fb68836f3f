//! The handle to the thread that owns the database (`owner`), and what it can be asked.
//!
//! Writes of one call are one transaction, and calls that wait together share one commit: the disk is forced to write once for all.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use proto::inventory::Item;
use proto::{Group, Object, ObjectPath, Route, Uid};
use rusqlite::{Connection, OptionalExtension as _};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::owner::Owner;
use crate::sqlite;

/// Calls that wait for the thread; a full queue makes callers wait.
const QUEUE: usize = 64;

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
pub(super) enum Call {
    Apply(Write),
    Read(Query),
    /// Reads and writes: a database that could not be written is tried again.
    Change(Query),
}

/// Changes and who waits for them.
pub(super) type Write = (Vec<Op>, oneshot::Sender<Result<Vec<Applied>, StoreError>>);
/// Reads and answers by itself; what it returns tells of damage.
pub(super) type Query = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Result<(), rusqlite::Error> + Send>;

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

    /// The value of a key; a damaged row is as good as none.
    pub(super) async fn get(&self, key: String) -> Result<Option<String>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT value FROM meta WHERE key=?1")?
                .query_row([&key], |row| sqlite::text(row, 0))
                .optional()
                .map(Option::flatten)
        })
        .await
    }

    /// All values of a type with their keys; what is damaged is empty.
    pub(super) async fn rows(&self, kind: impl Into<Cow<'static, str>>) -> Result<Vec<(String, String)>, StoreError> {
        let kind = kind.into();
        self.read(move |connection| {
            let mut statement = connection.prepare("SELECT key, value FROM meta WHERE type=?1")?;
            let rows = statement.query_map([&*kind], |row| {
                let text = |column| sqlite::text(row, column).map(Option::unwrap_or_default);
                Ok((text(0)?, text(1)?))
            })?;
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
                // A row that cannot be read is left out: the cloud sends such an object again.
                if let (Some(key), Some(value)) = (sqlite::text(row, 0)?, sqlite::text(row, 1)?)
                    && let (Route::Object(path), Ok(object)) =
                        (Route::parse(&Group::Resource, &key), Object::parse(&value))
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

pub(super) fn failed(error: &rusqlite::Error) -> StoreError {
    StoreError::Failed(error.to_string().into())
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

/// Where the status of a pod waits that could not be sent.
pub(super) fn patch_key(pod: &ObjectPath) -> String {
    format!("{}/podpatch/{}", pod.namespace, pod.name_str())
}
