//! Service account tokens: cached in the database, renewed in time, served stale while offline (spec 05 §5.5).

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenRequest;
use proto::{Answer, Content, Kind, Message, Namespace, Object, ObjectName, ObjectPath, Operation, Uid};
use serde_json::json;
use tracing::{debug, warn};

use super::store::Op;
use super::{MetaManager, RequestError};

/// A token is renewed after this share of its life …
const RENEW_AT_PERCENT: i64 = 80;
/// … or at this age in seconds, whichever comes first.
const RENEW_AT_AGE: i64 = 24 * 3600;

/// What a token is asked for. Two requests that differ in any part have different tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// The namespace of the pod and of its account.
    pub namespace: Namespace,
    /// The service account.
    pub service_account: ObjectName,
    /// The audiences asked for; empty for the API server's own.
    pub audiences: Vec<String>,
    /// The life asked for, in seconds.
    pub expiration_seconds: i64,
    /// The pod that the token is bound to.
    pub pod_name: ObjectName,
    /// Its uid.
    pub pod_uid: Uid,
}

/// The key of the row: the text a Go edgecore looks for, made from the request (a Go edgecore makes it from the answer, whose
/// audiences the API server filled in, and so never finds it again).
impl fmt::Display for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}/", self.service_account.as_str(), self.namespace.as_str())?;
        if self.audiences.is_empty() {
            f.write_str("[]string(nil)")?;
        } else {
            f.write_str("[]string{")?;
            for (index, audience) in self.audiences.iter().enumerate() {
                write!(f, "{}{audience:?}", if index == 0 { "" } else { ", " })?;
            }
            f.write_str("}")?;
        }
        write!(
            f,
            "/{}/v1.BoundObjectReference{{Kind:\"Pod\", APIVersion:\"v1\", Name:{:?}, UID:{:?}}}",
            self.expiration_seconds,
            self.pod_name.as_str(),
            self.pod_uid.as_str()
        )
    }
}

impl MetaManager {
    /// A token: the stored one while it is young enough, else a new one; the stored one also when no new one is to be had.
    pub async fn token(&self, key: &TokenKey) -> Result<TokenRequest, RequestError> {
        let text = key.to_string();
        let _turn = self.turn(&text).await;
        let cached = self.cached_token(key, &text).await;
        if let Some(token) = &cached
            && is_young(token, Timestamp::now())
        {
            return Ok(token.clone());
        }
        match (self.fetch_token(key, text).await, cached) {
            (Ok(token), _) => Ok(token),
            (Err(error), Some(token)) => {
                let namespace = &key.namespace;
                let account = &key.service_account;
                if error.is_transient() {
                    debug!(%namespace, %account, error = common::chain(&error), "token not renewed, the last one is used");
                } else {
                    warn!(%namespace, %account, error = common::chain(&error), "token not renewed, the last one is used");
                }
                Ok(token)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn fetch_token(&self, key: &TokenKey, row: String) -> Result<TokenRequest, RequestError> {
        let path = ObjectPath::new(
            key.namespace.clone(),
            Kind::ServiceAccountToken,
            key.service_account.clone(),
        );
        let audiences = (!key.audiences.is_empty()).then_some(&key.audiences);
        let request = json!({
            "metadata": {"creationTimestamp": null},
            "spec": {
                "audiences": audiences,
                "expirationSeconds": key.expiration_seconds,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": key.pod_name, "uid": key.pod_uid},
            },
            "status": {"token": "", "expirationTimestamp": null},
        });
        let question = self.question(Operation::Query, path.clone(), Content::json(&request));
        let answer = self.ask(question, self.shared.settings.remote_timeout).await?;
        let outcome = read_token(&answer, &path);
        if let Ok((object, _)) = &outcome {
            let op = Op::PutText {
                key: row,
                kind: Kind::ServiceAccountToken.as_str().to_owned(),
                value: object.json().to_owned(),
            };
            if let Err(error) = self.shared.store.apply(vec![op]).await {
                warn!(account = %path, %error, "the token cannot be kept on disk");
            }
        }
        self.acknowledge(&answer).await;
        outcome.map(|(_, token)| token)
    }

    async fn cached_token(&self, key: &TokenKey, row: &str) -> Option<TokenRequest> {
        if let Ok(Some(text)) = self.shared.store.get(row.to_owned()).await
            && let Some(token) = parse(&text)
        {
            return Some(token);
        }
        // Rows of a Go edgecore: found by what they hold. The newest of them that serves.
        let rows = self.shared.store.rows("serviceaccounttoken").await.ok()?;
        rows.iter()
            .filter_map(|(_, text)| parse(text))
            .filter(|token| serves(token, key))
            .max_by_key(|token| token.status.as_ref().map(|status| status.expiration_timestamp.0))
    }
}

fn read_token(answer: &Message, path: &ObjectPath) -> Result<(Object, TokenRequest), RequestError> {
    let unreadable = |source| RequestError::Unreadable {
        what: path.to_string(),
        source,
    };
    let content = match answer.content.answer() {
        Answer::Failed(status) => return Err(RequestError::Refused(status.into())),
        Answer::Envelope(Some(content)) | Answer::Plain(content) => content,
        Answer::Envelope(None) | Answer::Ok => Content::null(),
    };
    let object = content.object().map_err(unreadable)?;
    let token = object.view().map_err(unreadable)?;
    Ok((object, token))
}

fn parse(text: &str) -> Option<TokenRequest> {
    Object::parse(text)
        .ok()?
        .view::<TokenRequest>()
        .ok()
        .filter(|token| token.status.is_some())
}

fn serves(token: &TokenRequest, key: &TokenKey) -> bool {
    let bound = token.spec.bound_object_ref.as_ref();
    token.metadata.name.as_deref() == Some(key.service_account.as_str())
        && token.metadata.namespace.as_deref() == Some(key.namespace.as_str())
        && bound.and_then(|bound| bound.uid.as_deref()) == Some(key.pod_uid.as_str())
        && key
            .audiences
            .iter()
            .all(|audience| token.spec.audiences.contains(audience))
}

/// Whether a token need not be renewed yet. A clock that stands before the token was issued says nothing: the token is used.
fn is_young(token: &TokenRequest, now: Timestamp) -> bool {
    let Some(status) = &token.status else { return false };
    let expires = status.expiration_timestamp.0.as_second();
    let life = token.spec.expiration_seconds.unwrap_or(3600).max(1);
    let age = now.as_second().saturating_sub(expires.saturating_sub(life));
    age < life.saturating_mul(RENEW_AT_PERCENT) / 100 && age < RENEW_AT_AGE
}
