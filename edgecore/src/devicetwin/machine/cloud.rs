//! What the cloud says of twins (spec 03 §3, "From"): by the route alone, whatever its source. Membership is next door.

use proto::device::{DeviceId, MembershipDetail, MembershipUpdate, TwinMap, TwinUpdate};
use proto::{Message, Route};
use tracing::{debug, warn};

use super::requests::{document, told_delta};
use super::twin::{self, Context};
use super::{Following, Machine, Now};

impl Machine {
    pub(super) fn cloud(&mut self, message: &Message, now: Now) {
        let payload = message.content.document();
        let taken = match &message.route {
            Route::Membership => MembershipUpdate::parse(payload.as_bytes()).map(|update| self.members(update, now)),
            Route::MembershipDetail => {
                MembershipDetail::parse(payload.as_bytes()).map(|detail| self.all_members(detail, now))
            }
            route => match cloud_updated(route) {
                Some(device) => TwinUpdate::parse(payload.as_bytes()).map(|update| {
                    self.sync(&device, update.event_id, &update.twin.unwrap_or_default(), now);
                }),
                None => {
                    debug!(%route, operation = %message.operation, source = %message.source, "message about devices ignored");
                    Ok(())
                }
            },
        };
        if let Err(error) = taken {
            warn!(route = %message.route, error = common::chain(&error), "cloudcore sent what cannot be read");
        }
    }

    /// Twins as the cloud has them.
    pub(super) fn sync(&mut self, id: &DeviceId, event_id: String, entries: &TwinMap, now: Now) {
        let mut next_row = self.next_row;
        if self.device(id).is_none() {
            return;
        }
        let stage = self.stage(id);
        let Some(device) = stage.device.as_mut() else { return };
        let mut context = Context {
            millis: now.millis,
            next_row: &mut next_row,
        };
        let changes = twin::sync(device, entries, &mut context);
        let delta = device.delta();
        stage.twins.extend(changes.document.keys().cloned());
        for (name, sides) in &changes.report {
            let waiting = stage.report.entry(name.clone()).or_default();
            *waiting = waiting.and(*sides);
        }
        self.next_row = next_row;
        let mut publications: Vec<_> = document(id, event_id, changes.document, now).into_iter().collect();
        publications.extend(delta.map(|delta| told_delta(id, delta, now)));
        self.staged.outcomes.push(Following {
            publications,
            ..Following::default()
        });
    }
}

/// `device/<id>/twin/cloud_updated`.
fn cloud_updated(route: &Route) -> Option<DeviceId> {
    let Route::Other(text) = route else { return None };
    DeviceId::parse(text.strip_prefix("device/")?.strip_suffix("/twin/cloud_updated")?)
}
