//! The edge's half of the inventory: after a connect the cloud compares what we hold with the API (proto, `inventory`).

use std::time::Duration;

use proto::inventory::{Digest, Listing, Outcome, Verdict};
use proto::{Answer, Content, Group, Message, Operation, Route, Source, Uid};
use tracing::{info, warn};

use crate::metamanager::MetaManager;
use crate::uplink::{Link, Uplink};

/// How long one answer may take: the cloud sends the difference before the second.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before another try in the same session.
const PAUSE: Duration = Duration::from_secs(10);

/// How long announced pods may take. Until they came, nothing that runs is removed for being unknown.
const ARRIVAL: Duration = Duration::from_secs(30);

/// Compares until it has succeeded or the session is over, and again when the database is replaced.
pub(super) async fn compare(meta: MetaManager, uplink: Uplink, session: Link) {
    let (tables, mut link) = (meta.tables(), uplink.link());
    loop {
        let database = tables.replaced();
        succeed(&meta, &uplink, session).await;
        tokio::select! {
            () = tables.replaced_after(database) => info!("the database was replaced: the cloud is asked what belongs into it"),
            _ = link.wait_for(|now| *now != session) => return,
        }
    }
}

async fn succeed(meta: &MetaManager, uplink: &Uplink, session: Link) {
    while *uplink.link().borrow() == session {
        match once(meta, uplink).await {
            Ok(pods) => {
                meta.compared(pods).await;
                let mut pods = meta.pods();
                if tokio::time::timeout(ARRIVAL, pods.wait_for(|set| set.ready))
                    .await
                    .is_ok()
                {
                    return;
                }
                warn!("not all pods that cloudcore announced have come, it is asked again");
            }
            Err(reason) => {
                warn!(reason, "the inventory was not compared and will be again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Returns the pods that come.
async fn once(meta: &MetaManager, uplink: &Uplink) -> Result<Vec<Uid>, String> {
    let items = meta.inventory().await.map_err(|error| common::chain(&error))?;
    let digest: Digest = items.iter().collect();
    let verdict: Verdict = ask(uplink, Operation::Query, Content::json(&digest)).await?;
    if verdict.equal {
        info!(objects = items.len(), "the stored objects are those of the API");
        return Ok(Vec::new());
    }
    let held = items.len();
    let outcome: Outcome = ask(uplink, Operation::Update, Content::json(&Listing { items })).await?;
    info!(
        held,
        sent = outcome.sent,
        deleted = outcome.deleted,
        "the stored objects were brought up to date"
    );
    Ok(outcome.pods)
}

async fn ask<T: serde::de::DeserializeOwned>(
    uplink: &Uplink,
    operation: Operation,
    content: Content,
) -> Result<T, String> {
    let route = Route::Other("inventory/sync".into());
    let question = Message::new(Source::MetaManager, Group::Resource, operation, route, content);
    let answer = uplink.ask(question, TIMEOUT).await.map_err(|error| error.to_string())?;
    // As every answer: what is not acknowledged is sent again.
    let _ = uplink.tell(Message::ack_of(&answer)).await;
    match answer.content.answer() {
        Answer::Failed(status) => Err(status.to_string()),
        _ => answer.content.parse().map_err(|error| error.to_string()),
    }
}
