//! A mapper between a device in memory and an edgecore on a socket in a temporary folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost_types::Any;
use proto::dmi::pb;
use proto::dmi::pb::device_mapper_service_client::DeviceMapperServiceClient;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::*;
use crate::plan::{Plan, Step};
use crate::worker::Reports;

/// A device whose values are a map, and what was done to it.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    values: BTreeMap<String, String>,
    broken: bool,
    connects: usize,
}

impl Protocol for Fake {
    type Driver = Self;

    fn driver(&self, device: &Device) -> Result<Self, BadConfig> {
        device.config.text("address")?.ok_or(BadConfig::Missing("address"))?;
        Ok(self.clone())
    }
}

impl Driver for Fake {
    async fn connect(&mut self) -> Result<(), Failure> {
        let mut state = self.0.lock();
        state.connects += 1;
        state.broken = false;
        Ok(())
    }

    async fn read(&mut self, property: &Property) -> Result<String, Failure> {
        let state = self.0.lock();
        if state.broken {
            return Err(Failure::Lost("the line is cut".to_owned()));
        }
        let value = state.values.get(&property.name);
        value
            .cloned()
            .ok_or_else(|| Failure::Refused("no such value".to_owned()))
    }

    async fn write(&mut self, property: &Property, value: &str) -> Result<(), Failure> {
        self.0.lock().values.insert(property.name.clone(), value.to_owned());
        Ok(())
    }
}

/// What edgecore is told, as lines of text.
#[derive(Clone)]
struct Told(mpsc::Sender<String>);

impl Reports for Told {
    async fn values(&self, report: pb::ReportDeviceStatusRequest) -> Result<(), Status> {
        let twins = report.reported_device.unwrap_or_default().twins;
        let values = twins.into_iter().map(|twin| {
            let reported = twin.reported.unwrap_or_default();
            format!(" {}={}", twin.property_name, reported.value)
        });
        let line = format!("{}{}", report.device_name, values.collect::<String>());
        self.0.send(line).await.map_err(|_| Status::unavailable("gone"))
    }

    async fn state(&self, report: pb::ReportDeviceStatesRequest) -> Result<(), Status> {
        let line = format!("{} is {}", report.device_name, report.state);
        self.0.send(line).await.map_err(|_| Status::unavailable("gone"))
    }
}

fn text(value: &str) -> Any {
    Any::from_msg(&value.to_owned()).expect("encoded")
}

fn model() -> pb::DeviceModel {
    let property = |name: &str, kind: &str, mode: &str| pb::ModelProperty {
        name: name.to_owned(),
        r#type: kind.to_owned(),
        access_mode: mode.to_owned(),
        maximum: "50".to_owned(),
        ..pb::ModelProperty::default()
    };
    let properties = vec![
        property("temperature", "INT", "ReadOnly"),
        property("limit", "INT", "ReadWrite"),
    ];
    pb::DeviceModel {
        name: "thermometer".to_owned(),
        namespace: "default".to_owned(),
        spec: Some(pb::DeviceModelSpec {
            properties,
            ..pb::DeviceModelSpec::default()
        }),
    }
}

fn device(limit: &str) -> pb::Device {
    let property = |name: &str, desired: &str| pb::DeviceProperty {
        name: name.to_owned(),
        desired: Some(pb::TwinProperty {
            value: desired.to_owned(),
            ..pb::TwinProperty::default()
        }),
        collect_cycle: 1000,
        report_cycle: 10_000,
        report_to_cloud: true,
        ..pb::DeviceProperty::default()
    };
    let data = [("Address".to_owned(), text("here"))].into();
    let protocol = pb::ProtocolConfig {
        protocol_name: "fake".to_owned(),
        config_data: Some(pb::CustomizedValue { data }),
    };
    pb::Device {
        name: "t1".to_owned(),
        namespace: "default".to_owned(),
        spec: Some(pb::DeviceSpec {
            device_model_reference: "thermometer".to_owned(),
            protocol: Some(protocol),
            properties: vec![
                property("temperature", ""),
                property("limit", limit),
                property("unknown", "1"),
            ],
            ..pb::DeviceSpec::default()
        }),
        ..pb::Device::default()
    }
}

fn started() -> (Devices<Fake, Told>, Fake, mpsc::Receiver<String>) {
    let (told, lines) = mpsc::channel(16);
    let fake = Fake::default();
    fake.0.lock().values.insert("temperature".to_owned(), "21".to_owned());
    let devices = Devices::new(fake.clone(), Told(told), Tasks::new());
    devices.put_model(model());
    assert!(devices.put(device("30")).is_ok());
    (devices, fake, lines)
}

#[test]
fn values_of_all_kinds_are_read_and_keys_in_any_case() {
    let data = [
        ("ip", text("10.0.0.1")),
        ("port", Any::from_msg(&502_i64).expect("encoded")),
        ("slaveID", Any::from_msg(&7_i32).expect("encoded")),
        ("scale", Any::from_msg(&0.1_f32).expect("encoded")),
        ("number", Any::from_msg(&1502_f32).expect("encoded")),
        ("isSwap", Any::from_msg(&true).expect("encoded")),
    ];
    let data = data.map(|(key, any)| (key.to_owned(), any)).into();
    let config = Config::of(Some(&pb::CustomizedValue { data }));
    assert_eq!(config.text("IP"), Ok(Some("10.0.0.1".to_owned())));
    assert_eq!(config.integer::<u16>("port", 0), Ok(502));
    assert_eq!(config.integer::<u8>("slaveid", 1), Ok(7));
    assert_eq!(config.float("scale", 1.0), Ok(0.1));
    // As Go's edgecore sends it.
    assert_eq!(config.integer::<u16>("number", 0), Ok(1502));
    assert_eq!(config.text("number"), Ok(Some("1502".to_owned())));
    assert!(config.integer::<u16>("scale", 0).is_err());
    assert_eq!(
        (config.boolean("isSwap"), config.boolean("other")),
        (Ok(true), Ok(false))
    );
    assert!(config.integer::<u8>("port", 0).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_plan_writes_first_then_reads_and_reports_changes_and_now_and_then() {
    let device = Device::of(&device("30"), &model());
    let start = Instant::now();
    let mut plan = Plan::new(&device, start);
    assert_eq!(plan.next(start), Step::Write(1));
    plan.written(1, true, start);
    assert_eq!(plan.next(start), Step::Read(vec![0, 1]));
    plan.read(0, start);
    plan.read(1, start);
    assert_eq!(plan.next(start), Step::Wait(start + Duration::from_secs(1)));
    assert!(plan.is_news(0, "21", start));
    plan.reported(0, "21".to_owned(), start);
    assert!(plan.is_news(0, "22", start) && !plan.is_news(0, "21", start + Duration::from_secs(9)));
    assert!(plan.is_news(0, "21", start + Duration::from_secs(10)));
}

#[tokio::test(start_paused = true)]
async fn what_is_desired_is_written_and_what_changes_is_reported() {
    let (devices, fake, mut lines) = started();
    assert_eq!(lines.recv().await.as_deref(), Some("t1 is online"));
    assert_eq!(lines.recv().await.as_deref(), Some("t1 temperature=21 limit=30"));
    fake.0.lock().values.insert("temperature".to_owned(), "22".to_owned());
    assert_eq!(lines.recv().await.as_deref(), Some("t1 temperature=22"));
    // The same again changes nothing; another desired value starts the device anew.
    assert!(devices.put(device("30")).is_ok());
    assert_eq!(fake.0.lock().connects, 1);
    assert!(devices.put(device("31")).is_ok());
    assert_eq!(lines.recv().await.as_deref(), Some("t1 is online"));
    assert_eq!(lines.recv().await.as_deref(), Some("t1 temperature=22 limit=31"));
}

#[tokio::test(start_paused = true)]
async fn a_value_out_of_range_is_not_written() {
    let (devices, fake, mut lines) = started();
    while lines.recv().await.as_deref() != Some("t1 temperature=21 limit=30") {}
    assert!(devices.put(device("51")).is_ok());
    while lines.recv().await.as_deref() != Some("t1 temperature=21 limit=30") {}
    assert_eq!(fake.0.lock().connects, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_device_is_offline_until_it_answers_again() {
    let (_devices, fake, mut lines) = started();
    while lines.recv().await.as_deref() != Some("t1 temperature=21 limit=30") {}
    fake.0.lock().broken = true;
    assert_eq!(lines.recv().await.as_deref(), Some("t1 is offline"));
    assert_eq!(lines.recv().await.as_deref(), Some("t1 is online"));
    assert_eq!(lines.recv().await.as_deref(), Some("t1 temperature=21 limit=30"));
}

/// A client of a mapper's socket, as edgecore.
fn client(socket: &Path) -> DeviceMapperServiceClient<Channel> {
    let socket = socket.to_owned();
    let endpoint = Endpoint::from_static("http://localhost");
    DeviceMapperServiceClient::new(endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    })))
}

#[tokio::test]
async fn edgecore_calls_the_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("mapper.sock");
    let (told, mut lines) = mpsc::channel(16);
    let tasks = Tasks::new();
    let fake = Fake::default();
    let devices = Devices::new(fake, Told(told), tasks.clone());
    server::start(&socket, devices, &tasks).expect("bound");
    let mut client = client(&socket);
    let register = pb::RegisterDeviceRequest {
        device: Some(device("30")),
    };
    let refused = client.register_device(register.clone()).await.expect_err("no model");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let create = pb::CreateDeviceModelRequest { model: Some(model()) };
    client.create_device_model(create).await.expect("taken");
    let answer = client.register_device(register).await.expect("taken").into_inner();
    assert_eq!(
        (answer.device_namespace.as_str(), answer.device_name.as_str()),
        ("default", "t1")
    );
    assert_eq!(lines.recv().await.as_deref(), Some("t1 is online"));
    assert_eq!(lines.recv().await.as_deref(), Some("t1 limit=30"));
    let remove = pb::RemoveDeviceRequest {
        device_name: "t1".to_owned(),
        device_namespace: "default".to_owned(),
    };
    for _ in 0..2 {
        client.remove_device(remove.clone()).await.expect("removed");
    }
    let get = pb::GetDeviceRequest {
        device_name: "t1".to_owned(),
        device_namespace: "default".to_owned(),
    };
    assert_eq!(
        client.get_device(get).await.expect_err("removed").code(),
        Code::NotFound
    );
    assert!(tasks.stop(Duration::from_secs(10)).await);
}
