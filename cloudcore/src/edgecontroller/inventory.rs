//! The cloud's half of the inventory (see [`proto::inventory`]).

use std::time::Duration;

use common::chain;
use proto::inventory::{Change, Digest, Item, Listing, Outcome, Verdict, covers, difference, is_of_devices};
use proto::{Content, Kind, Message, NodeName, ObjectPath, Operation, Source, Status};
use tracing::{info, warn};

use super::downstream::{deletion, object_message};
use crate::informers::Informers;

/// The answer to a digest or a listing, after the objects that it led to.
pub(super) async fn answer(informers: &Informers, node: &NodeName, request: &Message) -> Vec<Message> {
    let result = match request.operation {
        Operation::Query => verdict(informers, node, request).await,
        Operation::Update => changes(informers, node, request).await,
        _ => return Vec::new(),
    };
    result.unwrap_or_else(|status| {
        warn!(%node, error = %status, "inventory of a node is not answered, it will ask again");
        vec![Message::answer_to(
            request,
            Source::EdgeController,
            Content::error(&status),
        )]
    })
}

async fn verdict(informers: &Informers, node: &NodeName, request: &Message) -> Result<Vec<Message>, Status> {
    let held: Digest = request.content.parse().map_err(|error| bad(&chain(&error)))?;
    let wanted: Digest = wanted(informers, node).await?.items.iter().collect();
    let verdict = Verdict { equal: held == wanted };
    info!(%node, held = %held, wanted = %wanted, equal = verdict.equal, "inventory compared");
    Ok(vec![Message::answer_to(
        request,
        Source::EdgeController,
        Content::json(&verdict),
    )])
}

async fn changes(informers: &Informers, node: &NodeName, request: &Message) -> Result<Vec<Message>, Status> {
    let listing: Listing = request.content.parse().map_err(|error| bad(&chain(&error)))?;
    let own = ObjectPath::cluster(Kind::Node, node.as_str());
    let is_ours = |item: &Item| match &item.path.kind {
        Kind::Node => item.path == own,
        kind => covers(kind),
    };
    let (devices, mut held): (Vec<Item>, Vec<Item>) = listing
        .items
        .into_iter()
        .filter(is_ours)
        .partition(|item| is_of_devices(&item.path.kind));
    let mut wanted = self::wanted(informers, node).await?;
    if !wanted.has_devices && !informers.devices().compare_later(node, &devices) {
        wanted = self::wanted(informers, node).await?;
    }
    // Absent knowledge removes nothing.
    if wanted.has_devices {
        held.extend(devices);
    }
    let (mut messages, outcome) = bring(informers, node, difference(&wanted.items, &held)).await?;
    messages.push(Message::answer_to(
        request,
        Source::EdgeController,
        Content::json(&outcome),
    ));
    Ok(messages)
}

/// The devices became known after a node was compared: what leads it to those that it is to hold.
pub(crate) async fn devices_known(informers: &Informers, node: &NodeName) -> Result<Vec<Message>, Status> {
    let held = informers.devices().compared_early(node);
    let mut wanted = informers.inventory(node);
    wanted.retain(|item| is_of_devices(&item.path.kind));
    let changes = difference(&wanted, &held);
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(bring(informers, node, changes).await?.0)
}

/// The messages that make a node follow these changes.
async fn bring(
    informers: &Informers,
    node: &NodeName,
    changes: Vec<Change>,
) -> Result<(Vec<Message>, Outcome), Status> {
    let mut messages = Vec::new();
    let mut outcome = Outcome::default();
    let mut missing = Vec::new();
    for change in changes {
        match change {
            Change::Delete(item) => {
                outcome.deleted += 1;
                messages.push(deletion(&item.path, &item.uid));
            }
            Change::Insert(item) => missing.push((item.path, Operation::Insert)),
            Change::Update(item) => missing.push((item.path, Operation::Update)),
        }
    }
    // Pods and Devices last: what they name is there when they come.
    missing.sort_by_key(|(path, _)| matches!(path.kind, Kind::Pod | Kind::Device));
    let paths: Vec<ObjectPath> = missing.iter().map(|(path, _)| path.clone()).collect();
    let mut found = informers
        .fetch(node, &paths)
        .await
        .map_err(crate::kubernetes::ApiError::into_status)?;
    for (path, operation) in missing {
        let Some(at) = found.iter().position(|(other, _)| *other == path) else {
            continue;
        };
        let (path, object) = found.swap_remove(at);
        outcome.sent += 1;
        if path.kind == Kind::Pod {
            outcome.pods.push(object.uid());
        }
        messages.push(object_message(path, operation, &object));
    }
    info!(%node, sent = outcome.sent, deleted = outcome.deleted, "inventory brought up to date");
    Ok((messages, outcome))
}

/// What the node is to hold. While that is not known nothing is answered: an empty list would take its Pods from it.
async fn wanted(informers: &Informers, node: &NodeName) -> Result<Wanted, Status> {
    if informers.ready_for(node, REGISTERED_WITHIN).await {
        informers.devices().settled().await;
        // Asked before the items are listed. The other way round devices could become known in between, and the list would pass for
        // complete without them.
        let has_devices = informers.devices().is_ready();
        let items = informers.inventory(node);
        return Ok(Wanted { items, has_devices });
    }
    let text =
        format!("{node} is not known as an edge node yet: it has no Node with the label node-role.kubernetes.io/edge");
    Err(Status::failure(503, "ServiceUnavailable", text))
}

struct Wanted {
    items: Vec<Item>,
    /// Whether devices are among them.
    has_devices: bool,
}

fn bad(text: &str) -> Status {
    Status::failure(400, "BadRequest", text)
}

/// A new edge asks while its registration is under way.
const REGISTERED_WITHIN: Duration = Duration::from_secs(10);
