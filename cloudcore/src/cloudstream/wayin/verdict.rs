//! What a trial means. No I/O.

use super::Way;
use crate::cloudstream::diagnosis::{Hop, Report};
use crate::cloudstream::iptablesmanager::Redirects;
use crate::kubernetes::ApiError;

/// What it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Works(Way),
    /// Answered, but not from here.
    Elsewhere,
    /// The account may not ask.
    Untested,
    Broken {
        /// The first hop that failed.
        hop: Hop,
        /// What was seen there.
        text: String,
        /// What the operator can do, where that depends on this host.
        todo: &'static str,
    },
}

/// The name of what is broken.
pub(super) const NONE: &str = "none";
/// The values of the metric's label.
pub(super) const NAMES: [&str; 5] = ["redirect", "egress", "elsewhere", "untested", NONE];

impl Verdict {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Works(Way::Port) => "redirect",
            Self::Works(Way::Egress) => "egress",
            Self::Elsewhere => "elsewhere",
            Self::Untested => "untested",
            Self::Broken { .. } => NONE,
        }
    }

    /// Of an answer that says that it works, or that cloudcore may not ask; `None` when the way has to be walked. `seen` is how
    /// the request came to this stream server, if it did.
    pub(super) fn of<T>(answer: &Result<T, ApiError>, seen: Option<Way>) -> Option<Self> {
        match (answer, seen) {
            (Ok(_), Some(way)) => Some(Self::Works(way)),
            (Ok(_), None) => Some(Self::Elsewhere),
            (Err(error), None) if error.status().is_some_and(|status| status.code == 403) => Some(Self::Untested),
            (Err(_), _) => None,
        }
    }

    /// Of a walk; `None` when it found nothing broken. `redirects` is the state of this host's rules if cloudcore keeps them.
    pub(super) fn of_walk(report: &Report, redirects: Option<&Redirects>) -> Option<Self> {
        let broken = report.broken()?;
        Some(Self::Broken {
            hop: broken.hop,
            text: broken.text.clone(),
            todo: if broken.hop == Hop::Redirect {
                missing_way(redirects)
            } else {
                ""
            },
        })
    }
}

/// What helps when a request did not come to cloudcore at all.
fn missing_way(redirects: Option<&Redirects>) -> &'static str {
    match redirects {
        Some(Redirects::Kept { v6: false, .. }) => {
            "this host has no redirect rules for IPv6, which the node may be dialled by: install ip6tables, check that the kernel has a \
             nat table for IPv6, or run the DaemonSet of config/manifests/04-iptables-manager.yaml or modules.cloudStream.egress where the \
             API server is on another host"
        }
        Some(Redirects::Kept { v6: true, .. }) => {
            "redirect rules are on this host, but the API server is on another one: run the DaemonSet of \
             config/manifests/04-iptables-manager.yaml there, or use modules.cloudStream.egress with its EgressSelectorConfiguration"
        }
        Some(_) => {
            "this host has no redirect rules: run the DaemonSet of config/manifests/04-iptables-manager.yaml on the hosts of the API \
             servers, or use modules.cloudStream.egress with their EgressSelectorConfiguration"
        }
        None => {
            "cloudcore keeps no redirect rules by its configuration: check the DaemonSet of \
             config/manifests/04-iptables-manager.yaml, or use modules.cloudStream.egress with the API servers' \
             EgressSelectorConfiguration"
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::Status;

    use super::*;
    use crate::cloudstream::diagnosis::Finding;

    fn refused(code: u16) -> Result<(), ApiError> {
        Err(ApiError::Refused {
            verb: "GET",
            path: "/api/v1/nodes/edge-1/proxy/healthz".to_owned(),
            status: Status::failure(code, "Reason", "text").into(),
        })
    }

    #[test]
    fn answers_tell_the_way_or_nothing() {
        let name = |answer, seen| Verdict::of(&answer, seen).map(|verdict| verdict.name());
        assert_eq!(name(Ok(()), Some(Way::Port)), Some("redirect"));
        assert_eq!(name(Ok(()), Some(Way::Egress)), Some("egress"));
        assert_eq!(name(Ok(()), None), Some("elsewhere"));
        assert_eq!(name(refused(403), None), Some("untested"));
        assert_eq!(
            name(refused(403), Some(Way::Port)),
            None,
            "the stream server's own refusal"
        );
        assert_eq!(name(refused(503), None), None);
    }

    #[test]
    fn advice_fits_who_keeps_the_rules() {
        let report = |hop| Report {
            node: "edge-1".into(),
            findings: vec![Finding {
                hop,
                good: false,
                text: "seen".to_owned(),
            }],
        };
        let why = "no".to_owned();
        let states = [
            Some(Redirects::Kept { rules: 1, v6: true }),
            Some(Redirects::Kept { rules: 1, v6: false }),
            Some(Redirects::Unable { why }),
            None,
        ];
        let advice: std::collections::BTreeSet<_> = states
            .iter()
            .filter_map(|state| match Verdict::of_walk(&report(Hop::Redirect), state.as_ref()) {
                Some(Verdict::Broken { todo, .. }) => Some(todo),
                _ => None,
            })
            .collect();
        assert_eq!(advice.len(), 4);
        assert!(
            advice
                .iter()
                .all(|text| text.contains("04-iptables-manager.yaml") && text.contains("egress"))
        );
        let tunnel = Verdict::of_walk(&report(Hop::Tunnel), None);
        assert!(matches!(tunnel, Some(Verdict::Broken { todo: "", .. })), "{tunnel:?}");
    }
}
