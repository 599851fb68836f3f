//! The scenarios, by topic. Each holds for any KubeEdge: one that fails with the Go programs on both sides is a wrong
//! scenario, unless its text says what ours adds.

mod account;
mod address;
mod authorizer;
mod board;
mod channels;
mod demo;
mod device_versions;
pub(crate) mod devices;
mod diagnosis;
mod dmi;
mod eventbus;
mod events;
mod faults;
mod framework;
mod harness;
mod history;
mod identity;
mod images;
mod install;
mod install_cloud;
mod install_refused;
mod kubectl;
mod machine;
mod manifests;
mod mappers;
mod mqtt;
mod pods;
mod programs;
mod reach;
mod redirect;
mod redirect_ipv6;
mod redirect_programs;
mod replicas;
mod slow_reader;
mod stream_access;
mod stream_ends;
mod streams;
mod swap;
mod takeover;
mod terminal;
mod transport;
mod tunnels;
mod usage;
mod volumes;
mod ways_in;
mod workloads;

use anyhow::Result;

use crate::edge::BUSYBOX;
use crate::settings::{is_ours, program};
use crate::system::{Context, Scenario, Skip};

/// All scenarios, in the order they run: what only reads first, what breaks things last.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let named = |name| std::env::var_os(name).is_some();
    [
        harness::LIST,
        programs::LIST,
        workloads::LIST,
        volumes::LIST,
        images::LIST,
        pods::LIST,
        streams::LIST,
        terminal::LIST,
        stream_access::LIST,
        replicas::LIST,
        devices::LIST,
        dmi::LIST,
        channels::LIST,
        diagnosis::LIST,
        stream_ends::LIST,
        slow_reader::LIST,
        manifests::LIST,
        usage::LIST,
        mappers::LIST,
        history::LIST,
        events::LIST,
        eventbus::LIST,
        device_versions::LIST,
        account::LIST,
        install::LIST,
        install_refused::LIST,
        install_cloud::LIST,
        board::LIST,
        authorizer::LIST,
        tunnels::LIST,
        identity::LIST,
        redirect::LIST,
        redirect_programs::LIST,
        redirect_ipv6::LIST,
        reach::LIST,
        address::LIST,
        machine::LIST,
        takeover::LIST,
        mqtt::LIST,
        ways_in::LIST,
        transport::LIST,
        faults::LIST,
        if named("KE_MAPPER") { framework::LIST } else { &[] },
        if named("KE_SWAP") { swap::LIST } else { &[] },
        demo::LIST,
    ]
    .into_iter()
    .flatten()
    .map(|&(name, long, run)| Scenario { name, long, run })
    .collect()
}

/// Whether a scenario looks at the whole machine, and runs when no other does.
#[must_use]
pub fn is_alone(name: &str) -> bool {
    demo::LIST.iter().any(|(alone, ..)| *alone == name)
}

type Entry = (
    &'static str,
    bool,
    fn(&mut crate::system::Context) -> anyhow::Result<()>,
);

/// A Deployment of a web server whose page is a ConfigMap's key `page`, with a Secret and a readiness probe.
pub(crate) fn web(name: &str, replicas: u32) -> String {
    format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{name: {name}}}
data: {{page: "hello one\n"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: {name}}}
stringData: {{password: "open sesame"}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      nodeSelector: {{node-role.kubernetes.io/edge: ""}}
      tolerations: [{{operator: Exists}}]
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: {BUSYBOX}
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "trap 'exit 0' TERM; httpd -f -p 8080 -h /page & wait"]
        env:
        - name: PASSWORD
          valueFrom: {{secretKeyRef: {{name: {name}, key: password}}}}
        readinessProbe: {{httpGet: {{path: /page, port: 8080}}, periodSeconds: 1}}
        volumeMounts:
        - {{name: page, mountPath: /page}}
        - {{name: secret, mountPath: /secret}}
      volumes:
      - name: page
        configMap: {{name: {name}}}
      - name: secret
        secret: {{secretName: {name}}}
"#
    )
}

/// Whether the cloudcore is ours.
fn our_cloud(context: &Context) -> Result<bool> {
    Ok(is_ours(&program(&context.settings.cloud, "cloudcore")?))
}

/// Whether the edgecore is ours.
fn our_edge(context: &Context) -> Result<bool> {
    Ok(is_ours(&program(&context.settings.edge, "edgecore")?))
}

/// Skips what only our cloudcore does.
fn needs_our_cloud(context: &Context, what: &str) -> Result<()> {
    if our_cloud(context)? {
        return Ok(());
    }
    Err(Skip(format!("{what} is what only our cloudcore does")).into())
}

/// Skips what only our edgecore does.
fn needs_our_edge(context: &Context, what: &str) -> Result<()> {
    if our_edge(context)? {
        return Ok(());
    }
    Err(Skip(format!("{what} is what only our edgecore does")).into())
}

/// A bare pod bound to a node, with further YAML for its spec (`spec`) and its container (`container`), both indented by
/// the caller: two and four spaces.
fn bare(name: &str, node: &str, spec: &str, container: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  tolerations: [{{operator: Exists}}]
{spec}
  containers:
  - name: main
    image: {BUSYBOX}
    imagePullPolicy: IfNotPresent
{container}
"#
    )
}

/// The command of a container that does nothing until it is told to stop.
const IDLE: &str = r#"    command: [sh, -c, "trap 'exit 0' TERM; sleep 1000000 & wait"]"#;
