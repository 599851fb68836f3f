//! Credentials for pulling images (spec 05 §6, row 7).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use proto::{Kind, ObjectPath, cri};
use serde::Deserialize;
use tracing::warn;

use crate::edged::context::PodContext;

/// The credentials to try for an image, in order. Secrets that cannot be had are told in the log; pulling goes on without them.
pub async fn pull_credentials(ctx: &PodContext, image: &str) -> Vec<cri::AuthConfig> {
    let mut secrets = Vec::new();
    for reference in ctx
        .spec()
        .image_pull_secrets
        .iter()
        .flatten()
        .filter(|reference| !reference.name.is_empty())
    {
        let path = ObjectPath::new(ctx.namespace(), Kind::Secret, reference.name.as_str());
        let secret = match ctx.api.object(&path).await {
            Ok(object) => object.view::<Secret>().map_err(|error| common::chain(&error)),
            Err(error) => Err(common::chain(&error)),
        };
        match secret {
            Ok(secret) => secrets.push(secret),
            Err(error) => {
                warn!(pod = %ctx.title(), secret = %path, %error, "pull secret cannot be read, the pull may fail");
            }
        }
    }
    credentials(&secrets, image)
}

fn credentials(secrets: &[Secret], image: &str) -> Vec<cri::AuthConfig> {
    let mut all = BTreeMap::<String, Vec<cri::AuthConfig>>::new();
    for secret in secrets {
        for (registry, entry) in entries(secret) {
            let key = registry_key(&registry);
            if let Some(auth) = entry.into_auth() {
                all.entry(key).or_default().push(auth);
            }
        }
    }
    let image = repository(image);
    // Longer paths first: the most specific entry is the best.
    let mut found: Vec<_> = all
        .iter()
        .rev()
        .filter(|(key, _)| matches(key, &image))
        .flat_map(|(_, v)| v.clone())
        .collect();
    if found.is_empty() && image.starts_with("docker.io/") {
        found = all.get(DOCKER_HUB).cloned().unwrap_or_default();
    }
    found
}

/// `~/.docker/config.json` and its older form.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

impl Entry {
    fn into_auth(self) -> Option<cri::AuthConfig> {
        let (username, password) = if self.auth.is_empty() {
            (self.username, self.password)
        } else {
            let bytes = STANDARD.decode(self.auth.trim()).ok()?;
            let text = String::from_utf8(bytes).ok()?;
            let (username, password) = text.split_once(':')?;
            (username.to_owned(), password.trim_matches('\0').to_owned())
        };
        Some(cri::AuthConfig {
            username,
            password,
            ..Default::default()
        })
    }
}

fn entries(secret: &Secret) -> BTreeMap<String, Entry> {
    let data = secret.data.as_ref();
    let get = |key: &str| data.and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let parsed = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => {
            get(".dockerconfigjson").map(|bytes| serde_json::from_slice::<Config>(bytes).map(|config| config.auths))
        }
        Some("kubernetes.io/dockercfg") => get(".dockercfg").map(serde_json::from_slice),
        _ => None,
    };
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    match parsed {
        Some(Ok(entries)) => entries,
        // The parser's own text would quote the secret.
        Some(Err(_)) => {
            warn!(secret = name, "pull secret is no docker configuration and is not used");
            BTreeMap::new()
        }
        None => BTreeMap::new(),
    }
}

/// Host and path without scheme, `/v1/` and `/v2/`.
fn registry_key(registry: &str) -> String {
    let rest = registry
        .strip_prefix("https://")
        .or_else(|| registry.strip_prefix("http://"))
        .unwrap_or(registry);
    let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
    let path = path
        .strip_prefix("v1/")
        .or_else(|| path.strip_prefix("v2/"))
        .unwrap_or(path);
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        host.to_owned()
    } else {
        format!("{host}/{path}")
    }
}

/// Host and path of the repository, without tag and digest, with the names that docker leaves out.
fn repository(image: &str) -> String {
    let image = image.split('@').next().unwrap_or(image);
    let last = image.rfind('/').map_or(0, |slash| slash + 1);
    let end = image
        .get(last..)
        .and_then(|name| name.find(':'))
        .map_or(image.len(), |colon| last + colon);
    let image = image.get(..end).unwrap_or(image);
    match image.split_once('/') {
        None => format!("docker.io/library/{image}"),
        Some(("index.docker.io" | "docker.io", rest)) if !rest.contains('/') => format!("docker.io/library/{rest}"),
        Some(("index.docker.io", rest)) => format!("docker.io/{rest}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
    }
}

fn matches(key: &str, image: &str) -> bool {
    let split = |text: &str| {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let (host, port) = host.split_once(':').unwrap_or((host, ""));
        (host.to_owned(), port.to_owned(), path.to_owned())
    };
    let ((glob, glob_port, glob_path), (host, port, path)) = (split(key), split(image));
    let (globs, names): (Vec<_>, Vec<_>) = (glob.split('.').collect(), host.split('.').collect());
    glob_port == port
        && path.starts_with(&glob_path)
        && globs.len() == names.len()
        && globs
            .iter()
            .zip(&names)
            .all(|(glob, name)| glob_matches(glob.as_bytes(), name.as_bytes()))
}

/// In steps that grow with the product of both lengths at most: whoever writes the secret writes the stars.
fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut at, mut here) = (0_usize, 0_usize);
    // To go back to: the place in the pattern after the last star, and the first letter of the name that this star has not taken.
    let mut star = None;
    while let Some(letter) = name.get(here) {
        match glob.get(at) {
            Some(b'*') => {
                at += 1;
                star = Some((at, here));
            }
            Some(wanted) if *wanted == b'?' || wanted == letter => {
                at += 1;
                here += 1;
            }
            _ => {
                let Some((after, first)) = star else { return false };
                at = after;
                here = first + 1;
                star = Some((at, here));
            }
        }
    }
    glob.iter().skip(at).all(|rest| *rest == b'*')
}

const DOCKER_HUB: &str = "index.docker.io";

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(type_: &str, key: &str, json: &str) -> Secret {
        let mut secret = Secret {
            type_: Some(type_.into()),
            ..Default::default()
        };
        secret.data = Some([(key.to_owned(), k8s_openapi::ByteString(json.as_bytes().to_vec()))].into());
        secret
    }

    fn users(json: &str, image: &str) -> Vec<String> {
        let secret = secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", json);
        credentials(&[secret], image)
            .into_iter()
            .map(|auth| format!("{}:{}", auth.username, auth.password))
            .collect()
    }

    #[test]
    fn the_longest_match_comes_first() {
        let json = r#"{"auths":{"reg.example":{"username":"a","password":"1"},"reg.example/team":{"auth":"Yjoy"},
            "*.example:5000":{"username":"c","password":"3"},"https://index.docker.io/v1/":{"username":"d","password":"4"}}}"#;
        assert_eq!(users(json, "reg.example/team/app:v1"), ["b:2", "a:1"]);
        assert_eq!(users(json, "reg.example/other/app@sha256:00"), ["a:1"]);
        assert_eq!(users(json, "x.example:5000/app"), ["c:3"]);
        assert_eq!(users(json, "x.y.example:5000/app"), Vec::<String>::new());
        assert_eq!(users(json, "nginx"), ["d:4"]);
        assert_eq!(users(json, "docker.io/library/nginx:1"), ["d:4"]);
        assert_eq!(users(json, "me/app"), ["d:4"]);
    }

    #[test]
    fn globs_match_whole_names() {
        for (glob, name, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "abc", true),
            ("a*", "a", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("*ab*", "aab", true),
            ("?", "", false),
            ("?b", "ab", true),
            ("*?", "", false),
            ("*?", "ab", true),
            ("abc", "ab", false),
        ] {
            assert_eq!(
                glob_matches(glob.as_bytes(), name.as_bytes()),
                expected,
                "{glob} {name}"
            );
        }
    }

    #[test]
    fn many_stars_cost_little() {
        let (glob, name) = ("*a".repeat(13), "a".repeat(200));
        assert!(glob_matches(glob.as_bytes(), name.as_bytes()));
        assert!(!glob_matches(format!("{glob}b").as_bytes(), name.as_bytes()));
    }

    #[test]
    fn the_older_form_and_broken_text() {
        let old = secret(
            "kubernetes.io/dockercfg",
            ".dockercfg",
            r#"{"r.example":{"username":"a","password":"b"}}"#,
        );
        assert_eq!(credentials(&[old], "r.example/x").len(), 1);
        let broken = secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", "{");
        assert!(credentials(&[broken], "r.example/x").is_empty());
    }
}
