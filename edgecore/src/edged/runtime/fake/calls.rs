//! The calls of the runtime, answered from memory.

use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use proto::{Uid, cri};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Code;

use super::{Container, Fake, Life};
use crate::edged::runtime::{
    Call, ContainerId, Events, ExecOutput, LABEL_CONTAINER_NAME, LABEL_POD_UID, Runtime, RuntimeError, SandboxId,
};

/// Events that wait for whoever listens.
const EVENTS: usize = 16;

fn error(call: &'static str, subject: &str, code: Code, message: &str) -> RuntimeError {
    RuntimeError {
        call,
        subject: subject.to_owned(),
        code,
        message: message.to_owned(),
    }
}

fn done<'a, T: Send + 'a>(answer: Result<T, RuntimeError>) -> Call<'a, T> {
    futures::future::ready(answer).boxed()
}

fn unimplemented<'a, T: Send + 'a>(call: &'static str) -> Call<'a, T> {
    done(Err(error(call, "", Code::Unimplemented, "not in the fake")))
}

impl Runtime for Fake {
    fn version(&self) -> Call<'_, cri::VersionResponse> {
        done(Ok(cri::VersionResponse {
            runtime_name: "fake".into(),
            ..Default::default()
        }))
    }

    fn status(&self) -> Call<'_, cri::StatusResponse> {
        let network = self.state.lock().network_ready.unwrap_or(true);
        let condition = |kind: &str, status| cri::RuntimeCondition {
            r#type: kind.into(),
            status,
            ..Default::default()
        };
        let conditions = vec![condition("RuntimeReady", true), condition("NetworkReady", network)];
        let status = Some(cri::RuntimeStatus { conditions });
        done(Ok(cri::StatusResponse {
            status,
            ..Default::default()
        }))
    }

    fn runtime_config(&self) -> Call<'_, cri::RuntimeConfigResponse> {
        unimplemented("RuntimeConfig")
    }

    fn update_runtime_config(&self, _: &str) -> Call<'_, ()> {
        done(Ok(()))
    }

    fn list_sandboxes<'a>(&'a self, pod: Option<&'a Uid>) -> Call<'a, Vec<cri::PodSandbox>> {
        let state = self.state.lock();
        let of =
            |s: &cri::PodSandbox| pod.is_none_or(|uid| s.labels.get(LABEL_POD_UID).is_some_and(|l| l == uid.as_str()));
        done(Ok(state
            .sandboxes
            .iter()
            .map(|(s, _, _)| s.clone())
            .filter(of)
            .collect()))
    }

    fn sandbox_status<'a>(&'a self, id: &'a SandboxId) -> Call<'a, cri::PodSandboxStatus> {
        let state = self.state.lock();
        let found = state
            .sandboxes
            .iter()
            .find(|(s, _, _)| s.id == id.as_str())
            .map(|(s, ip, host)| {
                let network = if *host {
                    cri::NamespaceMode::Node
                } else {
                    cri::NamespaceMode::Pod
                } as i32;
                let options = Some(cri::NamespaceOption {
                    network,
                    ..Default::default()
                });
                let namespaces = Some(cri::Namespace { options });
                cri::PodSandboxStatus {
                    id: s.id.clone(),
                    metadata: s.metadata.clone(),
                    state: s.state,
                    created_at: s.created_at,
                    network: Some(cri::PodSandboxNetworkStatus {
                        ip: ip.clone(),
                        ..Default::default()
                    }),
                    linux: Some(cri::LinuxPodSandboxStatus { namespaces }),
                    labels: s.labels.clone(),
                    ..Default::default()
                }
            });
        done(found.ok_or_else(|| error("PodSandboxStatus", id.as_str(), Code::NotFound, "not found")))
    }

    fn run_sandbox(&self, config: cri::PodSandboxConfig, _: String) -> Call<'_, SandboxId> {
        let mut state = self.state.lock();
        let id = state.id("sandbox");
        let attempt = config.metadata.as_ref().map_or(0, |m| m.attempt);
        state.calls.push(format!("run {attempt}"));
        let sandbox = cri::PodSandbox {
            id: id.clone(),
            metadata: config.metadata,
            state: cri::PodSandboxState::SandboxReady as i32,
            created_at: state.now(),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: String::new(),
        };
        let ip = format!("10.0.0.{}", state.next);
        let options = config
            .linux
            .and_then(|l| l.security_context)
            .and_then(|c| c.namespace_options);
        let host = options.is_some_and(|o| o.network == cri::NamespaceMode::Node as i32);
        state
            .sandboxes
            .push((sandbox, if host { String::new() } else { ip }, host));
        done(Ok(SandboxId::new(id)))
    }

    fn stop_sandbox<'a>(&'a self, id: &'a SandboxId) -> Call<'a, ()> {
        let mut state = self.state.lock();
        state.calls.push("stop sandbox".to_owned());
        for (sandbox, _, _) in state.sandboxes.iter_mut().filter(|(s, _, _)| s.id == id.as_str()) {
            sandbox.state = cri::PodSandboxState::SandboxNotready as i32;
        }
        let now = Instant::now();
        for container in state.containers.iter_mut().filter(|c| c.sandbox == id.as_str()) {
            container.ended.get_or_insert((now, 137));
        }
        done(Ok(()))
    }

    fn remove_sandbox<'a>(&'a self, id: &'a SandboxId) -> Call<'a, ()> {
        let mut state = self.state.lock();
        state.calls.push("remove sandbox".to_owned());
        state.sandboxes.retain(|(s, _, _)| s.id != id.as_str());
        state.containers.retain(|c| c.sandbox != id.as_str());
        done(Ok(()))
    }

    fn list_containers<'a>(&'a self, pod: Option<&'a Uid>) -> Call<'a, Vec<cri::Container>> {
        let mut state = self.state.lock();
        state.settle();
        state.lists += usize::from(pod.is_none());
        let of = |c: &&Container| {
            pod.is_none_or(|uid| c.status.labels.get(LABEL_POD_UID).is_some_and(|l| l == uid.as_str()))
        };
        let list = state.containers.iter().filter(of).map(|c| {
            let status = state.status(c);
            cri::Container {
                id: status.id,
                pod_sandbox_id: c.sandbox.clone(),
                metadata: status.metadata,
                image: status.image,
                image_ref: status.image_ref,
                state: status.state,
                created_at: status.created_at,
                labels: status.labels,
                annotations: status.annotations,
                image_id: status.image_id,
            }
        });
        done(Ok(list.collect()))
    }

    fn container_status<'a>(&'a self, id: &'a ContainerId) -> Call<'a, cri::ContainerStatus> {
        let mut state = self.state.lock();
        state.settle();
        let found = state
            .containers
            .iter()
            .find(|c| c.status.id == id.as_str())
            .map(|c| state.status(c));
        done(found.ok_or_else(|| error("ContainerStatus", id.as_str(), Code::NotFound, "not found")))
    }

    fn create_container<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        config: cri::ContainerConfig,
        _: cri::PodSandboxConfig,
    ) -> Call<'a, ContainerId> {
        let mut state = self.state.lock();
        let id = state.id("container");
        let name = config.labels.get(LABEL_CONTAINER_NAME).cloned().unwrap_or_default();
        let before = state.containers.iter().filter(|c| {
            c.status.labels.get(LABEL_CONTAINER_NAME) == Some(&name)
                && c.status.labels.get(LABEL_POD_UID) == config.labels.get(LABEL_POD_UID)
        });
        let attempt = config.metadata.as_ref().map_or(0, |m| m.attempt);
        let turn = usize::try_from(attempt).expect("small").max(before.count());
        let lives = state.lives.get(&name);
        let life = lives
            .and_then(|l| l.get(turn).or_else(|| l.last()))
            .copied()
            .unwrap_or(Life::Runs);
        let image_name = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        let image_ref = format!("ref:{image_name}");
        let status = cri::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            created_at: state.now() + i64::from(state.next),
            image: config.image,
            image_ref,
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        let sandbox = sandbox.to_string();
        state.containers.push(Container {
            status,
            sandbox,
            started: None,
            life,
            ended: None,
        });
        done(Ok(ContainerId::new(id)))
    }

    fn start_container<'a>(&'a self, id: &'a ContainerId) -> Call<'a, ()> {
        let mut state = self.state.lock();
        let mut name = String::new();
        for container in state.containers.iter_mut().filter(|c| c.status.id == id.as_str()) {
            name = container
                .status
                .metadata
                .as_ref()
                .map(|m| m.name.clone())
                .unwrap_or_default();
            container.started = Some(Instant::now());
        }
        if let Some(message) = state.failing_starts.get(&name).cloned() {
            let now = Instant::now();
            for container in state.containers.iter_mut().filter(|c| c.status.id == id.as_str()) {
                container.started = None;
                container.ended = Some((now, 128));
            }
            return done(Err(error("StartContainer", id.as_str(), Code::Unknown, &message)));
        }
        state.calls.push(format!("start {name}"));
        done(Ok(()))
    }

    fn stop_container<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> Call<'a, ()> {
        async move {
            let wait = {
                let mut state = self.state.lock();
                let found = state.containers.iter().find(|c| c.status.id == id.as_str());
                let name = found
                    .and_then(|c| c.status.metadata.as_ref())
                    .map(|m| m.name.clone())
                    .unwrap_or_default();
                let stubborn = found.is_some_and(|c| matches!(c.life, Life::Stubborn));
                state.calls.push(format!("stop {name} {}", grace.as_secs()));
                if stubborn { grace } else { Duration::ZERO }
            };
            tokio::time::sleep(wait).await;
            let mut state = self.state.lock();
            let now = Instant::now();
            let code = if wait.is_zero() { 143 } else { 137 };
            for container in state.containers.iter_mut().filter(|c| c.status.id == id.as_str()) {
                container.ended.get_or_insert((now, code));
            }
            Ok(())
        }
        .boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> Call<'a, ()> {
        self.state.lock().containers.retain(|c| c.status.id != id.as_str());
        done(Ok(()))
    }

    fn reopen_log<'a>(&'a self, id: &'a ContainerId) -> Call<'a, ()> {
        let state = self.state.lock();
        if state.failing_reopen {
            return done(Err(error("ReopenContainerLog", id.as_str(), Code::Unknown, "refused")));
        }
        for container in state.containers.iter().filter(|c| c.status.id == id.as_str()) {
            std::fs::File::create(&container.status.log_path).expect("a test's log");
        }
        done(Ok(()))
    }

    fn exec_sync<'a>(&'a self, _: &'a ContainerId, _: Vec<String>, _: Duration) -> Call<'a, ExecOutput> {
        done(Ok(ExecOutput::default()))
    }

    fn exec(&self, _: cri::ExecRequest) -> Call<'_, String> {
        unimplemented("Exec")
    }

    fn attach(&self, _: cri::AttachRequest) -> Call<'_, String> {
        unimplemented("Attach")
    }

    fn port_forward(&self, _: cri::PortForwardRequest) -> Call<'_, String> {
        unimplemented("PortForward")
    }

    fn list_container_stats(&self, _: Option<&str>) -> Call<'_, Vec<cri::ContainerStats>> {
        done(Ok(Vec::new()))
    }

    fn list_sandbox_stats(&self) -> Call<'_, Vec<cri::PodSandboxStats>> {
        done(Ok(Vec::new()))
    }

    fn events(&self) -> Events {
        let mut state = self.state.lock();
        if !state.tells {
            return unimplemented("GetContainerEvents").into_stream().boxed();
        }
        let (sender, receiver) = mpsc::channel(EVENTS);
        state.events = Some(sender);
        stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))).boxed()
    }

    fn list_images(&self) -> Call<'_, Vec<cri::Image>> {
        done(Ok(self.state.lock().images.values().cloned().collect()))
    }

    fn image_status<'a>(&'a self, image: &'a str) -> Call<'a, Option<cri::Image>> {
        let state = self.state.lock();
        done(Ok(state
            .images
            .get(image)
            .or_else(|| state.images.values().find(|i| i.id == image))
            .cloned()))
    }

    fn pull_image<'a>(
        &'a self,
        image: &'a str,
        auth: Option<cri::AuthConfig>,
        _: Option<cri::PodSandboxConfig>,
    ) -> Call<'a, String> {
        let mut state = self.state.lock();
        state.pulls.push(auth);
        if let Some(message) = state.failing_pulls.get(image) {
            return done(Err(error("PullImage", image, Code::NotFound, message)));
        }
        state.add_image(image);
        done(Ok(format!("sha256:{image}")))
    }

    fn remove_image<'a>(&'a self, image: &'a str) -> Call<'a, ()> {
        self.state.lock().images.retain(|_, i| i.id != image);
        done(Ok(()))
    }

    fn image_fs_info(&self) -> Call<'_, cri::ImageFsInfoResponse> {
        done(Ok(cri::ImageFsInfoResponse::default()))
    }
}
