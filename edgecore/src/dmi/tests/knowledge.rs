//! The machine of one mapper against a mapper that forgets nothing but refuses, or does not answer, at random.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proto::device::DeviceId;
use proto::dmi::Digest;
use tokio::time::Instant;

use super::super::knowledge::{Call, Knowledge, Outcome, Step, Thing, Verb, Want, Wanted};

fn digest(number: u8) -> Digest {
    Digest::parse(&format!("{number:016x}")).expect("a digest")
}

fn device(number: u8) -> Thing {
    Thing::Device(DeviceId::new("default", format!("d{number}")))
}

fn model(number: u8) -> DeviceId {
    DeviceId::new("default", format!("m{number}"))
}

/// Devices with their model and content; models have content 1.
fn wanted(devices: &[(u8, u8, Option<u8>)]) -> Wanted {
    let mut wanted = Wanted::new();
    for (number, of, content) in devices {
        let model_want = Want {
            digest: Some(digest(1)),
            model: None,
        };
        wanted.insert(Thing::Model(model(*of)), model_want);
        let want = Want {
            digest: content.map(digest),
            model: Some(model(*of)),
        };
        wanted.insert(device(*number), want);
    }
    wanted
}

/// The same with models of this content.
fn with_models(mut wanted: Wanted, content: u8) -> Wanted {
    for (thing, want) in &mut wanted {
        if matches!(thing, Thing::Model(_)) {
            want.digest = Some(digest(content));
        }
    }
    wanted
}

/// All calls until there is nothing to do; each succeeds.
fn calls(knowledge: &mut Knowledge, wanted: &Wanted, now: Instant) -> Vec<Call> {
    let mut all = Vec::new();
    while let Step::Call(call) = knowledge.next(wanted, now) {
        let content = wanted.get(&call.thing).and_then(|want| want.digest);
        let content = content.filter(|_| call.verb != Verb::Remove);
        knowledge.done(&call, Outcome::Done(content), now);
        all.push(call);
    }
    all
}

#[tokio::test]
async fn models_come_before_devices_and_go_after_them() {
    let (now, mut knowledge) = (Instant::now(), Knowledge::new(BTreeMap::new()));
    let call = |thing, verb| Call { thing, verb };
    let both = wanted(&[(1, 1, Some(5)), (2, 1, Some(5))]);
    let made = calls(&mut knowledge, &both, now);
    assert_eq!(
        made,
        [
            call(Thing::Model(model(1)), Verb::Add),
            call(device(1), Verb::Add),
            call(device(2), Verb::Add)
        ]
    );
    let changed = wanted(&[(1, 1, Some(6)), (2, 1, Some(5))]);
    assert_eq!(calls(&mut knowledge, &changed, now), [call(device(1), Verb::Update)]);
    assert_eq!(
        calls(&mut knowledge, &Wanted::new(), now),
        [
            call(device(2), Verb::Remove),
            call(device(1), Verb::Remove),
            call(Thing::Model(model(1)), Verb::Remove)
        ]
    );
}

#[tokio::test]
async fn a_model_that_changes_is_updated_alone_or_before_its_device() {
    let (now, mut knowledge) = (Instant::now(), Knowledge::new(BTreeMap::new()));
    let call = |thing, verb| Call { thing, verb };
    calls(&mut knowledge, &wanted(&[(1, 1, Some(5))]), now);
    let alone = with_models(wanted(&[(1, 1, Some(5))]), 2);
    let update = call(Thing::Model(model(1)), Verb::Update);
    assert_eq!(calls(&mut knowledge, &alone, now), std::slice::from_ref(&update));
    let both = with_models(wanted(&[(1, 1, Some(6))]), 3);
    assert_eq!(
        calls(&mut knowledge, &both, now),
        [update, call(device(1), Verb::Update)]
    );
}

#[tokio::test]
async fn a_device_that_was_made_again_is_removed_and_added() {
    let (now, mut knowledge) = (Instant::now(), Knowledge::new(BTreeMap::new()));
    let call = |verb| Call { thing: device(1), verb };
    let of = |uid: &str| {
        let mut wanted = wanted(&[(1, 1, Some(5))]);
        for (thing, want) in &mut wanted {
            if *thing == device(1) {
                want.digest = want.digest.map(|digest| digest.with_uid(uid));
            }
        }
        wanted
    };
    // What an older edgecore remembers says nothing of the uid: once told, it is known.
    calls(&mut knowledge, &of(""), now);
    assert_eq!(calls(&mut knowledge, &of("u1"), now), [call(Verb::Update)]);
    assert_eq!(
        calls(&mut knowledge, &of("u2"), now),
        [call(Verb::Remove), call(Verb::Add)]
    );
    assert_eq!(calls(&mut knowledge, &of("u2"), now), []);
}

#[tokio::test]
async fn a_device_whose_content_is_not_to_be_had_stays_as_it_is() {
    let (now, mut knowledge) = (Instant::now(), Knowledge::new(BTreeMap::new()));
    calls(&mut knowledge, &wanted(&[(1, 1, Some(5))]), now);
    assert_eq!(calls(&mut knowledge, &wanted(&[(1, 1, None)]), now), []);
}

#[tokio::test]
async fn a_refused_call_is_repeated_later_and_delays_no_other() {
    let (now, mut knowledge) = (Instant::now(), Knowledge::new(BTreeMap::new()));
    let both = wanted(&[(1, 1, Some(5)), (2, 1, Some(5))]);
    let Step::Call(first) = knowledge.next(&both, now) else {
        panic!("a call")
    };
    knowledge.done(&first, Outcome::Done(Some(digest(1))), now);
    let Step::Call(refused) = knowledge.next(&both, now) else {
        panic!("a call")
    };
    knowledge.done(&refused, Outcome::Refused, now);
    let Step::Call(other) = knowledge.next(&both, now) else {
        panic!("a call")
    };
    assert_ne!(other.thing, refused.thing);
    knowledge.done(&other, Outcome::Done(Some(digest(5))), now);
    let Step::Wait(Some(due)) = knowledge.next(&both, now) else {
        panic!("a wait")
    };
    assert!(due > now);
    assert_eq!(knowledge.next(&both, due), Step::Call(refused));
}

#[tokio::test]
async fn a_mapper_that_does_not_answer_gets_one_call_at_a_time() {
    let (now, mut knowledge) = (Instant::now(), Knowledge::new(BTreeMap::new()));
    let both = wanted(&[(1, 1, Some(5)), (2, 2, Some(5))]);
    let Step::Call(call) = knowledge.next(&both, now) else {
        panic!("a call")
    };
    knowledge.done(&call, Outcome::Unreachable, now);
    let Step::Wait(Some(due)) = knowledge.next(&both, now) else {
        panic!("a wait")
    };
    assert!(due <= now + Duration::from_secs(1));
    assert_eq!(knowledge.next(&both, due), Step::Call(call));
}

#[tokio::test]
async fn an_update_that_is_refused_becomes_an_addition() {
    let (now, mut knowledge) = (Instant::now(), Knowledge::new(BTreeMap::new()));
    calls(&mut knowledge, &wanted(&[(1, 1, Some(5))]), now);
    let changed = wanted(&[(1, 1, Some(6))]);
    let Step::Call(update) = knowledge.next(&changed, now) else {
        panic!("a call")
    };
    assert_eq!(update.verb, Verb::Update);
    let notes = knowledge.done(&update, Outcome::Refused, now);
    assert_eq!(notes.len(), 1, "after a restart it is not known there either");
    let Step::Wait(Some(due)) = knowledge.next(&changed, now) else {
        panic!("a wait")
    };
    let Step::Call(addition) = knowledge.next(&changed, due) else {
        panic!("a call")
    };
    assert_eq!(addition.verb, Verb::Add);
}

proptest! {
    /// Whatever is wanted in turn and however calls end: once calls succeed the mapper has what is wanted, no device is there without
    /// its model, and what is remembered for a restart is what was told.
    #[test]
    fn the_mapper_ends_with_what_is_wanted(
        turns in proptest::collection::vec(
            (proptest::collection::vec((0_u8..4, 0_u8..3, 0_u8..3), 0..5), 0_u8..3, proptest::collection::vec(0_u8..4, 0..10)), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let _inside = runtime.enter();
        let mut now = Instant::now();
        let mut knowledge = Knowledge::new(BTreeMap::new());
        let (mut mapper, mut remembered) = (BTreeMap::new(), BTreeMap::new());
        let mut last = Wanted::new();
        for (devices, models, outcomes) in turns {
            let by_number: BTreeMap<u8, (u8, u8)> = devices.into_iter().map(|(n, m, c)| (n, (m, c))).collect();
            let wanted = wanted(&by_number.into_iter().map(|(n, (m, c))| (n, m, Some(c))).collect::<Vec<_>>());
            last = with_models(wanted, models);
            let settle = std::iter::repeat_n(0, 60);
            for outcome in outcomes.into_iter().chain(settle) {
                let call = match knowledge.next(&last, now) {
                    Step::Call(call) => call,
                    Step::Wait(None) => break,
                    Step::Wait(Some(due)) => {
                        prop_assert!(due > now);
                        now = due;
                        continue;
                    }
                };
                let content = last.get(&call.thing).and_then(|want| want.digest);
                let outcome = match outcome {
                    0 | 1 => {
                        match (call.verb, content) {
                            (Verb::Remove, _) => { mapper.remove(&call.thing); }
                            (_, Some(content)) => {
                                if let Some(model) = last.get(&call.thing).and_then(|want| want.model.clone()) {
                                    prop_assert!(mapper.contains_key(&Thing::Model(model)));
                                }
                                mapper.insert(call.thing.clone(), content);
                            }
                            (_, None) => prop_assert!(false, "a call without content"),
                        }
                        Outcome::Done(content.filter(|_| call.verb != Verb::Remove))
                    }
                    2 => {
                        // The framework forgets even when it answers with an error.
                        if call.verb == Verb::Remove { mapper.remove(&call.thing); }
                        Outcome::Refused
                    }
                    _ => Outcome::Unreachable,
                };
                for note in knowledge.done(&call, outcome, now) {
                    match note.digest {
                        Some(digest) => { remembered.insert(note.thing, digest); }
                        None => { remembered.remove(&note.thing); }
                    }
                }
            }
        }
        let expected: BTreeMap<Thing, Digest> =
            last.into_iter().filter_map(|(thing, want)| Some((thing, want.digest?))).collect();
        prop_assert_eq!(&mapper, &expected);
        prop_assert_eq!(&remembered, &expected);
    }
}
