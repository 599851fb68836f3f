//! The fixed words of a message's route: sources, groups, operations (spec 01 §2.4, §2.5).

use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// A word that this release has no name for; kept as it came.
            Other(Box<str>),
        }

        impl $name {
            /// The word as it stands on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other(text) => text,
                }
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$variant,)*
                    other => Self::Other(other.into()),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// `route.source`: the module that sent the message.
    Source {
        /// Cloud: objects and the answers to edged's requests.
        EdgeController = "edgecontroller",
        /// Cloud: devices and device models.
        DeviceController = "devicecontroller",
        /// Cloud: the MetaServer application protocol.
        DynamicController = "dynamiccontroller",
        /// Cloud: service account access rules.
        PolicyController = "policycontroller",
        /// Cloud: ObjectSync reconciliation (never seen on the wire, reserved).
        SyncController = "synccontroller",
        /// Cloud: the hub itself.
        CloudHub = "cloudhub",
        /// Cloud: the tunnel (reserved).
        CloudStream = "cloudStream",
        /// Both: node tasks.
        TaskManager = "taskmanager",
        /// Cloud: node upgrade jobs for edges before v1.16.
        NodeUpgradeJobController = "nodeupgradejobcontroller",
        /// Cloud: rules towards MQTT.
        RouterEventBus = "router_eventbus",
        /// Cloud: rules towards HTTP services of the edge.
        RouterServiceBus = "router_servicebus",
        /// Edge: the hub client (also over QUIC).
        EdgeHub = "websocket",
        /// Edge: the kubelet part.
        Edged = "edged",
        /// Edge: the object store.
        MetaManager = "metamanager",
        /// Edge: the edge API server.
        MetaServer = "metaserver",
        /// Edge: device twins.
        Twin = "twin",
        /// Edge: the MQTT bridge.
        Bus = "bus",
        /// Edge: the HTTP bridge.
        ServiceBus = "servicebus",
        /// Edge: acknowledgements of rerouted device messages.
        Meta = "meta",
    }
}

words! {
    /// `route.group`: the group of modules that the message is for.
    Group {
        /// Objects, downstream; keepalive, upstream.
        Resource = "resource",
        /// Older spelling of [`Group::Resource`] downstream.
        Func = "func",
        /// Requests of edged.
        Meta = "meta",
        /// Device twins.
        Twin = "twin",
        /// Rules and the MQTT and HTTP bridges.
        User = "user",
        /// Node tasks downstream.
        TaskManager = "taskmanager",
        /// Node task reports upstream.
        Hub = "hub",
        /// MetaServer requests upstream.
        DynamicController = "dynamiccontroller",
        /// Node upgrade jobs for edges before v1.16.
        NodeUpgradeJobController = "nodeupgradejobcontroller",
        /// Not set.
        None = "",
    }
}

words! {
    /// `route.operation`: the verb.
    Operation {
        /// A new object.
        Insert = "insert",
        /// A changed object.
        Update = "update",
        /// A deleted object.
        Delete = "delete",
        /// A strategic merge patch.
        Patch = "patch",
        /// A question for an object.
        Query = "query",
        /// An answer or an acknowledgement; carries a parent id.
        Response = "response",
        /// The edge could not process a message.
        Error = "error",
        /// Data for the cloud's router.
        Upload = "upload",
        /// A rule reads a topic of the edge's MQTT.
        Subscribe = "subscribe",
        /// It does no longer.
        Unsubscribe = "unsubscribe",
        /// A rule publishes on the edge's MQTT.
        Publish = "publish",
        /// The edge lives.
        Keepalive = "keepalive",
        /// Membership question of device twin.
        Get = "get",
        /// The cloud's answer to MetaServer.
        ApplicationResponse = "applicationResponse",
        /// What MetaServer's requests carry.
        Null = "null",
        /// CSI.
        CreateVolume = "createvolume",
        /// CSI.
        DeleteVolume = "deletevolume",
        /// CSI.
        ControllerPublishVolume = "controllerpublishvolume",
        /// CSI.
        ControllerUnpublishVolume = "controllerunpublishvolume",
        /// Node task v1alpha1.
        Upgrade = "upgrade",
        /// Node task v1alpha1.
        Prepull = "prepull",
        /// Node task v1alpha2, report of the edge.
        UpdateNodeActionStatus = "UpdateNodeActionStatus",
        /// Not set.
        None = "",
    }
}

impl Source {
    /// The name `cloudcore` gives its own modules: an edge that claims one of them is not heard (spec 01 §5.5, rule 8).
    pub fn is_cloud_module(&self) -> bool {
        matches!(
            self,
            Self::CloudHub | Self::CloudStream | Self::DeviceController | Self::EdgeController | Self::SyncController
        )
    }
}

impl Operation {
    /// Whether the operation belongs to the container storage interface.
    pub fn is_volume(&self) -> bool {
        matches!(
            self,
            Self::CreateVolume | Self::DeleteVolume | Self::ControllerPublishVolume | Self::ControllerUnpublishVolume
        )
    }
}
