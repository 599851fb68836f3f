//! `pushMethod`: where a mapper sends values by itself; edgecore only passes it on (spec 03 §1.1, §6).

use std::collections::BTreeMap;

use super::views::Free;
use super::{Warning, pb, values};
use crate::view;

view! {
    pub(super) struct Push {
        "http" http: Option<Http>,
        "mqtt" mqtt: Option<Mqtt>,
        "otel" otel: Option<Otel>,
        "anomalyDetection" anomaly: Free,
        "dbMethod" database: Option<Database>,
    }
    pub(super) struct Http { "hostName" host: String, "port" port: i64, "requestPath" path: String, "timeout" timeout: i64 }
    pub(super) struct Mqtt { "address" address: String, "topic" topic: String, "qos" qos: i32, "retained" retained: bool }
    pub(super) struct Otel { "endpointURL" url: String }
    pub(super) struct Database {
        "influxdb2" influx: Option<Influx>,
        "redis" redis: Option<Redis>,
        "TDEngine" tdengine: Option<TdEngine>,
        "mysql" mysql: Option<MySql>,
    }
    pub(super) struct Influx { "influxdb2ClientConfig" client: Option<InfluxClient>, "influxdb2DataConfig" data: Option<InfluxData> }
    pub(super) struct InfluxClient { "url" url: String, "org" org: String, "bucket" bucket: String }
    pub(super) struct InfluxData { "measurement" measurement: String, "tag" tag: BTreeMap<String, String>, "fieldKey" field: String }
    pub(super) struct Redis { "redisClientConfig" client: Option<RedisClient> }
    pub(super) struct RedisClient { "addr" address: String, "db" db: i32, "poolsize" pool: i32, "minIdleConns" idle: i32 }
    pub(super) struct TdEngine { "TDEngineClientConfig" client: Option<TdEngineClient> }
    pub(super) struct TdEngineClient { "addr" address: String, "dbName" database: String }
    pub(super) struct MySql { "mysqlClientConfig" client: Option<MySqlClient> }
    pub(super) struct MySqlClient { "addr" address: String, "database" database: String, "userName" user: String }
}

impl Push {
    /// As mappers read it. `path` is where it stands, for warnings.
    pub(super) fn convert(self, path: &str, warnings: &mut Vec<Warning>) -> pb::PushMethod {
        let anomaly = self.anomaly.map(|data| pb::AnomalyDetection {
            data: values::wrap(
                &data,
                values::Whole::Int32,
                &format!("{path}.anomalyDetection"),
                warnings,
            ),
        });
        pb::PushMethod {
            http: self.http.map(|http| pb::PushMethodHttp {
                hostname: http.host,
                port: http.port,
                requestpath: http.path,
                timeout: http.timeout,
            }),
            mqtt: self.mqtt.map(|mqtt| pb::PushMethodMqtt {
                address: mqtt.address,
                topic: mqtt.topic,
                qos: mqtt.qos,
                retained: mqtt.retained,
            }),
            db_method: self.database.map(Database::convert),
            otel: self.otel.map(|otel| pb::PushMethodOtel { endpoint_url: otel.url }),
            anomaly_detection: anomaly,
        }
    }
}

impl Database {
    fn convert(self) -> pb::DbMethod {
        pb::DbMethod {
            influxdb2: self.influx.map(|influx| pb::DbMethodInfluxdb2 {
                influxdb2_client_config: influx.client.map(|client| pb::Influxdb2ClientConfig {
                    url: client.url,
                    org: client.org,
                    bucket: client.bucket,
                }),
                influxdb2_data_config: influx.data.map(|data| pb::Influxdb2DataConfig {
                    measurement: data.measurement,
                    tag: data.tag,
                    field_key: data.field,
                }),
            }),
            redis: self.redis.map(|redis| pb::DbMethodRedis {
                redis_client_config: redis.client.map(|client| pb::RedisClientConfig {
                    addr: client.address,
                    db: client.db,
                    poolsize: client.pool,
                    min_idle_conns: client.idle,
                }),
            }),
            tdengine: self.tdengine.map(|tdengine| pb::DbMethodTdEngine {
                td_engine_client_config: tdengine.client.map(|client| pb::TdEngineClientConfig {
                    addr: client.address,
                    dbname: client.database,
                }),
            }),
            mysql: self.mysql.map(|mysql| pb::DbMethodMySql {
                mysql_client_config: mysql.client.map(|client| pb::MySqlClientConfig {
                    addr: client.address,
                    database: client.database,
                    user_name: client.user,
                }),
            }),
        }
    }
}
