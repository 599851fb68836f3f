//! The whole of it with a mapper in this process, over real sockets.

use std::time::Instant;

use common::Tasks;
use proto::device::DeviceId;
use proto::dmi::pb;
use proto::{Kind, Operation};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tonic::{Code, Status};

use super::super::{limits, rows};
use super::kit::{Edge, LIMIT, Mapper, Reported, device, meta_manager, model, next};

#[tokio::test]
async fn a_mapper_gets_its_devices_and_then_what_changes() {
    let edge = Edge::start().await;
    edge.model().await;
    edge.device("d", 2, "1").await;
    edge.stored(1).await;
    let socket = edge.mapper_socket("m.sock");
    let answer = edge.register(&socket).await;
    assert_eq!((answer.device_list.len(), answer.model_list.len()), (1, 1));
    // Its server starts after the answer.
    let mut called = Mapper::serve(&socket, &edge.tasks);
    edge.device("d", 3, "2").await;
    assert_eq!(next(&mut called).await, "update d 2");
    // The same again is no call.
    edge.device("d", 4, "2").await;
    edge.device("e", 5, "1").await;
    assert_eq!(next(&mut called).await, "register e 1");
    edge.send(
        Operation::Delete,
        Kind::Device,
        "d",
        &json!({"metadata": {"name": "d", "namespace": "default"}}),
    )
    .await;
    assert_eq!(next(&mut called).await, "remove d");
}

/// Spec 03, "must work" 12. The cloud takes a model away just before the last device that has it.
#[tokio::test]
async fn a_model_is_updated_alone_and_goes_after_its_last_device() {
    let (edge, socket) = Edge::with_mapper().await;
    let mut called = Mapper::serve(&socket, &edge.tasks);
    edge.send(Operation::Update, Kind::DeviceModel, "m", &model("3", "in the hall"))
        .await;
    assert_eq!(next(&mut called).await, "update model: in the hall");
    edge.device("d", 4, "2").await;
    assert_eq!(next(&mut called).await, "update d 2", "the device was not told again");
    for (kind, name) in [(Kind::DeviceModel, "m"), (Kind::Device, "d")] {
        let gone = json!({"metadata": {"name": name, "namespace": "default"}});
        edge.send(Operation::Delete, kind, name, &gone).await;
    }
    assert_eq!(next(&mut called).await, "remove d");
    assert_eq!(next(&mut called).await, "remove model m");
}

#[tokio::test]
async fn a_mapper_need_not_register_again_when_edgecore_restarts() {
    let (edge, socket) = Edge::with_mapper().await;
    let mappers = Tasks::new();
    let mut called = Mapper::serve(&socket, &mappers);
    let edge = edge.restart().await;
    edge.device("d", 3, "2").await;
    assert_eq!(next(&mut called).await, "update d 2", "it is told of the change alone");
    // With another socket.
    let second = edge.mapper_socket("m2.sock");
    edge.register(&second).await;
    let mut called = Mapper::serve(&second, &mappers);
    let edge = edge.restart().await;
    edge.device("e", 4, "1").await;
    assert_eq!(next(&mut called).await, "register e 1");
    drop(edge);
}

#[tokio::test]
async fn a_mapper_is_known_after_its_database_was_replaced() {
    let (edge, socket) = Edge::with_mapper().await;
    let mappers = Tasks::new();
    let mut called = Mapper::serve(&socket, &mappers);
    let tables = edge.meta.tables();
    tables.pretend_damage().await;
    let end = Instant::now() + LIMIT;
    while !tables.read(rows::load).await.is_ok_and(|mappers| mappers.len() == 1) {
        assert!(Instant::now() < end, "the mapper is not in the new database");
        tokio::task::yield_now().await;
    }
    // As the cloud sends what the database lacks.
    edge.model().await;
    edge.device("d", 2, "1").await;
    edge.stored(1).await;
    edge.device("d", 3, "2").await;
    assert_eq!(next(&mut called).await, "update d 2", "nothing was removed or added");
    drop(tables);
    let edge = edge.restart().await;
    edge.device("d", 4, "3").await;
    assert_eq!(next(&mut called).await, "update d 3", "it is told of the change alone");
    drop(edge);
}

#[tokio::test]
async fn what_cannot_be_read_at_the_start_is_read_later() {
    let (edge, socket) = Edge::with_mapper().await;
    assert!(edge.tasks.stop(LIMIT).await);
    let Edge { folder, meta, .. } = edge;
    drop(meta);
    let tasks = Tasks::new();
    let meta = meta_manager(&folder, &tasks).await;
    let away = |connection: &rusqlite::Connection| {
        let changed = device("d", 3, "2").to_string();
        connection.execute("UPDATE meta SET value = ?1 WHERE type = 'device'", [changed])?;
        connection.execute("ALTER TABLE meta RENAME TO away", []).map(drop)
    };
    meta.tables().transact(away).await.expect("renamed");
    let edge = Edge::serve(folder, meta, tasks);
    // Who asks is told, and the owner has had its first attempt.
    let request = pb::MapperRegisterRequest {
        with_data: true,
        mapper: Some(pb::MapperInfo {
            name: "other".into(),
            protocol: "opcua".into(),
            address: b"/nowhere.sock".to_vec(),
            ..Default::default()
        }),
    };
    let refused = edge.client().await.mapper_register(request).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let back = |connection: &rusqlite::Connection| connection.execute("ALTER TABLE away RENAME TO meta", []).map(drop);
    edge.meta.tables().transact(back).await.expect("renamed");
    let mut called = Mapper::serve(&socket, &edge.tasks);
    assert_eq!(next(&mut called).await, "update d 2");
}

/// The framework takes nothing of an answer with an empty list, and serves its socket some time later.
#[tokio::test]
async fn a_mapper_that_registers_before_its_devices_gets_them_by_calls() {
    let edge = Edge::start().await;
    let socket = edge.mapper_socket("m.sock");
    let answer = edge.register(&socket).await;
    assert_eq!(answer, pb::MapperRegisterResponse::default());
    edge.device("d", 2, "1").await;
    edge.model().await;
    let mut called = Mapper::serve(&socket, &edge.tasks);
    assert_eq!(next(&mut called).await, "model m");
    assert_eq!(next(&mut called).await, "register d 1");
}

/// Waited for in turn, each for the 10 s of a call, they would take longer than a test waits for the one that answers.
#[tokio::test]
async fn mappers_that_never_answer_delay_no_other() {
    let edge = Edge::start().await;
    edge.model().await;
    let names: Vec<String> = (0..5).map(|number| format!("dead-{number}")).collect();
    let mut client = edge.client().await;
    for (name, protocol) in names
        .iter()
        .map(|name| (name.as_str(), name.as_str()))
        .chain([("alive", "modbus")])
    {
        let mapper = pb::MapperInfo {
            name: name.into(),
            protocol: protocol.into(),
            address: edge.mapper_socket(name).to_str().expect("text").as_bytes().to_vec(),
            ..Default::default()
        };
        let request = pb::MapperRegisterRequest {
            with_data: true,
            mapper: Some(mapper),
        };
        client.mapper_register(request).await.expect("registered");
    }
    let mut called = Mapper::serve(&edge.mapper_socket("alive"), &edge.tasks);
    let mut dead = Vec::new();
    for name in &names {
        // Accepts and never answers.
        let listener = UnixListener::bind(edge.mapper_socket(name)).expect("binds");
        let device = json!({"metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "5"},
            "spec": {"deviceModelRef": {"name": "m"}, "protocol": {"protocolName": name}}});
        edge.send(Operation::Insert, Kind::Device, name, &device).await;
        dead.push(listener);
    }
    edge.device("d", 6, "1").await;
    assert_eq!(next(&mut called).await, "model m");
    assert_eq!(next(&mut called).await, "register d 1");
}

fn report(namespace: &str, value: &str) -> pb::ReportDeviceStatusRequest {
    pb::ReportDeviceStatusRequest {
        device_name: "d".into(),
        device_namespace: namespace.into(),
        reported_device: Some(pb::DeviceStatus {
            twins: vec![pb::Twin {
                property_name: "temp".into(),
                reported: Some(pb::TwinProperty {
                    value: value.into(),
                    ..Default::default()
                }),
                observed_desired: None,
            }],
            ..Default::default()
        }),
    }
}

#[tokio::test]
async fn reports_reach_the_twin() {
    let mut edge = Edge::start().await;
    edge.model().await;
    edge.device("d", 2, "1").await;
    edge.stored(1).await;
    let mut client = edge.client().await;
    let id = DeviceId::new("default", "d");
    client
        .report_device_status(report("default", "21"))
        .await
        .expect("taken");
    let Some(Reported::Values(device, twins)) = edge.reported.recv().await else {
        panic!("values")
    };
    assert_eq!((device, twins.len()), (id.clone(), 1));
    // A mapper without namespaces.
    let end = Instant::now() + LIMIT;
    while client.report_device_status(report("", "21")).await.is_err() {
        assert!(Instant::now() < end, "the name is never known");
    }
    let Some(Reported::Values(device, _)) = edge.reported.recv().await else {
        panic!("values")
    };
    assert_eq!(device, id);
    let state = pb::ReportDeviceStatesRequest {
        device_name: "d".into(),
        device_namespace: "default".into(),
        state: "ok".into(),
    };
    client.report_device_states(state).await.expect("taken");
    assert_eq!(edge.reported.recv().await, Some(Reported::State(id, "ok".into())));
}

/// Go's edgecore takes a hundred at once and then one a second (spec 03 §5.2).
#[tokio::test]
async fn a_burst_of_reports_is_taken_whole() {
    let mut edge = Edge::start().await;
    let mut client = edge.client().await;
    let reports = async {
        for number in 0..300 {
            let answer = client
                .report_device_status(report("default", &number.to_string()))
                .await;
            answer.expect("taken");
        }
    };
    let taken = async {
        for number in 0..300 {
            let Some(Reported::Values(_, mut twins)) = edge.reported.recv().await else {
                panic!("values")
            };
            let twin = twins.remove("temp").flatten().expect("the property");
            assert_eq!(twin.actual.and_then(|one| one.value), Some(number.to_string()));
        }
    };
    let both = async { tokio::join!(reports, taken) };
    tokio::time::timeout(LIMIT, both).await.expect("no limit of their rate");
}

/// Spec 03, "must work" 33.
#[tokio::test]
async fn bad_calls_get_a_clear_error_and_harm_nothing() {
    let edge = Edge::start().await;
    let mut client = edge.client().await;
    let code = |status: Status| {
        assert!(!status.message().is_empty());
        status.code()
    };
    let nobody = client.mapper_register(pb::MapperRegisterRequest::default()).await;
    assert_eq!(code(nobody.expect_err("refused")), Code::InvalidArgument);
    let empty = client
        .report_device_status(pb::ReportDeviceStatusRequest::default())
        .await;
    assert_eq!(code(empty.expect_err("refused")), Code::InvalidArgument);
    let unknown = pb::ReportDeviceStatesRequest {
        device_name: "nobody".into(),
        state: "ok".into(),
        ..Default::default()
    };
    let unknown = client.report_device_states(unknown).await;
    assert_eq!(code(unknown.expect_err("refused")), Code::NotFound);
    for name in ["x".repeat(254), "a\0b".to_owned()] {
        let mut no_name = report("default", "21");
        no_name.device_name.clone_from(&name);
        let refused = client.report_device_status(no_name).await;
        assert_eq!(code(refused.expect_err("refused")), Code::InvalidArgument);
        let refused = client.report_device_status(report(&name, "21")).await;
        assert_eq!(code(refused.expect_err("refused")), Code::InvalidArgument);
    }
    let large = pb::ReportDeviceStatesRequest {
        device_name: "d".into(),
        state: "x".repeat(5 * 1024 * 1024),
        ..Default::default()
    };
    let large = client.report_device_states(large).await;
    assert_eq!(code(large.expect_err("refused")), Code::OutOfRange);
    let mut stream = UnixStream::connect(edge.socket()).await.expect("connects");
    stream.write_all(&[0xff; 100]).await.expect("writes");
    let mut answer = Vec::new();
    // The end comes, with or without a last word.
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
        .await
        .expect("an end");
    edge.register(&edge.mapper_socket("m.sock")).await;
}

#[tokio::test]
async fn one_mapper_too_many_is_refused() {
    let edge = Edge::start().await;
    let mut client = edge.client().await;
    let request = |name: String, protocol: String| pb::MapperRegisterRequest {
        with_data: false,
        mapper: Some(pb::MapperInfo {
            name,
            protocol,
            address: b"/nowhere.sock".to_vec(),
            ..Default::default()
        }),
    };
    for number in 0..limits::MAPPERS {
        let answer = client.mapper_register(request(format!("m{number}"), format!("p{number}")));
        answer.await.expect("registered");
    }
    let refused = client.mapper_register(request("m".into(), "p".into())).await;
    assert_eq!(refused.expect_err("refused").code(), Code::ResourceExhausted);
    // Who is known may come again, and another may take its protocol: its rows go.
    for (name, protocol) in [("m1", "p1"), ("m1", "p"), ("m", "p2")] {
        let answer = client.mapper_register(request(name.into(), protocol.into()));
        answer.await.expect("registered");
    }
    let stored = edge.meta.tables().read(rows::load).await.expect("loads");
    assert_eq!(stored.len(), limits::MAPPERS);
    assert!(stored.iter().all(|mapper| mapper.info.name != "m2"));
}

/// Both ages of grpc-go, byte for byte but for what does not matter: a call that a stock server resets.
#[tokio::test]
async fn the_path_of_a_socket_is_taken_for_an_authority() {
    let edge = Edge::start().await;
    edge.client().await;
    for authority in ["%2Fetc%2Fkubeedge%2Fdmi.sock", "/etc/kubeedge/dmi.sock"] {
        let mut block = vec![0x83, 0x86];
        let mut literal = |name: &[u8], value: &str| {
            block.extend_from_slice(name);
            block.push(u8::try_from(value.len()).expect("short"));
            block.extend_from_slice(value.as_bytes());
        };
        literal(&[0x44], "/v1beta1.DeviceManagerService/ReportDeviceStates");
        literal(&[0x41], authority);
        literal(&[0x5f], "application/grpc");
        literal(b"\x40\x02te", "trailers");
        let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).expect("short");
            [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
        };
        let request = [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &frame(4, 0, 0, &[]),
            &frame(1, 4, 1, &block),
            &frame(0, 1, 1, &[0; 5]),
        ]
        .concat();
        let mut stream = UnixStream::connect(edge.socket()).await.expect("connects");
        stream.write_all(&request).await.expect("writes");
        let mut head = [0; 9];
        loop {
            stream.read_exact(&mut head).await.expect("a frame");
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.expect("its payload");
            assert_ne!(head[3], 3, "the stream is reset");
            if head[3] == 1 {
                // `:status: 200`, and the refusal of an empty name as gRPC tells it.
                assert_eq!(payload.first(), Some(&0x88));
                break;
            }
        }
    }
}

#[tokio::test]
async fn two_thousand_devices_are_answered_at_once() {
    let edge = Edge::start().await;
    edge.model().await;
    edge.device("first", 2, "1").await;
    edge.stored(1).await;
    edge.stored_at_once(2000).await;
    let begin = Instant::now();
    let answer = edge.register(&edge.mapper_socket("m.sock")).await;
    println!("2,000 devices answered in {:?}", begin.elapsed());
    assert_eq!((answer.device_list.len(), answer.model_list.len()), (2001, 1));
}
