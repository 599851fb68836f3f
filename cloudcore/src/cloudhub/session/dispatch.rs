//! What a session does with a node's message; the first match wins (spec 01 §5.5).

use proto::{Content, Group, Message, Operation, Route, Source};
use tracing::{debug, warn};

use super::Session;
use crate::cloudhub::authorizer::{Refused, refusal};
use crate::cloudhub::outbox::{Delivered, Lane};
use crate::cloudhub::uploads::is_upload;
use crate::cloudhub::{Shared, Upstream};

/// Nobody takes messages any more.
pub(super) struct Stopping;

pub(super) async fn dispatch(shared: &Shared, session: &Session, message: Message) -> Result<(), Stopping> {
    let node = &session.node;
    if is_volume(&message) {
        return pass_on(shared, session, message).await;
    }
    match message.operation {
        Operation::Response => {
            if let Some(delivered) = message.parent.as_ref().and_then(|id| session.on_ack(id)) {
                record(shared, session, &delivered).await;
            }
            return Ok(());
        }
        Operation::Error => {
            let text = message.content.as_text().unwrap_or_default();
            warn!(%node, route = %message.route, error = %text, "the edge could not process a message");
            return Ok(());
        }
        _ => {}
    }
    if let Err(Refused { reason }) = shared.authorizer.authorize(node, &message).await {
        shared.metrics.forbidden();
        warn!(%node, operation = %message.operation, route = %message.route, reason, "request of the edge refused");
        if let Some(answer) = refusal(&message, session.features, node, &reason) {
            session.offer(answer, Lane::Notice, None);
        }
        return Ok(());
    }
    if message.route == Route::ClusterCa {
        let pem = shared.cluster.certificate_authority();
        let answer = Message::answer_to(&message, Source::CloudHub, Content::text(&pem));
        session.offer(answer, Lane::Notice, None);
        return Ok(());
    }
    if is_upload(&message) {
        let ack = shared.uploads.take(node, &message);
        if session.features.has_uploads() {
            session.offer(ack, Lane::Notice, None);
        }
        return Ok(());
    }
    let is_own_business = (message.operation == Operation::Upload && message.group == Group::User)
        || matches!(
            message.operation,
            Operation::Prepull | Operation::Upgrade | Operation::UpdateNodeActionStatus
        );
    if !is_own_business && message.source.is_cloud_module() {
        debug!(%node, source = %message.source, route = %message.route, "an edge's message named a module of the cloud as its source");
        return Ok(());
    }
    pass_on(shared, session, message).await
}

async fn pass_on(shared: &Shared, session: &Session, message: Message) -> Result<(), Stopping> {
    let outlet = match (&message.source, &shared.twins) {
        (Source::Twin, Some(twins)) => twins,
        (Source::Twin, None) => return Ok(()),
        _ => &shared.upstream,
    };
    let node = session.node.clone();
    outlet.send(Upstream { node, message }).await.map_err(|_| Stopping)
}

async fn record(shared: &Shared, session: &Session, delivered: &Delivered) {
    if session.features.has_inventory() {
        return;
    }
    let Delivered {
        object,
        version,
        deleted,
    } = delivered;
    if *deleted {
        shared.records.deleted(&session.node, object).await;
    } else {
        shared.records.acked(&session.node, object, version).await;
    }
}

/// Answers of the container storage interface, which wait for no acknowledgement of ours.
fn is_volume(message: &Message) -> bool {
    message.route.kind() == Some(&proto::Kind::Volume)
}
