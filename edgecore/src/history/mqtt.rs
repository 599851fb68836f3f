//! Questions on `$hw/events/device/<namespace>/<name>/history/get`, answered on `…/history/get/result`.

use bytes::Bytes;
use jiff::Timestamp;
use proto::device::{DeviceId, Found, HistoryAnswer, HistoryRequest};

use super::http::refused;
use super::question::{BadQuestion, Question};
use super::{History, HistoryError};
use crate::devicetwin::Publication;

/// What EventBus subscribes where there is a history.
pub const FILTER: &str = "$hw/events/device/+/+/history/get";

/// Whether a topic asks the history.
pub fn is_question(topic: &str) -> bool {
    device(topic).is_some()
}

impl History {
    /// The answer to a message on a topic that [`is_question`] knows; `None` for any other.
    pub async fn answer(&self, topic: &str, payload: &[u8]) -> Option<Publication> {
        let device = device(topic)?;
        let (event_id, found) = match HistoryRequest::parse(payload) {
            Ok(mut request) => {
                let event_id = std::mem::take(&mut request.event_id);
                (event_id, self.found(&device, request).await)
            }
            Err(error) => (String::new(), Err(BadQuestion::Payload(error.to_string()).into())),
        };
        let answer = HistoryAnswer {
            event_id: Some(event_id),
            timestamp: Some(Timestamp::now().as_millisecond()),
            device: found.is_ok().then(|| device.to_string()),
            found: found.unwrap_or_else(|error| refused(&error)),
        };
        Some(Publication {
            topic: format!("{topic}/result"),
            payload: Bytes::from(answer.to_json()),
        })
    }

    async fn found(&self, device: &DeviceId, request: HistoryRequest) -> Result<Found, HistoryError> {
        let question = Question::of(request)?;
        self.remembered(device, question).await.map(Found::Remembered)
    }
}

fn device(topic: &str) -> Option<DeviceId> {
    let id = topic.strip_prefix("$hw/events/device/")?.strip_suffix("/history/get")?;
    DeviceId::parse(id).filter(|id| !id.namespace.as_str().is_empty())
}
