//! What is asked for: the routes of a kubelet (spec 04 §7.1).

use std::time::Duration;

use http::StatusCode;
use proto::tunnel::ConnectKind;

use super::head::Head;
use super::lastword::Form;
use super::refusal::Refusal;
use crate::cloudstream::access::Right;

/// A request that a kubelet knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cloudstream) struct Route {
    /// Whose request it is.
    pub(super) scope: Scope,
    /// What the caller needs.
    pub(super) right: Right,
    /// How Go's cloudcore would send it.
    pub(super) go_kind: ConnectKind,
    /// How long the first byte of the answer may take; for ever where older kubelets send the head with the first line of a log.
    pub(super) patience: Option<Duration>,
    /// How the client is told when the stream breaks.
    pub(super) last_word: Form,
}

/// How the node is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// It is the pod's.
    Pod { namespace: String, name: String },
    /// It is the one that is named or dialled.
    Node,
}

impl Route {
    pub(in crate::cloudstream) fn of(head: &Head) -> Result<Self, Refusal> {
        let parts: Vec<&str> = head.path().split('/').skip(1).collect();
        // A path that another server might read as another one is nobody's.
        if parts.iter().any(|part| is_dots(part)) {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "the path of the request is not clean",
            ));
        }
        let verb = match head.method.as_str() {
            "GET" | "HEAD" => "get",
            "POST" => "create",
            _ => return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed")),
        };
        let right = |subresource| Right { verb, subresource };
        let pod = |namespace: &str, name: &str, go_kind| Self {
            scope: Scope::Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            right: right("proxy"),
            go_kind,
            patience: Some(PATIENCE),
            last_word: Form::None,
        };
        let command = |namespace: &str, name: &str, go_kind| Self {
            last_word: Form::Status,
            ..pod(namespace, name, go_kind)
        };
        let node = |subresource| Self {
            scope: Scope::Node,
            right: right(subresource),
            go_kind: ConnectKind::Metrics,
            patience: Some(PATIENCE),
            last_word: Form::None,
        };
        let route = match *parts.as_slice() {
            ["containerLogs", namespace, name, _] => Self {
                patience: (!follows(head.query())).then_some(PATIENCE),
                last_word: Form::Line,
                ..pod(namespace, name, ConnectKind::Logs)
            },
            ["exec", namespace, name, _] | ["exec", namespace, name, _, _] => {
                command(namespace, name, ConnectKind::Exec)
            }
            ["attach", namespace, name, _] | ["attach", namespace, name, _, _] => {
                command(namespace, name, ConnectKind::Attach)
            }
            ["portForward", namespace, name]
            | ["portForward", namespace, name, _]
            | ["run", namespace, name, _]
            | ["run", namespace, name, _, _]
            | ["checkpoint", namespace, name, _] => pod(namespace, name, ConnectKind::Exec),
            ["stats", ..] => node("stats"),
            ["metrics", ..] => node("metrics"),
            ["logs", ..] => node("log"),
            ["healthz", ..] => Self {
                patience: Some(PATIENCE_FOR_HEALTH),
                ..node("proxy")
            },
            ["pods"] | ["configz"] => node("proxy"),
            ["runningpods"] | ["runningpods", ""] => node("proxy"),
            _ => return Err(Refusal::new(StatusCode::NOT_FOUND, "404: Page Not Found")),
        };
        if let Scope::Pod { namespace, name } = &route.scope
            && (namespace.is_empty() || name.is_empty())
        {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "404: Page Not Found"));
        }
        Ok(route)
    }
}

fn follows(query: &str) -> bool {
    let mut values = query.split('&').filter_map(|pair| pair.strip_prefix("follow="));
    values.any(|value| matches!(value, "true" | "1" | "t" | "T" | "True" | "TRUE"))
}

fn is_dots(part: &str) -> bool {
    let plain = part.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".." || plain.contains("%2f") || plain.contains("%5c") || part.contains('\\')
}

/// How long an edge may take to begin an answer: a Go edge says nothing when its kubelet cannot be reached (spec 04 §14, T6).
const PATIENCE: Duration = Duration::from_secs(30);
/// The same where there is nothing to look for: who asks has a limit of its own.
const PATIENCE_FOR_HEALTH: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: &str, target: &str) -> Result<Route, u16> {
        let head = Head {
            method: method.into(),
            target: target.into(),
            headers: Vec::new(),
        };
        Route::of(&head).map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn routes_of_a_kubelet_with_what_they_need() {
        for (method, target, subresource, verb) in [
            ("GET", "/containerLogs/default/web-0/nginx?tailLines=5", "proxy", "get"),
            ("POST", "/exec/default/web-0/nginx?command=sh", "proxy", "create"),
            ("GET", "/exec/default/web-0/uid/nginx", "proxy", "get"),
            ("POST", "/attach/default/web-0/nginx", "proxy", "create"),
            ("POST", "/portForward/default/web-0", "proxy", "create"),
            ("GET", "/stats/summary", "stats", "get"),
            ("POST", "/stats/summary", "stats", "create"),
            ("GET", "/stats/default/web-0/uid/nginx", "stats", "get"),
            ("GET", "/metrics", "metrics", "get"),
            ("GET", "/metrics/resource", "metrics", "get"),
            ("GET", "/logs/kubelet.log", "log", "get"),
            ("GET", "/pods", "proxy", "get"),
            ("GET", "/runningpods/", "proxy", "get"),
            ("GET", "/healthz/syncloop", "proxy", "get"),
        ] {
            let found = route(method, target).expect(target);
            assert_eq!(
                (found.right.subresource, found.right.verb),
                (subresource, verb),
                "{target}"
            );
        }
    }

    #[test]
    fn what_concerns_a_pod_goes_by_the_pod_whatever_address_was_dialled() {
        for target in [
            "/containerLogs/a/b/c",
            "/exec/a/b/c",
            "/exec/a/b/uid/c",
            "/attach/a/b/c",
            "/attach/a/b/uid/c",
            "/portForward/a/b",
            "/portForward/a/b/uid",
            "/run/a/b/c",
            "/run/a/b/uid/c",
            "/checkpoint/a/b/c",
        ] {
            let (namespace, name) = ("a".to_owned(), "b".to_owned());
            let found = route("POST", target).expect(target);
            assert_eq!(found.scope, Scope::Pod { namespace, name }, "{target}");
        }
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for (method, target, status) in [
            ("GET", "/", 404),
            ("GET", "/containerLogs/default/web-0", 404),
            ("GET", "/exec//web-0/nginx", 404),
            ("GET", "/metrics/../exec/a/b/c", 400),
            ("GET", "/metrics/%2E%2e/exec/a/b/c", 400),
            ("DELETE", "/pods", 405),
        ] {
            assert_eq!(route(method, target), Err(status), "{target}");
        }
    }

    #[test]
    fn only_followed_logs_may_begin_late() {
        let follows =
            |query: &str| route("GET", &format!("/containerLogs/a/b/c?{query}")).map(|route| route.patience.is_none());
        assert_eq!(follows("follow=true&tailLines=1"), Ok(true));
        assert_eq!(follows("tailLines=1&follow=1"), Ok(true));
        assert_eq!(follows("follow=false"), Ok(false));
        assert_eq!(follows("unfollow=true"), Ok(false));
    }
}
