//! Names of cgroups, as both drivers write them.

use crate::edged::context::CgroupDriver;
use crate::edged::podspec::QosClass;

/// Where the tree of pods begins and how its folders are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupNames {
    driver: CgroupDriver,
    /// The parts of the path from the root of the hierarchy down to what holds the pods.
    root: Vec<String>,
    per_qos: bool,
}

impl CgroupNames {
    /// `root` is `cgroupRoot` of the configuration, `per_qos` its `cgroupsPerQOS`.
    pub fn new(driver: CgroupDriver, root: &str, per_qos: bool) -> Self {
        let mut parts: Vec<String> = root
            .split('/')
            .filter(|part| !part.is_empty())
            .map(ToOwned::to_owned)
            .collect();
        if per_qos {
            parts.push("kubepods".into());
        }
        Self {
            driver,
            root: parts,
            per_qos,
        }
    }

    /// Whether pods have cgroups of their own.
    pub const fn per_qos(&self) -> bool {
        self.per_qos
    }

    /// Who lays out the tree.
    pub const fn driver(&self) -> CgroupDriver {
        self.driver
    }

    /// What holds all pods.
    pub fn root(&self) -> String {
        self.render(&[])
    }

    /// What holds the pods of a class.
    pub fn qos(&self, class: QosClass) -> String {
        self.render(class_part(class).as_slice())
    }

    /// What holds the containers of a pod; also what the runtime is given as the parent.
    pub fn pod_parent(&self, class: QosClass, uid: &str) -> String {
        if !self.per_qos {
            return self.root();
        }
        let pod = format!("pod{uid}");
        let parts: Vec<&str> = class_part(class).into_iter().chain([pod.as_str()]).collect();
        self.render(&parts)
    }

    /// The uid in the last part of a pod's path, when that is what it is.
    pub fn pod_uid(&self, folder: &str) -> Option<String> {
        match self.driver {
            CgroupDriver::Cgroupfs => folder.strip_prefix("pod").map(ToOwned::to_owned),
            CgroupDriver::Systemd => {
                let name = folder.strip_suffix(".slice")?;
                let (_, uid) = name.rsplit_once("-pod")?;
                Some(uid.replace('_', "-"))
            }
        }
        .filter(|uid| !uid.is_empty())
    }

    fn render(&self, below: &[&str]) -> String {
        let parts = self.root.iter().map(String::as_str).chain(below.iter().copied());
        match self.driver {
            CgroupDriver::Cgroupfs => parts.fold(String::new(), |path, part| path + "/" + part).or_root(),
            CgroupDriver::Systemd => {
                // A slice's name repeats those of its parents; a dash inside a part would be taken for a level.
                let (mut path, mut name) = (String::new(), String::new());
                for part in parts {
                    if !name.is_empty() {
                        name.push('-');
                    }
                    name.push_str(&part.replace('-', "_"));
                    path = format!("{path}/{name}.slice");
                }
                path.or_root()
            }
        }
    }
}

trait OrRoot {
    fn or_root(self) -> String;
}

impl OrRoot for String {
    fn or_root(self) -> String {
        if self.is_empty() { "/".into() } else { self }
    }
}

const fn class_part(class: QosClass) -> Option<&'static str> {
    match class {
        QosClass::Guaranteed => None,
        QosClass::Burstable => Some("burstable"),
        QosClass::BestEffort => Some("besteffort"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "6c1a4e95-6bb6-11e6-bc26-28d2444e470d";

    #[test]
    fn names_are_those_of_kubelet() {
        let fs = CgroupNames::new(CgroupDriver::Cgroupfs, "", true);
        let systemd = CgroupNames::new(CgroupDriver::Systemd, "/", true);
        for (class, plain, slice) in [
            (QosClass::Guaranteed, "/kubepods", "/kubepods.slice"),
            (
                QosClass::Burstable,
                "/kubepods/burstable",
                "/kubepods.slice/kubepods-burstable.slice",
            ),
            (
                QosClass::BestEffort,
                "/kubepods/besteffort",
                "/kubepods.slice/kubepods-besteffort.slice",
            ),
        ] {
            assert_eq!(fs.qos(class), plain);
            assert_eq!(systemd.qos(class), slice);
            assert_eq!(fs.pod_parent(class, UID), format!("{plain}/pod{UID}"));
            let name = slice
                .rsplit('/')
                .next()
                .and_then(|name| name.strip_suffix(".slice"))
                .expect("slice");
            let uid = UID.replace('-', "_");
            let pod = systemd.pod_parent(class, UID);
            assert_eq!(pod, format!("{slice}/{name}-pod{uid}.slice"));
            assert_eq!(
                systemd.pod_uid(pod.rsplit('/').next().expect("part")).as_deref(),
                Some(UID)
            );
        }
        assert_eq!(fs.pod_uid("burstable"), None);
        assert_eq!(systemd.pod_uid("kubepods-burstable.slice"), None);
    }

    #[test]
    fn a_root_of_ones_own() {
        let fs = CgroupNames::new(CgroupDriver::Cgroupfs, "/edge/pods", true);
        assert_eq!(fs.qos(QosClass::Burstable), "/edge/pods/kubepods/burstable");
        let systemd = CgroupNames::new(CgroupDriver::Systemd, "/my-edge", true);
        assert_eq!(systemd.root(), "/my_edge.slice/my_edge-kubepods.slice");
        let flat = CgroupNames::new(CgroupDriver::Cgroupfs, "", false);
        assert_eq!(flat.pod_parent(QosClass::Burstable, UID), "/");
    }
}
