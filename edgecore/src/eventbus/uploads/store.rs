//! Rows of uploads that wait, in a table that the Go edge does not have and does not mind.

use bytes::Bytes;
use proto::MsgId;
use proto::bus::Upload;
use rusqlite::{Connection, Error, Row, params};

use super::machine::{Amount, FLIGHT_BYTES, Record, Trim};
use crate::metamanager::{RequestError, Tables};
use crate::sqlite;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS bus_upload (sequence INTEGER PRIMARY KEY, id TEXT NOT NULL, time INTEGER NOT NULL, \
                     topic TEXT NOT NULL, payload BLOB NOT NULL, size INTEGER NOT NULL)";

/// Rows that are read together.
const ROWS: usize = 64;

/// What there is, and the last sequence. Makes no table: a board whose cloud takes everything never needs one.
pub(super) async fn open(tables: &Tables) -> Result<(Amount, u64), RequestError> {
    tables
        .read(|connection| {
            if !exists(connection)? {
                return Ok((Amount::default(), 0));
            }
            let query = "SELECT count(*), ifnull(sum(size), 0), ifnull(max(sequence), 0) FROM bus_upload";
            connection.query_row(query, [], |row| {
                let (count, bytes, last): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let amount = Amount {
                    count: unsigned(count),
                    bytes: unsigned(bytes),
                };
                Ok((amount, unsigned(last)))
            })
        })
        .await
}

/// Writes records and drops old rows. Returns what was dropped.
pub(super) async fn append(tables: &Tables, records: Vec<Record>, trim: Option<Trim>) -> Result<Amount, RequestError> {
    tables
        .transact(move |connection| {
            connection.execute_batch(TABLE)?;
            let mut insert =
                connection.prepare_cached("INSERT OR REPLACE INTO bus_upload VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            for record in &records {
                insert.execute(params![
                    signed(record.sequence),
                    record.id.as_str(),
                    record.time,
                    record.upload.topic,
                    &record.upload.payload[..],
                    signed(record.size()),
                ])?;
            }
            trim.map_or(Ok(Amount::default()), |trim| drop_oldest(connection, trim))
        })
        .await
}

/// The next rows after one. A damaged one costs no other: an id that is lost is replaced, and an upload that is has no topic.
pub(super) async fn load(tables: &Tables, after: u64) -> Result<Vec<Record>, RequestError> {
    tables
        .read(move |connection| {
            if !exists(connection)? {
                return Ok(Vec::new());
            }
            let query =
                "SELECT sequence, id, time, topic, payload FROM bus_upload WHERE sequence > ?1 ORDER BY sequence";
            let mut statement = connection.prepare_cached(query)?;
            let mut rows = statement.query(params![signed(after)])?;
            let (mut records, mut bytes) = (Vec::new(), 0);
            while bytes < FLIGHT_BYTES
                && records.len() < ROWS
                && let Some(row) = rows.next()?
            {
                let record = Record {
                    sequence: unsigned(row.get(0)?),
                    id: sqlite::text(row, 1)?.map_or_else(MsgId::random, MsgId::from),
                    time: row.get_ref(2)?.as_i64().unwrap_or_default(),
                    upload: upload(row)?,
                };
                bytes += record.size();
                records.push(record);
            }
            Ok(records)
        })
        .await
}

/// Removes rows.
pub(super) async fn forget(tables: &Tables, sequences: Vec<u64>) -> Result<(), RequestError> {
    tables
        .transact(move |connection| {
            if !exists(connection)? {
                return Ok(());
            }
            let mut delete = connection.prepare_cached("DELETE FROM bus_upload WHERE sequence = ?1")?;
            for sequence in sequences {
                delete.execute(params![signed(sequence)])?;
            }
            Ok(())
        })
        .await
}

fn upload(row: &Row<'_>) -> Result<Upload, Error> {
    let payload = row.get_ref(4)?.as_bytes().ok().map(Bytes::copy_from_slice);
    let (topic, payload) = sqlite::text(row, 3)?.zip(payload).unwrap_or_default();
    Ok(Upload { topic, payload })
}

fn drop_oldest(connection: &Connection, trim: Trim) -> Result<Amount, Error> {
    let mut dropped = Amount::default();
    let mut last = trim.after;
    let mut statement =
        connection.prepare_cached("SELECT sequence, size FROM bus_upload WHERE sequence > ?1 ORDER BY sequence")?;
    let mut rows = statement.query(params![signed(trim.after)])?;
    while dropped.bytes < trim.bytes
        && let Some(row) = rows.next()?
    {
        last = unsigned(row.get(0)?);
        dropped.count += 1;
        dropped.bytes = dropped.bytes.saturating_add(unsigned(row.get(1)?));
    }
    drop(rows);
    connection.execute(
        "DELETE FROM bus_upload WHERE sequence > ?1 AND sequence <= ?2",
        params![signed(trim.after), signed(last)],
    )?;
    Ok(dropped)
}

fn exists(connection: &Connection) -> Result<bool, Error> {
    connection.table_exists(None, "bus_upload")
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}
