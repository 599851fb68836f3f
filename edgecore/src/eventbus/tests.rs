//! Subscriptions against a broker that only remembers, and a real database.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use parking_lot::Mutex;
use proto::Message;
use proto::bus::BusRequest;
use tokio::sync::mpsc;

use super::metrics::Metrics;
use super::subscriptions::Subscriptions;
use super::transport::{Bus, Transport};
use crate::devicetwin::Publication;
use crate::metamanager::{MetaManager, Settings};
use crate::uplink::Uplink;

#[derive(Clone, Default)]
struct Remembers(Arc<Mutex<(BTreeSet<String>, Vec<Publication>)>>);

impl Transport for Remembers {
    fn publish(&self, publication: Publication) {
        self.0.lock().1.push(publication);
    }

    fn subscribe(&self, filter: &str) {
        self.0.lock().0.insert(filter.to_owned());
    }

    fn unsubscribe(&self, filter: &str) {
        self.0.lock().0.remove(filter);
    }
}

struct Edge {
    broker: Remembers,
    cloud: mpsc::Sender<Message>,
    meta: MetaManager,
    tasks: Tasks,
}

impl Edge {
    async fn start(database: &Path) -> Self {
        let (uplink, _cloud) = Uplink::channel();
        let tasks = Tasks::new();
        let settings = Settings {
            node: "n".into(),
            database: database.to_owned(),
            remote_timeout: Duration::from_secs(60),
        };
        let meta = MetaManager::start(settings, uplink, &tasks).await.expect("started");
        let broker = Remembers::default();
        let mut bus = Bus::default();
        bus.add(broker.clone());
        let (cloud, messages) = mpsc::channel(8);
        let subscriptions = Subscriptions::new(meta.tables(), Arc::new(bus), Metrics::default());
        tasks.spawn("subscriptions", subscriptions.run(messages));
        Self {
            broker,
            cloud,
            meta,
            tasks,
        }
    }

    async fn ask(&self, request: BusRequest) {
        self.cloud.send(request.message(false)).await.expect("runs");
    }

    /// Waits until the broker was asked for exactly these.
    async fn until_subscribed(&self, filters: &[&str]) {
        let wanted: BTreeSet<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let all = async {
            while self.broker.0.lock().0 != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(20), all).await;
        assert!(done.is_ok(), "{:?}", self.broker.0.lock().0);
    }

    async fn rows(&self) -> Vec<String> {
        let tables = self.meta.tables();
        let rows = tables.read(|connection| {
            let mut statement = connection.prepare("SELECT topic FROM sub_topics ORDER BY topic")?;
            statement.query_map([], |row| row.get(0))?.collect()
        });
        rows.await.expect("read")
    }

    async fn stop(self) {
        self.tasks.stop(Duration::from_secs(5)).await;
    }
}

fn subscribe(filter: &str) -> BusRequest {
    BusRequest::Subscribe(filter.to_owned())
}

#[tokio::test]
async fn subscriptions_of_rules_survive_a_restart_and_end_when_the_rule_does() {
    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("edgecore.db");
    let edge = Edge::start(&database).await;
    for filter in ["rt/topic-b", "default/user/x", "a/#/b", "rt/topic-b", "z/+"] {
        edge.ask(subscribe(filter)).await;
    }
    // What comes anyway is in the table only; what is no filter is nowhere.
    edge.until_subscribed(&["rt/topic-b", "z/+"]).await;
    assert_eq!(edge.rows().await, ["default/user/x", "rt/topic-b", "z/+"]);
    edge.stop().await;

    let edge = Edge::start(&database).await;
    edge.until_subscribed(&["rt/topic-b", "z/+"]).await;
    for filter in ["rt/topic-b", "default/user/x", "never/there"] {
        edge.ask(BusRequest::Unsubscribe(filter.to_owned())).await;
    }
    edge.until_subscribed(&["z/+"]).await;
    edge.ask(subscribe("last")).await;
    edge.until_subscribed(&["last", "z/+"]).await;
    assert_eq!(edge.rows().await, ["last", "z/+"]);
    edge.stop().await;
}

#[tokio::test]
async fn rules_publish_and_the_number_of_their_subscriptions_has_a_limit() {
    let folder = tempfile::tempdir().expect("folder");
    let edge = Edge::start(&folder.path().join("edgecore.db")).await;
    for topic in ["topic-a/sub/x?q=1", "no/+/topic"] {
        let payload = "text body".into();
        let topic = topic.to_owned();
        edge.ask(BusRequest::Publish { topic, payload }).await;
    }
    for number in 0..super::subscriptions::MOST + 3 {
        edge.ask(subscribe(&format!("rt/{number:05}"))).await;
    }
    edge.ask(BusRequest::Unsubscribe("rt/00000".to_owned())).await;
    edge.ask(subscribe("last")).await;
    let last = async {
        while !edge.broker.0.lock().0.contains("last") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), last)
        .await
        .expect("subscribed");
    assert_eq!(edge.broker.0.lock().0.len(), super::subscriptions::MOST);
    let publications = edge.broker.0.lock().1.clone();
    let [Publication { topic, payload }] = &publications[..] else {
        panic!("{publications:?}")
    };
    assert_eq!((topic.as_str(), &payload[..]), ("topic-a/sub/x?q=1", &b"text body"[..]));
    edge.stop().await;
}
