//! Sections of cloudcore.yaml for the controllers.

use crate::decode::section;

section! {
    /// `modules.edgeController`: pods, nodes and what they use, both ways.
    pub struct EdgeController {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// Seconds between two looks at the nodes.
        "nodeUpdateFrequency" omit node_update_frequency: i32 = 10;
        /// Queue lengths.
        "buffer" always buffer: EdgeControllerBuffer = EdgeControllerBuffer::default();
        /// Concurrency.
        "load" always load: EdgeControllerLoad = EdgeControllerLoad::default();
    }
}

section! {
    /// `modules.edgeController.buffer`: how many of each may wait; 0 stands for our own default.
    pub struct EdgeControllerBuffer {
        /// Waiting certificate requests of edges.
        "certificateSigningRequest" omit certificate_signing_request: i32 = 1024;
        /// Waiting ConfigMap events from the API.
        "configMapEvent" omit config_map_event: i32 = 1;
        /// Waiting lease creations.
        "createLease" omit create_lease: i32 = 1524;
        /// Waiting node registrations.
        "createNode" omit create_node: i32 = 1024;
        /// Waiting mirror pod creations.
        "createPod" omit create_pod: i32 = 1024;
        /// Waiting pod deletions.
        "deletePod" omit delete_pod: i32 = 1024;
        /// Waiting node patches.
        "patchNode" omit patch_node: i32 = 1274;
        /// Waiting pod patches.
        "patchPod" omit patch_pod: i32 = 1024;
        /// Waiting pod events from the API.
        "podEvent" omit pod_event: i32 = 1;
        /// Waiting Kubernetes events from edges.
        "processEvent" omit process_event: i32 = 1024;
        /// Waiting ConfigMap questions.
        "queryConfigMap" omit query_config_map: i32 = 1024;
        /// Waiting lease questions.
        "queryLease" omit query_lease: i32 = 1024;
        /// Waiting node questions.
        "queryNode" omit query_node: i32 = 1524;
        /// Waiting PersistentVolume questions.
        "queryPersistentVolume" omit query_persistent_volume: i32 = 1024;
        /// Waiting PersistentVolumeClaim questions.
        "queryPersistentVolumeClaim" omit query_persistent_volume_claim: i32 = 1024;
        /// Waiting Secret questions.
        "querySecret" omit query_secret: i32 = 1024;
        /// Waiting VolumeAttachment questions.
        "queryVolumeAttachment" omit query_volume_attachment: i32 = 1024;
        /// Waiting rule endpoint events from the API.
        "ruleEndpointsEvent" omit rule_endpoints_event: i32 = 1;
        /// Waiting rule events from the API.
        "rulesEvent" omit rules_event: i32 = 1;
        /// Waiting Secret events from the API.
        "secretEvent" omit secret_event: i32 = 1;
        /// Waiting service account token requests.
        "serviceAccountToken" omit service_account_token: i32 = 1024;
        /// Waiting node updates.
        "updateNode" omit update_node: i32 = 1024;
        /// Waiting node status updates.
        "updateNodeStatus" omit update_node_status: i32 = 1024;
        /// Waiting pod status updates.
        "updatePodStatus" omit update_pod_status: i32 = 1024;
    }
}

section! {
    /// `modules.edgeController.load`: how many of each are served at once; 0 stands for our own default.
    pub struct EdgeControllerLoad {
        /// Concurrent mirror pod creations.
        "CreatePodWorks" omit create_pod_works: i32 = 4;
        /// Concurrent service account token requests.
        "ServiceAccountTokenWorkers" omit service_account_token_workers: i32 = 100;
        /// Concurrent rule status updates.
        "UpdateRuleStatusWorkers" omit update_rule_status_workers: i32 = 4;
        /// Concurrent certificate requests.
        "certificateSigningRequestWorkers" omit certificate_signing_request_workers: i32 = 4;
        /// Concurrent lease creations.
        "createLeaseWorkers" omit create_lease_workers: i32 = 500;
        /// Concurrent node registrations.
        "createNodeWorkers" omit create_node_workers: i32 = 100;
        /// Concurrent pod deletions.
        "deletePodWorkers" omit delete_pod_workers: i32 = 100;
        /// Concurrent node patches.
        "patchNodeWorkers" omit patch_node_workers: i32 = 110;
        /// Concurrent pod patches.
        "patchPodWorkers" omit patch_pod_workers: i32 = 100;
        /// Concurrent Kubernetes events.
        "processEventWorkers" omit process_event_workers: i32 = 4;
        /// Concurrent ConfigMap questions.
        "queryConfigMapWorkers" omit query_config_map_workers: i32 = 100;
        /// Concurrent lease questions.
        "queryLeaseWorkers" omit query_lease_workers: i32 = 100;
        /// Concurrent node questions.
        "queryNodeWorkers" omit query_node_workers: i32 = 500;
        /// Concurrent PersistentVolumeClaim questions.
        "queryPersistentVolumeClaimWorkers" omit query_persistent_volume_claim_workers: i32 = 4;
        /// Concurrent PersistentVolume questions.
        "queryPersistentVolumeWorkers" omit query_persistent_volume_workers: i32 = 4;
        /// Concurrent Secret questions.
        "querySecretWorkers" omit query_secret_workers: i32 = 100;
        /// Concurrent VolumeAttachment questions.
        "queryVolumeAttachmentWorkers" omit query_volume_attachment_workers: i32 = 4;
        /// Concurrent node status updates.
        "updateNodeStatusWorkers" omit update_node_status_workers: i32 = 1;
        /// Concurrent node updates.
        "updateNodeWorkers" omit update_node_workers: i32 = 4;
        /// Concurrent pod status updates.
        "updatePodStatusWorkers" omit update_pod_status_workers: i32 = 1;
    }
}

section! {
    /// `modules.deviceController`: devices and their models.
    pub struct DeviceController {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// Queue lengths.
        "buffer" always buffer: DeviceControllerBuffer = DeviceControllerBuffer::default();
        /// Concurrency.
        "load" always load: DeviceControllerLoad = DeviceControllerLoad::default();
        /// Writes to one DeviceStatus in a second.
        "writesPerDevice" hidden writes_per_device: i32 = 10;
        /// Writes for all devices of one node in a second.
        "writesPerNode" hidden writes_per_node: i32 = 100;
        /// Whether reported values are shown in the status of every Device too, as before v1.23; those of Devices that old clients
        /// look at are in any case.
        "statusOfDevice" hidden status_of_device: bool = false;
    }
}

section! {
    /// `modules.deviceController.buffer`: how many of each may wait; 0 stands for our own default.
    pub struct DeviceControllerBuffer {
        /// Waiting device events from the API.
        "deviceEvent" omit device_event: i32 = 1;
        /// Waiting device model events from the API.
        "deviceModelEvent" omit device_model_event: i32 = 1;
        /// Waiting device status events from the API.
        "deviceStatusEvent" omit device_status_event: i32 = 0;
        /// Waiting device state updates.
        "updateDeviceStatus" omit update_device_status: i32 = 1024;
        /// Waiting twin updates.
        "updateDeviceTwins" omit update_device_twins: i32 = 1024;
    }
}

section! {
    /// `modules.deviceController.load`.
    pub struct DeviceControllerLoad {
        /// Concurrent device status updates; 0 stands for our own default.
        "updateDeviceStatusWorkers" omit update_device_status_workers: i32 = 1;
    }
}

section! {
    /// `modules.taskManager`: node upgrades, image pre-pulls.
    pub struct TaskManager {
        /// Whether the module runs.
        "enable" always enable: bool = false;
        /// Queue lengths.
        "buffer" always buffer: TaskManagerBuffer = TaskManagerBuffer::default();
        /// Concurrency.
        "load" always load: TaskManagerLoad = TaskManagerLoad::default();
    }
}

section! {
    /// `modules.taskManager.buffer`: how many of each may wait; 0 stands for our own default.
    pub struct TaskManagerBuffer {
        /// Waiting job events from the API.
        "taskEvent" omit task_event: i32 = 1;
        /// Waiting reports from edges.
        "taskStatus" omit task_status: i32 = 1024;
    }
}

section! {
    /// `modules.taskManager.load`.
    pub struct TaskManagerLoad {
        /// Concurrent jobs; 0 stands for our own default.
        "taskWorkers" omit task_workers: i32 = 1;
    }
}

section! {
    /// `modules.syncController`: compares what edges have with what the API has.
    pub struct SyncController {
        /// Whether the module runs.
        "enable" always enable: bool = true;
    }
}

section! {
    /// `modules.dynamicController`: any Kubernetes resource for the edge API.
    pub struct DynamicController {
        /// Whether the module runs.
        "enable" always enable: bool = true;
    }
}
