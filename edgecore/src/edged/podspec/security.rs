//! Security contexts (spec 05 §6, rows 23, 24).

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, SELinuxOptions, SeccompProfile, SecurityContext};
use proto::cri::{self, NamespaceMode, security_profile::ProfileType};

use crate::edged::context::PodContext;
use crate::edged::context::SpecError;
use crate::edged::context::{ContainerRef, ResolvedImage};

/// The sandbox's.
pub(super) fn sandbox_context(ctx: &PodContext) -> Result<cri::LinuxSandboxSecurityContext, SpecError> {
    let mut all = cri::LinuxSandboxSecurityContext {
        privileged: has_privileged(ctx),
        // The pause process needs no more than this, whatever the containers are allowed.
        seccomp: Some(profile(ProfileType::RuntimeDefault, "")),
        namespace_options: Some(namespaces(ctx)),
        ..Default::default()
    };
    let Some(pod) = &ctx.spec().security_context else {
        return Ok(all);
    };
    all.run_as_user = pod.run_as_user.map(int64);
    all.run_as_group = pod.run_as_group.map(int64);
    all.supplemental_groups = supplemental_groups(ctx);
    all.supplemental_groups_policy = groups_policy(ctx)?;
    all.selinux_options = pod.se_linux_options.as_ref().map(selinux);
    Ok(all)
}

/// A container's: its own fields before those of the pod.
pub(super) fn container_context(
    ctx: &PodContext,
    container: &ContainerRef,
    image: &ResolvedImage,
) -> Result<cri::LinuxContainerSecurityContext, SpecError> {
    let none = SecurityContext::default();
    let pod = ctx.spec().security_context.as_ref();
    let own = container.container.security_context.as_ref().unwrap_or(&none);
    let run_as_user = own.run_as_user.or_else(|| pod.and_then(|pod| pod.run_as_user));
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked {
            Vec::new()
        } else {
            list.iter().map(|path| (*path).to_owned()).collect()
        }
    };
    let apparmor = apparmor(ctx, container)?;
    let selinux_options = own
        .se_linux_options
        .as_ref()
        .or_else(|| pod.and_then(|pod| pod.se_linux_options.as_ref()));
    #[expect(deprecated, reason = "containerd before 1.7 reads only the old fields")]
    let all = cri::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|capabilities| cri::Capability {
            add_capabilities: capabilities.add.clone().unwrap_or_default(),
            drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: own.privileged.unwrap_or(false),
        namespace_options: Some(namespaces(ctx)),
        selinux_options: selinux_options.map(selinux),
        run_as_user: run_as_user.or(image.uid).map(int64),
        run_as_group: own
            .run_as_group
            .or_else(|| pod.and_then(|pod| pod.run_as_group))
            .map(int64),
        run_as_username: if run_as_user.is_none() {
            image.username.clone()
        } else {
            String::new()
        },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: supplemental_groups(ctx),
        supplemental_groups_policy: groups_policy(ctx)?,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(ctx, own.seccomp_profile.as_ref())?),
        apparmor_profile: apparmor.as_ref().map(|(_, name)| name.clone()).unwrap_or_default(),
        apparmor: apparmor.map(|(profile, _)| profile),
        seccomp_profile_path: String::new(),
    };
    Ok(all)
}

/// Refuses a container that may not run as root and would.
pub(super) fn verify_non_root(ctx: &PodContext, container: &Container, image: &ResolvedImage) -> Result<(), SpecError> {
    let own = container.security_context.as_ref();
    let pod = ctx.spec().security_context.as_ref();
    let required = own
        .and_then(|own| own.run_as_non_root)
        .or_else(|| pod.and_then(|pod| pod.run_as_non_root));
    if required != Some(true) {
        return Ok(());
    }
    let (title, name) = (ctx.title(), &container.name);
    let user = own
        .and_then(|own| own.run_as_user)
        .or_else(|| pod.and_then(|pod| pod.run_as_user));
    match (user, image.uid) {
        (Some(0), _) => Err(SpecError::config(format!(
            "container's runAsUser breaks non-root policy (pod: {title:?}, container: {name})"
        ))),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(SpecError::config(format!(
            "container has runAsNonRoot and image will run as root (pod: {title:?}, container: {name})"
        ))),
        (None, None) if !image.username.is_empty() => Err(SpecError::config(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root (pod: {title:?}, \
             container: {name})",
            image.username
        ))),
        (None, _) => Ok(()),
    }
}

fn namespaces(ctx: &PodContext) -> cri::NamespaceOption {
    let spec = ctx.spec();
    let node_or =
        |host: Option<bool>, other: NamespaceMode| if host == Some(true) { NamespaceMode::Node } else { other };
    let pid = if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: node_or(spec.host_network, NamespaceMode::Pod).into(),
        ipc: node_or(spec.host_ipc, NamespaceMode::Pod).into(),
        pid: node_or(spec.host_pid, pid).into(),
        ..Default::default()
    }
}

fn has_privileged(ctx: &PodContext) -> bool {
    let spec = ctx.spec();
    let privileged = |own: &Option<SecurityContext>| own.as_ref().and_then(|own| own.privileged) == Some(true);
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(|c| privileged(&c.security_context))
        || spec
            .ephemeral_containers
            .iter()
            .flatten()
            .any(|c| privileged(&c.security_context))
}

fn supplemental_groups(ctx: &PodContext) -> Vec<i64> {
    let Some(pod) = &ctx.spec().security_context else {
        return Vec::new();
    };
    pod.fs_group
        .into_iter()
        .chain(pod.supplemental_groups.iter().flatten().copied())
        .collect()
}

fn groups_policy(ctx: &PodContext) -> Result<i32, SpecError> {
    let policy = ctx
        .spec()
        .security_context
        .as_ref()
        .and_then(|pod| pod.supplemental_groups_policy.as_deref());
    match policy {
        None | Some("Merge") => Ok(cri::SupplementalGroupsPolicy::Merge.into()),
        Some("Strict") => Ok(cri::SupplementalGroupsPolicy::Strict.into()),
        Some(other) => Err(SpecError::config(format!(
            "unsupported supplementalGroupsPolicy: {other}"
        ))),
    }
}

fn seccomp(ctx: &PodContext, own: Option<&SeccompProfile>) -> Result<cri::SecurityProfile, SpecError> {
    let pod = ctx
        .spec()
        .security_context
        .as_ref()
        .and_then(|pod| pod.seccomp_profile.as_ref());
    let Some(wanted) = own.or(pod) else {
        let default = if ctx.settings.seccomp_default {
            ProfileType::RuntimeDefault
        } else {
            ProfileType::Unconfined
        };
        return Ok(profile(default, ""));
    };
    match wanted.type_.as_str() {
        "RuntimeDefault" => Ok(profile(ProfileType::RuntimeDefault, "")),
        "Localhost" => match wanted.localhost_profile.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => {
                let path = ctx.settings.seccomp_profiles.join(name);
                Ok(profile(ProfileType::Localhost, &path.to_string_lossy()))
            }
            None => Err(SpecError::config(
                "localhostProfile must be set if seccompProfile type is Localhost.",
            )),
        },
        _ => Ok(profile(ProfileType::Unconfined, "")),
    }
}

/// The profile and the form of it that older runtimes read.
fn apparmor(ctx: &PodContext, container: &ContainerRef) -> Result<Option<(cri::SecurityProfile, String)>, SpecError> {
    let own = container
        .container
        .security_context
        .as_ref()
        .and_then(|own| own.app_armor_profile.clone());
    // Static pods may carry only the annotation.
    let annotated = || {
        let key = format!(
            "container.apparmor.security.beta.kubernetes.io/{}",
            container.container.name
        );
        let value = ctx.pod.metadata.annotations.as_ref()?.get(&key)?;
        let (type_, localhost_profile) = match value.as_str() {
            "runtime/default" => ("RuntimeDefault", None),
            "unconfined" => ("Unconfined", None),
            other => ("Localhost", Some(other.strip_prefix("localhost/")?.to_owned())),
        };
        Some(AppArmorProfile {
            type_: type_.into(),
            localhost_profile,
        })
    };
    let pod = || {
        ctx.spec()
            .security_context
            .as_ref()
            .and_then(|pod| pod.app_armor_profile.clone())
    };
    let Some(wanted) = own.or_else(annotated).or_else(pod) else {
        return Ok(None);
    };
    Ok(Some(match (wanted.type_.as_str(), wanted.localhost_profile) {
        ("RuntimeDefault", _) => (profile(ProfileType::RuntimeDefault, ""), "runtime/default".into()),
        ("Unconfined", _) => (profile(ProfileType::Unconfined, ""), "unconfined".into()),
        ("Localhost", Some(name)) => (profile(ProfileType::Localhost, &name), format!("localhost/{name}")),
        ("Localhost", None) => return Err(SpecError::config("missing localhost apparmor profile name")),
        (other, _) => return Err(SpecError::config(format!("unknown apparmor profile type: {other:?}"))),
    }))
}

fn selinux(options: &SELinuxOptions) -> cri::SeLinuxOption {
    cri::SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

fn profile(kind: ProfileType, localhost_ref: &str) -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: localhost_ref.to_owned(),
    }
}

const fn int64(value: i64) -> cri::Int64Value {
    cri::Int64Value { value }
}

const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
