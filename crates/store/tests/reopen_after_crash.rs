//! A store that stops anywhere inside a commit reopens with every acknowledged block, and with the interrupted one
//! either whole or not at all.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::{Draft, Memory, Model, config, create, seal};
use hyperion_primitives::Mix;
use hyperion_store::{CrashPlan, CrashPoint, PageStore, Store, StoreConfig, StoreError};

/// What the interrupted block may have become: where its record, or its transaction, was durable, it stays.
const fn survives(point: CrashPoint, through_tail: bool) -> Option<bool> {
    match point {
        CrashPoint::BeforeWrite => Some(false),
        CrashPoint::TailTorn if through_tail => Some(false),
        CrashPoint::LogWritten if !through_tail => Some(false),
        CrashPoint::TailDurable if through_tail => Some(true),
        CrashPoint::LogDurable if !through_tail => Some(true),
        CrashPoint::Applied | CrashPoint::Published => Some(true),
        // The other way to disk does not pass this point.
        _ => None,
    }
}

/// Commits a few blocks, stops inside the next, reopens by `reopen` and goes on.
fn stop_and_reopen<P: PageStore>(
    config: &StoreConfig,
    open: impl Fn(bool) -> Store<P>,
    point: CrashPoint,
    claims: usize,
) {
    let plan = &config.crash;
    let mut store = open(true);
    let (mut model, mut mix) = (Model::new(&store), Mix::new(point as u64));
    // Enough blocks before it that the tail is in use, and that its eighth record moves all to the tables.
    for before in 0..3 {
        for _ in 0..before {
            let draft = Draft::drawn(&mut mix, 2, 3, 20);
            draft.commit(&store);
            model.follow(&draft, &store);
        }
        let draft = Draft::drawn(&mut mix, claims, 5, 20);
        let prepared = store.prepare(draft.input()).unwrap();
        let sealed = seal(prepared.height());
        plan.stop_at(point, 0);
        let stopped = store.commit(prepared, sealed);
        assert!(matches!(stopped, Err(StoreError::Stopped(at)) if at == point), "{stopped:?}");
        let refused = store.flush();
        assert!(
            matches!(refused, Err(StoreError::Poisoned { .. })),
            "a stopped store writes no more"
        );
        plan.stop_at(CrashPoint::BeforeWrite, u32::MAX);

        drop(store);
        store = open(false);
        let through_tail = claims < 50;
        let lives = store.head().height > model.height();
        assert_eq!(Some(lives), survives(point, through_tail), "{point:?}, {claims} claims");
        if lives {
            model.follow(&draft, &store);
        }
        model.check(&store, &mut mix);
    }
}

#[test]
fn at_every_crash_point_on_both_ways_to_disk() {
    for point in CrashPoint::ALL {
        for claims in [1, 300] {
            if survives(point, claims < 50).is_none() {
                continue;
            }
            let config = StoreConfig { crash: CrashPlan::default(), ..config("") };
            let memory = Memory::new(&config);
            let open = |new| if new { memory.create(&config) } else { memory.open(&config) };
            stop_and_reopen(&config, open, point, claims);

            let dir = tempfile::tempdir().unwrap();
            let config =
                StoreConfig { crash: CrashPlan::default(), ..common::config(dir.path().join("s")) };
            let open = |new| if new { create(&config) } else { Store::open(&config).unwrap() };
            stop_and_reopen(&config, open, point, claims);
            assert!(Store::fsck(&config).unwrap().is_clean());
        }
    }
}

#[test]
fn a_torn_record_at_any_length_is_no_block() {
    let config = config("");
    let memory = Memory::new(&config);
    let store = memory.create(&config);
    let mut mix = Mix::new(5);
    let draft = Draft::drawn(&mut mix, 20, 6, 20);
    draft.commit(&store);
    let head = store.head();
    drop(store);
    let mut whole = Vec::new();
    memory.tail.change(|bytes| whole = bytes.to_vec());
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // Sector by sector, and around the last byte.
    let lengths = (0..used).step_by(512).chain([used - 1, used]);
    for length in lengths {
        memory.tail.change(|bytes| {
            bytes[..length].copy_from_slice(&whole[..length]);
            bytes[length..].fill(0);
        });
        let height = memory.open(&config).head().height;
        assert_eq!(height, u64::from(length == used), "{length} of {used} bytes");
    }
    assert_eq!(memory.open(&config).head(), head);
}

#[test]
fn a_broken_record_with_another_behind_it_is_damage() {
    let config = config("");
    let memory = Memory::new(&config);
    let store = memory.create(&config);
    let mut mix = Mix::new(6);
    for _ in 0..3 {
        Draft::drawn(&mut mix, 1, 2, 20).commit(&store);
    }
    drop(store);
    memory.tail.change(|bytes| bytes[4_096 + 100] ^= 1);
    let refused = Store::open_in(memory.medium(), &config).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Corrupt { table: "tail", what, .. } if what.contains("height 2 is missing")),
        "{refused}"
    );
}

#[test]
fn old_records_behind_a_new_one_are_passed_over() {
    let config = config("");
    let memory = Memory::new(&config);
    let mut store = memory.create(&config);
    let mut mix = Mix::new(7);
    let mut model = Model::new(&store);
    for round in 0..40 {
        let draft = Draft::drawn(&mut mix, 1 + round % 3, 2, 20);
        draft.commit(&store);
        model.follow(&draft, &store);
        drop(store);
        store = memory.open(&config);
        model.check(&store, &mut mix);
    }
}

#[test]
fn bytes_inside_a_record_cannot_pass_for_one() {
    // A contract's code is its author's to choose: here it is the tail's first record, at every place it could have
    // in a page, with the next record cut off behind it.
    let config = config("");
    let memory = Memory::new(&config);
    let store = memory.create(&config);
    let mut mix = Mix::new(8);
    Draft::drawn(&mut mix, 1, 2, 20).commit(&store);
    let mut record = Vec::new();
    memory.tail.change(|bytes| record = bytes[..4_096].to_vec());
    store.flush().unwrap();
    let blobs = vec![record.repeat(3)[1..].to_vec()];
    Draft { blobs, ..Draft::default() }.commit(&store);
    let head = store.head();
    drop(store);
    assert_eq!(memory.open(&config).head(), head);
    // The record's first page is lost: the copies inside it must not be found.
    memory.tail.change(|bytes| bytes[..4_096].fill(0));
    assert_eq!(memory.open(&config).head().height, 1);
}
