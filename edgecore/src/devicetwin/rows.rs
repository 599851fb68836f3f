//! The tables `device`, `device_attr` and `device_twin` as Go has them (spec 03 §3.2), and two that only ours knows:
//! `device_unconfirmed`, what the cloud has not confirmed, and `device_uid`, which device of its name each is. A Go edgecore leaves
//! these alone.

use std::collections::BTreeMap;

use proto::device::{Attribute, DeviceId, ROW_METADATA, TwinVersion, timestamp_of_row, timestamp_to_row};
use rusqlite::{Connection, Error, params};

use super::machine::{Device, Half, Property};

/// A change of the tables.
#[derive(Clone, Debug)]
pub(super) enum Row {
    /// A device with all that belongs to it is gone.
    RemoveDevice(DeviceId),
    /// A device with its uid; of its parts nothing.
    Device(DeviceId, Box<Device>),
    /// All attributes of a device.
    Attributes(DeviceId, BTreeMap<String, Attribute>),
    /// A property.
    Twin(DeviceId, String, Property),
    /// A property, or with an empty name the state, is not confirmed.
    Mark(DeviceId, String),
    /// It is.
    Unmark(DeviceId, String),
}

/// What the tables hold.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) devices: BTreeMap<DeviceId, Device>,
    /// What is not confirmed.
    pub(super) marks: Vec<(DeviceId, String)>,
    /// The id of the next row of `device_twin`.
    pub(super) next_row: i64,
}

const UNCONFIRMED: &str = "
CREATE TABLE IF NOT EXISTS `device_unconfirmed` (`deviceid` text,`name` text,PRIMARY KEY (`deviceid`,`name`)) WITHOUT ROWID;
";

/// Go's table of devices has no place for it. Made by the first that is written: a database of an older edgecore of ours lacks it.
const UIDS: &str = "
CREATE TABLE IF NOT EXISTS `device_uid` (`deviceid` text,`uid` text,PRIMARY KEY (`deviceid`)) WITHOUT ROWID;
";

/// A database that never saw our marks was a Go edgecore's, which drops what it cannot send: all of it is told once.
const ALL_UNCONFIRMED: &str = "
INSERT OR IGNORE INTO device_unconfirmed SELECT deviceid, name FROM device_twin WHERE deviceid IS NOT NULL AND name <> '';
";

/// Reads everything; makes our own table where it is not there yet.
pub(super) fn load(connection: &Connection) -> Result<Loaded, Error> {
    let has_marks = connection.table_exists(None, "device_unconfirmed")?;
    if !has_marks && !connection.is_readonly(rusqlite::MAIN_DB)? {
        connection.execute_batch(UNCONFIRMED)?;
        connection.execute_batch(ALL_UNCONFIRMED)?;
    }
    let mut loaded = Loaded {
        devices: devices(connection)?,
        next_row: next_row(connection)?,
        ..Loaded::default()
    };
    uids(connection, &mut loaded.devices)?;
    attributes(connection, &mut loaded.devices)?;
    twins(connection, &mut loaded.devices)?;
    if connection.table_exists(None, "device_unconfirmed")? {
        let mut statement = connection.prepare("SELECT deviceid, name FROM device_unconfirmed")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(id) = DeviceId::parse(&text(row, 0)?) {
                loaded.marks.push((id, text(row, 1)?));
            }
        }
    }
    Ok(loaded)
}

/// Writes.
pub(super) fn apply(connection: &Connection, rows: &[Row]) -> Result<(), Error> {
    if rows
        .iter()
        .any(|row| matches!(row, Row::Device(..) | Row::RemoveDevice(_)))
    {
        connection.execute_batch(UIDS)?;
    }
    rows.iter().try_for_each(|row| write(connection, row))
}

/// Our own table, which a database that replaced a damaged one lacks.
pub(super) fn prepare(connection: &Connection) -> Result<(), Error> {
    connection.execute_batch(UNCONFIRMED)
}

fn write(connection: &Connection, row: &Row) -> Result<(), Error> {
    match row {
        Row::RemoveDevice(id) => {
            let id = id.to_string();
            for statement in [
                "DELETE FROM device WHERE id=?1",
                "DELETE FROM device_uid WHERE deviceid=?1",
                "DELETE FROM device_attr WHERE deviceid=?1",
                "DELETE FROM device_twin WHERE deviceid=?1",
                "DELETE FROM device_unconfirmed WHERE deviceid=?1",
            ] {
                connection.prepare_cached(statement)?.execute([&id])?;
            }
        }
        Row::Device(id, device) => {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO device (id, name, description, state, last_online) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    id.to_string(),
                    device.name,
                    device.description,
                    device.state,
                    device.last_online
                ])?;
            // Written even if the uid is unknown (empty): a row that is there already may belong to an earlier device, deleted while a Go
            // edgecore ran.
            connection
                .prepare_cached("INSERT OR REPLACE INTO device_uid (deviceid, uid) VALUES (?1, ?2)")?
                .execute([&id.to_string(), &device.uid])?;
        }
        Row::Attributes(id, attributes) => write_attributes(connection, id, attributes)?,
        Row::Twin(id, name, property) => write_twin(connection, id, name, property)?,
        Row::Mark(id, name) => {
            connection
                .prepare_cached("INSERT OR IGNORE INTO device_unconfirmed (deviceid, name) VALUES (?1, ?2)")?
                .execute([&id.to_string(), name])?;
        }
        Row::Unmark(id, name) => {
            connection
                .prepare_cached("DELETE FROM device_unconfirmed WHERE deviceid=?1 AND name=?2")?
                .execute([&id.to_string(), name])?;
        }
    }
    Ok(())
}

fn write_attributes(
    connection: &Connection,
    id: &DeviceId,
    attributes: &BTreeMap<String, Attribute>,
) -> Result<(), Error> {
    let id = id.to_string();
    connection
        .prepare_cached("DELETE FROM device_attr WHERE deviceid=?1")?
        .execute([&id])?;
    for (name, attribute) in attributes {
        connection
            .prepare_cached(
                "INSERT INTO device_attr (deviceid, name, description, value, optional, attr_type, metadata) \
                 VALUES (?1, ?2, '', ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                id,
                name,
                attribute.value,
                attribute.optional.unwrap_or(true),
                attribute.kind,
                ROW_METADATA
            ])?;
    }
    Ok(())
}

fn write_twin(connection: &Connection, id: &DeviceId, name: &str, property: &Property) -> Result<(), Error> {
    let meta = |half: &Half| half.value.as_ref().map(|_| timestamp_to_row(half.timestamp));
    let version = |half: &Half| half.version.as_ref().map(TwinVersion::to_row);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO device_twin (id, deviceid, name, description, expected, actual, expected_meta, \
             actual_meta, expected_version, actual_version, optional, attr_type, metadata) \
             VALUES (?1, ?2, ?3, '', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            property.row,
            id.to_string(),
            name,
            property.expected.value,
            property.actual.value,
            meta(&property.expected),
            meta(&property.actual),
            version(&property.expected),
            version(&property.actual),
            property.optional,
            property.kind,
            ROW_METADATA
        ])?;
    Ok(())
}

fn devices(connection: &Connection) -> Result<BTreeMap<DeviceId, Device>, Error> {
    let mut statement = connection.prepare("SELECT id, name, description, state, last_online FROM device")?;
    let mut rows = statement.query([])?;
    let mut devices = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let Some(id) = DeviceId::parse(&text(row, 0)?) else {
            continue;
        };
        let device = Device {
            name: text(row, 1)?,
            description: text(row, 2)?,
            state: text(row, 3)?,
            last_online: text(row, 4)?,
            ..Device::default()
        };
        devices.insert(id, device);
    }
    Ok(devices)
}

fn uids(connection: &Connection, devices: &mut BTreeMap<DeviceId, Device>) -> Result<(), Error> {
    if !connection.table_exists(None, "device_uid")? {
        return Ok(());
    }
    let mut statement = connection.prepare("SELECT deviceid, uid FROM device_uid")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(device) = DeviceId::parse(&text(row, 0)?).and_then(|id| devices.get_mut(&id)) {
            device.uid = text(row, 1)?;
        }
    }
    Ok(())
}

fn attributes(connection: &Connection, devices: &mut BTreeMap<DeviceId, Device>) -> Result<(), Error> {
    let mut statement =
        connection.prepare("SELECT deviceid, name, value, optional, attr_type FROM device_attr ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(device) = DeviceId::parse(&text(row, 0)?).and_then(|id| devices.get_mut(&id)) else {
            continue;
        };
        let attribute = Attribute {
            value: text(row, 2)?,
            optional: Some(flag(row, 3)?),
            kind: Some(text(row, 4)?),
        };
        device.attributes.insert(text(row, 1)?, attribute);
    }
    Ok(())
}

/// Of two rows of one property, which Go's tables do not rule out, the last one counts, as with Go.
fn twins(connection: &Connection, devices: &mut BTreeMap<DeviceId, Device>) -> Result<(), Error> {
    let mut statement = connection.prepare(
        "SELECT id, deviceid, name, expected, actual, expected_meta, actual_meta, expected_version, actual_version, \
         optional, attr_type FROM device_twin ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(device) = DeviceId::parse(&text(row, 1)?).and_then(|id| devices.get_mut(&id)) else {
            continue;
        };
        let half = |value: usize, meta: usize, version: usize| -> Result<Half, Error> {
            let value = Some(text(row, value)?).filter(|value| !value.is_empty());
            Ok(Half {
                timestamp: timestamp_of_row(&text(row, meta)?).filter(|_| value.is_some()),
                version: TwinVersion::of_row(&text(row, version)?),
                value,
            })
        };
        let property = Property {
            row: row.get(0)?,
            expected: half(3, 5, 7)?,
            actual: half(4, 6, 8)?,
            optional: flag(row, 9)?,
            kind: text(row, 10)?,
        };
        device.twins.insert(text(row, 2)?, property);
    }
    Ok(())
}

/// Go counts on from the largest id that ever was.
fn next_row(connection: &Connection) -> Result<i64, Error> {
    connection.query_row(
        "SELECT 1 + max((SELECT ifnull(max(id), 0) FROM device_twin), \
         ifnull((SELECT max(seq) FROM sqlite_sequence WHERE name='device_twin'), 0))",
        [],
        |row| row.get(0),
    )
}

/// A text column, whatever Go or an operator put there; NULL is empty.
fn text(row: &rusqlite::Row<'_>, column: usize) -> Result<String, Error> {
    use rusqlite::types::ValueRef;
    Ok(match row.get_ref(column)? {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    })
}

/// A boolean column: a number, or a word.
fn flag(row: &rusqlite::Row<'_>, column: usize) -> Result<bool, Error> {
    let text = text(row, column)?;
    Ok(!matches!(text.as_str(), "" | "0" | "false"))
}
