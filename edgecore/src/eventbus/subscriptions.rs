//! What the cloud's rules ask for: subscriptions, which outlive a restart, and publications.
//!
//! Owns the rows of `sub_topics`. A row is written before the subscription takes effect, and it takes effect also when the database
//! refuses: then the row is written later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::Message;
use proto::bus::BusRequest;
use rusqlite::params;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::filter::{BadTopic, check_filter, check_topic, is_always};
use super::metrics::Metrics;
use super::transport::Bus;
use crate::devicetwin::Publication;
use crate::metamanager::{RequestError, Tables};
use crate::sqlite;

/// Subscriptions of rules; one more is refused.
pub(super) const MOST: usize = 1024;
/// How often a database that refuses is asked again.
const RETRY: Duration = Duration::from_secs(5);

/// The task's state.
pub(super) struct Subscriptions {
    tables: Tables,
    bus: Arc<Bus>,
    metrics: Metrics,
    active: BTreeSet<String>,
    loaded: bool,
    /// What is not in the database yet: filters to add, and to remove.
    unsaved: BTreeMap<String, bool>,
}

impl Subscriptions {
    pub(super) fn new(tables: Tables, bus: Arc<Bus>, metrics: Metrics) -> Self {
        Self {
            tables,
            bus,
            metrics,
            active: BTreeSet::new(),
            loaded: false,
            unsaved: BTreeMap::new(),
        }
    }

    /// Serves the cloud's messages until no more come.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = retry.tick(), if !self.loaded || !self.unsaved.is_empty() => self.catch_up().await,
                message = inbox.recv() => match message {
                    Some(message) => self.take(&message).await,
                    None => return,
                },
            }
        }
    }

    async fn take(&mut self, message: &Message) {
        match BusRequest::of(message) {
            Ok(BusRequest::Subscribe(filter)) => self.subscribe(filter).await,
            Ok(BusRequest::Unsubscribe(filter)) => self.unsubscribe(filter).await,
            Ok(BusRequest::Publish { topic, payload }) => match check_topic(&topic) {
                Ok(()) => self.bus.publish(&Publication { topic, payload }),
                Err(error) => warn!(topic, %error, "a rule of the cloud publishes on what is no topic"),
            },
            Err(error) => warn!(%error, route = %message.route, "message of the cloud for EventBus ignored"),
        }
    }

    async fn subscribe(&mut self, filter: String) {
        if let Err(error) = self.may_add(&filter) {
            warn!(filter, %error, "a rule of the cloud cannot subscribe this");
            return;
        }
        self.save(&filter, true).await;
        info!(filter, "subscribed for a rule of the cloud");
        self.activate(filter);
    }

    async fn unsubscribe(&mut self, filter: String) {
        self.save(&filter, false).await;
        if self.active.remove(&filter) {
            info!(filter, "a rule of the cloud needs this topic no longer");
            self.metrics.subscriptions(self.active.len());
            if !is_always(&filter) {
                self.bus.unsubscribe(&filter);
            }
        }
    }

    fn may_add(&self, filter: &str) -> Result<(), Refused> {
        check_filter(filter)?;
        if self.active.len() >= MOST && !self.active.contains(filter) {
            return Err(Refused::Many);
        }
        Ok(())
    }

    fn activate(&mut self, filter: String) {
        if !is_always(&filter) {
            self.bus.subscribe(&filter);
        }
        self.active.insert(filter);
        self.metrics.subscriptions(self.active.len());
    }

    async fn save(&mut self, filter: &str, wanted: bool) {
        if self.unsaved.len() < MOST {
            self.unsaved.insert(filter.to_owned(), wanted);
        }
        self.write().await;
    }

    /// Reads the rows if that is still to be done, and writes what is not written.
    async fn catch_up(&mut self) {
        if !self.loaded {
            match load(&self.tables).await {
                Ok(rows) => {
                    self.loaded = true;
                    self.add_rows(rows);
                }
                Err(error) => debug!(error = common::chain(&error), "sub_topics cannot be read yet"),
            }
        }
        self.write().await;
    }

    fn add_rows(&mut self, rows: Vec<String>) {
        for row in rows {
            if self.unsaved.contains_key(&row) {
                continue;
            }
            match self.may_add(&row) {
                Ok(()) => self.activate(row),
                Err(error) => warn!(filter = row, %error, "a row of sub_topics cannot be subscribed"),
            }
        }
    }

    async fn write(&mut self) {
        if self.unsaved.is_empty() {
            return;
        }
        let changes = self.unsaved.clone();
        let written = self.tables.transact(move |connection| {
            for (topic, wanted) in changes {
                let statement = if wanted {
                    "INSERT OR IGNORE INTO sub_topics(topic) VALUES (?1)"
                } else {
                    "DELETE FROM sub_topics WHERE topic = ?1"
                };
                connection.prepare_cached(statement)?.execute(params![topic])?;
            }
            Ok(())
        });
        match written.await {
            Ok(()) => self.unsaved.clear(),
            Err(error) => warn!(
                error = common::chain(&error),
                "subscriptions of the cloud's rules cannot be stored: written later, lost if edgecore stops before"
            ),
        }
    }
}

/// Why a filter is not subscribed.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Bad(#[from] BadTopic),
    #[error("this node has {MOST} subscriptions of rules already")]
    Many,
}

async fn load(tables: &Tables) -> Result<Vec<String>, RequestError> {
    tables
        .read(|connection| {
            let mut statement =
                connection.prepare("SELECT topic FROM sub_topics WHERE topic IS NOT NULL ORDER BY topic")?;
            statement
                .query_map([], |row| sqlite::text(row, 0))?
                .filter_map(Result::transpose)
                .collect()
        })
        .await
}
