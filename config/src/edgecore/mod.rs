//! edgecore.yaml.
//!
//! Owns: the tree of sections with their defaults, its checks, the translation of older files, what stays off. Reads: one
//! file's text and the host's facts. Emits: [`EdgeCore`], or all problems at once. Must not: start anything, read the
//! environment, know cloudcore.yaml.
//! Source: spec 06 §1.6 to §1.9; values observed with `edgecore --defaultconfig` of KubeEdge v1.23.

mod kubelet;
mod legacy;
mod modules;
mod validate;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

pub use kubelet::{
    CrashLoopBackOff, FlushFrequency, KubeletConfig, LogModule, LogOptions, LogRouting, Logging, MemorySwap,
    ReservedMemory, ShutdownGracePeriod, Taint,
};
pub use modules::{
    DbTest, DeviceHistory, DeviceTwin, EdgeHub, EdgeHubQuic, EdgeHubWebSocket, EdgeStream, Edged, EventBus,
    EventBusTls, MetaManager, MetaServer, MqttBroker, MqttBrokerLimits, MqttBrokerTls, ServiceBus, TaskManager,
};

use crate::checks::Checks;
use crate::decode::{Value, section};
use crate::{Files, HostFacts, LoadError, Loaded, Problems, load, yaml};

section! {
    /// The whole of edgecore.yaml.
    pub struct EdgeCore {
        /// Never checked.
        "apiVersion" omit api_version: String = "edgecore.config.kubeedge.io/v1alpha2".into();
        /// Never checked.
        "kind" omit kind: String = "EdgeCore".into();
        /// The database file.
        "database" always database: Database = Database::default();
        /// The modules.
        "modules" always modules: Modules = Modules::default();
        /// Gates by name.
        "featureGates" omit feature_gates: BTreeMap<String, bool> = BTreeMap::new();
        /// The version that wrote the file.
        "edgecoreVersion" always edgecore_version: String = String::new();
    }
}

section! {
    /// `database`.
    pub struct Database {
        /// Accepted, without effect.
        "driverName" omit driver_name: String = "sqlite3".into();
        /// Accepted, without effect.
        "aliasName" omit alias_name: String = "default".into();
        /// Path of the SQLite file.
        "dataSource" omit data_source: String = "/var/lib/kubeedge/edgecore.db".into();
    }
}

section! {
    /// `modules`.
    pub struct Modules {
        /// Pods.
        "edged" always edged: Edged = Edged::default();
        /// The way to the cloud.
        "edgeHub" always edge_hub: EdgeHub = EdgeHub::default();
        /// MQTT.
        "eventBus" always event_bus: EventBus = EventBus::default();
        /// What the node knows of the API.
        "metaManager" always meta_manager: MetaManager = MetaManager::default();
        /// HTTP services of the edge.
        "serviceBus" always service_bus: ServiceBus = ServiceBus::default();
        /// Devices.
        "deviceTwin" always device_twin: DeviceTwin = DeviceTwin::default();
        /// Accepted, without effect.
        "dbTest" always db_test: DbTest = DbTest::default();
        /// Logs, exec, metrics.
        "edgeStream" always edge_stream: EdgeStream = EdgeStream::default();
        /// Jobs on this node.
        "taskManager" always task_manager: TaskManager = TaskManager::default();
    }
}

impl EdgeCore {
    /// What holds where the file says nothing.
    #[must_use]
    pub fn defaults(host: &HostFacts) -> Self {
        let mut all = Self::default();
        let ip = if host.local_ip.contains(':') {
            format!("[{}]", host.local_ip)
        } else {
            host.local_ip.clone()
        };
        all.modules.edged.hostname_override = host.hostname.clone();
        let hub = &mut all.modules.edge_hub;
        hub.http_server = format!("https://{ip}:10002");
        hub.web_socket.server = format!("{ip}:10000");
        hub.quic.server = format!("{ip}:10001");
        all
    }

    /// Reads `text` over the defaults and checks the result; all problems at once.
    pub fn parse(text: &str, host: &HostFacts, files: &dyn Files) -> Result<Loaded<Self>, Problems> {
        load::decode(text, Self::defaults(host), legacy::translate, |config, reader| {
            validate::check(config, host, Checks { files, reader });
        })
    }

    /// Reads `text` over this configuration, for values that a command line sets.
    pub fn overlay(self, text: &str, host: &HostFacts, files: &dyn Files) -> Result<Loaded<Self>, Problems> {
        load::decode(text, self, legacy::translate, |config, reader| {
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

    /// The configuration as a joining node's file: without the key that is another word when a file says it than by default,
    /// unless it has another value (edgecore starts beside a kubelet where the file enables the edge API).
    #[must_use]
    pub fn to_join_yaml(&self) -> String {
        let mut tree = self.tree();
        if self.modules.meta_manager.meta_server.enable == MetaServer::default().enable {
            tree.cut(&["modules", "metaManager", "metaServer", "enable"]);
        }
        yaml::write(&tree)
    }

    /// Takes the join token from the bootstrap file that `keadm join` leaves, over the one in the configuration, in memory
    /// only. Returns whether there was one.
    pub fn take_bootstrap_token(&mut self, path: &Path) -> io::Result<bool> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let token = text.trim();
        if token.is_empty() {
            return Ok(false);
        }
        self.modules.edge_hub.token = token.into();
        Ok(true)
    }

    /// What is turned off, each with the key that turns it on: for one line at the start.
    #[must_use]
    pub fn stays_off(&self) -> Vec<String> {
        let modules = &self.modules;
        let all = [
            (
                modules.edge_hub.enable,
                "the way to the cloud",
                "modules.edgeHub.enable",
            ),
            (modules.edged.enable, "pods", "modules.edged.enable"),
            (
                modules.meta_manager.enable,
                "the node's copy of the API",
                "modules.metaManager.enable",
            ),
            (
                modules.meta_manager.meta_server.enable,
                "edge API",
                "modules.metaManager.metaServer.enable",
            ),
            (modules.device_twin.enable, "devices", "modules.deviceTwin.enable"),
            (modules.event_bus.enable, "MQTT", "modules.eventBus.enable"),
            (
                modules.edge_stream.enable,
                "logs, exec, metrics",
                "modules.edgeStream.enable",
            ),
            (
                modules.service_bus.enable,
                "HTTP services of the edge",
                "modules.serviceBus.enable",
            ),
            (
                modules.task_manager.enable,
                "jobs on this node",
                "modules.taskManager.enable",
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
            (
                modules.meta_manager.meta_server.enable,
                "modules.metaManager.metaServer.enable",
            ),
            (modules.service_bus.enable, "modules.serviceBus.enable"),
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
        let all = Self::defaults(host);
        yaml::write(&all.tree().only(MIN))
    }
}

/// Where `keadm join` leaves the token; deleted after the first connect.
pub const BOOTSTRAP_FILE: &str = "/etc/kubeedge/bootstrap-edgecore.conf";

/// The sections `--minconfig` prints.
const MIN: &[&[&str]] = &[
    &["apiVersion"],
    &["database", "dataSource"],
    &["edgecoreVersion"],
    &["kind"],
    &["modules", "deviceTwin"],
    &["modules", "edgeHub", "enable"],
    &["modules", "edgeHub", "heartbeat"],
    &["modules", "edgeHub", "httpServer"],
    &["modules", "edgeHub", "tlsCaFile"],
    &["modules", "edgeHub", "tlsCertFile"],
    &["modules", "edgeHub", "tlsPrivateKeyFile"],
    &["modules", "edgeHub", "token"],
    &["modules", "edgeHub", "websocket"],
    &["modules", "edged"],
    &["modules", "eventBus", "enable"],
    &["modules", "eventBus", "mqttMode"],
    &["modules", "eventBus", "mqttPassword"],
    &["modules", "eventBus", "mqttPubClientID"],
    &["modules", "eventBus", "mqttQOS"],
    &["modules", "eventBus", "mqttRetain"],
    &["modules", "eventBus", "mqttServerExternal"],
    &["modules", "eventBus", "mqttServerInternal"],
    &["modules", "eventBus", "mqttSubClientID"],
    &["modules", "eventBus", "mqttUsername"],
];
