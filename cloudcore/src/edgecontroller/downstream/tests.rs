use serde_json::json;

use super::*;

fn messages(change: Change) -> Vec<(String, String, String, String)> {
    steps(change)
        .into_iter()
        .map(|step| match step {
            Step::Send(node, message) => {
                let operation = message.operation.to_string();
                (
                    node.to_string(),
                    operation,
                    message.route.render(),
                    format!("{} {}", message.version, message.content.get()),
                )
            }
            Step::Fetch(fetch) => (
                "fetch".into(),
                fetch.operation.to_string(),
                fetch.path.to_string(),
                String::new(),
            ),
            Step::End(node) => (node.to_string(), "end".into(), String::new(), String::new()),
        })
        .collect()
}

#[test]
fn pods_go_out_whole_with_their_version() {
    let pod = Object::parse(
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","namespace":"ns","resourceVersion":"7"}}"#,
    )
    .expect("pod");
    let sent = messages(Change::Pod {
        node: "n".into(),
        operation: Operation::Insert,
        pod: pod.clone(),
    });
    assert_eq!(
        sent,
        [(
            "n".into(),
            "insert".into(),
            "ns/pod/p".into(),
            format!("7 {}", pod.json())
        )]
    );
}

#[test]
fn nodes_are_cluster_scoped_and_deleted_config_maps_name_their_uid() {
    let node = Object::parse(r#"{"kind":"Node","metadata":{"name":"n","resourceVersion":"3"}}"#).expect("node");
    let sent = messages(Change::Node {
        node: "n".into(),
        object: node,
    });
    assert_eq!(sent[0].2, "null/node/n");
    let object =
        Object::from_value(&json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u", "resourceVersion": "9"}}))
            .expect("object");
    let path = ObjectPath::new("ns", Kind::ConfigMap, "c");
    let gone = Change::Referenced {
        path: path.clone(),
        operation: Operation::Delete,
        object: object.clone(),
        nodes: vec!["a".into(), "b".into()],
    };
    let sent = messages(gone);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].3, r#" {"metadata":{"name":"c","namespace":"ns","uid":"u"}}"#);
    let changed = Change::Referenced {
        path,
        operation: Operation::Update,
        object,
        nodes: vec!["a".into()],
    };
    assert_eq!(messages(changed)[0].0, "fetch");
    assert_eq!(messages(Change::NodeGone { node: "n".into() })[0].1, "end");
}
