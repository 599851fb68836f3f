//! cloudcore.yaml.
//!
//! Owns: the tree of sections with their defaults, its checks, what stays off. Reads: one file's text and the host's facts.
//! Emits: [`CloudCore`], or all problems at once. Must not: start anything, read the environment, know edgecore.yaml.
//! Source: spec 06 §1.3 to §1.5; values observed with `cloudcore --defaultconfig` of KubeEdge v1.23.

mod controllers;
mod hub;
mod legacy;
mod validate;
mod webhook;

use std::collections::BTreeMap;
use std::path::Path;

pub use controllers::*;
pub use hub::{
    AuthorizationMode, CloudHub, CloudHubAuthorization, CloudHubHttps, CloudHubQuic, CloudHubUnixSocket,
    CloudHubWebSocket, CloudStream, CloudStreamEgress, IptablesManager, IptablesMode, NodeAuthorization, Router,
    StreamCertSigner,
};
pub use webhook::Webhook;

use crate::checks::Checks;
use crate::decode::{Value, section};
use crate::{Files, HostFacts, LoadError, Loaded, Problems, load, yaml};

section! {
    /// The whole of cloudcore.yaml.
    pub struct CloudCore {
        /// Never checked.
        "apiVersion" omit api_version: String = "cloudcore.config.kubeedge.io/v1alpha1".into();
        /// Never checked.
        "kind" omit kind: String = "CloudCore".into();
        /// Things that belong to no module.
        "commonConfig" always common_config: CommonConfig = CommonConfig::default();
        /// The way to the API server.
        "kubeAPIConfig" always kube_api_config: KubeApiConfig = KubeApiConfig::default();
        /// The modules.
        "modules" always modules: Modules = Modules::default();
        /// Gates by name.
        "featureGates" omit feature_gates: BTreeMap<String, bool> = BTreeMap::new();
    }
}

section! {
    /// `commonConfig`.
    pub struct CommonConfig {
        /// Always replaced by the port negotiated with other replicas.
        "tunnelPort" omit tunnel_port: i32 = 10350;
        /// Metrics and profiles.
        "monitorServer" always monitor_server: MonitorServer = MonitorServer::default();
    }
}

section! {
    /// `commonConfig.monitorServer`.
    pub struct MonitorServer null keeps {
        /// IP and port.
        "bindAddress" omit bind_address: String = "127.0.0.1:9091".into();
        /// Whether profiles are served.
        "enableProfiling" omit enable_profiling: bool = false;
    }
}

section! {
    /// `kubeAPIConfig`: with `master` and `kubeConfig` empty the in-cluster account is used.
    pub struct KubeApiConfig {
        /// URL that overrides the kubeconfig's.
        "master" always master: String = String::new();
        /// Accepted, without effect.
        "contentType" omit content_type: String = "application/vnd.kubernetes.protobuf".into();
        /// Requests a second; by default five for each edge of `nodeLimit`.
        "qps" omit qps: i32 = 2500;
        /// Requests in a burst; by default ten for each edge of `nodeLimit`.
        "burst" omit burst: i32 = 5000;
        /// Absolute path.
        "kubeConfig" always kube_config: String = String::new();
    }
}

section! {
    /// `modules`.
    pub struct Modules {
        /// Connections and certificates of edges.
        "cloudHub" always cloud_hub: CloudHub = CloudHub::default();
        /// Pods and nodes.
        "edgeController" always edge_controller: EdgeController = EdgeController::default();
        /// Devices.
        "deviceController" always device_controller: DeviceController = DeviceController::default();
        /// Jobs on nodes.
        "taskManager" always task_manager: TaskManager = TaskManager::default();
        /// Comparison of edge and API.
        "syncController" always sync_controller: SyncController = SyncController::default();
        /// Any resource for the edge API.
        "dynamicController" always dynamic_controller: DynamicController = DynamicController::default();
        /// Logs, exec, metrics.
        "cloudStream" always cloud_stream: CloudStream = CloudStream::default();
        /// Rules.
        "router" always router: Router = Router::default();
        /// Redirect rules.
        "iptablesManager" always iptables_manager: IptablesManager = IptablesManager::default();
        /// Versions and checks of devices. Only ours.
        "webhook" hidden webhook: Webhook = Webhook::default();
    }
}

impl CloudCore {
    /// What holds where the file says nothing.
    #[must_use]
    pub fn defaults(host: &HostFacts) -> Self {
        let mut all = Self::default();
        all.modules.cloud_hub.advertise_address = vec![host.local_ip.clone()];
        all
    }

    /// Reads `text` over the defaults and checks the result; all problems at once.
    pub fn parse(text: &str, host: &HostFacts, files: &dyn Files) -> Result<Loaded<Self>, Problems> {
        load::decode(text, Self::defaults(host), legacy::translate, |config, reader| {
            validate::check(config, host, Checks { files, reader });
        })
    }

    /// Reads the file at `path`.
    pub fn load(path: &Path, host: &HostFacts, files: &dyn Files) -> Result<Loaded<Self>, LoadError> {
        let text = load::read(path)?;
        Self::parse(&text, host, files).map_err(|problems| LoadError::Wrong(path.to_owned(), problems))
    }

    /// The configuration as a file, keys sorted.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        yaml::write(&self.tree())
    }

    /// What is turned off, each with the key that turns it on: for one line at the start.
    #[must_use]
    pub fn stays_off(&self) -> Vec<String> {
        let modules = &self.modules;
        let all = [
            (
                modules.cloud_hub.enable,
                "edges' connections",
                "modules.cloudHub.enable",
            ),
            (
                modules.cloud_hub.authorization.enable,
                "checks of what an edge may do",
                "modules.cloudHub.authorization.enable",
            ),
            (
                modules.edge_controller.enable,
                "pods and nodes",
                "modules.edgeController.enable",
            ),
            (
                modules.device_controller.enable,
                "devices",
                "modules.deviceController.enable",
            ),
            (
                modules.sync_controller.enable,
                "comparison of edges with the API",
                "modules.syncController.enable",
            ),
            (
                modules.dynamic_controller.enable,
                "resources for the edge API",
                "modules.dynamicController.enable",
            ),
            (
                modules.cloud_stream.enable,
                "logs, exec, metrics",
                "modules.cloudStream.enable",
            ),
            (
                modules.iptables_manager.enable,
                "redirect rules",
                "modules.iptablesManager.enable",
            ),
            (
                modules.router.enable,
                "rules between cloud and edge",
                "modules.router.enable",
            ),
            (
                modules.task_manager.enable,
                "jobs on nodes",
                "modules.taskManager.enable",
            ),
            (
                modules.webhook.enable,
                "devices in v1alpha2 and checks of their names",
                "modules.webhook.enable",
            ),
        ];
        all.into_iter()
            .filter(|(on, _, _)| !on)
            .map(|(_, what, key)| format!("{what} ({key})"))
            .collect()
    }

    /// What is turned on and not there yet, by its keys: for one line at the start.
    #[must_use]
    pub fn not_yet(&self) -> Vec<&'static str> {
        let modules = &self.modules;
        let all = [
            (modules.dynamic_controller.enable, "modules.dynamicController.enable"),
            (modules.router.enable, "modules.router.enable"),
            (modules.task_manager.enable, "modules.taskManager.enable"),
        ];
        all.into_iter().filter(|(on, _)| *on).map(|(_, key)| key).collect()
    }

    /// The body that `--defaultconfig` prints.
    #[must_use]
    pub fn default_yaml(host: &HostFacts) -> String {
        Self::defaults(host).to_yaml()
    }

    /// The body that `--minconfig` prints: the keys of the Go program's, its modules enabled.
    #[must_use]
    pub fn min_yaml(host: &HostFacts) -> String {
        let mut all = Self::defaults(host);
        // Go prints 1000 here and 500 in the full form.
        all.modules.cloud_hub.node_limit = 1000;
        yaml::write(&all.tree().only(MIN))
    }
}

/// The sections `--minconfig` prints.
const MIN: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["modules", "cloudHub", "advertiseAddress"],
    &["modules", "cloudHub", "enable"],
    &["modules", "cloudHub", "https"],
    &["modules", "cloudHub", "nodeLimit"],
    &["modules", "cloudHub", "tlsCAFile"],
    &["modules", "cloudHub", "tlsCAKeyFile"],
    &["modules", "cloudHub", "tlsCertFile"],
    &["modules", "cloudHub", "tlsPrivateKeyFile"],
    &["modules", "cloudHub", "unixsocket"],
    &["modules", "cloudHub", "websocket"],
    &["modules", "iptablesManager"],
    &["modules", "router"],
];
