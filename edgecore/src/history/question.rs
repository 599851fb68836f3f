//! What may be asked, with its limits.

use jiff::Timestamp;
use proto::device::HistoryRequest;
use thiserror::Error;

/// Values of one answer where the question does not say.
const DEFAULT_LIMIT: u32 = 1000;
/// Values of one answer at most.
const MOST: u32 = 10_000;

/// What is asked of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Which properties there are.
    Properties,
    /// Values of one.
    Values(Values),
}

/// Which values of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Values {
    pub(super) property: String,
    /// Not older than this, Unix time in milliseconds.
    pub(super) from: i64,
    /// Older than this.
    pub(super) to: i64,
    pub(super) limit: u32,
    /// Not this one and none before it, in the order asked for.
    pub(super) after: Option<Place>,
    /// Newest first.
    pub(super) newest: bool,
}

/// The place of a value among those of its property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) time: i64,
    pub(super) row: i64,
}

/// Why a question has no sense.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadQuestion {
    /// It cannot be read.
    #[error("the question cannot be read: {0}")]
    Payload(String),
    /// An unknown parameter.
    #[error("unknown parameter {0:?}: property, from, to, limit, after and order are known")]
    Parameter(String),
    /// No time.
    #[error("{key}: {value:?} is neither a Unix time in milliseconds nor a time like 2026-01-02T03:04:05Z")]
    Time {
        /// Its key.
        key: &'static str,
        /// As it was written.
        value: String,
    },
    /// No number of values.
    #[error("limit must be between 1 and {MOST}")]
    Limit,
    /// No order.
    #[error("order must be oldest or newest")]
    Order,
    /// Not from an answer.
    #[error("after must be the next of an answer")]
    After,
}

impl Question {
    /// From a query string: `property`, `from`, `to`, `limit`, `after`, `order`.
    pub(super) fn of_query(query: &str) -> Result<Self, BadQuestion> {
        let mut request = HistoryRequest::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "property" => request.property = Some(value.into_owned()),
                "from" => request.from = Some(time("from", &value)?),
                "to" => request.to = Some(time("to", &value)?),
                "limit" => request.limit = Some(value.parse().map_err(|_| BadQuestion::Limit)?),
                "after" => request.after = Some(value.into_owned()),
                "order" => {
                    request.newest = match &*value {
                        "oldest" => false,
                        "newest" => true,
                        _ => return Err(BadQuestion::Order),
                    }
                }
                other => return Err(BadQuestion::Parameter(other.to_owned())),
            }
        }
        Self::of(request)
    }

    /// From a question that was read.
    pub(super) fn of(request: HistoryRequest) -> Result<Self, BadQuestion> {
        let limit = match request.limit {
            None => DEFAULT_LIMIT,
            Some(limit) => u32::try_from(limit)
                .ok()
                .filter(|limit| (1..=MOST).contains(limit))
                .ok_or(BadQuestion::Limit)?,
        };
        let after = request.after.as_deref().map(Place::parse).transpose()?;
        let Some(property) = request.property else {
            return Ok(Self::Properties);
        };
        Ok(Self::Values(Values {
            property,
            from: request.from.unwrap_or(i64::MIN),
            to: request.to.unwrap_or(i64::MAX),
            limit,
            after,
            newest: request.newest,
        }))
    }
}

impl Place {
    fn parse(text: &str) -> Result<Self, BadQuestion> {
        let (time, row) = text.split_once('.').ok_or(BadQuestion::After)?;
        let number = |text: &str| text.parse().map_err(|_| BadQuestion::After);
        Ok(Self {
            time: number(time)?,
            row: number(row)?,
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.time, self.row)
    }
}

fn time(key: &'static str, value: &str) -> Result<i64, BadQuestion> {
    let millis = value.parse().ok();
    let written = || value.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
    millis.or_else(written).ok_or_else(|| BadQuestion::Time {
        key,
        value: value.to_owned(),
    })
}
