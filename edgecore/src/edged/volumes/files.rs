//! Volumes made of files that come from objects: configMap, secret, downwardAPI, projected.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::order;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret, ServiceAccountTokenProjection, VolumeProjection,
};
use proto::{Kind, ObjectName, ObjectPath};

use super::atomic::{self, Entry, Payload, checked_path};
use super::{make_dirs, mounts, ownership, volume_dir};
use crate::edged::api::TokenQuestion;
use crate::edged::context::PodContext;
use crate::edged::podspec::{field_value, is_not_found, resource_value, source_text};
use crate::pod::Volume;

/// What a volume is to show.
pub(super) struct Files {
    payload: Payload,
}

/// Whether a volume is made of such files.
pub(super) const fn is_projected(volume: &Volume) -> bool {
    plugin(volume).is_some()
}

/// The plugin's name in the path of its folder.
const fn plugin(volume: &Volume) -> Option<&'static str> {
    if volume.config_map.is_some() {
        Some("configmap")
    } else if volume.secret.is_some() {
        Some("secret")
    } else if volume.downward_api.is_some() {
        Some("downward-api")
    } else if volume.projected.is_some() {
        Some("projected")
    } else {
        None
    }
}

/// Whether a folder holds such a volume, into which no container can write.
pub(super) fn is_ours(dir: &Path) -> bool {
    let folder = dir.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let plugin = folder.and_then(|folder| folder.strip_prefix("kubernetes.io~"));
    matches!(plugin, Some("configmap" | "secret" | "downward-api" | "projected"))
}

/// The volume's folder.
pub(super) fn dir(ctx: &PodContext, volume: &Volume) -> PathBuf {
    volume_dir(ctx, plugin(volume).unwrap_or_default(), &volume.name)
}

/// Fetches what the volume is to show. The error is for people and names every object that is missing.
pub(super) async fn collect(ctx: &PodContext, volume: &Volume) -> Result<Files, String> {
    let mut payload = Payload::new();
    if let Some(source) = &volume.config_map {
        let items = Items {
            items: source.items.as_deref(),
            mode: source.default_mode,
            optional: source.optional,
        };
        payload = config_map(ctx, &source.name, &items).await?;
    } else if let Some(source) = &volume.secret {
        let items = Items {
            items: source.items.as_deref(),
            mode: source.default_mode,
            optional: source.optional,
        };
        payload = secret(ctx, source.secret_name.as_deref().unwrap_or_default(), &items).await?;
    } else if let Some(source) = &volume.downward_api {
        payload = downward(ctx, source.items.as_deref().unwrap_or_default(), source.default_mode)?;
    } else if let Some(source) = &volume.projected {
        let mut failures = Vec::new();
        for part in source.sources.iter().flatten() {
            match project(ctx, part, source.default_mode).await {
                Ok(part) => payload.extend(part),
                Err(failure) => failures.push(failure),
            }
        }
        if !failures.is_empty() {
            return Err(failures.join(", "));
        }
    }
    Ok(Files { payload })
}

/// Makes the folder and puts the files into it. `refused` tells whether an error means that nothing can be mounted here.
pub(super) fn write(
    ctx: &PodContext,
    volume: &Volume,
    files: &Files,
    dir: &Path,
    refused: impl Fn(&io::Error) -> bool,
) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        make_dirs(parent)?;
    }
    make_dirs(dir)?;
    // ConfigMaps are no secrets and stay on disk, as with a kubelet; a folder that was filled before mounting was possible stays too.
    if volume.config_map.is_none() && !is_mounted(dir)? && !atomic::is_filled(dir) {
        match mounts::tmpfs(dir, None) {
            Err(error) if !refused(&error) => return Err(error),
            _ => {}
        }
    }
    // Containers of any user read here; the folders above keep the host's users out.
    if fs::metadata(dir)?.permissions().mode() & 0o777 != 0o777 {
        fs::set_permissions(dir, PermissionsExt::from_mode(0o777))?;
    }
    for nested in nested_mounts(ctx, &volume.name) {
        fs::create_dir_all(dir.join(nested))?;
    }
    let group = ctx.spec().security_context.as_ref().and_then(|pod| pod.fs_group);
    atomic::write(dir, &files.payload, || ownership::set(dir, group, true))?;
    Ok(())
}

/// Whether the folder is on another file system than its parent.
pub(super) fn is_mounted(dir: &Path) -> io::Result<bool> {
    let parent = dir.parent().unwrap_or(dir);
    Ok(fs::metadata(dir)?.dev() != fs::metadata(parent)?.dev())
}

/// The containers see the volume read-only, so the runtime could not make these mount points in it.
fn nested_mounts(ctx: &PodContext, volume: &str) -> Vec<PathBuf> {
    let spec = ctx.spec();
    let mut nested = Vec::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        for outer in mounts
            .iter()
            .filter(|mount| mount.name == volume && mount.sub_path.is_none())
        {
            for inner in mounts.iter().filter(|mount| mount.name != volume) {
                let below = Path::new(&inner.mount_path).strip_prefix(&outer.mount_path);
                nested.extend(below.ok().and_then(|path| checked_path(path.to_str()?).ok()));
            }
        }
    }
    nested
}

/// Which keys are shown where.
struct Items<'a> {
    items: Option<&'a [KeyToPath]>,
    mode: Option<i32>,
    optional: Option<bool>,
}

impl Items<'_> {
    fn payload(&self, kind: &str, data: BTreeMap<String, Vec<u8>>) -> Result<Payload, String> {
        let mut payload = Payload::new();
        let Some(items) = self.items.filter(|items| !items.is_empty()) else {
            for (key, data) in data {
                payload.insert(
                    checked_path(&key)?,
                    Entry {
                        data,
                        mode: mode(self.mode, None),
                        user: None,
                    },
                );
            }
            return Ok(payload);
        };
        for item in items {
            let Some(data) = data.get(&item.key) else {
                if self.optional == Some(true) {
                    continue;
                }
                return Err(if kind == "secret" {
                    format!("references non-existent secret key: {}", item.key)
                } else {
                    format!("configmap references non-existent config key: {}", item.key)
                });
            };
            let entry = Entry {
                data: data.clone(),
                mode: mode(self.mode, item.mode),
                user: None,
            };
            payload.insert(checked_path(&item.path)?, entry);
        }
        Ok(payload)
    }
}

async fn project(ctx: &PodContext, part: &VolumeProjection, default: Option<i32>) -> Result<Payload, String> {
    if let Some(source) = &part.secret {
        let items = Items {
            items: source.items.as_deref(),
            mode: default,
            optional: source.optional,
        };
        return secret(ctx, &source.name, &items).await;
    }
    if let Some(source) = &part.config_map {
        let items = Items {
            items: source.items.as_deref(),
            mode: default,
            optional: source.optional,
        };
        return config_map(ctx, &source.name, &items).await;
    }
    if let Some(source) = &part.downward_api {
        return downward(ctx, source.items.as_deref().unwrap_or_default(), default);
    }
    if let Some(source) = &part.service_account_token {
        return token(ctx, source, default).await;
    }
    Err("a projected source of this kind is not supported on this node".into())
}

async fn config_map(ctx: &PodContext, name: &str, items: &Items<'_>) -> Result<Payload, String> {
    let object = fetch(ctx, Kind::ConfigMap, name, items.optional).await?;
    let map: ConfigMap = match object {
        Some(object) => object
            .view()
            .map_err(|error| format!("configmap {name:?}: {}", common::chain(&error)))?,
        None => ConfigMap::default(),
    };
    let text = map
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, text)| (key, text.into_bytes()));
    let bytes = map
        .binary_data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, bytes)| (key, bytes.0));
    items.payload("configmap", order::map(text.chain(bytes)))
}

async fn secret(ctx: &PodContext, name: &str, items: &Items<'_>) -> Result<Payload, String> {
    let object = fetch(ctx, Kind::Secret, name, items.optional).await?;
    let secret: Secret = match object {
        // The parser's own text might quote the secret.
        Some(object) => object.view().map_err(|_| format!("secret {name:?} cannot be read"))?,
        None => Secret::default(),
    };
    let data = secret.data.unwrap_or_default().into_iter();
    items.payload("secret", order::map(data.map(|(key, bytes)| (key, bytes.0))))
}

/// The object; nothing when it may be missing and is.
async fn fetch(
    ctx: &PodContext,
    kind: Kind,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<proto::Object>, String> {
    let path = ObjectPath::new(ctx.namespace(), kind.clone(), name);
    match ctx.api.object(&path).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if optional == Some(true) && is_not_found(&error) => Ok(None),
        Err(error) => Err(source_text(&kind, name, &error)),
    }
}

fn downward(ctx: &PodContext, items: &[DownwardAPIVolumeFile], default: Option<i32>) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            field_value(ctx, &field.field_path, &[])
        } else if let Some(selector) = &item.resource_field_ref {
            resource_value(ctx, None, selector)
        } else {
            continue;
        };
        let data = text.map_err(|error| error.message)?.into_bytes();
        payload.insert(
            checked_path(&item.path)?,
            Entry {
                data,
                mode: mode(default, item.mode),
                user: None,
            },
        );
    }
    Ok(payload)
}

async fn token(
    ctx: &PodContext,
    source: &ServiceAccountTokenProjection,
    default: Option<i32>,
) -> Result<Payload, String> {
    let account = ctx
        .spec()
        .service_account_name
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or("default");
    let question = TokenQuestion {
        namespace: ctx.namespace().into(),
        service_account: ObjectName::new(account),
        audiences: source
            .audience
            .iter()
            .filter(|audience| !audience.is_empty())
            .cloned()
            .collect(),
        expiration_seconds: source.expiration_seconds.unwrap_or(DEFAULT_EXPIRATION),
        pod: ObjectName::new(ctx.name()),
        uid: ctx.uid(),
    };
    let answer = ctx.api.token(&question).await.map_err(|error| {
        format!(
            "failed to fetch token of service account {account:?}: {}",
            source_text(&"serviceaccount", account, &error)
        )
    })?;
    let text = answer.status.map(|status| status.token).unwrap_or_default();
    if text.is_empty() {
        return Err(format!(
            "the answer to the token request for service account {account:?} holds no token"
        ));
    }
    let user = common_user(ctx);
    let group = ctx.spec().security_context.as_ref().and_then(|pod| pod.fs_group);
    let mode = if user.is_some() || group.is_some() {
        0o600
    } else {
        mode(default, None)
    };
    Ok([(
        checked_path(&source.path)?,
        Entry {
            data: text.into_bytes(),
            mode,
            user,
        },
    )]
    .into())
}

/// The user that all containers run as, when that is one and the same.
fn common_user(ctx: &PodContext) -> Option<u32> {
    let spec = ctx.spec();
    let pod = spec.security_context.as_ref().and_then(|pod| pod.run_as_user);
    let ordinary = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| &c.security_context);
    let all = ordinary.chain(spec.ephemeral_containers.iter().flatten().map(|c| &c.security_context));
    let mut users = all.map(|own| own.as_ref().and_then(|own| own.run_as_user).or(pod));
    let first = users.next()??;
    users
        .all(|user| user == Some(first))
        .then(|| u32::try_from(first).ok())
        .flatten()
}

fn mode(default: Option<i32>, own: Option<i32>) -> u32 {
    own.or(default)
        .and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(0o644)
}

/// Seconds; what the API server would fill in.
const DEFAULT_EXPIRATION: i64 = 3600;
