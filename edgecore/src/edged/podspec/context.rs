//! What describing a pod reads again and again.

use std::path::PathBuf;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::Container;

use super::qos::QosClass;
use crate::edged::cgroups::CgroupNames;
use crate::edged::context::PodContext;
use crate::pod::PodSpec;

impl PodContext {
    /// `name_namespace(uid)`, as kubelet names pods in messages.
    pub fn title(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }

    /// The specification; an empty one when the pod has none.
    pub fn spec(&self) -> &PodSpec {
        static NONE: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&NONE)
    }

    /// `<root>/pods/<uid>`.
    pub fn dir(&self) -> PathBuf {
        self.settings.pod_directory(self.uid().as_str())
    }

    /// The quality of service.
    pub fn qos(&self) -> QosClass {
        QosClass::of(&self.pod)
    }

    /// The cgroup that the sandbox is put under, as the runtime wants it named.
    pub fn cgroup_parent(&self) -> String {
        let settings = &self.settings;
        CgroupNames::new(settings.cgroup_driver, &settings.cgroup_root, settings.cgroups_per_qos)
            .pod_parent(self.qos(), self.uid().as_str())
    }

    /// Whether the pod shares the host's network.
    pub fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }

    /// A container or init container by name.
    pub(super) fn container(&self, name: &str) -> Option<&Container> {
        let spec = self.spec();
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .find(|c| c.name == name)
    }
}
