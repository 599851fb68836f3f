//! A real kubelet as the oracle: two statuses of the same pod, one from an edge, one from an ordinary node, compared after
//! addresses, ids and times are masked.

use serde_json::{Map, Value};

use crate::api::{self, elements, number, text};

/// Keys whose values differ between two nodes by nature: addresses, ids, times.
const MASKED: &[&str] = &[
    "podIP",
    "podIPs",
    "hostIP",
    "hostIPs",
    "ip",
    "containerID",
    "imageID",
    "startTime",
    "startedAt",
    "finishedAt",
    "lastTransitionTime",
    "lastProbeTime",
];

/// A pod's status without what two nodes cannot have in common. `name`s, namespaces and uids inside messages are masked too.
#[must_use]
pub fn masked_status(pod: &Value) -> Value {
    let secrets: Vec<(&str, &str)> = [
        (text(pod, "/metadata/uid"), "UID"),
        (text(pod, "/metadata/namespace"), "NAMESPACE"),
        (text(pod, "/spec/nodeName"), "NODE"),
    ]
    .into_iter()
    .filter(|(secret, _)| !secret.is_empty())
    .collect();
    let mut status = mask(pod.get("status").unwrap_or(&Value::Null), &secrets);
    // Conditions are a set.
    if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
        conditions.sort_by(|a, b| text(a, "/type").cmp(text(b, "/type")));
    }
    status
}

fn mask(value: &Value, secrets: &[(&str, &str)]) -> Value {
    match value {
        Value::Object(fields) => {
            let one = |(key, inner): (&String, &Value)| {
                let masked = MASKED.contains(&key.as_str()) && !inner.is_null();
                (
                    key.clone(),
                    if masked {
                        Value::String("MASKED".to_owned())
                    } else {
                        mask(inner, secrets)
                    },
                )
            };
            // Go's null and an absent key are the same to every reader.
            Value::Object(
                fields
                    .iter()
                    .filter(|(_, inner)| !inner.is_null())
                    .map(one)
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| mask(item, secrets)).collect()),
        Value::String(string) => {
            let mut string = string.clone();
            for (secret, name) in secrets {
                string = string.replace(secret, name);
            }
            // The volume of the service account's token ends in five random characters.
            if let Some(rest) = string.strip_prefix("kube-api-access-")
                && rest.len() == 5
            {
                return Value::String("kube-api-access".to_owned());
            }
            Value::String(without_use(&without_ids(&string)))
        }
        other => other.clone(),
    }
}

/// Replaces container ids (64 hexadecimal digits) inside a message.
fn without_ids(string: &str) -> String {
    let mut out = String::with_capacity(string.len());
    let mut rest = string;
    while let Some(at) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = from.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(if word.len() == 64 { "ID" } else { word });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Replaces what other pods of a node use of a resource.
fn without_use(string: &str) -> String {
    match string.split_once(", used: ") {
        Some((before, rest)) => format!(
            "{before}, used: N{}",
            rest.trim_start_matches(|c: char| c.is_ascii_digit())
        ),
        None => string.to_owned(),
    }
}

/// Where two values differ: one line each, `path: left | right`.
#[must_use]
pub fn differences(left: &Value, right: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", left, right, &mut found);
    found
}

fn compare(path: &str, left: &Value, right: &Value, found: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let of = |side: &Map<String, Value>| side.get(key).cloned().unwrap_or_default();
                compare(&format!("{path}.{key}"), &of(a), &of(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (one, other)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{index}]"), one, other, found);
            }
        }
        _ if left != right => found.push(format!("{}: {left} | {right}", path.trim_start_matches('.'))),
        _ => {}
    }
}

/// Whether a pod has come to the state that its manifest waits for, the annotation `e2e/until`: terms like `phase=Failed`,
/// `ready=True`, `restarts=2` (at least), `waiting=ErrImageNeverPull`, `initialized=False`, all of which must hold.
#[must_use]
pub fn settled(pod: &Value, until: &str) -> bool {
    let waiting = |reason: &str| {
        ["/status/initContainerStatuses", "/status/containerStatuses"]
            .into_iter()
            .any(|list| elements(pod, list).any(|one| text(one, "/state/waiting/reason") == reason))
    };
    until.split_whitespace().all(|term| match term.split_once('=') {
        Some(("phase", value)) => text(pod, "/status/phase") == value,
        Some(("ready", value)) => api::condition(pod, "Ready") == value,
        Some(("initialized", value)) => api::condition(pod, "Initialized") == value,
        Some(("waiting", value)) => waiting(value),
        Some(("restarts", value)) => value.parse().is_ok_and(|least: i64| {
            elements(pod, "/status/containerStatuses")
                .map(|one| number(one, "/restartCount"))
                .sum::<i64>()
                >= least
        }),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, address: &str, phase: &str) -> Value {
        json!({"metadata": {"uid": uid, "namespace": uid, "name": "p"}, "status": {
            "phase": phase, "podIP": address, "qosClass": null,
            "conditions": [{"type": address, "status": "True", "lastTransitionTime": address}],
            "containerStatuses": [{"restartCount": 2, "state": {"waiting": {"reason": "X", "message": format!("of p_{uid} {}", "a1".repeat(32))}}}]}})
    }

    #[test]
    fn masks_addresses_ids_and_times_only() {
        let (a, b) = (
            masked_status(&pod("u-1", "1", "Running")),
            masked_status(&pod("u-2", "2", "Failed")),
        );
        assert_eq!(
            differences(&a, &b),
            ["conditions[0].type: \"1\" | \"2\"", "phase: \"Running\" | \"Failed\""]
        );
        assert_eq!(
            a.pointer("/containerStatuses/0/state/waiting/message"),
            Some(&json!("of p_UID ID"))
        );
    }

    #[test]
    fn masks_what_other_pods_use() {
        let left = "Node didn't have enough resource: cpu, requested: 9000, used: 100, capacity: 2000";
        assert_eq!(without_use(left), left.replace("used: 100", "used: N"));
        assert_eq!(without_use("used"), "used");
    }

    #[test]
    fn settles_when_all_terms_hold() {
        let pod = pod("u", "1", "Running");
        assert!(settled(&pod, "phase=Running waiting=X restarts=1"));
        assert!(!settled(&pod, "phase=Running restarts=3"));
        assert!(!settled(&pod, "nonsense"));
    }
}
