//! The thread that owns the database: what it does with calls, and with a database that is damaged, full or away.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::database::{self, Database};
use super::rows::perform;
use super::store::{Applied, Call, Op, Query, State, StoreError, Write, failed};
use crate::sqlite;

/// The least time between two tries to open a database that cannot be opened.
const REOPEN: Duration = Duration::from_secs(5);

/// The thread's state.
pub(super) struct Owner {
    path: PathBuf,
    database: Option<Database>,
    last_try: Instant,
    failure: StoreError,
    said_read_only: bool,
    state: watch::Sender<State>,
}

impl Owner {
    pub(super) fn new(path: PathBuf, state: watch::Sender<State>) -> Self {
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

    pub(super) fn run(&mut self, mut calls: mpsc::Receiver<Call>) {
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
                        // A read must see what was queued for writing before it.
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
