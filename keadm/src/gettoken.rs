//! `keadm gettoken`: the token as cloudcore keeps it, and a newline.

use anyhow::{Context as _, anyhow};
use k8s_openapi::api::core::v1::Secret;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::cli::Gettoken;

pub(crate) async fn run(options: &Gettoken) -> anyhow::Result<()> {
    match token(options).await {
        Ok(token) => {
            println!("{token}");
            Ok(())
        }
        Err(error) => {
            println!("failed to get token, err is {error:#}");
            Err(error)
        }
    }
}

async fn token(options: &Gettoken) -> anyhow::Result<String> {
    let path = &options.kube_config;
    // The library's own text names the cause already.
    let file = Kubeconfig::read_from(path).map_err(|error| anyhow!("kubeconfig is not usable: {error}"))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("kubeconfig {} is not usable", path.display()))?;
    let url = config.cluster_url.to_string();
    let client = Client::try_from(config).context("no TLS with the Kubernetes API")?;
    let secret = Api::<Secret>::namespaced(client, NAMESPACE)
        .get(SECRET)
        .await
        .map_err(|error| match error {
            kube::Error::Api(status) if status.code == 404 => {
                anyhow!("secret {NAMESPACE}/{SECRET} not found: cloudcore makes it at its first start, is it running?")
            }
            error => {
                anyhow::Error::new(error).context(format!("secret {NAMESPACE}/{SECRET} could not be read from {url}"))
            }
        })?;
    let data = secret.data.and_then(|mut data| data.remove(KEY)).unwrap_or_default();
    String::from_utf8(data.0).with_context(|| format!("key {KEY} of secret {NAMESPACE}/{SECRET} is not text"))
}

const NAMESPACE: &str = "kubeedge";
const SECRET: &str = "tokensecret";
const KEY: &str = "tokendata";
