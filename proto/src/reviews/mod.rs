//! What the API server asks a webhook: to convert objects ([`convert`]), whether one may be stored ([`admit`]).
//!
//! Each takes the body of a request and gives the body of the answer. What cannot be done with the objects is said in the answer;
//! an error is a body that is no such question. Objects pass as raw JSON, one at a time.

mod admission;
mod conversion;

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

pub use admission::admit;
pub use conversion::convert;

/// The largest list of objects to convert: 64 MiB. The API server asks for all objects of a list at once, which is 30,000 devices of
/// ten properties; a client that wants more asks in pages, as kubectl does.
pub const MAX_CONVERSION: usize = 64 * 1024 * 1024;

/// The largest question about one object, which comes with the one before it: the API server takes objects up to 3 MiB.
pub const MAX_ADMISSION: usize = 8 * 1024 * 1024;

/// Why a body is no question.
#[derive(Debug, Error)]
pub enum BadReview {
    /// It is larger than the limit.
    #[error("review of {0} bytes is over the limit of {1}")]
    TooLarge(usize, usize),
    /// It is not JSON, or lacks something.
    #[error("body is no review")]
    Json(#[source] serde_json::Error),
    /// Another kind or version.
    #[error("{0:?} is not the review that is answered here")]
    Kind(String),
}

/// The question around its request.
#[derive(Deserialize)]
struct Review<'a> {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(borrow)]
    request: &'a RawValue,
}

/// The request of a review of this version and kind.
fn request<'a, T: Deserialize<'a>>(body: &'a [u8], limit: usize, version: &str, kind: &str) -> Result<T, BadReview> {
    if body.len() > limit {
        return Err(BadReview::TooLarge(body.len(), limit));
    }
    let review: Review<'a> = serde_json::from_slice(body).map_err(BadReview::Json)?;
    if review.api_version != version || review.kind != kind {
        let given = format!("{} {}", review.api_version, review.kind);
        return Err(BadReview::Kind(given.chars().take(100).collect()));
    }
    serde_json::from_str(review.request.get()).map_err(BadReview::Json)
}
