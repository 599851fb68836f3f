//! From changes of devices to messages for nodes (spec 03 §2.1).

use common::Tasks;
use proto::device::{DeviceFacts, Member, MembershipDetail, MembershipUpdate};
use proto::{Content, Group, Kind, Message, MsgId, NodeName, Object, ObjectPath, Operation, Route, Source};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::DeviceController;
use super::metrics::Metrics;
use crate::cloudhub::CloudHub;
use crate::edgecontroller::downstream::object_message;
use crate::edgecontroller::inventory;
use crate::informers::Informers;
use crate::informers::devices::{DeviceChange, member_of};
use crate::synccontroller::SyncController;

pub(super) fn start(
    controller: &DeviceController,
    mut changes: mpsc::Receiver<DeviceChange>,
    metrics: &Metrics,
    tasks: &Tasks,
) {
    let down = Downstream {
        informers: controller.informers.clone(),
        hub: controller.hub.clone(),
        reconciler: controller.reconciler.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn("devices downstream", async move {
        let mut models = down.reconciler.models_delivered();
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Some(DeviceChange::Ready) => down.known().await,
                    Some(change) => down.changed(change).await,
                    None => return,
                },
                // Nodes whose notice was lost (the channel overflowed) are found by SyncController's next round.
                Ok(node) = models.recv() => down.reconciler.model_delivered(&node).await,
            }
        }
    });
}

struct Downstream {
    informers: Informers,
    hub: CloudHub,
    reconciler: SyncController,
    metrics: Metrics,
}

impl Downstream {
    async fn changed(&self, change: DeviceChange) {
        for (node, message) in messages(change) {
            // A Go edge hands a device to its mapper when it comes, and never again: SyncController sends it after its model.
            if message.operation == Operation::Delete || self.compares(&node) || !self.waits(&node, &message) {
                self.send(&node, message).await;
            }
        }
    }

    fn waits(&self, node: &NodeName, message: &Message) -> bool {
        match &message.route {
            Route::Object(path) => self.reconciler.waits(node, path),
            _ => false,
        }
    }

    /// All devices are known now: what nodes that were answered before could not be told. Go edges get it from SyncController.
    async fn known(&self) {
        for node in self.hub.connected() {
            if self.compares(&node) {
                match inventory::devices_known(&self.informers, &node).await {
                    Ok(messages) => {
                        for message in messages {
                            self.send(&node, message).await;
                        }
                    }
                    Err(error) => {
                        warn!(%node, %error, "the devices of a node cannot be read, it gets them when it connects again");
                    }
                }
            }
            let members = self.informers.devices().members(&node);
            self.send(&node, detail(members)).await;
        }
    }

    /// Whether the node compares inventories.
    fn compares(&self, node: &NodeName) -> bool {
        self.hub.features(node).is_some_and(|features| features.has_inventory())
    }

    async fn send(&self, node: &NodeName, message: Message) {
        if self.hub.is_connected(node) {
            debug!(%node, resource = %message.route, operation = %message.operation, version = message.version, "sent to node");
            self.metrics.sent(&message);
            self.hub.send(node, message).await;
        }
    }
}

/// What a change means for nodes, in order. Pure.
pub(super) fn messages(change: DeviceChange) -> Vec<(NodeName, Message)> {
    use Operation::{Delete, Insert, Update};
    let (node, messages) = match change {
        DeviceChange::Ready => return Vec::new(),
        DeviceChange::Model {
            nodes,
            operation,
            model,
        } => {
            let message = |node| (node, object(Kind::DeviceModel, operation.clone(), &model));
            return nodes.into_iter().map(message).collect();
        }
        DeviceChange::Added { node, device, model } => {
            let added = MembershipUpdate {
                added_devices: Some(vec![member(&device)]),
                ..new_update()
            };
            let model = model.map(|model| object(Kind::DeviceModel, Insert, &model));
            (
                node,
                [
                    Some(membership(&added)),
                    model,
                    Some(object(Kind::Device, Insert, &device)),
                ],
            )
        }
        DeviceChange::Updated { node, device, model } => {
            let model = model.map(|model| object(Kind::DeviceModel, Insert, &model));
            (node, [None, model, Some(object(Kind::Device, Update, &device))])
        }
        DeviceChange::Removed { node, device, model } => {
            let removed = MembershipUpdate {
                removed_devices: Some(vec![Member {
                    twin: None,
                    ..member(&device)
                }]),
                ..new_update()
            };
            let model = model.map(|model| object(Kind::DeviceModel, Delete, &model));
            (
                node,
                [
                    Some(membership(&removed)),
                    model,
                    Some(object(Kind::Device, Delete, &device)),
                ],
            )
        }
    };
    messages
        .into_iter()
        .flatten()
        .map(|message| (node.clone(), message))
        .collect()
}

/// All devices of a node. Without a parent id: with one a Go edge would take it for a mere confirmation (spec 03 §2.3).
pub(super) fn detail(devices: Vec<Member>) -> Message {
    let update = new_update();
    let detail = MembershipDetail {
        event_id: update.event_id,
        timestamp: update.timestamp,
        devices,
    };
    to_twin(Operation::Update, Route::MembershipDetail, Content::json(&detail))
}

/// The confirmation of a report.
pub(crate) fn confirmation(report: &MsgId) -> Message {
    to_twin(Operation::Response, Route::Other("twin".into()), Content::ok()).answering(report)
}

fn membership(update: &MembershipUpdate) -> Message {
    to_twin(Operation::Update, Route::Membership, Content::json(update))
}

fn new_update() -> MembershipUpdate {
    MembershipUpdate {
        event_id: MsgId::random().to_string(),
        timestamp: proto::message::now_millis(),
        ..MembershipUpdate::default()
    }
}

fn to_twin(operation: Operation, route: Route, content: Content) -> Message {
    Message::new(Source::DeviceController, Group::Twin, operation, route, content)
}

fn object(kind: Kind, operation: Operation, object: &Object) -> Message {
    let path = ObjectPath::new(object.namespace(), kind, object.name());
    object_message(path, operation, object)
}

fn member(device: &Object) -> Member {
    let facts = DeviceFacts::of(device).unwrap_or_default();
    member_of(device, &facts.description)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, labels: &[(&str, &str)]) -> Object {
        let labels: std::collections::BTreeMap<_, _> = labels.iter().copied().collect();
        let metadata = json!({"name": name, "namespace": "ns", "uid": "u", "resourceVersion": "7", "labels": labels});
        Object::from_value(&json!({"kind": "Device", "metadata": metadata})).expect("object")
    }

    /// `source group operation resource version`.
    fn lines(change: DeviceChange) -> Vec<String> {
        let line = |(node, message): (NodeName, Message)| {
            let Message {
                source,
                group,
                operation,
                route,
                version,
                parent,
                ..
            } = message;
            assert!(parent.is_none(), "with a parent id it would be a confirmation");
            format!("{node}: {source} {group} {operation} {route} {version}")
        };
        messages(change).into_iter().map(line).collect()
    }

    #[test]
    fn a_device_comes_after_its_membership_and_its_model() {
        let (node, device, model) = (NodeName::from("n"), object("d", &[]), Some(object("m", &[])));
        assert_eq!(
            lines(DeviceChange::Added {
                node: node.clone(),
                device: device.clone(),
                model: model.clone(),
            }),
            [
                "n: devicecontroller twin update membership ",
                "n: devicecontroller resource insert ns/devicemodel/m 7",
                "n: devicecontroller resource insert ns/device/d 7",
            ]
        );
        assert_eq!(
            lines(DeviceChange::Removed {
                node: node.clone(),
                device: device.clone(),
                model
            }),
            [
                "n: devicecontroller twin update membership ",
                "n: devicecontroller resource delete ns/devicemodel/m 7",
                "n: devicecontroller resource delete ns/device/d 7",
            ]
        );
        assert_eq!(
            lines(DeviceChange::Updated {
                node,
                device,
                model: None,
            }),
            ["n: devicecontroller resource update ns/device/d 7"]
        );
    }

    #[test]
    fn a_model_goes_to_every_node_that_uses_it() {
        let change = DeviceChange::Model {
            nodes: vec!["a".into(), "b".into()],
            operation: Operation::Update,
            model: object("m", &[]),
        };
        assert_eq!(
            lines(change),
            [
                "a: devicecontroller resource update ns/devicemodel/m 7",
                "b: devicecontroller resource update ns/devicemodel/m 7",
            ]
        );
    }

    #[test]
    fn memberships_tell_the_description_and_empty_twins() {
        let device = object("d", &[("description", "a thermometer")]);
        let sent = messages(DeviceChange::Added {
            node: "n".into(),
            device,
            model: None,
        });
        let content: serde_json::Value = sent[0].1.content.parse().expect("JSON");
        assert_eq!(
            content["added_devices"],
            json!([{"id": "ns/d", "name": "d", "description": "a thermometer", "twin": {}}])
        );
        assert!(content["removed_devices"].is_null() && content.get("removed_devices").is_some());
    }

    #[test]
    fn a_confirmation_answers_its_report() {
        let message = confirmation(&"id".into());
        let told = (
            message.parent.map(|id| id.to_string()),
            message.route.render(),
            message.content.get().to_owned(),
        );
        assert_eq!(told, (Some("id".into()), "twin".into(), r#""OK""#.into()));
    }
}
