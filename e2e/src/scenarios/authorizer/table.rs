//! The table: what a node asks for and is refused, and what it is permitted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use proto::{Message, Operation, Source};
use serde_json::{Value, json};

use super::super::{IDLE, bare, needs_our_cloud, our_edge};
use super::requests::{MINE, event, lease, mirror, objects, registration, request, signing, token};
use super::{ANSWER, NODE, REFUSES, door_of, node_by_hand, permitted};
use crate::api::{self, text};
use crate::hub::Node;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

/// An ordinary node, whose pods cloudcore does not watch.
const ORDINARY: &str = "ordinary-1";
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_secs(1);
/// What the table has at the least.
const REFUSALS: usize = 20;
const PERMITS: usize = 10;

/// The table: at least twenty refusals, each answered and logged with its reason, nothing changed by any; then what is permitted.
pub(super) fn table(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, REFUSES)?;
    let quiet = our_edge(context)?;
    let system = context.system()?;
    let namespace = system.namespace("guard")?;
    let other = system.edge.name().to_owned();
    system.cluster.apply(
        &namespace,
        &[objects(&namespace), bare("theirs", &other, "", IDLE)].concat(),
    )?;
    // First: an edge of Go takes half a minute to be back from another scenario, and the node made by hand acknowledges nothing.
    system.until_pod("another node's pod Running", (&namespace, "theirs"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    let door = door_of(system)?;
    let mut node = node_by_hand(system, &door)?;
    system.api().create(
        "/api/v1/nodes",
        &json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": ORDINARY}}),
    )?;
    let pods = [
        bare("mine", NODE, MINE, IDLE),
        bare("elsewhere", ORDINARY, "  serviceAccountName: unused", IDLE),
    ];
    system.cluster.apply(&namespace, &pods.join("---\n"))?;
    let pod = |name: &str| system.pod(&namespace, name);
    let (mine, theirs, elsewhere) = (pod("mine")?, pod("theirs")?, pod("elsewhere")?);
    let before = (
        text(&theirs, "/metadata/resourceVersion").to_owned(),
        text(&elsewhere, "/metadata/resourceVersion").to_owned(),
    );
    // The node authorizer learns of the pod by its own watch.
    let used = format!("{namespace}/secret/used");
    wait::until("the node may read what its pod names", seconds(20), || {
        let answer = node.ask(&request(Operation::Query, &used, &Value::Null), ANSWER)?;
        Ok(answer
            .filter(|answer| answer.operation != Operation::Error && answer.content.get().contains("used"))
            .map(drop))
    })?;
    refusals(system, &mut node, &namespace, &other, &[&mine, &theirs, &elsewhere])?;
    let after = (
        text(&pod("theirs")?, "/metadata/resourceVersion").to_owned(),
        text(&pod("elsewhere")?, "/metadata/resourceVersion").to_owned(),
    );
    // Go's edgecore reports a pod once more when nothing has changed.
    ensure!(before == after || !quiet, "another node's pod was changed");
    for path in [
        format!("/api/v1/namespaces/{namespace}/pods/static-{other}"),
        format!("/api/v1/namespaces/{namespace}/events/theirs.17"),
        format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/guard-{other}"),
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/stolen".to_owned(),
    ] {
        ensure!(system.api().get(&path)?.is_none(), "{path} was made");
    }
    permits(system, &mut node, &namespace, &mine)?;
    drop(node);
    for path in [
        api::node_path(ORDINARY),
        format!("/api/v1/persistentvolumes/{namespace}-used"),
        format!("/api/v1/persistentvolumes/{namespace}-unused"),
        format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/guard-{NODE}"),
    ] {
        system.api().delete(&path)?;
    }
    clean(system, &namespace)
}

/// Nobody ends the pods of a node made by hand.
fn clean(system: &System, namespace: &str) -> Result<()> {
    system.api().delete(&api::node_path(NODE))?;
    for name in ["mine", "elsewhere", &format!("static-{NODE}")] {
        let arguments = ["-n", namespace, "delete", "pod", name, "--force", "--grace-period=0"];
        system
            .cluster
            .kubectl(&[&arguments[..], &["--ignore-not-found"]].concat())?;
    }
    system.clean(namespace)
}

/// The request is not carried out, is answered by a refusal if it is answered at all, and cloudcore says why.
fn refused(system: &System, node: &mut Node<'_>, what: &str, message: &Message, silent: bool) -> Result<()> {
    let before = system.cloud.log().len();
    let answer = node
        .ask(message, if silent { SILENCE } else { ANSWER })
        .with_context(|| what.to_owned())?;
    match answer {
        Some(answer) => {
            let content = answer.content.get();
            ensure!(!content.contains("sesame"), "{what}: answered with {content}");
            ensure!(
                answer.operation == Operation::Error || content.contains("403"),
                "{what}: answered with {content}"
            );
        }
        None => ensure!(silent, "{what}: no answer"),
    }
    let route = format!("route={}", message.route);
    let line = wait::quietly(&format!("a line about: {what}"), seconds(20), || {
        let log = system.cloud.log();
        let new = log.get(before..).unwrap_or_default();
        Ok(new
            .lines()
            .find(|line| line.contains("request of the edge refused") && line.contains(&route))
            .map(str::to_owned))
    })?;
    let reason = line.split_once("reason=").map_or("", |(_, reason)| reason);
    ensure!(line.contains(NODE) && !reason.is_empty(), "{what}: {line}");
    println!("    refused: {what}: {reason}");
    Ok(())
}

fn refusals(system: &System, node: &mut Node<'_>, namespace: &str, other: &str, pods: &[&Value; 3]) -> Result<()> {
    use Operation::{Delete, Insert, Patch, Query, Update};
    let [mine, theirs, elsewhere] = pods;
    let none = Value::Null;
    let status = json!({"status": {"phase": "Failed"}});
    let report = |pod: &Value| json!([{"UID": text(pod, "/metadata/uid"), "Name": api::name(pod), "Status": {"phase": "Failed"}}]);
    let options = |pod: &Value| json!({"gracePeriodSeconds": 0, "preconditions": {"uid": text(pod, "/metadata/uid")}});
    let labels = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    let with_owner = {
        let mut pod = mirror(namespace, &format!("static-{NODE}"), NODE);
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]);
        pod
    };
    let with_secret = {
        let mut pod = mirror(namespace, &format!("static-{NODE}"), NODE);
        pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "unused"}}]);
        pod
    };
    // Text, since a value has each key once.
    let with_both = json!(mirror(namespace, &format!("static-{NODE}"), NODE).to_string().replace(
        r#""containers":"#,
        r#""containers":[{"name":"c","image":"x","envFrom":[{"secretRef":{"name":"unused"}}]}],"containers":"#,
    ));
    let directive = json!({"metadata": {"labels": {"$patch": "replace"}}});
    let mut client = signing(NODE)?;
    client["spec"]["signerName"] = "kubernetes.io/kube-apiserver-client".into();
    let unbound = json!({"spec": {"audiences": [], "expirationSeconds": 3600}});
    let at = |kind: &str, name: &str| format!("{namespace}/{kind}/{name}");
    let all = [
        ("another edge's pod status", Patch, at("podpatch", "theirs"), &status),
        (
            "the status of an ordinary node's pod",
            Patch,
            at("podpatch", "elsewhere"),
            &status,
        ),
        (
            "labels of its pod by a status",
            Patch,
            at("podpatch", "mine"),
            &labels("app"),
        ),
        (
            "a directive for its whole pod",
            Patch,
            at("podpatch", "mine"),
            &json!({"$patch": "delete"}),
        ),
        (
            "deletion of another edge's pod",
            Delete,
            at("pod", "theirs"),
            &options(theirs),
        ),
        (
            "deletion of an ordinary node's pod",
            Delete,
            at("pod", "elsewhere"),
            &options(elsewhere),
        ),
        (
            "an old report of another edge's pod",
            Update,
            at("podstatus", "theirs"),
            &report(theirs),
        ),
        (
            "an old report that names another pod than its resource",
            Update,
            at("podstatus", "mine"),
            &report(theirs),
        ),
        (
            "old reports without a name",
            Update,
            format!("{namespace}/podstatus"),
            &report(elsewhere),
        ),
        (
            "a Secret that none of its pods names",
            Query,
            at("secret", "unused"),
            &none,
        ),
        (
            "a ConfigMap that none of its pods names",
            Query,
            at("configmap", "unused"),
            &none,
        ),
        (
            "the Secret of cloudcore's CA",
            Query,
            "kubeedge/secret/casecret".into(),
            &none,
        ),
        (
            "a token of another node's pod",
            Query,
            at("serviceaccounttoken", "unused"),
            &token(elsewhere),
        ),
        (
            "a token of its pod for another account",
            Query,
            at("serviceaccounttoken", "unused"),
            &token(mine),
        ),
        (
            "a token bound to no pod",
            Query,
            at("serviceaccounttoken", "used"),
            &unbound,
        ),
        (
            "another node's lease",
            Update,
            format!("kube-node-lease/lease/{other}"),
            &lease(other),
        ),
        (
            "a look at another node's lease",
            Query,
            format!("kube-node-lease/lease/{other}"),
            &none,
        ),
        (
            "a lease of another name than its resource",
            Insert,
            format!("kube-node-lease/lease/{NODE}"),
            &lease("stolen"),
        ),
        (
            "another node's registration",
            Insert,
            format!("null/node/{other}"),
            &registration(other, "x"),
        ),
        ("a look at another Node", Query, format!("null/node/{other}"), &none),
        (
            "another node's status",
            Patch,
            format!("null/nodepatch/{other}"),
            &status,
        ),
        ("deletion of another Node", Delete, format!("null/node/{other}"), &none),
        (
            "a role by registration",
            Insert,
            format!("null/node/{NODE}"),
            &registration(NODE, "node-role.kubernetes.io/control-plane"),
        ),
        (
            "a label kept from nodes, by a status",
            Patch,
            format!("null/nodepatch/{NODE}"),
            &labels("node-restriction.kubernetes.io/fips"),
        ),
        (
            "the end of all its labels, by a directive of a status",
            Patch,
            format!("null/nodepatch/{NODE}"),
            &directive,
        ),
        (
            "the end of all its labels, by a status",
            Patch,
            format!("null/nodepatch/{NODE}"),
            &json!({"metadata": {"labels": null}}),
        ),
        (
            "a certificate request in another's name",
            Insert,
            format!("null/certificatesigningrequest/guard-{other}"),
            &signing(other)?,
        ),
        (
            "a certificate of a signer that is not kubelets'",
            Insert,
            format!("null/certificatesigningrequest/guard-{NODE}"),
            &client,
        ),
        (
            "a claim that none of its pods uses",
            Query,
            at("persistentvolumeclaim", "unused"),
            &none,
        ),
        (
            "a volume that none of its pods uses",
            Query,
            format!("null/persistentvolume/{namespace}-unused"),
            &none,
        ),
        (
            "a mirror pod on another node",
            Insert,
            at("pod", &format!("static-{other}")),
            &mirror(namespace, &format!("static-{other}"), other),
        ),
        (
            "a mirror pod that names a Secret",
            Insert,
            at("pod", &format!("static-{NODE}")),
            &with_secret,
        ),
        (
            "a mirror pod with two lists of containers",
            Insert,
            at("pod", &format!("static-{NODE}")),
            &with_both,
        ),
        (
            "a mirror pod that a ReplicaSet would count",
            Insert,
            at("pod", &format!("static-{NODE}")),
            &with_owner,
        ),
        ("a Deployment", Query, at("deployment", "x"), &none),
    ];
    let mut count: usize = 0;
    for (what, operation, resource, content) in all {
        refused(system, node, what, &request(operation, &resource, content), false)?;
        count += 1;
    }
    // These requests are never answered: only the log tells.
    let label = labels("node-role.kubernetes.io/control-plane");
    for (what, operation, resource, content) in [
        (
            "an event about another node's pod",
            Insert,
            at("event", "theirs.17"),
            &event(namespace, "Pod", "theirs"),
        ),
        (
            "an event about another Node",
            Insert,
            at("event", "x"),
            &event("default", "Node", other),
        ),
        (
            "another node's old status",
            Update,
            format!("default/nodestatus/{other}"),
            &json!({"Status": {}}),
        ),
        (
            "a role by an update of its Node",
            Update,
            format!("null/node/{NODE}"),
            &label,
        ),
        (
            "the end of all its labels, by an update of its Node",
            Update,
            format!("null/node/{NODE}"),
            &directive,
        ),
    ] {
        refused(system, node, what, &request(operation, &resource, content), true)?;
        count += 1;
    }
    for source in [Source::MetaServer, Source::Twin] {
        for kind in ["secret", "volumeattachment"] {
            let mut message = request(Query, &at(kind, "unused"), &none);
            let what = format!("a {kind} in the name of {source}");
            message.source = source.clone();
            refused(system, node, &what, &message, false)?;
            count += 1;
        }
    }
    println!("    {count} requests refused");
    ensure!(count >= REFUSALS, "only {count} refusals were asked for");
    Ok(())
}

fn permits(system: &System, node: &mut Node<'_>, namespace: &str, mine: &Value) -> Result<()> {
    use Operation::{Delete, Insert, Patch, Query, Update};
    let at = |kind: &str, name: &str| format!("{namespace}/{kind}/{name}");
    let (none, own_lease) = (Value::Null, format!("kube-node-lease/lease/{NODE}"));
    let status = json!({"metadata": {"uid": text(mine, "/metadata/uid")}, "status": {"phase": "Running"}});
    let ready = json!({"status": {"$setElementOrder/conditions": [{"type": "Ready"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
    let fixed = format!("static-{NODE}");
    let end = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": text(mine, "/metadata/uid")}});
    let mut count: usize = 0;
    for (what, operation, resource, content, holds) in [
        ("its own Node", Query, format!("null/node/{NODE}"), &none, NODE),
        (
            "its own status",
            Patch,
            format!("null/nodepatch/{NODE}"),
            &ready,
            "KubeletReady",
        ),
        ("its own lease", Insert, own_lease.clone(), &lease(NODE), NODE),
        ("a look at its own lease", Query, own_lease, &none, NODE),
        (
            "a Secret that its pod names",
            Query,
            at("secret", "used"),
            &none,
            "c2VzYW1lIG9mIHVzZWQ=",
        ),
        (
            "a ConfigMap that its pod names",
            Query,
            at("configmap", "used"),
            &none,
            "sesame of used",
        ),
        (
            "a claim that its pod uses",
            Query,
            at("persistentvolumeclaim", "used"),
            &none,
            "used",
        ),
        (
            "a volume that its pod uses",
            Query,
            format!("null/persistentvolume/{namespace}-used"),
            &none,
            "used",
        ),
        (
            "a token of its pod",
            Query,
            at("serviceaccounttoken", "used"),
            &token(mine),
            "token",
        ),
        (
            "the status of its pod",
            Patch,
            at("podpatch", "mine"),
            &status,
            "Running",
        ),
        (
            "a mirror pod",
            Insert,
            at("pod", &fixed),
            &mirror(namespace, &fixed, NODE),
            &fixed,
        ),
        (
            "a certificate request of its own",
            Insert,
            format!("null/certificatesigningrequest/guard-{NODE}"),
            &signing(NODE)?,
            NODE,
        ),
        ("the cluster's CA", Query, "k8s/ca.crt".into(), &none, "CERTIFICATE"),
    ] {
        let answer = permitted(node, what, &request(operation, &resource, content))?;
        ensure!(answer.content.get().contains(holds), "{what}: {}", answer.content.get());
        count += 1;
    }
    println!("    {count} requests permitted");
    ensure!(count >= PERMITS, "only {count} permitted requests were asked for");
    node.tell(&request(Update, &at("event", "x"), &event(namespace, "Pod", "mine")))?;
    node.tell(&request(
        Insert,
        &at("event", "mine.17"),
        &event(namespace, "Pod", "mine"),
    ))?;
    let path = format!("/api/v1/namespaces/{namespace}/events/mine.17");
    wait::until("an event about its pod is in the API", seconds(10), || {
        system.api().get(&path)
    })?;
    permitted(node, "the end of its pod", &request(Delete, &at("pod", "mine"), &end))?;
    let path = format!("{}/mine", api::pods_path(namespace));
    wait::until("its pod is gone", seconds(10), || {
        Ok(system.api().get(&path)?.is_none().then_some(()))
    })
}
