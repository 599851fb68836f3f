//! Images of containers: present, to be pulled, or refused.
//!
//! Owns the turns of pulls. Reads nothing but what it is given. How long a pod waits after a failed pull is the pod's own state
//! ([`PullDelays`]). Behaviour: spec 05 §6 row 6.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use proto::cri;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::edged::context::{ResolvedImage, Settings};
use crate::edged::events::Severity;
use crate::edged::podspec::image_user;
use crate::edged::runtime::{Runtime, RuntimeError};

/// Takes what is to be told about an image.
pub(crate) type Tell<'a> = &'a (dyn Fn(Severity, &'static str, String) + Send + Sync);

/// Why a container has no image: `waiting.reason` and `waiting.message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageError {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// When to try again, where that is known.
    pub(crate) retry_at: Option<Instant>,
}

/// Failed pulls of a pod, by image.
#[derive(Debug, Default)]
pub(crate) struct PullDelays(BTreeMap<String, Failed>);

#[derive(Debug)]
struct Failed {
    until: Instant,
    delay: Duration,
    error: String,
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    runtime: Arc<dyn Runtime>,
    turns: Arc<Semaphore>,
}

impl Images {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, settings: &Settings) -> Self {
        let turns = if settings.serialize_image_pulls {
            1
        } else {
            settings
                .max_parallel_image_pulls
                .unwrap_or(Semaphore::MAX_PERMITS)
                .max(1)
        };
        Self {
            runtime,
            turns: Arc::new(Semaphore::new(turns)),
        }
    }

    /// The container's image, pulled if its policy says so. `credentials` are tried in order, then none.
    pub(crate) async fn ensure(
        &self,
        container: &Container,
        credentials: Vec<cri::AuthConfig>,
        sandbox: &cri::PodSandboxConfig,
        delays: &mut PullDelays,
        tell: Tell<'_>,
    ) -> Result<ResolvedImage, ImageError> {
        let ensured = self.find_or_pull(container, credentials, sandbox, delays, tell).await;
        if let Err(error) = &ensured {
            let named = container.image.as_deref().unwrap_or_default();
            match error.reason {
                "ErrImagePull" => {
                    let message = format!("Failed to pull image \"{named}\": {}", error.message);
                    tell(Severity::Warning, "Failed", message);
                }
                "ImagePullBackOff" => {
                    tell(
                        Severity::Normal,
                        "BackOff",
                        format!("Back-off pulling image \"{named}\""),
                    );
                }
                "InvalidImageName" | "ImageInspectError" => {
                    tell(Severity::Warning, "InspectFailed", error.message.clone());
                }
                reason => tell(Severity::Warning, reason, error.message.clone()),
            }
        }
        ensured
    }

    async fn find_or_pull(
        &self,
        container: &Container,
        credentials: Vec<cri::AuthConfig>,
        sandbox: &cri::PodSandboxConfig,
        delays: &mut PullDelays,
        tell: Tell<'_>,
    ) -> Result<ResolvedImage, ImageError> {
        let named = container.image.as_deref().unwrap_or_default();
        let Some(name) = with_tag(named) else {
            let message = format!(
                "Failed to apply default image tag \"{named}\": couldn't parse image name \"{named}\": {}",
                why_invalid(named)
            );
            return Err(ImageError {
                reason: "InvalidImageName",
                message,
                retry_at: None,
            });
        };
        let policy = policy(container, &name);
        let present = self.runtime.image_status(&name).await.map_err(|error| ImageError {
            reason: "ImageInspectError",
            message: format!("Failed to inspect image \"{named}\": {error}"),
            retry_at: None,
        })?;
        match (policy, present) {
            (Policy::Never | Policy::IfNotPresent, Some(image)) => {
                let message = format!("Container image \"{named}\" already present on machine");
                tell(Severity::Normal, "Pulled", message);
                return Ok(resolved(name, image));
            }
            (Policy::Never, None) => {
                let message = format!("Container image \"{named}\" is not present with pull policy of Never");
                return Err(ImageError {
                    reason: "ErrImageNeverPull",
                    message,
                    retry_at: None,
                });
            }
            (Policy::Always, _) | (Policy::IfNotPresent, None) => {}
        }
        if let Some(failed) = delays.0.get(named).filter(|failed| Instant::now() < failed.until) {
            return Err(ImageError {
                reason: "ImagePullBackOff",
                message: format!("Back-off pulling image \"{named}\": ErrImagePull: {}", failed.error),
                retry_at: Some(failed.until),
            });
        }
        tell(Severity::Normal, "Pulling", format!("Pulling image \"{named}\""));
        let asked = Instant::now();
        match self.pull(&name, credentials, sandbox).await {
            Ok((id, took)) => {
                delays.0.remove(named);
                let image = self.runtime.image_status(&id).await.ok().flatten();
                let (took, waited) = (took.as_secs_f32(), asked.elapsed().as_secs_f32());
                let size = image.as_ref().map_or(0, |image| image.size);
                let message = format!(
                    "Successfully pulled image \"{named}\" in {took:.3}s ({waited:.3}s including waiting). Image size: {size} bytes."
                );
                tell(Severity::Normal, "Pulled", message);
                Ok(image.map_or_else(
                    || ResolvedImage {
                        name: name.clone(),
                        id,
                        ..Default::default()
                    },
                    |image| resolved(name.clone(), image),
                ))
            }
            Err(error) => {
                let text = error.message.clone();
                warn!(image = named, error = %error, "image not pulled");
                // The next look says that it waits.
                let until = delays.failed(named, &text).min(Instant::now() + SAID);
                Err(ImageError {
                    reason: "ErrImagePull",
                    retry_at: Some(until),
                    message: text,
                })
            }
        }
    }

    async fn pull(
        &self,
        name: &str,
        credentials: Vec<cri::AuthConfig>,
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<(String, Duration), RuntimeError> {
        let _turn = self.turns.acquire().await;
        let started = Instant::now();
        let mut first_error = None;
        for auth in credentials.into_iter().map(Some).chain([None]) {
            match self.runtime.pull_image(name, auth, Some(sandbox.clone())).await {
                Ok(id) => {
                    info!(image = name, seconds = started.elapsed().as_secs_f32(), "image pulled");
                    return Ok((id, started.elapsed()));
                }
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| RuntimeError {
            call: "PullImage",
            subject: name.to_owned(),
            code: tonic::Code::Unknown,
            message: "no attempt was made".into(),
        }))
    }
}

impl PullDelays {
    /// Notes a failed pull; returns when the next one may start.
    fn failed(&mut self, image: &str, error: &str) -> Instant {
        let now = Instant::now();
        let delay = self
            .0
            .get(image)
            .map_or(FIRST_DELAY, |failed| (failed.delay * 2).min(LONGEST_DELAY));
        let until = now + delay;
        self.0.insert(
            image.to_owned(),
            Failed {
                until,
                delay,
                error: error.to_owned(),
            },
        );
        until
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

fn policy(container: &Container, name: &str) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        _ if name.ends_with(":latest") => Policy::Always,
        _ => Policy::IfNotPresent,
    }
}

fn resolved(name: String, image: cri::Image) -> ResolvedImage {
    let (uid, username) = image_user(&image);
    ResolvedImage {
        name,
        id: image.id,
        uid,
        username,
    }
}

/// The name with a tag, as the runtime is to see it.
fn with_tag(image: &str) -> Option<String> {
    let tagless = normalize(image)?.ends_with(":latest") && !image.ends_with(":latest");
    Some(if tagless {
        format!("{image}:latest")
    } else {
        image.to_owned()
    })
}

/// The image's full name: with its registry, and with a tag or digest. `None` for what is no image name.
pub(crate) fn normalize(image: &str) -> Option<String> {
    let (name, digest) = image
        .split_once('@')
        .map_or((image, None), |(name, digest)| (name, Some(digest)));
    if digest.is_some_and(|d| !d.contains(':') || d.split(':').any(str::is_empty)) {
        return None;
    }
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match name.get(last..).and_then(|end| end.rfind(':')) {
        Some(colon) => (name.get(..last + colon)?, name.get(last + colon + 1..)),
        None => (name, None),
    };
    let tag_fits = |tag: &str| {
        !tag.is_empty()
            && tag.len() <= 128
            && !tag.starts_with(['.', '-'])
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    if tag.is_some_and(|tag| !tag_fits(tag)) {
        return None;
    }
    let (registry, path) = match path.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest.to_owned()),
        Some(_) => ("docker.io", path.to_owned()),
        None => ("docker.io", format!("library/{path}")),
    };
    let part_fits = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    if !path.split('/').all(part_fits) || path.len() > 255 {
        return None;
    }
    let mut full = format!("{registry}/{path}");
    match (tag, digest) {
        (None, None) => full.push_str(":latest"),
        (tag, digest) => {
            full.extend(tag.into_iter().flat_map(|tag| [":", tag]));
            full.extend(digest.into_iter().flat_map(|digest| ["@", digest]));
        }
    }
    Some(full)
}

/// Capital letters make a registry of the first part too, as no repository has them.
fn is_registry(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.chars().any(|c| c.is_ascii_uppercase())
}

/// What is wrong with an image name, in the words of those who compare statuses.
fn why_invalid(image: &str) -> String {
    let repository = match image.split_once('/') {
        Some((first, rest)) if is_registry(first) => rest.to_owned(),
        Some(_) => image.to_owned(),
        None => format!("library/{image}"),
    };
    let repository = repository.split(':').next().unwrap_or_default();
    let format = "invalid reference format";
    if repository.chars().any(char::is_uppercase) {
        format!("{format}: repository name ({repository}) must be lowercase")
    } else {
        format.to_owned()
    }
}

const FIRST_DELAY: Duration = Duration::from_secs(10);
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// Until `ErrImagePull` becomes `ImagePullBackOff`.
const SAID: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use k8s_openapi::api::core::v1::Container;
    use proto::{Kind, ObjectPath, cri};
    use serde_json::json;

    use super::{Images, PullDelays, Tell, normalize, resolved, why_invalid};
    use crate::edged::context::Settings;
    use crate::edged::runtime::fake::Fake;
    use crate::edged::testing::{IMAGE, World, pod};

    fn user(name: &str) -> cri::AuthConfig {
        cri::AuthConfig {
            username: name.into(),
            password: "open sesame".into(),
            ..Default::default()
        }
    }

    /// Whether a container gets its image.
    async fn ensure(runtime: &Arc<Fake>, image: &str, policy: &str, credentials: Vec<cri::AuthConfig>) -> bool {
        let images = Images::new(runtime.clone(), &Settings::default());
        let container = Container {
            image: Some(image.into()),
            image_pull_policy: Some(policy.into()),
            ..Default::default()
        };
        let (sandbox, mut delays) = (cri::PodSandboxConfig::default(), PullDelays::default());
        let tell: Tell<'_> = &|_, _, _| {};
        let ensured = images
            .ensure(&container, credentials, &sandbox, &mut delays, tell)
            .await;
        ensured.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_that_is_there_is_pulled_by_always_alone() {
        for (policy, pulls) in [("Always", 1), ("IfNotPresent", 0), ("Never", 0)] {
            let runtime = Arc::new(Fake::new(&[IMAGE]));
            assert!(ensure(&runtime, IMAGE, policy, Vec::new()).await, "{policy}");
            assert_eq!(runtime.pulls().len(), pulls, "{policy}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_that_is_absent_is_pulled_unless_never() {
        for (policy, pulls) in [("Always", 1), ("IfNotPresent", 1), ("Never", 0)] {
            let runtime = Arc::new(Fake::new(&[]));
            assert_eq!(
                ensure(&runtime, IMAGE, policy, Vec::new()).await,
                pulls == 1,
                "{policy}"
            );
            assert_eq!(runtime.pulls().len(), pulls, "{policy}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_tried_in_order_until_one_is_taken() {
        let runtime = Arc::new(Fake::new(&[]));
        let both = vec![user("a"), user("b")];
        assert!(ensure(&runtime, IMAGE, "Always", both.clone()).await);
        assert_eq!(runtime.pulls(), [Some(user("a"))]);
        runtime.fail_pull(IMAGE, "401 Unauthorized");
        assert!(!ensure(&runtime, IMAGE, "Always", both).await);
        assert_eq!(runtime.pulls()[1..], [Some(user("a")), Some(user("b")), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_gets_the_credentials_of_the_pods_secrets() {
        let world = World::new();
        let config = json!({"auths": {"registry.test": {"username": "edge", "password": "open sesame"}}});
        world.api.set_object(
            ObjectPath::new("default", Kind::Secret, "registry"),
            &json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "default", "name": "registry"},
                "type": "kubernetes.io/dockerconfigjson",
                "data": {".dockerconfigjson": STANDARD.encode(config.to_string())}
            }),
        );
        let mut wanted = pod("u1", "Always");
        wanted["spec"]["imagePullSecrets"] = json!([{"name": "absent"}, {"name": "registry"}]);
        wanted["spec"]["containers"][0]["image"] = json!("registry.test/app:1");
        world.api.put(&wanted);
        world.until("it runs", |w| !w.runtime.running().is_empty()).await;
        assert_eq!(world.runtime.pulls(), [Some(user("edge"))]);
    }

    #[test]
    fn image_names_get_a_registry_and_a_tag() {
        let full = |image| normalize(image);
        assert_eq!(full("busybox").as_deref(), Some("docker.io/library/busybox:latest"));
        assert_eq!(
            full("docker.io/library/busybox:1.36").as_deref(),
            Some("docker.io/library/busybox:1.36")
        );
        assert_eq!(
            full("kubeedge/pause:3.6").as_deref(),
            Some("docker.io/kubeedge/pause:3.6")
        );
        assert_eq!(full("localhost:5000/a/b").as_deref(), Some("localhost:5000/a/b:latest"));
        assert_eq!(
            full("registry.k8s.io/pause@sha256:ab").as_deref(),
            Some("registry.k8s.io/pause@sha256:ab")
        );
        assert_eq!(full(""), None);
        assert_eq!(full("UPPER"), None);
        assert_eq!(full("a:b:c d"), None);
        assert_eq!(full("foo//bar"), None);
    }

    #[test]
    fn capital_letters_are_named_as_the_fault() {
        let lowercase = |name: &str| format!("invalid reference format: repository name ({name}) must be lowercase");
        assert_eq!(why_invalid("UPPER/Case:1"), lowercase("Case"));
        assert_eq!(why_invalid("UPPER"), lowercase("library/UPPER"));
        assert_eq!(why_invalid("a:b:c d"), "invalid reference format");
    }

    #[test]
    fn an_image_that_names_no_user_runs_as_root() {
        let silent = resolved("a".into(), cri::Image::default());
        assert_eq!(silent.uid, Some(0));
        let named = resolved(
            "a".into(),
            cri::Image {
                username: "nginx".into(),
                ..Default::default()
            },
        );
        assert_eq!((named.uid, named.username.as_str()), (None, "nginx"));
    }
}
