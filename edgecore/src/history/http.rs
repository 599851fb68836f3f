//! `GET /devices/<namespace>/<name>/history` of the local server.

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use proto::device::{DeviceId, Found, HistoryAnswer};

use super::question::Question;
use super::{History, HistoryError};

impl History {
    /// The paths, for the local server.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/devices/{namespace}/{name}/history", get(history))
            .with_state(self.clone())
    }
}

async fn history(
    State(history): State<History>,
    Path((namespace, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let device = DeviceId::new(namespace, name);
    let found = match Question::of_query(query.as_deref().unwrap_or_default()) {
        Ok(question) => history.remembered(&device, question).await,
        Err(error) => Err(error.into()),
    };
    let (status, device, found) = match found {
        Ok(found) => (StatusCode::OK, Some(device.to_string()), Found::Remembered(found)),
        Err(error) => (status(&error), None, refused(&error)),
    };
    let answer = HistoryAnswer {
        event_id: None,
        timestamp: None,
        device,
        found,
    };
    (status, [(header::CONTENT_TYPE, "application/json")], answer.to_json()).into_response()
}

fn status(error: &HistoryError) -> StatusCode {
    StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

pub(super) fn refused(error: &HistoryError) -> Found {
    Found::Refused {
        code: error.code(),
        reason: error.to_string(),
    }
}
