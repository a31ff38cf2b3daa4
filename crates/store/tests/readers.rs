//! Reading beside a writer: every reader sees one moment, snapshots last as long as promised, backups are stores.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use common::{Draft, Memory, Model, config, create, path};
use hyperion_primitives::Mix;
use hyperion_store::{PageStore, Store, StoreError};
use hyperion_verify::log::check_inclusion;

/// Reads until told to stop; everything read in one turn must belong to one moment.
fn read_until<P: PageStore>(store: &Store<P>, seed: u64, stop: &AtomicBool) -> u64 {
    let mut mix = Mix::new(seed);
    let mut turns = 0;
    while !stop.load(Ordering::Relaxed) {
        let log = store.log();
        let index = mix.below(log.size());
        let proof = log.inclusion(index, log.size()).unwrap();
        check_inclusion(&log.leaf(index).unwrap(), index, log.size(), &proof, &log.root()).unwrap();
        assert!(log.entry(index).is_ok());
        // Drawn claims may be alike; then the first of them is the answer.
        let found = log.index_of(&log.leaf(index).unwrap()).unwrap().unwrap();
        assert!(found <= index && log.leaf(found).unwrap() == log.leaf(index).unwrap());
        log.entries(index / 256, 1).unwrap();

        let snapshot = store.snapshot();
        let pinned = snapshot.pin().unwrap();
        let path = path(mix.below(40));
        let mut words = [None];
        pinned.get_many(&[path], &mut words);
        let proof = pinned.prove(&path).unwrap();
        proof.check(&pinned.head().state_root, &path, words[0].as_ref()).unwrap();
        let height = pinned.head().height;
        assert_eq!(store.value_at(height, &path).unwrap(), words[0], "height {height}");
        turns += 1;
    }
    turns
}

fn write_beside_readers<P: PageStore>(store: &Store<P>) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [1, 2].map(|seed| {
            let stop = &stop;
            scope.spawn(move || read_until(store, seed, stop))
        });
        let mut mix = Mix::new(4);
        for round in 0..120 {
            // Some blocks through the tail, some past it, and runs that end on the way.
            let claims = if round % 10 == 9 { 600 } else { 1 + round % 3 };
            Draft::drawn(&mut mix, claims, 6, 40).commit(store);
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0, "a reader had no turn");
        }
    });
    assert!(store.log().size() > 4_096);
}

#[test]
fn readers_beside_a_writer_see_single_moments() {
    let config = config("");
    write_beside_readers(&Memory::new(&config).create(&config));
    let dir = tempfile::tempdir().unwrap();
    write_beside_readers(&create(&common::config(dir.path().join("store"))));
}

#[test]
fn the_window_of_heights_is_as_long_as_configured() {
    let mut config = config("");
    config.snapshot_heights = 10;
    let memory = Memory::new(&config);
    let store = memory.create(&config);
    let mut mix = Mix::new(5);
    let first = store.snapshot();
    for _ in 0..20 {
        Draft::drawn(&mut mix, 1, 5, 40).commit(&store);
    }
    let stats = store.stats().unwrap();
    assert_eq!((stats.snapshot_heights, stats.snapshot_oldest), (10, 11));
    assert!(store.snapshot_at(11).is_ok());
    let refused = store.snapshot_at(10);
    assert!(
        matches!(refused, Err(StoreError::SnapshotTooOld { height: 10, oldest: 11 })),
        "{refused:?}"
    );
    assert!(matches!(store.snapshot_at(21), Err(StoreError::AboveHead { height: 21, head: 20 })));
    assert!(matches!(store.value_at(21, &path(1)), Err(StoreError::AboveHead { .. })));
    // One that is held outlives the window.
    assert_eq!(first.pin().unwrap().get(&path(1)), None);
    assert_eq!(first.head().height, 0);
}

#[test]
fn the_window_shrinks_to_its_memory_but_not_to_nothing() {
    let mut config = config("");
    config.snapshot_bytes = 0;
    let store = Memory::new(&config).create(&config);
    let mut mix = Mix::new(6);
    for _ in 0..20 {
        Draft::drawn(&mut mix, 0, 5, 40).commit(&store);
    }
    let stats = store.stats().unwrap();
    assert_eq!((stats.snapshot_heights, stats.snapshot_oldest), (8, 13));
}

#[test]
fn a_backup_taken_beside_a_writer_is_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path().join("store"));
    let store = create(&config);
    let mut mix = Mix::new(7);
    let mut model = Model::new(&store);
    for _ in 0..12 {
        let draft = Draft::drawn(&mut mix, 3, 4, 40);
        draft.commit(&store);
        model.follow(&draft, &store);
    }
    let mut copy = config;
    copy.dir = dir.path().join("copy");
    thread::scope(|scope| {
        let backup = scope.spawn(|| store.backup(&copy.dir).unwrap());
        for _ in 0..12 {
            let draft = Draft::drawn(&mut mix, 3, 4, 40);
            draft.commit(&store);
            model.follow(&draft, &store);
        }
        backup.join().unwrap();
    });
    let copied = Store::open(&copy).unwrap();
    let head = copied.head();
    assert!((12..=24).contains(&head.height), "{head:?}");
    assert_eq!(*store.snapshot_at(head.height).unwrap().head(), head);
    // The copy goes its own way from here.
    Draft::drawn(&mut mix, 1, 1, 40).commit(&copied);
    drop(copied);
    assert!(Store::fsck(&copy).unwrap().is_clean());
    model.check(&store, &mut mix);
    assert!(store.backup(&copy.dir).is_err(), "a backup never overwrites");
}
