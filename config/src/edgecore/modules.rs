//! Sections of edgecore.yaml, one for each module.

use std::collections::BTreeMap;
use std::path::Path;

use super::KubeletConfig;
use crate::decode::{GoDuration, Secret, section};

const CA: &str = "/etc/kubeedge/ca/rootCA.crt";
const CERT: &str = "/etc/kubeedge/certs/server.crt";
const KEY: &str = "/etc/kubeedge/certs/server.key";

section! {
    /// `modules.edged`: pods.
    pub struct Edged {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// Whether events go to the cloud.
        "reportEvent" always report_event: bool = false;
        /// The kubelet's own configuration.
        "tailoredKubeletConfig" always tailored_kubelet_config: KubeletConfig = KubeletConfig::default();
        /// Name of the node.
        "hostnameOverride" always hostname_override: String = String::new();
        /// Address of the node; empty is the one that reaches the cloud.
        "nodeIP" omit node_ip: String = String::new();
        /// Cgroup of the runtime.
        "runtimeCgroups" omit runtime_cgroups: String = String::new();
        /// Image of the pods' sandboxes.
        "podSandboxImage" omit pod_sandbox_image: String = "kubeedge/pause:3.6".into();
        /// Folder of volumes.
        "rootDirectory" omit root_directory: String = "/var/lib/kubelet".into();
        /// Accepted, without effect.
        "windowsService" omit windows_service: bool = false;
        /// Accepted, without effect.
        "windowsPriorityClass" omit windows_priority_class: String = String::new();
        /// Accepted, without effect.
        "experimentalMounterPath" omit experimental_mounter_path: String = String::new();
        /// Accepted, without effect.
        "experimentalNodeAllocatableIgnoreEvictionThreshold" omit experimental_ignore_eviction_threshold: bool = false;
        /// Labels of a new node.
        "nodeLabels" omit node_labels: BTreeMap<String, String> = BTreeMap::new();
        /// A dead container is kept for this long at least.
        "minimumGCAge" always minimum_gc_age: GoDuration = GoDuration::from_secs(0);
        /// Dead containers kept of each container.
        "maxPerPodContainerCount" omit max_per_pod_container_count: i32 = 1;
        /// Dead containers kept in all; -1 is no limit.
        "maxContainerCount" omit max_container_count: i32 = -1;
        /// Whether a new node takes pods.
        "registerSchedulable" omit register_schedulable: bool = true;
        /// Whether the runtime's seccomp profile is the default.
        "seccompDefault" omit seccomp_default: bool = false;
        /// Network interface whose address is the node's.
        "customInterfaceName" omit custom_interface_name: String = String::new();
        /// Namespace of messages about the node.
        "registerNodeNamespace" omit register_node_namespace: String = "default".into();
        /// Whether the runtime's socket is to be searched: cri-dockerd's if it answers, else the one that is configured. Only
        /// ours; files that ask for docker come out with it.
        "searchRuntime" hidden search_runtime: bool = false;
    }
}

section! {
    /// `modules.edgeHub`: the way to the cloud.
    pub struct EdgeHub {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// Seconds between two keepalives.
        "heartbeat" omit heartbeat: i32 = 15;
        /// Messages a second to the cloud; 0 is no limit.
        "messageQPS" omit message_qps: i32 = 30;
        /// Messages in a burst.
        "messageBurst" omit message_burst: i32 = 60;
        /// A segment of the URL.
        "projectID" omit project_id: String = "e632aba927ea4ac2b575ec1603d56f10".into();
        /// CA of the cloud.
        "tlsCaFile" omit tls_ca_file: String = CA.into();
        /// The node's certificate.
        "tlsCertFile" omit tls_cert_file: String = CERT.into();
        /// Its key.
        "tlsPrivateKeyFile" omit tls_private_key_file: String = KEY.into();
        /// QUIC.
        "quic" always quic: EdgeHubQuic = EdgeHubQuic::default();
        /// WebSocket.
        "websocket" always web_socket: EdgeHubWebSocket = EdgeHubWebSocket::default();
        /// Token to join with.
        "token" always token: Secret = Secret::default();
        /// URL that hands out certificates.
        "httpServer" always http_server: String = String::new();
        /// Whether the certificate is renewed.
        "rotateCertificates" omit rotate_certificates: bool = true;
    }
}

section! {
    /// `modules.edgeHub.quic`.
    pub struct EdgeHubQuic {
        /// Whether it is used.
        "enable" always enable: bool = false;
        /// Seconds.
        "handshakeTimeout" omit handshake_timeout: i32 = 30;
        /// Seconds.
        "readDeadline" omit read_deadline: i32 = 15;
        /// Address or name, and port.
        "server" always server: String = String::new();
        /// Seconds.
        "writeDeadline" omit write_deadline: i32 = 15;
    }
}

section! {
    /// `modules.edgeHub.websocket`.
    pub struct EdgeHubWebSocket {
        /// Whether it is used.
        "enable" always enable: bool = true;
        /// Seconds.
        "handshakeTimeout" omit handshake_timeout: i32 = 30;
        /// Seconds.
        "readDeadline" omit read_deadline: i32 = 15;
        /// Address or name, and port.
        "server" always server: String = String::new();
        /// Seconds.
        "writeDeadline" omit write_deadline: i32 = 15;
    }
}

section! {
    /// `modules.eventBus`: MQTT.
    pub struct EventBus {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// 0, 1 or 2.
        "mqttQOS" always mqtt_qos: u8 = 0;
        /// Whether the broker keeps the last message.
        "mqttRetain" always mqtt_retain: bool = false;
        /// Messages the own broker keeps for an absent client.
        "mqttSessionQueueSize" omit mqtt_session_queue_size: i32 = 100;
        /// Where the own broker listens.
        "mqttServerInternal" omit mqtt_server_internal: String = "tcp://127.0.0.1:1884".into();
        /// Where an external broker listens.
        "mqttServerExternal" omit mqtt_server_external: String = "tcp://127.0.0.1:1883".into();
        /// Client name for subscriptions; empty is a random one.
        "mqttSubClientID" always mqtt_sub_client_id: String = String::new();
        /// Client name for publications; empty is a random one.
        "mqttPubClientID" always mqtt_pub_client_id: String = String::new();
        /// User at the external broker.
        "mqttUsername" always mqtt_username: String = String::new();
        /// Password at the external broker.
        "mqttPassword" always mqtt_password: Secret = Secret::default();
        /// 0 own broker, 1 both, 2 external broker.
        "mqttMode" always mqtt_mode: i32 = 2;
        /// TLS to the external broker.
        "eventBusTLS" always tls: EventBusTls = EventBusTls::default();
        /// Bytes of messages of MQTT clients that may wait for the cloud.
        "uploadBytes" hidden upload_bytes: i64 = 16 * 1024 * 1024;
        /// The own broker's users, TLS and limits. Only ours.
        "broker" hidden broker: MqttBroker = MqttBroker::default();
    }
}

section! {
    /// `modules.eventBus.eventBusTLS`.
    pub struct EventBusTls {
        /// Whether TLS is used.
        "enable" always enable: bool = false;
        /// CA of the broker.
        "tlsMqttCAFile" omit tls_mqtt_ca_file: String = CA.into();
        /// Certificate of the client.
        "tlsMqttCertFile" omit tls_mqtt_cert_file: String = CERT.into();
        /// Its key.
        "tlsMqttPrivateKeyFile" omit tls_mqtt_private_key_file: String = KEY.into();
    }
}

section! {
    /// `modules.eventBus.broker`: the own broker (`mqttMode` 0 and 1). All of it is only ours.
    pub struct MqttBroker {
        /// Passwords by user; with none, here and in the file, everybody is let in.
        "users" hidden users: BTreeMap<String, Secret> = BTreeMap::new();
        /// A file with a line `name:password` for each user, which nobody but its owner may read.
        "passwordFile" hidden password_file: String = String::new();
        /// For `tls://` and `mqtts://`.
        "tls" hidden tls: MqttBrokerTls = MqttBrokerTls::default();
        /// What clients may have.
        "limits" hidden limits: MqttBrokerLimits = MqttBrokerLimits::default();
    }
}

section! {
    /// `modules.eventBus.broker.tls`.
    pub struct MqttBrokerTls {
        /// Certificate of the broker; read again when it changes.
        "certFile" hidden cert_file: String = String::new();
        /// Its key.
        "keyFile" hidden key_file: String = String::new();
        /// CA of the clients' certificates, which are required then; the common name is the user.
        "clientCAFile" hidden client_ca_file: String = String::new();
    }
}

section! {
    /// `modules.eventBus.broker.limits`.
    pub struct MqttBrokerLimits {
        /// Clients at a time.
        "connections" hidden connections: u32 = 1000;
        /// Bytes of a packet, 268435455 at most: a payload of 1 MiB and what is around it.
        "packetBytes" hidden packet_bytes: u32 = (1024 + 64) * 1024;
        /// Seconds a client may take to say who it is.
        "connectSeconds" hidden connect_seconds: u32 = 10;
        /// Messages of QoS 1 and 2 that a client may leave unanswered before it gets more.
        "inflight" hidden inflight: u32 = 20;
        /// Bytes of messages that wait for one client, beside `mqttSessionQueueSize`.
        "queueBytes" hidden queue_bytes: u32 = 4 * 1024 * 1024;
        /// Bytes of messages that wait for all clients, and of all that are retained.
        "storeBytes" hidden store_bytes: u32 = 32 * 1024 * 1024;
        /// Subscriptions of one client.
        "subscriptions" hidden subscriptions: u32 = 1000;
        /// Levels of a topic, 200 at most.
        "topicLevels" hidden topic_levels: u32 = 64;
        /// Bytes of a topic.
        "topicBytes" hidden topic_bytes: u32 = 1024;
        /// Bytes of a client's name.
        "clientIDBytes" hidden client_id_bytes: u32 = 256;
        /// Sessions that outlive their connection.
        "sessions" hidden sessions: u32 = 1000;
        /// Retained messages.
        "retained" hidden retained: u32 = 10_000;
    }
}

section! {
    /// `modules.metaManager`: what the node knows of the API.
    pub struct MetaManager {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// Accepted, without effect.
        "contextSendGroup" omit context_send_group: String = "hub".into();
        /// Accepted, without effect.
        "contextSendModule" omit context_send_module: String = "websocket".into();
        /// Seconds a question to the cloud may take.
        "remoteQueryTimeout" omit remote_query_timeout: i32 = 60;
        /// The edge API.
        "metaServer" always meta_server: MetaServer = MetaServer::default();
    }
}

section! {
    /// `modules.metaManager.metaServer`: the edge API.
    pub struct MetaServer {
        /// Whether it listens.
        "enable" always enable: bool = true;
        /// Address and port.
        "server" always server: String = "127.0.0.1:10550".into();
        /// CA of its clients.
        "tlsCaFile" always tls_ca_file: String = CA.into();
        /// Its certificate.
        "tlsCertFile" always tls_cert_file: String = CERT.into();
        /// Its key.
        "tlsPrivateKeyFile" always tls_private_key_file: String = KEY.into();
        /// Issuers of service account tokens.
        "serviceAccountIssuers" always service_account_issuers: Vec<String> = vec!["https://kubernetes.default.svc.cluster.local".into()];
        /// Audiences of tokens.
        "apiAudiences" always api_audiences: Vec<String> = Vec::new();
        /// Keys that tokens are checked with.
        "serviceAccountKeyFiles" always service_account_key_files: Vec<String> = Vec::new();
        /// Address and port on the dummy interface, for pods.
        "dummyServer" always dummy_server: String = "169.254.30.10:10550".into();
    }
}

section! {
    /// `modules.serviceBus`: HTTP services of the edge.
    pub struct ServiceBus {
        /// Whether the module runs.
        "enable" always enable: bool = false;
        /// Address to listen on.
        "server" always server: String = "127.0.0.1".into();
        /// TCP port.
        "port" always port: i64 = 9060;
        /// Seconds.
        "timeout" always timeout: i64 = 60;
        /// Its certificate; both or none.
        "tlsCertFile" omit tls_cert_file: String = String::new();
        /// Its key; both or none.
        "tlsPrivateKeyFile" omit tls_private_key_file: String = String::new();
    }
}

section! {
    /// `modules.deviceTwin`: devices.
    pub struct DeviceTwin {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// Folder of the mappers' socket `dmi.sock`; a value that names a socket stands for its folder.
        "dmiSockPath" omit dmi_sock_path: String = "/etc/kubeedge/".into();
        /// Values kept at the edge. Only ours.
        "history" hidden history: DeviceHistory = DeviceHistory::default();
        /// Reports a second to the cloud about one device; 0 is the default. Only ours.
        "reportsPerDevice" hidden reports_per_device: i32 = 10;
        /// Reports a second to the cloud about all devices of this node; 0 is the default. Only ours.
        "reportsPerSecond" hidden reports_per_second: i32 = 100;
    }
}

section! {
    /// `modules.deviceTwin.history`: values kept at the edge. Only ours.
    pub struct DeviceHistory {
        /// Whether they are kept.
        "enable" always enable: bool = false;
        /// Values of one property.
        "maxValues" omit max_values: i64 = 10_000;
        /// Bytes of the file, `history.db` beside the database.
        "maxBytes" omit max_bytes: i64 = 33_554_432;
        /// How long a value is kept; 0: whatever its age.
        "maxAge" omit max_age: GoDuration = GoDuration::from_secs(0);
    }
}

section! {
    /// `modules.dbTest`: accepted, without effect.
    pub struct DbTest {
        /// Accepted, without effect.
        "enable" always enable: bool = false;
    }
}

section! {
    /// `modules.edgeStream`: logs, exec and metrics.
    pub struct EdgeStream {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// CA of the cloud.
        "tlsTunnelCAFile" omit tls_tunnel_ca_file: String = CA.into();
        /// The node's certificate.
        "tlsTunnelCertFile" omit tls_tunnel_cert_file: String = CERT.into();
        /// Its key.
        "tlsTunnelPrivateKeyFile" omit tls_tunnel_private_key_file: String = KEY.into();
        /// Seconds.
        "handshakeTimeout" omit handshake_timeout: i32 = 30;
        /// Seconds.
        "readDeadline" omit read_deadline: i32 = 15;
        /// Address or name, and port, of the cloud's tunnel.
        "server" omit server: String = "127.0.0.1:10004".into();
        /// Seconds.
        "writeDeadline" omit write_deadline: i32 = 15;
    }
}

section! {
    /// `modules.taskManager`: jobs on this node.
    pub struct TaskManager {
        /// Whether the module runs.
        "enable" always enable: bool = false;
    }
}

impl DeviceTwin {
    /// The folder of the socket: old files name the socket itself.
    #[must_use]
    pub fn dmi_folder(&self) -> &Path {
        let path = Path::new(&self.dmi_sock_path);
        let names_socket = path.extension().is_some_and(|extension| extension == "sock");
        path.parent().filter(|_| names_socket).unwrap_or(path)
    }
}
