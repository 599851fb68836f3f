//! Routes: nothing of a resource is lost, and each typed route is found again.

use proptest::prelude::*;
use proto::golden::{Capture, FrameKind};
use proto::{Group, Kind, ObjectPath, Route};

fn groups() -> impl Strategy<Value = Group> {
    prop_oneof![
        prop::sample::select(vec![
            "resource",
            "func",
            "meta",
            "twin",
            "user",
            "taskmanager",
            "hub",
            "dynamiccontroller",
            ""
        ])
        .prop_map(Group::from),
        ".*".prop_map(|text| Group::from(text.as_str())),
    ]
}

/// Texts that resemble resources more than random ones do.
fn resources() -> impl Strategy<Value = String> {
    prop_oneof![
        ".*",
        prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "node",
                    "pod",
                    "null",
                    "default",
                    "membership",
                    "detail",
                    "k8s",
                    "ca.crt",
                    "watchapp",
                    "sync",
                    ""
                ])
                .prop_map(str::to_owned),
                "[a-z./]{0,4}",
            ],
            0..6
        )
        .prop_map(|parts| parts.join("/")),
    ]
}

/// Kinds with a name of their own.
fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        "pod",
        "podstatus",
        "podpatch",
        "podlist",
        "node",
        "nodestatus",
        "nodepatch",
        "configmap",
        "secret",
        "lease",
        "serviceaccounttoken",
        "persistentvolume",
        "persistentvolumeclaim",
        "volumeattachment",
        "certificatesigningrequest",
        "event",
        "volume",
        "service",
        "endpoints",
        "device",
        "devicemodel",
        "rulestatus",
        "serviceaccountaccess",
    ])
    .prop_map(Kind::from)
}

proptest! {
    #[test]
    fn rendering_what_was_parsed_gives_the_text(group in groups(), text in resources()) {
        prop_assert_eq!(Route::parse(&group, &text).render(), text);
    }

    #[test]
    fn parsing_what_was_rendered_gives_the_route(
        namespace in "[^/]{1,20}",
        kind in prop_oneof![kinds(), "[^/]{1,20}".prop_map(|text| Kind::from(text.as_str()))],
        name in "[^/]{1,20}",
    ) {
        let route: Route = ObjectPath::new(namespace, kind, name).into();
        prop_assert_eq!(Route::parse(&Group::Resource, &route.render()), route.clone());
        prop_assert_eq!(Route::parse(&Group::Meta, &route.render()), route);
    }

    #[test]
    fn lists_and_fixed_routes_are_found_again(namespace in "[^/]{1,20}", kind in kinds()) {
        let list = Route::Object(ObjectPath { namespace: namespace.into(), kind, name: None });
        for route in [Route::Node, Route::Membership, Route::MembershipDetail, Route::ClusterCa, Route::WatchSync, list] {
            prop_assert_eq!(Route::parse(&Group::Resource, &route.render()), route);
        }
    }
}

#[test]
fn topics_and_jobs_are_not_objects() {
    for group in [Group::User, Group::TaskManager, Group::Hub] {
        assert!(matches!(Route::parse(&group, "default/pod/x"), Route::Other(_)));
    }
    assert!(matches!(
        Route::parse(&Group::Resource, "device/default/d1/state/update"),
        Route::Other(_)
    ));
}

#[test]
fn captured_objects_have_a_kind_with_a_name() {
    let odd = ["frob", "Application", "topic"];
    for capture in Capture::ALL {
        for frame in capture.frames().filter(|frame| frame.kind == FrameKind::Text) {
            let Ok(message) = frame.message() else { continue };
            if let Some(Kind::Other(kind)) = message.route.kind() {
                assert!(odd.contains(&&**kind), "{}", message.route);
            }
        }
    }
}
