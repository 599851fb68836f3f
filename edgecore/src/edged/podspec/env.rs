//! The environment of a container (spec 05 §6, row 10; §9.2 T8).

use std::collections::HashMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EnvVarSource};
use proto::{Kind, Object, ObjectPath, cri};

use super::downward::{field_value, resource_value};
use super::expand::{Budget, TooLong, expand};
use crate::edged::context::PodContext;
use crate::edged::context::SpecError;
use crate::metamanager::RequestError;

/// Variables in the order in which they were named first.
#[derive(Default)]
pub(super) struct Environment {
    pairs: Vec<(String, String)>,
    index: HashMap<String, usize>,
    budget: Budget,
}

impl Environment {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.index
            .get(name)
            .and_then(|index| self.pairs.get(*index))
            .map(|(_, value)| value.as_str())
    }

    /// Text of this container with the values that are known by now.
    pub(super) fn expand(&mut self, text: &str) -> Result<String, TooLong> {
        let mut budget = self.budget;
        let expanded = expand(text, &mut budget, |name| self.get(name));
        self.budget = budget;
        expanded
    }

    fn set(&mut self, name: String, value: String) {
        if let Some((_, known)) = self.index.get(&name).and_then(|index| self.pairs.get_mut(*index)) {
            *known = value;
            return;
        }
        self.index.insert(name.clone(), self.pairs.len());
        self.pairs.push((name, value));
    }

    pub(super) fn into_cri(self) -> Vec<cri::KeyValue> {
        self.pairs
            .into_iter()
            .map(|(key, value)| cri::KeyValue { key, value })
            .collect()
    }
}

pub(super) async fn environment(
    ctx: &PodContext,
    container: &Container,
    pod_ips: &[IpAddr],
) -> Result<Environment, SpecError> {
    let mut env = Environment::default();
    let mut sources = Sources {
        ctx,
        read: HashMap::new(),
    };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => (Kind::ConfigMap, &map.name, map.optional),
            (None, Some(secret)) => (Kind::Secret, &secret.name, secret.optional),
            (None, None) => continue,
        };
        let Some(data) = sources.data(kind, name, optional).await? else {
            continue;
        };
        for (key, value) in data {
            let name = format!("{prefix}{key}");
            // Names that no process environment can carry.
            if !name.is_empty() && !name.contains(['=', '\0']) {
                env.set(name, value.clone());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let written = variable.value.as_deref().filter(|text| !text.is_empty());
        let value = match (written, &variable.value_from) {
            (Some(text), _) => env
                .expand(text)
                .map_err(|error| SpecError::config(format!("environment variable {:?}: {error}", variable.name)))?,
            (None, Some(from)) => match sources.value(container, from, pod_ips).await? {
                Some(value) => value,
                None => continue,
            },
            (None, None) => String::new(),
        };
        env.set(variable.name.clone(), value);
    }
    if let Some(server) = ctx.settings.meta_server {
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", server.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT", server.port().to_string()),
        ] {
            if env.get(name).is_none() {
                env.set(name.into(), value);
            }
        }
    }
    Ok(env)
}

/// ConfigMaps and Secrets, each read once per container.
struct Sources<'a> {
    ctx: &'a PodContext,
    read: HashMap<(bool, String), Vec<(String, String)>>,
}

impl Sources<'_> {
    /// The text entries, or nothing when the object may be missing and is.
    async fn data(
        &mut self,
        kind: Kind,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<&Vec<(String, String)>>, SpecError> {
        let key = (kind == Kind::Secret, name.to_owned());
        if !self.read.contains_key(&key) {
            let path = ObjectPath::new(self.ctx.namespace(), kind.clone(), name);
            let entries = match self.ctx.api.object(&path).await {
                Ok(object) => entries(&kind, &object),
                Err(error) if optional == Some(true) && is_not_found(&error) => return Ok(None),
                Err(error) => Err(error),
            };
            let word = if kind == Kind::Secret { "secret" } else { "configmap" };
            let full = format!("{}/{name}", self.ctx.namespace());
            let entries = entries.map_err(|error| SpecError::source(&word, &full, &error))?;
            self.read.insert(key.clone(), entries);
        }
        Ok(self.read.get(&key))
    }

    async fn value(
        &mut self,
        container: &Container,
        from: &EnvVarSource,
        pod_ips: &[IpAddr],
    ) -> Result<Option<String>, SpecError> {
        if let Some(field) = &from.field_ref {
            return field_value(self.ctx, &field.field_path, pod_ips).map(Some);
        }
        if let Some(selector) = &from.resource_field_ref {
            return resource_value(self.ctx, Some(container), selector).map(Some);
        }
        let (kind, word, name, key, optional) = match (&from.config_map_key_ref, &from.secret_key_ref) {
            (Some(map), _) => (Kind::ConfigMap, "ConfigMap", &map.name, &map.key, map.optional),
            (None, Some(secret)) => (Kind::Secret, "Secret", &secret.name, &secret.key, secret.optional),
            (None, None) => return Ok(Some(String::new())),
        };
        let full = format!("{}/{name}", self.ctx.namespace());
        let Some(data) = self.data(kind, name, optional).await? else {
            return Ok(None);
        };
        match data.iter().find(|(known, _)| known == key) {
            Some((_, value)) => Ok(Some(value.clone())),
            None if optional == Some(true) => Ok(None),
            None => Err(SpecError::config(format!("couldn't find key {key} in {word} {full}"))),
        }
    }
}

/// The text entries of a ConfigMap or Secret, by key. Bytes that are no text are replaced: an environment cannot carry them anyway.
fn entries(kind: &Kind, object: &Object) -> Result<Vec<(String, String)>, RequestError> {
    let unreadable = |source| RequestError::Unreadable {
        what: format!("{kind} {}", object.name()),
        source,
    };
    if *kind == Kind::Secret {
        let secret: k8s_openapi::api::core::v1::Secret = object.view().map_err(unreadable)?;
        let text =
            |(key, bytes): (String, k8s_openapi::ByteString)| (key, String::from_utf8_lossy(&bytes.0).into_owned());
        return Ok(secret.data.unwrap_or_default().into_iter().map(text).collect());
    }
    let map: k8s_openapi::api::core::v1::ConfigMap = object.view().map_err(unreadable)?;
    Ok(map.data.unwrap_or_default().into_iter().collect())
}

pub(crate) fn is_not_found(error: &RequestError) -> bool {
    error.status().is_some_and(proto::Status::is_not_found)
}
