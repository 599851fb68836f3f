//! What a node may not do, whatever it says: a node made by hand tries it with real certificates, against a real API server. Only
//! our cloudcore promises all of it.

mod door;
mod requests;
mod table;

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use proto::{Message, Operation};

pub(super) use door::logged;
use requests::{registration, request};

use super::Entry;
use crate::api;
use crate::hub::{Door, Node};
use crate::system::System;

pub(super) const LIST: &[Entry] = &[
    ("authorizer_table", false, table::table),
    ("authorizer_door", false, door::door),
    ("revoked_node", false, door::revoked_node),
];

/// The node made by hand.
const NODE: &str = "guard-1";
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

pub(super) fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Go's authorizer is off by default.
const REFUSES: &str = "refusing what is not the node's own";

pub(super) fn door_of(system: &System) -> Result<Door> {
    Door::new(
        system.api(),
        &system.edge.number().cloud_address(),
        system.cloud.uplink()?,
    )
}

/// A node made by hand that has joined and registered.
fn node_by_hand<'a>(system: &System, door: &'a Door) -> Result<Node<'a>> {
    let card = door.join(NODE)?;
    let mut node = door
        .connect(NODE, Some(&card))?
        .map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    let register = request(
        Operation::Insert,
        &format!("null/node/{NODE}"),
        &registration(NODE, "node-role.kubernetes.io/agent"),
    );
    permitted(&mut node, "its own registration", &register)?;
    ensure!(
        system.api().get(&api::node_path(NODE))?.is_some(),
        "the node is not in the API"
    );
    Ok(node)
}

fn permitted(node: &mut Node<'_>, what: &str, message: &Message) -> Result<Message> {
    let answer = node
        .ask(message, ANSWER)?
        .with_context(|| format!("{what}: no answer"))?;
    let content = answer.content.get();
    ensure!(
        answer.operation != Operation::Error && !content.contains("\"ErrStatus\":{") && !content.contains("Forbidden"),
        "{what}: {content}"
    );
    println!("    permitted: {what}");
    Ok(answer)
}
