//! The CA of client certificates, from where the API server publishes it for servers like this one.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::tls::server::{ServerTlsError, client_verifier_of};
use common::{Tasks, chain};
use proto::Object;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::kubernetes::{CONFIG_MAPS, Detail, Kube, Seen, Selection, follow};

const NAMESPACE: &str = "kube-system";
/// Encoded for a URL.
const BY_NAME: &str = "metadata.name%3Dextension-apiserver-authentication";
const KEY: &str = "client-ca-file";
/// Events of the watch that may wait; when there are more the watch waits.
const EVENTS: usize = 8;

pub(super) fn start(kube: Kube, verifier: watch::Sender<Option<Arc<dyn ClientCertVerifier>>>, tasks: &Tasks) {
    let (out, mut events) = mpsc::channel(EVENTS);
    let selection = Selection {
        namespace: NAMESPACE,
        fields: BY_NAME,
        ..Selection::default()
    };
    tasks.spawn("watch", follow(kube, CONFIG_MAPS, selection, Detail::Whole, out));
    tasks.spawn("client CA of the cluster", async move {
        let mut listed = None;
        while let Some(seen) = events.recv().await {
            match seen {
                Seen::Listing => listed = None,
                Seen::Listed(object) if is_ours(&object) => listed = Some(object),
                Seen::Synced => tell(&verifier, listed.take().as_ref()),
                Seen::Added(object) | Seen::Modified(object) if is_ours(&object) => tell(&verifier, Some(&object)),
                Seen::Deleted(object) if is_ours(&object) => tell(&verifier, None),
                Seen::Listed(_) | Seen::Added(_) | Seen::Modified(_) | Seen::Deleted(_) => {}
            }
        }
    });
}

fn is_ours(object: &Object) -> bool {
    object.namespace().as_str() == NAMESPACE
}

/// The last CA holds while a new one cannot be used.
fn tell(verifier: &watch::Sender<Option<Arc<dyn ClientCertVerifier>>>, object: Option<&Object>) {
    let Some(pem) = object.and_then(client_ca_file) else {
        warn!(
            "the ConfigMap kube-system/extension-apiserver-authentication names no client-ca-file: the stream server knows \
             callers by their tokens only, and the API server has none (start it with --client-ca-file)"
        );
        verifier.send_replace(None);
        return;
    };
    match read(&pem) {
        Ok(read) => {
            info!("the cluster's client CA is known");
            verifier.send_replace(Some(read));
        }
        Err(error) => warn!(
            error = chain(&error),
            "client-ca-file of the ConfigMap kube-system/extension-apiserver-authentication cannot be used, the last one holds"
        ),
    }
}

fn client_ca_file(object: &Object) -> Option<String> {
    #[derive(Deserialize)]
    struct View {
        data: Option<BTreeMap<String, String>>,
    }
    object.view::<View>().ok()?.data?.remove(KEY)
}

pub(super) fn read(pem: &str) -> Result<Arc<dyn ClientCertVerifier>, ServerTlsError> {
    let roots: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().collect();
    client_verifier_of(&roots)
}
