//! Kubernetes' signer of kubelets' certificates: a request, our own approval of it, and the certificate.
//!
//! Kubernetes approves no request for this signer by itself; cloudcore may, for requests it has made. The controller manager signs.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use proto::NodeName;
use proto::join::{ServerNames, ServingRequest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::signer::{LIFETIME, SignError, Signed, Signer};

const SIGNER: &str = "kubernetes.io/kubelet-serving";

/// The signer demands a node's name.
const NODE: &str = "cloudcore-stream";

/// How long the controller manager may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why there is no certificate.
#[derive(Debug, Error)]
pub(super) enum CsrError {
    /// The API refuses the request.
    #[error("the request is not accepted: may cloudcore create certificatesigningrequests?")]
    Create(#[source] Box<kube::Error>),
    /// The API refuses the approval.
    #[error(
        "the request {name} is not approved: may cloudcore patch certificatesigningrequests/approval and approve for the signer?"
    )]
    Approve {
        /// The request.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The request cannot be read back.
    #[error("the request {name} cannot be read")]
    Read {
        /// The request.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// Somebody said no.
    #[error("the request {name} was {verdict}: {message}")]
    Refused {
        /// The request.
        name: String,
        /// `Denied` or `Failed`.
        verdict: String,
        /// What was given as the reason.
        message: String,
    },
    /// Nobody signs.
    #[error(
        "the request {name} was not signed within {} s: does the controller manager sign for kubelets (--cluster-signing-cert-file or --cluster-signing-kubelet-serving-cert-file)?", PATIENCE.as_secs()
    )]
    Unsigned {
        /// The request.
        name: String,
    },
    /// No PEM.
    #[error("the request {0} was answered with something that is no certificate")]
    Garbage(String),
}

/// The signer.
pub(super) struct KubeletServing {
    requests: Api<CertificateSigningRequest>,
}

impl KubeletServing {
    pub(super) fn new(client: Client) -> Self {
        Self {
            requests: Api::all(client),
        }
    }

    async fn ask(&self, names: &ServerNames) -> Result<Signed, SignError> {
        let ServingRequest { pem, key } = ServingRequest::new(&NodeName::from(NODE), names)?;
        let request = CertificateSigningRequest {
            metadata: ObjectMeta {
                generate_name: Some("cloudcore-stream-".to_owned()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: SIGNER.to_owned(),
                usages: Some(["digital signature", "server auth"].map(String::from).into()),
                expiration_seconds: i32::try_from(LIFETIME.as_secs()).ok(),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        let created = self.requests.create(&PostParams::default(), &request).await;
        let request = created.map_err(|error| CsrError::Create(Box::new(error)))?;
        let name = request.metadata.name.unwrap_or_default();
        let status = CertificateSigningRequestStatus {
            conditions: Some(vec![approval()]),
            certificate: None,
        };
        let patch = Patch::Merge(json!({ "status": status }));
        let approved = self
            .requests
            .patch_approval(&name, &PatchParams::default(), &patch)
            .await;
        approved.map_err(|source| CsrError::Approve {
            name: name.clone(),
            source: Box::new(source),
        })?;
        Signed::new(self.wait(&name).await?, key)
    }

    async fn wait(&self, name: &str) -> Result<Vec<CertificateDer<'static>>, CsrError> {
        let name = || name.to_owned();
        let until = Instant::now() + PATIENCE;
        let mut pause = LOOKS.0;
        while Instant::now() < until {
            sleep(pause).await;
            pause = (pause * 2).min(LOOKS.1);
            let read = self.requests.get(&name()).await;
            let status = read.map_err(|source| CsrError::Read {
                name: name(),
                source: Box::new(source),
            })?;
            let status = status.status.unwrap_or_default();
            if let Some(ByteString(pem)) = status.certificate.filter(|pem| !pem.0.is_empty()) {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
                return chain.map_err(|_| CsrError::Garbage(name()));
            }
            let mut conditions = status.conditions.unwrap_or_default().into_iter();
            if let Some(verdict) = conditions.find(|one| one.type_ != APPROVED) {
                return Err(CsrError::Refused {
                    name: name(),
                    verdict: verdict.type_,
                    message: verdict.message.unwrap_or_default(),
                });
            }
        }
        Err(CsrError::Unsigned { name: name() })
    }
}

impl Signer for KubeletServing {
    fn name(&self) -> &'static str {
        SIGNER
    }

    /// Each request is an object in the API for an hour.
    fn settle(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn sign<'a>(&'a self, names: &'a ServerNames, _now: Duration) -> BoxFuture<'a, Result<Signed, SignError>> {
        Box::pin(self.ask(names))
    }
}

const APPROVED: &str = "Approved";

fn approval() -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: APPROVED.to_owned(),
        status: "True".to_owned(),
        reason: Some("CloudCoreStream".to_owned()),
        message: Some("cloudcore shows it to the API server in the place of its edges' kubelets".to_owned()),
        ..CertificateSigningRequestCondition::default()
    }
}
