//! What a container sees of ConfigMaps, Secrets and its own service account while they change.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Entry, IDLE, bare};
use crate::api::text;
use crate::process;
use crate::system::{Context, System};
use crate::wait::{self, pause, seconds};

pub(super) const LIST: &[Entry] = &[
    ("config_change", false, config_change),
    ("volume_kinds", false, volume_kinds),
    ("token_works", false, token_works),
    ("token_renewed", false, token_renewed),
    ("token_rotates", true, token_rotates),
];

/// The time in which a change must be seen in a container. A kubelet's own promise is its sync period of a minute and a
/// half; peers that follow it need that long.
const SEEN: u64 = 100;

/// A ConfigMap's and a Secret's change is seen inside the container, which is not restarted.
fn config_change(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("config")?;
    let volumes = r"  volumes:
  - name: config
    configMap: {name: settings}
  - name: secret
    secret: {secretName: password, defaultMode: 0400}";
    let container = format!(
        r"{IDLE}
    volumeMounts:
    - {{name: config, mountPath: /config}}
    - {{name: secret, mountPath: /secret}}"
    );
    let manifest = format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{key: "one", other: "gone later"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: password}}
stringData: {{key: "first"}}
---
{}"#,
        bare("reader", system.edge.name(), volumes, &container)
    );
    system.cluster.apply(&namespace, &manifest)?;
    system.converged("reader Running", &namespace, 1, 60)?;
    let reader = system.edge.container(&namespace, "reader", "main")?;
    let shell = |line: &str| system.edge.exec(&reader, &["sh", "-c", line]);
    ensure!(
        shell("cat /config/key")? == "one" && shell("cat /secret/key")? == "first",
        "the files at start"
    );
    let mode = shell("stat -L -c %a /secret/key")?;
    ensure!(mode.trim() == "400", "defaultMode 0400 gives mode {mode}");

    let path = |kind: &str, name: &str| format!("/api/v1/namespaces/{namespace}/{kind}/{name}");
    system.api().patch(
        &path("configmaps", "settings"),
        &json!({"data": {"key": "two", "other": null}}),
    )?;
    system
        .api()
        .patch(&path("secrets", "password"), &json!({"stringData": {"key": "second"}}))?;
    wait::until("ConfigMap change seen in the container", seconds(SEEN), || {
        Ok((shell("cat /config/key; ls /config")? == "twokey\n").then_some(()))
    })?;
    wait::until("Secret change seen in the container", seconds(SEEN), || {
        Ok((shell("cat /secret/key")? == "second").then_some(()))
    })?;
    let now = system.edge.container(&namespace, "reader", "main")?;
    ensure!(now.id == reader.id, "the container was replaced");
    system.clean(&namespace)
}

/// emptyDir shared by two containers and by an init container, hostPath, downwardAPI, projected, subPath, env of all kinds.
fn volume_kinds(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("volumes")?;
    let host = system.edge.folder().join("hostpath");
    std::fs::create_dir_all(&host)?;
    std::fs::write(host.join("file"), "from the host")?;
    let spec = format!(
        r"  initContainers:
  - name: init
    image: {image}
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'echo made by init > /shared/init']
    volumeMounts: [{{name: shared, mountPath: /shared}}]
  volumes:
  - name: shared
    emptyDir: {{medium: Memory}}
  - name: host
    hostPath: {{path: {host}, type: Directory}}
  - name: facts
    downwardAPI:
      items:
      - {{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}
      - {{path: limit, resourceFieldRef: {{containerName: main, resource: limits.memory, divisor: 1Mi}}}}
  - name: all
    projected:
      sources:
      - configMap: {{name: facts, items: [{{key: a, path: deep/a}}]}}
      - downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}",
        image = crate::edge::BUSYBOX,
        host = host.display()
    );
    let container = format!(
        r#"{IDLE}
    resources: {{limits: {{memory: 32Mi, cpu: 200m}}, requests: {{memory: 16Mi, cpu: 10m}}}}
    env:
    - {{name: PLAIN, value: "v"}}
    - {{name: EXPANDED, value: "$(PLAIN)-$(NODE)-$(ABSENT)-$$(PLAIN)"}}
    - name: NODE
      valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}
    - name: IP
      valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}
    - name: LIMIT
      valueFrom: {{resourceFieldRef: {{resource: limits.cpu, divisor: 1m}}}}
    envFrom: [{{configMapRef: {{name: facts}}, prefix: CM_}}]
    volumeMounts:
    - {{name: shared, mountPath: /shared}}
    - {{name: host, mountPath: /host, readOnly: true}}
    - {{name: facts, mountPath: /facts}}
    - {{name: all, mountPath: /all}}
    - {{name: all, mountPath: /one, subPath: deep/a}}"#
    );
    let manifest = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: facts}}\ndata: {{a: \"1\"}}\n---\n{}",
        bare("kinds", system.edge.name(), &spec, &container)
    );
    system.cluster.apply(&namespace, &manifest)?;
    let pods = system.converged("pod with all volumes Running", &namespace, 1, 60)?;
    let pod = pods.first().context("one pod")?;
    let main = system.edge.container(&namespace, "kinds", "main")?;
    let shell = |line: &str| system.edge.exec(&main, &["sh", "-c", line]);
    let node = system.edge.name();
    for (line, want) in [
        ("cat /shared/init", "made by init\n".to_owned()),
        ("cat /host/file", "from the host".to_owned()),
        ("touch /host/x 2>/dev/null || echo refused", "refused\n".to_owned()),
        ("grep -o 'app=\"kinds\"' /facts/labels", "app=\"kinds\"\n".to_owned()),
        ("cat /facts/limit", "32".to_owned()),
        ("cat /all/deep/a /all/name", "1kinds".to_owned()),
        ("cat /one", "1".to_owned()),
        ("df -t tmpfs /shared | grep -c shared", "1\n".to_owned()),
        ("hostname", "kinds\n".to_owned()),
        ("grep -c kinds /etc/hosts", "1\n".to_owned()),
    ] {
        let got = shell(line)?;
        ensure!(got == want, "{line}: {got:?}, not {want:?}");
    }
    let environment = shell("tr '\\0' '\\n' < /proc/1/environ")?;
    // A variable may refer only to those above it: NODE comes later.
    for want in [
        "PLAIN=v".to_owned(),
        "EXPANDED=v-$(NODE)-$(ABSENT)-$(PLAIN)".to_owned(),
        format!("NODE={node}"),
        format!("IP={}", text(pod, "/status/podIP")),
        "LIMIT=200".to_owned(),
        "CM_a=1".to_owned(),
    ] {
        ensure!(
            environment.lines().any(|line| line == want),
            "{want} is not in the environment:\n{environment}"
        );
    }
    ensure!(
        text(pod, "/status/qosClass") == "Burstable",
        "qosClass is {}",
        text(pod, "/status/qosClass")
    );
    system.clean(&namespace)
}

/// The projected service account token opens the API as that service account.
fn token_works(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("token")?;
    system
        .cluster
        .apply(&namespace, &bare("holder", system.edge.name(), "", IDLE))?;
    system.converged("token holder Running", &namespace, 1, 60)?;
    let token = read_token(system, &namespace)?;
    check_token(system, &namespace, &token)?;
    system.clean(&namespace)
}

/// A token whose life is nearly over is replaced in the running container, and the new one works: the one in edgecore's database is
/// made older while edgecore is away.
fn token_renewed(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("renew")?;
    system
        .cluster
        .apply(&namespace, &bare("holder", system.edge.name(), "", IDLE))?;
    system.converged("token holder Running", &namespace, 1, 60)?;
    let first = read_token(system, &namespace)?;
    let before = system.edge.container(&namespace, "holder", "main")?;
    system.edge.stop_edgecore()?;
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(2);
    let sql = format!(
        "UPDATE meta SET value = json_set(value, '$.status.expirationTimestamp', '{end:.0}')
         WHERE type = 'serviceaccounttoken' AND key LIKE '%/\"{namespace}\"/%'; SELECT changes();"
    );
    let changed = process::feed(Command::new("sqlite3").arg(system.edge.database()), &sql)?;
    ensure!(changed.trim() == "1", "{changed} tokens of the pod are stored");
    system.edge.start_edgecore()?;
    system.node_ready(seconds(60))?;
    // A pod that changes is looked at.
    system
        .cluster
        .kubectl(&["-n", &namespace, "annotate", "pod", "holder", "e2e=look"])?;
    let second = wait::until("token replaced", seconds(SEEN), || {
        let token = read_token(system, &namespace)?;
        Ok((token != first).then_some(token))
    })?;
    check_token(system, &namespace, &second)?;
    ensure!(
        system.edge.container(&namespace, "holder", "main")?.id == before.id,
        "the container was replaced"
    );
    system.clean(&namespace)
}

/// A token of ten minutes, the shortest there is, is replaced before it ends, and the new one works.
fn token_rotates(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("rotate")?;
    let volume = r"  automountServiceAccountToken: false
  volumes:
  - name: token
    projected:
      sources: [{serviceAccountToken: {path: token, expirationSeconds: 600}}]";
    let container = format!(
        "{IDLE}\n    volumeMounts: [{{name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}}]"
    );
    system
        .cluster
        .apply(&namespace, &bare("holder", system.edge.name(), volume, &container))?;
    system.converged("token holder Running", &namespace, 1, 60)?;
    let first = read_token(system, &namespace)?;
    check_token(system, &namespace, &first)?;
    // A kubelet replaces a token at four fifths of its life and looks once a minute or so.
    let second = wait::until("token rotated", seconds(590), || {
        pause(seconds(2));
        let token = read_token(system, &namespace)?;
        Ok((token != first).then_some(token))
    })?;
    check_token(system, &namespace, &second)?;
    system.clean(&namespace)
}

fn read_token(system: &System, namespace: &str) -> Result<String> {
    let holder = system.edge.container(namespace, "holder", "main")?;
    let line = "cat /var/run/secrets/kubernetes.io/serviceaccount/token && echo && echo whole";
    // What an exec says may be lost when it ends at once: without its last word this was no look.
    let token = wait::quietly("what cat says, whole", seconds(20), || {
        let said = system.edge.exec(&holder, &["sh", "-c", line])?;
        Ok(said.strip_suffix("\nwhole\n").map(str::to_owned))
    })?;
    ensure!(!token.is_empty(), "the token's file is empty");
    Ok(token)
}

/// The API server takes a token for that of a namespace's default account.
pub(super) fn check_token(system: &System, namespace: &str, token: &str) -> Result<()> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let answer = system
        .api()
        .create("/apis/authentication.k8s.io/v1/tokenreviews", &review)?;
    let user = text(&answer, "/status/user/username");
    ensure!(
        user == format!("system:serviceaccount:{namespace}:default"),
        "the token is {user:?}'s: {}",
        answer["status"]
    );
    Ok(())
}
