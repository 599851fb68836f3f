//! The edge's half of the inventory: after a connect the cloud compares what we hold with the API (proto, `inventory`).

use std::time::Duration;

use proto::inventory::{Digest, Listing, Outcome, Verdict};
use proto::{Answer, Content, Group, Message, Operation, Route, Source};
use tracing::{info, warn};

use crate::metamanager::MetaManager;
use crate::uplink::{Link, Uplink};

/// How long one answer may take: the cloud sends the difference before the second.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before another try in the same session.
const PAUSE: Duration = Duration::from_secs(10);

/// Compares until it has succeeded or the session is over.
pub(super) async fn compare(meta: MetaManager, uplink: Uplink, session: Link) {
    while *uplink.link().borrow() == session {
        match once(&meta, &uplink).await {
            Ok(sent) => {
                meta.compared(sent).await;
                return;
            }
            Err(reason) => warn!(reason, "the inventory was not compared and will be again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn once(meta: &MetaManager, uplink: &Uplink) -> Result<u64, String> {
    let items = meta.inventory().await.map_err(|error| common::chain(&error))?;
    let digest: Digest = items.iter().collect();
    let verdict: Verdict = ask(uplink, Operation::Query, Content::json(&digest)).await?;
    if verdict.equal {
        info!(objects = items.len(), "the stored objects are those of the API");
        return Ok(0);
    }
    let held = items.len();
    let outcome: Outcome = ask(uplink, Operation::Update, Content::json(&Listing { items })).await?;
    info!(
        held,
        sent = outcome.sent,
        deleted = outcome.deleted,
        "the stored objects were brought up to date"
    );
    Ok(outcome.sent)
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
