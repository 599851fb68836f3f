//! The resources that cloudcore names itself.

use std::borrow::Cow;

use proto::Namespace;

use super::error::ApiError;

/// A resource of the API.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Resource {
    /// Group; empty for core.
    pub group: Cow<'static, str>,
    /// Version.
    pub version: Cow<'static, str>,
    /// The plural in URLs.
    pub plural: Cow<'static, str>,
    /// The kind in objects.
    pub kind: Cow<'static, str>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

impl Resource {
    const fn fixed(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
        namespaced: bool,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
            namespaced,
        }
    }

    /// From what ObjectSync stores: an apiVersion and a kind, or the plural in lower case as v1.8 stored (spec 02 §4).
    pub fn guess(api_version: &str, kind: &str, namespaced: bool) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let is_plural = kind.chars().next().is_none_or(char::is_lowercase);
        let plural = if is_plural { kind.to_owned() } else { plural_of(kind) };
        Self {
            group: group.to_owned().into(),
            version: if version.is_empty() {
                "v1".into()
            } else {
                version.to_owned().into()
            },
            plural: plural.into(),
            kind: kind.to_owned().into(),
            namespaced,
        }
    }

    /// `group/version`, or `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The URL path of one object: without a name it would be that of all of them.
    pub(super) fn object_path(&self, namespace: &Namespace, name: &str, sub: &str) -> Result<String, ApiError> {
        segment(name)?;
        self.path(Some(namespace), name, sub)
    }

    /// The URL path. Names come from edges: whatever would leave its place in the path is refused.
    pub(super) fn path(&self, namespace: Option<&Namespace>, name: &str, sub: &str) -> Result<String, ApiError> {
        let mut path = if self.group.is_empty() {
            "/api/".to_owned()
        } else {
            format!("/apis/{}/", self.group)
        };
        path.push_str(&self.version);
        if self.namespaced
            && let Some(namespace) = namespace
        {
            path.push_str("/namespaces/");
            path.push_str(segment(namespace.as_str())?);
        }
        path.push('/');
        path.push_str(&self.plural);
        for part in [name, sub] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(segment(part)?);
            }
        }
        Ok(path)
    }
}

fn segment(text: &str) -> Result<&str, ApiError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if text.is_empty() || text == "." || text == ".." || !text.chars().all(plain) {
        return Err(ApiError::BadName {
            name: text.chars().take(253).collect(),
        });
    }
    Ok(text)
}

/// The plural as Kubernetes guesses it from a kind.
fn plural_of(kind: &str) -> String {
    let lower = kind.to_lowercase();
    if lower == "endpoints" {
        return lower;
    }
    if lower.ends_with('s') {
        return format!("{lower}es");
    }
    match lower.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{lower}s"),
    }
}

macro_rules! resources {
    ($($name:ident = $group:literal $version:literal $plural:literal $kind:literal $namespaced:literal;)*) => {$(
        #[doc = $plural]
        pub const $name: Resource = Resource::fixed($group, $version, $plural, $kind, $namespaced);
    )*};
}

resources! {
    PODS = "" "v1" "pods" "Pod" true;
    NODES = "" "v1" "nodes" "Node" false;
    NAMESPACES = "" "v1" "namespaces" "Namespace" false;
    CONFIG_MAPS = "" "v1" "configmaps" "ConfigMap" true;
    SECRETS = "" "v1" "secrets" "Secret" true;
    EVENTS = "" "v1" "events" "Event" true;
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts" "ServiceAccount" true;
    PERSISTENT_VOLUMES = "" "v1" "persistentvolumes" "PersistentVolume" false;
    PERSISTENT_VOLUME_CLAIMS = "" "v1" "persistentvolumeclaims" "PersistentVolumeClaim" true;
    LEASES = "coordination.k8s.io" "v1" "leases" "Lease" true;
    VOLUME_ATTACHMENTS = "storage.k8s.io" "v1" "volumeattachments" "VolumeAttachment" false;
    SUBJECT_ACCESS_REVIEWS = "authorization.k8s.io" "v1" "subjectaccessreviews" "SubjectAccessReview" false;
    TOKEN_REVIEWS = "authentication.k8s.io" "v1" "tokenreviews" "TokenReview" false;
    CERTIFICATE_SIGNING_REQUESTS = "certificates.k8s.io" "v1" "certificatesigningrequests" "CertificateSigningRequest" false;
    CUSTOM_RESOURCE_DEFINITIONS = "apiextensions.k8s.io" "v1" "customresourcedefinitions" "CustomResourceDefinition" false;
    VALIDATING_WEBHOOK_CONFIGURATIONS = "admissionregistration.k8s.io" "v1" "validatingwebhookconfigurations" "ValidatingWebhookConfiguration" false;
    OBJECT_SYNCS = "reliablesyncs.kubeedge.io" "v1alpha1" "objectsyncs" "ObjectSync" true;
    DEVICES = "devices.kubeedge.io" "v1beta1" "devices" "Device" true;
    DEVICE_MODELS = "devices.kubeedge.io" "v1beta1" "devicemodels" "DeviceModel" true;
    DEVICE_STATUSES = "devices.kubeedge.io" "v1beta1" "devicestatuses" "DeviceStatus" true;
    CLUSTER_OBJECT_SYNCS = "reliablesyncs.kubeedge.io" "v1alpha1" "clusterobjectsyncs" "ClusterObjectSync" false;
}
