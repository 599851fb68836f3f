//! What a trial means. No I/O.

use common::chain;

use super::Way;
use crate::cloudstream::iptablesmanager::Redirects;
use crate::kubernetes::ApiError;

/// What became of a trial.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The API server's answer, which is the kubelet's when all is well.
    pub(super) answer: Result<(), ApiError>,
    /// How the request came to this stream server, if it did.
    pub(super) seen: Option<Way>,
}

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
        hop: &'static str,
        /// What the operator can do.
        todo: &'static str,
        /// Who said what.
        said: String,
    },
}

/// The values of the metric's label.
pub(super) const NAMES: [&str; 5] = ["redirect", "egress", "elsewhere", "untested", "none"];

impl Verdict {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Works(Way::Port) => "redirect",
            Self::Works(Way::Egress) => "egress",
            Self::Elsewhere => "elsewhere",
            Self::Untested => "untested",
            Self::Broken { .. } => "none",
        }
    }

    pub(super) const fn is_broken(&self) -> bool {
        matches!(self, Self::Broken { .. })
    }
}

/// Judges a trial, knowing the state of the redirect rules of this host if cloudcore keeps them.
pub(super) fn judge(outcome: Outcome, redirects: Option<&Redirects>) -> Verdict {
    let Outcome { answer, seen } = outcome;
    let error = match (answer, seen) {
        (Ok(()), Some(way)) => return Verdict::Works(way),
        (Ok(()), None) => return Verdict::Elsewhere,
        (Err(error), _) => error,
    };
    let code = error.status().map_or(0, |status| status.code);
    let said = chain(&error);
    let lower = said.to_lowercase();
    let (hop, todo) = if seen.is_some() {
        match code {
            401 | 403 => (
                "stream server",
                "the API server's client certificate for kubelets must be of its client-ca-file and have rights on nodes/proxy \
                 (--kubelet-client-certificate)",
            ),
            _ => (
                "edge",
                "the request came to cloudcore, the edge did not answer it: look at the log of its edgecore",
            ),
        }
    } else if code == 403 {
        return Verdict::Untested;
    } else if code == 0 || code == 429 {
        ("API server", "the API server does not answer cloudcore itself")
    } else if lower.contains("x509") || lower.contains("certificate") {
        (
            "stream certificate",
            "the API server verifies kubelets: set modules.cloudStream.streamCertSigner to kubelet-serving",
        )
    } else {
        ("redirect", missing_way(redirects))
    };
    Verdict::Broken { hop, todo, said }
}

/// What helps when a request did not come to cloudcore at all.
fn missing_way(redirects: Option<&Redirects>) -> &'static str {
    match redirects {
        Some(Redirects::Kept { .. }) => {
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

    fn refused(code: u16, text: &str) -> Result<(), ApiError> {
        Err(ApiError::Refused {
            verb: "GET",
            path: "/api/v1/nodes/edge-1/proxy/healthz".to_owned(),
            status: Status::failure(code, "Reason", text).into(),
        })
    }

    fn hop(answer: Result<(), ApiError>, seen: Option<Way>, redirects: Option<&Redirects>) -> &'static str {
        match judge(Outcome { answer, seen }, redirects) {
            Verdict::Broken { hop, .. } => hop,
            other => other.name(),
        }
    }

    #[test]
    fn each_hop_is_told_from_the_next() {
        let refusal = "error trying to reach service: dial tcp 10.0.0.2:10351: connect: connection refused";
        let certificate = "error trying to reach service: tls: failed to verify certificate: x509: certificate signed by unknown authority";
        let forbidden = "nodes \"edge-1\" is forbidden: User \"cloudcore\" cannot get resource \"nodes/proxy\"";
        assert_eq!(hop(Ok(()), Some(Way::Port), None), "redirect");
        assert_eq!(hop(Ok(()), Some(Way::Egress), None), "egress");
        assert_eq!(hop(Ok(()), None, None), "elsewhere");
        assert_eq!(hop(refused(403, forbidden), None, None), "untested");
        assert_eq!(
            hop(refused(503, refusal), None, Some(&Redirects::Kept { rules: 1 })),
            "redirect"
        );
        assert_eq!(hop(refused(503, certificate), None, None), "stream certificate");
        assert_eq!(hop(refused(403, "Forbidden"), Some(Way::Port), None), "stream server");
        assert_eq!(
            hop(
                refused(503, "edge node edge-1: the tunnel has ended"),
                Some(Way::Port),
                None
            ),
            "edge"
        );
    }

    #[test]
    fn advice_fits_who_keeps_the_rules() {
        let states = [
            Some(Redirects::Kept { rules: 1 }),
            Some(Redirects::Unable { why: "no".to_owned() }),
            None,
        ];
        let advice: std::collections::BTreeSet<_> = states.iter().map(|state| missing_way(state.as_ref())).collect();
        assert_eq!(advice.len(), 3);
        assert!(
            advice
                .iter()
                .all(|text| text.contains("04-iptables-manager.yaml") && text.contains("egress"))
        );
    }
}
