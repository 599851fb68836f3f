//! What a mapper may say of itself, and how many there may be.

use proto::dmi::pb;

/// Mappers that are known at a time: each has a task, and rows in the database.
pub(super) const MAPPERS: usize = 64;
/// The longest name that Kubernetes knows.
pub(super) const MAX_NAME: usize = 253;
/// The longest of the other texts.
const MAX_TEXT: usize = 1024;
/// The longest path of a Unix socket.
const MAX_PATH: usize = 107;

/// Says what is wrong with a mapper.
pub(super) fn check(mapper: &pb::MapperInfo) -> Result<(), String> {
    if mapper.protocol.is_empty() || mapper.name.is_empty() {
        return Err("mapper.name and mapper.protocol must not be empty".into());
    }
    if mapper.protocol.len() > MAX_NAME || mapper.name.len() > MAX_NAME {
        return Err(format!(
            "mapper.name and mapper.protocol must have at most {MAX_NAME} bytes"
        ));
    }
    if [&mapper.version, &mapper.api_version, &mapper.state]
        .iter()
        .any(|text| text.len() > MAX_TEXT)
    {
        return Err(format!(
            "mapper.version, mapper.api_version and mapper.state must have at most {MAX_TEXT} bytes"
        ));
    }
    if mapper.address.is_empty() || mapper.address.len() > MAX_PATH || mapper.address.contains(&0) {
        return Err(format!(
            "mapper.address has to be the path of a Unix socket, of 1 to {MAX_PATH} bytes"
        ));
    }
    Ok(())
}
