//! What a runtime tells of by itself: containerd's own events, which come from the socket of its CRI, or CRI's.
//!
//! containerd's first: each subscriber has all of them, in every version. Of CRI's there are none in 1.6, and in 1.7 all callers take
//! from one queue, those that are gone too (`GetContainerEvents` in its `pkg/cri`).

use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use proto::containerd::{Envelope, SubscribeRequest, TaskDelete, TaskExit};
use proto::{Uid, cri};

use super::client::Client;
use super::{Event, Events, RuntimeError};

/// Of the pods of CRI, what ends: starts are the workers' own doing. Namespace and topics: containerd's `pkg/cri/constants` and
/// `runtime/events.go`.
const FILTERS: [&str; 3] = [
    r#"namespace=="k8s.io",topic=="/tasks/exit""#,
    r#"namespace=="k8s.io",topic=="/tasks/delete""#,
    r#"namespace=="k8s.io",topic=="/containers/delete""#,
];

/// Neither service answers before its first event: this is a stream at once, and whether there is any is its first item.
pub(super) fn subscribe(client: Client) -> Events {
    stream::once(async move {
        match of_containerd(&client).await {
            Err(error) if error.is_unimplemented() => of_cri(&client).await,
            result => result,
        }
    })
    .try_flatten()
    .boxed()
}

async fn of_containerd(client: &Client) -> Result<Events, RuntimeError> {
    const CALL: &str = "Subscribe";
    let request = SubscribeRequest {
        filters: FILTERS.map(String::from).to_vec(),
    };
    let answer = client.events.clone().subscribe(request).await;
    let events = answer.map_err(|status| client.error(CALL, "", &status))?.into_inner();
    let client = client.clone();
    Ok(events
        .map_err(move |status| client.error(CALL, "", &status))
        .try_filter_map(|event| async move { Ok((!is_of_command(&event)).then_some(Event::Somewhere)) })
        .boxed())
}

async fn of_cri(client: &Client) -> Result<Events, RuntimeError> {
    const CALL: &str = "GetContainerEvents";
    let mut runtime = client.runtime.clone();
    let answer = runtime.get_container_events(cri::GetEventsRequest {}).await;
    let events = answer.map_err(|status| client.error(CALL, "", &status))?.into_inner();
    let client = client.clone();
    Ok(events
        .map_err(move |status| client.error(CALL, "", &status))
        .map_ok(|event| {
            let metadata = event.pod_sandbox_status.and_then(|status| status.metadata);
            match metadata.map(|metadata| metadata.uid) {
                Some(uid) if !uid.is_empty() => Event::Of(Uid::from(uid)),
                _ => Event::Somewhere,
            }
        })
        .boxed())
}

/// Whether only a command in a container ended: a probe, an exec.
fn is_of_command(event: &Envelope) -> bool {
    let bytes = event.event.as_ref().map_or(&[][..], |any| any.value.as_slice());
    match event.topic.as_str() {
        "/tasks/exit" => TaskExit::decode(bytes).is_ok_and(|exit| !exit.id.is_empty() && exit.id != exit.container_id),
        "/tasks/delete" => {
            TaskDelete::decode(bytes).is_ok_and(|gone| !gone.id.is_empty() && gone.id != gone.container_id)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(topic: &str, value: Vec<u8>) -> Envelope {
        Envelope {
            namespace: "k8s.io".into(),
            topic: topic.into(),
            event: Some(prost_types::Any {
                type_url: String::new(),
                value,
            }),
        }
    }

    #[test]
    fn the_end_of_a_command_is_no_event_of_its_container() {
        let exit = |id: &str| {
            let exit = TaskExit {
                container_id: "c".into(),
                id: id.into(),
            };
            event("/tasks/exit", exit.encode_to_vec())
        };
        assert!(is_of_command(&exit("a-probe")));
        assert!(!is_of_command(&exit("c")), "its first process");
        let gone = |id: &str| {
            let gone = TaskDelete {
                container_id: "c".into(),
                id: id.into(),
            };
            event("/tasks/delete", gone.encode_to_vec())
        };
        assert!(is_of_command(&gone("a-probe")));
        assert!(!is_of_command(&gone("")), "the task itself");
        assert!(
            !is_of_command(&event("/tasks/exit", vec![0xff])),
            "what cannot be read is looked at"
        );
        assert!(!is_of_command(&event("/containers/delete", Vec::new())));
    }
}
