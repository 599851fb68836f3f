//! One byte of a row that is another one: SQLite does not see it.

use super::*;

const ROW: &str = "WHERE key='default/pod/web'";

/// Starts an edge that knows all of its two pods.
async fn with_two_pods(path: &Path) -> Edge {
    let mut edge = Edge::start(path).await;
    edge.meta.connected(true).await;
    edge.deliver(pod(Operation::Insert, "other", "u2", 6)).await;
    edge.sent().await;
    all_known(&mut edge).await;
    edge
}

/// The cloud sends one pod, and says which there are.
async fn all_known(edge: &mut Edge) {
    let insert = pod(Operation::Insert, "web", "u1", 7);
    edge.deliver(insert.clone()).await;
    assert!(is_ack(&edge.sent().await, &insert));
    edge.meta.compared(vec![Uid::new("u1"), Uid::new("u2")]).await;
    edge.meta.pods().wait_for(|set| set.ready).await.expect("ready");
    assert_eq!(edge.uids(), ["u1", "u2"]);
}

#[tokio::test]
async fn a_damaged_pod_costs_no_other_one_and_makes_no_container_a_stranger() {
    for damage in [
        "value = CAST(x'84' AS TEXT) || substr(value, 2)",
        "value = 'x' || substr(value, 2)",
        "value = replace(value, '\"metadata\":{', '\"metadata\":[')",
        "value = CAST(value AS BLOB)",
        "type = 'qod'",
        "type = CAST(x'8f6f64' AS TEXT)",
    ] {
        let (_folder, path) = database();
        with_two_pods(&path).await.stop().await;
        let connection = Connection::open(&path).expect("database");
        let changed = connection.execute(&format!("UPDATE meta SET {damage} {ROW}"), []);
        assert_eq!(changed, Ok(1), "{damage}");
        drop(connection);
        // As often as it is started offline.
        for _ in 0..2 {
            let edge = Edge::start(&path).await;
            assert!(!edge.meta.pods().borrow().ready, "{damage}");
            assert_eq!(edge.uids(), ["u2"], "{damage}");
            edge.stop().await;
        }
        let mut edge = Edge::start(&path).await;
        edge.meta.connected(true).await;
        all_known(&mut edge).await;
        edge.stop().await;
        let edge = Edge::start(&path).await;
        assert!(edge.meta.pods().borrow().ready, "{damage}");
        edge.stop().await;
    }
}

#[tokio::test]
async fn a_row_that_is_damaged_while_running_is_written_again() {
    let (_folder, path) = database();
    let mut edge = with_two_pods(&path).await;
    let spoil = |connection: &Connection| {
        let sql = format!("UPDATE meta SET value = CAST(x'84' AS TEXT) || substr(value, 2) {ROW}");
        connection.execute(&sql, [])
    };
    let changed = edge.meta.tables().transact(spoil).await;
    assert_eq!(changed.expect("spoiled"), 1);
    assert_eq!(edge.meta.inventory().await.expect("inventory").len(), 1);
    all_known(&mut edge).await;
    assert_eq!(edge.meta.inventory().await.expect("inventory").len(), 2);
    edge.stop().await;
}
