//! Which ConfigMaps and Secrets a Pod needs (spec 02 §2, LocationCache).

use std::collections::BTreeMap;

use proto::{Kind, Namespace, Object, ObjectPath};
use serde::Deserialize;

/// One object that a Pod names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reference {
    pub(super) path: ObjectPath,
    /// Whether the Pod starts without it.
    pub(super) optional: bool,
}

/// All references of a Pod, each object once; needed by one part of the Pod is needed by the Pod.
pub(super) fn references(pod: &Object) -> Box<[Reference]> {
    let Ok(view) = pod.view::<Pod>() else {
        return Box::default();
    };
    let mut found = Found {
        namespace: pod.namespace(),
        names: BTreeMap::new(),
    };
    let spec = view.spec;
    for volume in spec.volumes {
        volume.collect(&mut found);
    }
    for container in spec
        .containers
        .into_iter()
        .chain(spec.init_containers)
        .chain(spec.ephemeral_containers)
    {
        container.collect(&mut found);
    }
    for secret in spec.image_pull_secrets {
        found.add(SECRET, secret);
    }
    found
        .names
        .into_iter()
        .map(|((kind, name), optional)| found_reference(&found.namespace, kind, &name, optional))
        .collect()
}

/// Sort key of the two kinds.
const CONFIG_MAP: bool = false;
const SECRET: bool = true;

fn found_reference(namespace: &Namespace, kind: bool, name: &str, optional: bool) -> Reference {
    let kind = if kind == SECRET { Kind::Secret } else { Kind::ConfigMap };
    Reference {
        path: ObjectPath::new(namespace.clone(), kind, name),
        optional,
    }
}

struct Found {
    namespace: Namespace,
    names: BTreeMap<(bool, String), bool>,
}

impl Found {
    fn add(&mut self, kind: bool, named: Named) {
        let Some(name) = named.name.or(named.secret_name).filter(|name| !name.is_empty()) else {
            return;
        };
        let optional = named.optional.unwrap_or(false);
        self.names
            .entry((kind, name))
            .and_modify(|known| *known &= optional)
            .or_insert(optional);
    }

    fn add_all(&mut self, config_map: Option<Named>, secret: Option<Named>) {
        if let Some(named) = config_map {
            self.add(CONFIG_MAP, named);
        }
        if let Some(named) = secret {
            self.add(SECRET, named);
        }
    }
}

#[derive(Deserialize)]
struct Pod {
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(deserialize_with = "nullable")]
    volumes: Vec<Volume>,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    ephemeral_containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    image_pull_secrets: Vec<Named>,
}

/// A reference by name; volumes of Secrets and of Azure files say `secretName`.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Named {
    name: Option<String>,
    secret_name: Option<String>,
    optional: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Volume {
    config_map: Option<Named>,
    secret: Option<Named>,
    projected: Option<Projected>,
    azure_file: Option<Named>,
    csi: Option<WithSecret>,
    cephfs: Option<WithSecret>,
    rbd: Option<WithSecret>,
    iscsi: Option<WithSecret>,
    flex_volume: Option<WithSecret>,
    scale_io: Option<WithSecret>,
    storageos: Option<WithSecret>,
    cinder: Option<WithSecret>,
}

impl Volume {
    fn collect(self, found: &mut Found) {
        found.add_all(self.config_map, self.secret);
        for source in self.projected.unwrap_or_default().sources {
            found.add_all(source.config_map, source.secret);
        }
        found.add_all(None, self.azure_file);
        let drivers = [
            self.csi,
            self.cephfs,
            self.rbd,
            self.iscsi,
            self.flex_volume,
            self.scale_io,
            self.storageos,
            self.cinder,
        ];
        for driver in drivers.into_iter().flatten() {
            found.add_all(None, driver.secret_ref.or(driver.node_publish_secret_ref));
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Projected {
    #[serde(deserialize_with = "nullable")]
    sources: Vec<Source>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Source {
    config_map: Option<Named>,
    secret: Option<Named>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct WithSecret {
    secret_ref: Option<Named>,
    node_publish_secret_ref: Option<Named>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    #[serde(deserialize_with = "nullable")]
    env_from: Vec<EnvFrom>,
    #[serde(deserialize_with = "nullable")]
    env: Vec<Env>,
}

impl Container {
    fn collect(self, found: &mut Found) {
        for from in self.env_from {
            found.add_all(from.config_map_ref, from.secret_ref);
        }
        for from in self.env.into_iter().filter_map(|env| env.value_from) {
            found.add_all(from.config_map_key_ref, from.secret_key_ref);
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct EnvFrom {
    config_map_ref: Option<Named>,
    secret_ref: Option<Named>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Env {
    value_from: Option<ValueFrom>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ValueFrom {
    config_map_key_ref: Option<Named>,
    secret_key_ref: Option<Named>,
}

/// Go writes empty lists as `null`.
fn nullable<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_place_and_the_stronger_need() {
        let pod = Object::parse(
            r#"{"metadata":{"name":"p","namespace":"ns"},"spec":{
            "volumes":[{"configMap":{"name":"a"}},{"secret":{"secretName":"s","optional":true}},
              {"projected":{"sources":[{"serviceAccountToken":{}},{"configMap":{"name":"kube-root-ca.crt"}},{"secret":{"name":"t"}}]}},
              {"csi":{"driver":"d","nodePublishSecretRef":{"name":"csi"}}}],
            "containers":[{"envFrom":[{"configMapRef":{"name":"b","optional":true}}],
              "env":[{"name":"x","value":"y"},{"valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]}],
            "initContainers":[{"env":[{"valueFrom":{"configMapKeyRef":{"name":"i","key":"k"}}}]}],
            "ephemeralContainers":null,
            "imagePullSecrets":[{"name":"pull"},{}]}}"#,
        )
        .expect("pod");
        let found: Vec<String> = references(&pod)
            .iter()
            .map(|reference| format!("{}{}", reference.path, if reference.optional { "?" } else { "" }))
            .collect();
        assert_eq!(
            found,
            [
                "ns/configmap/a",
                "ns/configmap/b?",
                "ns/configmap/i",
                "ns/configmap/kube-root-ca.crt",
                "ns/secret/csi",
                "ns/secret/pull",
                "ns/secret/s",
                "ns/secret/t"
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_needs_nothing() {
        assert!(references(&Object::parse(r#"{"spec":{"volumes":7}}"#).expect("object")).is_empty());
        assert!(references(&Object::parse("{}").expect("object")).is_empty());
    }
}
