//! Databases that a Go edgecore left, and what it finds in ours.

use super::*;

/// Of Go edges of these releases that run a pod with a ConfigMap and a Secret; without `managedFields`.
const GO_V1_12: &str = include_str!("../../../golden/go-v1.12.sql");
const GO_V1_16: &str = include_str!("../../../golden/go-v1.16.sql");
const GO_V1_22: &str = include_str!("../../../golden/go-v1.22.sql");
const GO_V1_23: &str = include_str!("../../../golden/go-v1.23.sql");

#[tokio::test]
async fn the_database_of_a_go_edge_is_taken_over() {
    let (_folder, path) = database();
    let connection = Connection::open(&path).expect("database");
    let schema =
        include_str!("../../../golden/edgecore-schema.sql").replace("CREATE TABLE sqlite_sequence(name,seq);", "");
    connection.execute_batch(&schema).expect("schema");
    connection
        .execute_batch(include_str!("../../../golden/edgecore-rows.sql"))
        .expect("rows");
    let uid: String = connection
        .query_row(
            "SELECT json_extract(value, '$.metadata.uid') FROM meta WHERE key='miss-ns/pod/miss'",
            [],
            |row| row.get(0),
        )
        .expect("pod");
    drop(connection);

    let edge = Edge::start(&path).await;
    edge.cloud.link.send_replace(Link::Down);
    let set = edge.meta.pods().borrow().clone();
    assert!(set.ready, "its pods are known at once");
    assert_eq!(set.pods.len(), 2);
    let node = edge.meta.node().await.expect("readable").expect("row");
    assert_eq!(node.meta().name, NODE);
    // Rows that hold errors are not taken for objects.
    for name in ["none", "none2"] {
        let missing = edge
            .meta
            .object(&ObjectPath::new("miss-ns", Kind::ConfigMap, name))
            .await;
        assert!(matches!(missing, Err(RequestError::Unanswered(_))), "{missing:?}");
    }
    assert!(
        edge.meta
            .object(&ObjectPath::new("ms-ns", Kind::ConfigMap, "c1"))
            .await
            .is_ok()
    );
    // Its token is found although its key was made of the answer.
    let key = TokenKey {
        namespace: "miss-ns".into(),
        service_account: "default".into(),
        audiences: Vec::new(),
        expiration_seconds: 3607,
        pod_name: "miss".into(),
        pod_uid: Uid::new(&uid),
    };
    let token = edge.meta.token(&key).await.expect("token");
    assert!(token.status.is_some_and(|status| !status.token.is_empty()));
    let other = TokenKey {
        service_account: "other".into(),
        ..key
    };
    assert!(edge.meta.token(&other).await.is_err(), "never another account's");
    edge.stop().await;
}

/// What Go edges of several releases left behind (older ones had another ORM, other columns, and the node under another prefix) opens with
/// the link down: the pod, what it needs, and the node are known.
#[tokio::test]
async fn databases_of_go_edges_are_taken_over() {
    for dump in [GO_V1_12, GO_V1_16, GO_V1_22, GO_V1_23] {
        let (_folder, path) = database();
        let connection = Connection::open(&path).expect("database");
        connection.execute_batch(dump).expect("a dump");
        drop(connection);
        let edge = Edge::start(&path).await;
        edge.cloud.link.send_replace(Link::Down);
        let set = edge.meta.pods().borrow().clone();
        assert!(set.ready, "its pods are known at once");
        let namespace = set.pods.values().next().expect("a pod").object.meta().namespace.clone();
        assert_eq!(set.pods.len(), 1);
        for kind in [Kind::ConfigMap, Kind::Secret] {
            let path = ObjectPath::new(namespace.clone().expect("a namespace"), kind, "web");
            assert_eq!(edge.meta.object(&path).await.expect("a row").meta().name, "web");
        }
        assert_eq!(
            edge.meta.node().await.expect("readable").expect("row").meta().name,
            NODE
        );
        edge.stop().await;
        let connection = Connection::open(&path).expect("database");
        let resource: String = connection
            .query_row(
                "SELECT group_version_resource FROM meta_v2 WHERE key LIKE '/core/v1/pods/%'",
                [],
                |row| row.get(0),
            )
            .expect("row");
        assert_eq!(
            resource, "/v1, Resource=pods",
            "what is in old columns is in the new ones too"
        );
    }
}

#[tokio::test]
async fn columns_of_older_releases_are_converted() {
    let (_folder, path) = database();
    let connection = Connection::open(&path).expect("database");
    connection
        .execute_batch(
            "CREATE TABLE meta (`key` varchar(256) NOT NULL PRIMARY KEY, `type` varchar(32) NOT NULL DEFAULT '', `value` text);
             CREATE TABLE meta_v2 (`key` varchar(256) NOT NULL PRIMARY KEY, `groupversionresource` varchar(256) NOT NULL DEFAULT '',
               `namespace` varchar(256) NOT NULL DEFAULT '', `name` varchar(256) NOT NULL DEFAULT '',
               `resourceversion` integer NOT NULL DEFAULT 0, `value` text);
             INSERT INTO meta_v2 VALUES ('/core/v1/services/default/a', '/v1, Resource=services', 'default', 'a', 12, '{}');
             INSERT INTO meta VALUES ('default/node/edge-go', 'node',
               '{\"kind\":\"Node\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"edge-go\",\"uid\":\"n\",\"resourceVersion\":\"4\"}}');",
        )
        .expect("old database");
    drop(connection);
    let edge = Edge::start(&path).await;
    assert!(
        edge.meta.node().await.expect("readable").is_some(),
        "the old prefix is read"
    );
    edge.stop().await;
    let connection = Connection::open(&path).expect("database");
    let row: (String, i64) = connection
        .query_row(
            "SELECT group_version_resource, resource_version FROM meta_v2",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .expect("row");
    assert_eq!(row, ("/v1, Resource=services".to_owned(), 12));
}

#[tokio::test]
async fn a_new_database_has_the_schema_of_a_go_edge_and_rows_it_can_read() {
    let (_folder, path) = database();
    let mut edge = Edge::start(&path).await;
    edge.deliver(pod(Operation::Insert, "web", "u1", 7)).await;
    edge.sent().await;
    edge.stop().await;
    let normal = |text: &str| {
        text.replace("IF NOT EXISTS ", "")
            .split_whitespace()
            .collect::<String>()
    };
    let connection = Connection::open(&path).expect("database");
    for line in include_str!("../../../golden/edgecore-schema.sql")
        .lines()
        .filter(|line| !line.contains("sqlite_sequence"))
    {
        let name = line.split('`').nth(1).expect("table");
        let ours: String = connection
            .query_row("SELECT sql FROM sqlite_master WHERE name=?1", [name], |row| row.get(0))
            .expect("table");
        assert_eq!(normal(&ours), normal(line.trim_end_matches(';')));
    }
    let row: (String, String, String, i64) = connection
        .query_row("SELECT group_version_resource, namespace, name, resource_version FROM meta_v2 WHERE key='/core/v1/pods/default/web'", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .expect("row");
    assert_eq!(row, ("/v1, Resource=pods".into(), "default".into(), "web".into(), 7));
}
