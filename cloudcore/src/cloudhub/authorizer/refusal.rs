//! How a refused request is answered, so that the edge does not wait for its time-out.

use proto::device::DeviceTopic;
use proto::{Content, Features, Kind, Message, NodeName, Operation, Source, Status};

use crate::devicecontroller::confirmation;

/// The answer in the form that this request expects; `None` for what is never answered (spec 02 §3.1).
pub(in crate::cloudhub) fn refusal(
    request: &Message,
    features: Features,
    node: &NodeName,
    reason: &str,
) -> Option<Message> {
    if DeviceTopic::of(&request.route).is_some() {
        // There is no other answer to a report: without one the edge would repeat it for ever.
        return Some(confirmation(&request.id));
    }
    let path = request.route.object()?;
    let status = Status::failure(
        403,
        "Forbidden",
        format!("{} {path} by node {node}: {reason}", request.operation),
    );
    let enveloped = match (&path.kind, &request.operation) {
        (Kind::Event, _) if features.has_events() => false,
        (Kind::Event | Kind::RuleStatus, _) => return None,
        (Kind::Lease | Kind::NodePatch | Kind::PodPatch, _) => true,
        (Kind::Node | Kind::Pod | Kind::CertificateSigningRequest, Operation::Insert) => true,
        (Kind::Node | Kind::NodeStatus, Operation::Update) => return None,
        (_, Operation::Insert | Operation::Query | Operation::Update | Operation::Delete) => false,
        _ => return None,
    };
    if enveloped {
        let content = Content::envelope(None, Some(&status));
        return Some(Message::answer_to(request, Source::EdgeController, content));
    }
    if features.is_empty() && request.operation == Operation::Query {
        // A Go edge would store a bare error as if it were the object; this one it only reports (spec 02 §3.2).
        let mut answer = Message::answer_to(request, Source::EdgeController, Content::text(&status.message));
        answer.operation = Operation::Error;
        return Some(answer);
    }
    Some(Message::answer_to(
        request,
        Source::EdgeController,
        Content::error(&status),
    ))
}
