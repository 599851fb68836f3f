//! What a change does to the rows of `meta` and `meta_v2`.

use proto::{Kind, Namespace, Object, ObjectName, ObjectPath, Uid};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::database;
use super::store::{Applied, Op, patch_key, supersedes};
use crate::sqlite;

pub(super) fn perform(connection: &Connection, op: &Op) -> Result<Applied, rusqlite::Error> {
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
    let stored = stored(connection, &key)?;
    // The row stays if it is that of a successor with the same name. So does a damaged row of a pod, as it may be a successor's.
    let stays = match &stored {
        Some(stored) => !uid.is_empty() && !stored.meta().uid.is_empty() && stored.uid() != *uid,
        None => path.kind == Kind::Pod,
    };
    if stays {
        return Ok(Applied::Unchanged);
    }
    let rows = connection
        .prepare_cached("DELETE FROM meta WHERE key=?1")?
        .execute([&key])?;
    if rows == 0 {
        return Ok(Applied::Unchanged);
    }
    for object in [stored.as_ref(), object].into_iter().flatten() {
        if let Some(api) = ApiKey::new(path, object) {
            connection
                .prepare_cached("DELETE FROM meta_v2 WHERE key=?1")?
                .execute([api.key])?;
        }
    }
    Ok(Applied::Changed)
}

fn stored(connection: &Connection, key: &str) -> Result<Option<Object>, rusqlite::Error> {
    let value = connection
        .prepare_cached("SELECT value FROM meta WHERE key=?1")?
        .query_row([key], |row| sqlite::text(row, 0))
        .optional()?;
    Ok(value.flatten().and_then(|value| Object::parse(&value).ok()))
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
