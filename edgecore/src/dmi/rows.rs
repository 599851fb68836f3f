//! Rows of mappers in `meta`: who they are, as Go keeps them, and what each was told, which is ours alone (spec 03 §3.2).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::device::DeviceId;
use proto::dmi::{Digest, pb};
use rusqlite::{Connection, Error, params};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::knowledge::{Note, Thing};
use super::limits::{self, MAPPERS};
use crate::sqlite;

/// Prefix of a mapper's key; the words are literal.
const MAPPER: &str = "node/nodeID/namespace/devicemapper/";
const MAPPER_TYPE: &str = "devicemapper";
/// Prefix of the keys of what a mapper was told.
const TOLD: &str = "node/nodeID/namespace/mappertold/";
const TOLD_TYPE: &str = "mappertold";

/// A mapper that registered once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) info: pb::MapperInfo,
    pub(super) told: BTreeMap<Thing, Digest>,
}

/// As Go writes it.
#[derive(Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Row {
    name: String,
    version: String,
    api_version: String,
    protocol: String,
    address: String,
    state: String,
}

/// The mappers, the one that registered last at the end. Of each protocol it is the last one, as it is when they register. Rows that
/// cannot be read or are over the limits are left out.
pub(super) fn load(connection: &Connection) -> Result<Vec<Stored>, Error> {
    let mut statement = connection.prepare("SELECT value FROM meta WHERE type=?1 ORDER BY rowid DESC")?;
    let rows = statement.query_map([MAPPER_TYPE], |row| sqlite::text(row, 0))?;
    let mut all: Vec<Stored> = Vec::new();
    let mut left_out = 0;
    for row in rows {
        let Ok(row) = serde_json::from_str::<Row>(&row?.unwrap_or_default()) else {
            continue;
        };
        let Ok(address) = STANDARD.decode(&row.address) else {
            continue;
        };
        let info = pb::MapperInfo {
            name: row.name,
            version: row.version,
            api_version: row.api_version,
            protocol: row.protocol,
            address,
            state: row.state,
        };
        if all.iter().any(|later| later.info.protocol == info.protocol) {
            continue;
        }
        if all.len() >= MAPPERS || limits::check(&info).is_err() {
            left_out += 1;
            continue;
        }
        let told = load_told(connection, &info.name)?;
        all.push(Stored { info, told });
    }
    if left_out > 0 {
        warn!(
            left_out,
            "mappers of the last run are left out: they are too many, or what they say of themselves is not taken"
        );
    }
    all.reverse();
    Ok(all)
}

/// Stores a mapper that registers, with what it is told by the answer.
pub(super) fn store(connection: &Connection, mapper: &Stored) -> Result<(), Error> {
    let info = &mapper.info;
    let row = Row {
        name: info.name.clone(),
        version: info.version.clone(),
        api_version: info.api_version.clone(),
        protocol: info.protocol.clone(),
        address: STANDARD.encode(&info.address),
        state: info.state.clone(),
    };
    // Strings only: it cannot fail.
    let value = serde_json::to_string(&row).unwrap_or_default();
    connection.execute(
        "INSERT OR REPLACE INTO meta (key, type, value) VALUES (?1, ?2, ?3)",
        params![format!("{MAPPER}{}", info.name), MAPPER_TYPE, value],
    )?;
    forget_told(connection, &info.name)?;
    let told = mapper.told.iter().map(|(thing, digest)| Note {
        thing: thing.clone(),
        digest: Some(*digest),
    });
    remember(connection, &info.name, &told.collect::<Vec<_>>())
}

/// Removes a mapper, with what it was told.
pub(super) fn forget(connection: &Connection, mapper: &str) -> Result<(), Error> {
    connection.execute("DELETE FROM meta WHERE key=?1", [format!("{MAPPER}{mapper}")])?;
    forget_told(connection, mapper)
}

fn forget_told(connection: &Connection, mapper: &str) -> Result<(), Error> {
    let prefix = told_prefix(mapper);
    connection
        .execute(
            "DELETE FROM meta WHERE type=?1 AND substr(key, 1, length(?2))=?2",
            [TOLD_TYPE, prefix.as_str()],
        )
        .map(drop)
}

/// Notes what a mapper was told.
pub(super) fn remember(connection: &Connection, mapper: &str, notes: &[Note]) -> Result<(), Error> {
    let prefix = told_prefix(mapper);
    for note in notes {
        let (kind, id) = match &note.thing {
            Thing::Model(id) => ("devicemodel", id),
            Thing::Device(id) => ("device", id),
        };
        let key = format!("{prefix}{kind}/{id}");
        match note.digest {
            Some(digest) => connection
                .prepare_cached("INSERT OR REPLACE INTO meta (key, type, value) VALUES (?1, ?2, ?3)")?
                .execute(params![key, TOLD_TYPE, told_value(digest)])?,
            None => connection
                .prepare_cached("DELETE FROM meta WHERE key=?1")?
                .execute([key])?,
        };
    }
    Ok(())
}

fn load_told(connection: &Connection, mapper: &str) -> Result<BTreeMap<Thing, Digest>, Error> {
    let prefix = told_prefix(mapper);
    let mut statement = connection.prepare_cached(
        "SELECT substr(key, length(?2)+1), value FROM meta WHERE type=?1 AND substr(key, 1, length(?2))=?2",
    )?;
    let rows = statement.query_map([TOLD_TYPE, prefix.as_str()], |row| {
        Ok(sqlite::text(row, 0)?.zip(sqlite::text(row, 1)?))
    })?;
    let mut told = BTreeMap::new();
    for row in rows {
        let Some((key, value)) = row? else {
            continue;
        };
        let thing = key.split_once('/').and_then(|(kind, id)| match kind {
            "devicemodel" => DeviceId::parse(id).map(Thing::Model),
            "device" => DeviceId::parse(id).map(Thing::Device),
            _ => None,
        });
        told.extend(thing.zip(read_told(&value)));
    }
    Ok(told)
}

/// JSON, as MetaManager expects of every row: at its start it deletes others.
fn told_value(digest: Digest) -> String {
    serde_json::json!({ "digest": digest.to_string() }).to_string()
}

fn read_told(value: &str) -> Option<Digest> {
    let value: serde_json::Value = proto::json::from_str(value).ok()?;
    Digest::parse(value.get("digest")?.as_str()?)
}

fn told_prefix(mapper: &str) -> String {
    format!("{TOLD}{mapper}/")
}
