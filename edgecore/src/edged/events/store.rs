//! Rows of events that wait, in a table that the Go edge does not have and does not mind.

use proto::Object;
use rusqlite::params;
use tracing::debug;

use super::waiting::Said;
use crate::metamanager::{RequestError, Tables};
use crate::sqlite;

/// A row that is written again becomes the newest.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS pod_event (sequence INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, \
                     event TEXT NOT NULL)";

/// What waits, oldest first. Makes no table.
pub(super) async fn load(tables: &Tables) -> Result<Vec<Said>, RequestError> {
    let rows = tables
        .read(|connection| {
            if !connection.table_exists(None, "pod_event")? {
                return Ok(Vec::new());
            }
            let mut query = connection.prepare("SELECT name, event FROM pod_event ORDER BY sequence")?;
            let rows = query.query_map([], |row| {
                let text = |column| sqlite::text(row, column).map(Option::unwrap_or_default);
                Ok((text(0)?, text(1)?))
            })?;
            rows.collect::<Result<Vec<(String, String)>, _>>()
        })
        .await?;
    let read = rows.into_iter().filter_map(|(name, text)| match Object::parse(&text) {
        Ok(object) => Some(Said { name, object }),
        Err(error) => {
            debug!(event = name, %error, "an event's row cannot be read");
            None
        }
    });
    Ok(read.collect())
}

/// Removes the rows of those that need none any more, then writes events.
pub(super) async fn write(tables: &Tables, forget: Vec<String>, write: Vec<Said>) -> Result<(), RequestError> {
    tables
        .transact(move |connection| {
            connection.execute_batch(TABLE)?;
            let mut delete = connection.prepare_cached("DELETE FROM pod_event WHERE name = ?1")?;
            for name in &forget {
                delete.execute(params![name])?;
            }
            let mut insert =
                connection.prepare_cached("INSERT OR REPLACE INTO pod_event (name, event) VALUES (?1, ?2)")?;
            for Said { name, object } in &write {
                insert.execute(params![name, object.json()])?;
            }
            Ok(())
        })
        .await
}
