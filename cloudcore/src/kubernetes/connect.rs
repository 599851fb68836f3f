//! Which API server, and as whom.

use std::path::{Path, PathBuf};

use config::{CloudCore, Loaded};
use kube::config::{KubeConfigOptions, Kubeconfig};
use thiserror::Error;

use super::api::Kube;

/// `kubeAPIConfig`, checked.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The kubeconfig; with `master` absent too, the account of the pod that cloudcore runs in.
    pub kubeconfig: Option<PathBuf>,
    /// URL that takes the place of the kubeconfig's.
    pub master: Option<String>,
    /// Requests a second and in a burst, when the operator set them; otherwise the API server's own fairness rules.
    pub rate: Option<(u32, u32)>,
    /// Whether an answer that says "later" (429, 503, 504) is the answer. Otherwise the client asks again.
    pub ask_once: bool,
}

impl From<&Loaded<CloudCore>> for Access {
    /// `kubeAPIConfig`; a request rate holds only when the file sets it.
    fn from(loaded: &Loaded<CloudCore>) -> Self {
        let section = &loaded.config.kube_api_config;
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        let explicit = loaded.is_set("kubeAPIConfig.qps") || loaded.is_set("kubeAPIConfig.burst");
        let number = |value: i32| u32::try_from(value).unwrap_or(1);
        Self {
            kubeconfig: some(&section.kube_config).map(PathBuf::from),
            master: some(&section.master),
            rate: explicit.then(|| (number(section.qps), number(section.burst))),
            ask_once: false,
        }
    }
}

/// Why there is no way to the API server. Each says what to do.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig {} (kubeAPIConfig.kubeConfig, or --kubeconfig) cannot be used: check that it exists, is readable and has a current context", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// `master` is no URL.
    #[error("kubeAPIConfig.master {url:?} is no URL like https://192.0.2.1:6443")]
    Master {
        /// The text.
        url: String,
        /// What is wrong.
        #[source]
        source: http::uri::InvalidUri,
    },
    /// Not in a pod.
    #[error(
        "no kubeconfig is named, and this is no pod with a service account: set kubeAPIConfig.kubeConfig, or give --kubeconfig to \
         --diagnose and --iptables-manager"
    )]
    InCluster(#[source] Box<kube::config::InClusterError>),
    /// TLS or authentication of the kubeconfig is unusable.
    #[error(
        "the credentials for the API server cannot be used: check the certificates, keys and tokens that the kubeconfig names"
    )]
    Credentials(#[source] Box<kube::Error>),
}

impl Kube {
    /// Prepares the connection; nothing is sent yet.
    pub async fn connect(access: &Access) -> Result<Self, ConnectError> {
        let mut config = match (&access.kubeconfig, &access.master) {
            (Some(path), _) => from_file(path).await?,
            (None, Some(url)) => kube::Config::new(parse_url(url)?),
            (None, None) => kube::Config::incluster().map_err(|error| ConnectError::InCluster(error.into()))?,
        };
        if let (Some(_), Some(url)) = (&access.kubeconfig, &access.master) {
            config.cluster_url = parse_url(url)?;
        }
        config.default_retry = !access.ask_once;
        let authority = pem(config.root_cert.as_deref().unwrap_or_default());
        let client = |config: kube::Config| {
            kube::Client::try_from(config).map_err(|error: kube::Error| ConnectError::Credentials(error.into()))
        };
        let mut once = config.clone();
        once.default_retry = false;
        let once = client(once)?;
        Ok(Self::new(client(config)?, access.rate)
            .with_once(once)
            .with_authority(authority))
    }
}

async fn from_file(path: &Path) -> Result<kube::Config, ConnectError> {
    let failed = |source| ConnectError::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(failed)
}

/// Certificates in DER as one PEM text.
pub(crate) fn pem(certificates: &[Vec<u8>]) -> String {
    use base64::Engine as _;
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
        for line in encoded.as_bytes().chunks(PEM_LINE) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

fn parse_url(url: &str) -> Result<http::Uri, ConnectError> {
    url.parse().map_err(|source| ConnectError::Master {
        url: url.to_owned(),
        source,
    })
}

/// Characters a line of PEM.
const PEM_LINE: usize = 64;
