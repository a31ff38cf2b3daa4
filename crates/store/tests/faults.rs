//! Disks that fill or fail: what is refused, what still works, and what a reopen finds.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::{Draft, Memory, config, create, seal};
use hyperion_primitives::Mix;
use hyperion_store::{BlockInput, PageStore, Seal, Store, StoreError};

/// A block too large for the tail, so that it meets the tables at once.
fn large(mix: &mut Mix) -> Draft {
    Draft::drawn(mix, 300, 4, 20)
}

fn try_commit<P: PageStore>(store: &Store<P>, draft: &Draft) -> Result<(), StoreError> {
    let prepared = store.prepare(draft.input())?;
    let sealed = seal(prepared.height());
    store.commit(prepared, sealed).map(drop)
}

#[test]
fn a_full_disk_or_map_refuses_the_block_and_takes_it_later() {
    let config = config("");
    let memory = Memory::new(&config);
    let store = memory.create(&config);
    let mut mix = Mix::new(1);
    Draft::drawn(&mut mix, 1, 2, 20).commit(&store);
    let draft = large(&mut mix);
    let head = store.head();

    memory.pages.fail_next_commit(StoreError::DiskFull);
    let refused = try_commit(&store, &draft);
    assert!(matches!(refused, Err(StoreError::DiskFull)), "{refused:?}");
    memory.pages.fail_next_put(StoreError::MapFull { table: "leaf", map_bytes: 1 });
    let refused = try_commit(&store, &draft);
    assert!(matches!(refused, Err(StoreError::MapFull { .. })), "{refused:?}");
    assert_eq!(store.head(), head, "a refused block leaves the head");
    assert_eq!(store.log().size(), head.log_size);
    // Small blocks still fit into the tail.
    try_commit(&store, &Draft::drawn(&mut mix, 1, 2, 20)).unwrap();
    try_commit(&store, &draft).unwrap();
    assert_eq!(store.head().height, 3);
    drop(store);
    assert_eq!(memory.open(&config).head().height, 3);
}

#[test]
fn after_a_failed_sync_nothing_is_written_and_reading_goes_on() {
    let mut mix = Mix::new(2);
    for through_tail in [true, false] {
        let config = config("");
        let memory = Memory::new(&config);
        let store = memory.create(&config);
        Draft::drawn(&mut mix, 1, 2, 20).commit(&store);
        let head = store.head();
        let draft = if through_tail { Draft::drawn(&mut mix, 1, 2, 20) } else { large(&mut mix) };
        if through_tail {
            memory.tail.fail_next_write();
        } else {
            let cause = "a commit failed: Input/output error".to_owned();
            memory.pages.fail_next_commit(StoreError::Poisoned { cause });
        }
        let refused = try_commit(&store, &draft);
        assert!(matches!(refused, Err(StoreError::Poisoned { .. })), "{refused:?}");
        for refused in [try_commit(&store, &draft), store.flush()] {
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("refuses writes since") && text.contains("restart"), "{text}");
        }
        assert_eq!(store.head(), head);
        assert_eq!(store.log().inclusion(1, head.log_size).unwrap().len(), 2);
        assert!(store.snapshot().pin().is_ok());
        drop(store);
        let store = memory.open(&config);
        // Half a page may hold the whole of a small record: nobody was told of it, and it may stay.
        let survived = u64::from(through_tail);
        assert_eq!(store.head().height, head.height + survived);
        try_commit(&store, &Draft::drawn(&mut mix, 1, 2, 20)).unwrap();
    }
}

#[test]
fn a_full_map_on_disk_is_grown_by_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path().join("store"));
    config.log_map_bytes = 1 << 20;
    let store = create(&config);
    let mut mix = Mix::new(3);
    let refused = loop {
        if let Err(error) = try_commit(&store, &large(&mut mix)) {
            break error;
        }
    };
    assert!(
        matches!(refused, StoreError::MapFull { map_bytes, .. } if map_bytes == 1 << 20),
        "{refused}"
    );
    let head = store.head();
    let refused = try_commit(&store, &large(&mut mix));
    assert!(matches!(refused, Err(StoreError::MapFull { .. })), "{refused:?}");
    assert!(store.log().entry(head.log_size - 1).is_ok(), "reading goes on");
    drop(store);
    config.log_map_bytes = 64 << 20;
    let store = Store::open(&config).unwrap();
    assert_eq!(store.head(), head);
    try_commit(&store, &large(&mut mix)).unwrap();
}

#[test]
fn the_reserve_is_kept_free() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path().join("store"));
    config.disk_reserve_bytes = u64::MAX;
    let store = create(&config);
    let refused = try_commit(&store, &Draft::default());
    assert!(matches!(refused, Err(StoreError::DiskLow { .. })), "{refused:?}");
    assert_eq!(store.head().height, 0);
    drop(store);
    config.disk_reserve_bytes = 0;
    try_commit(&Store::open(&config).unwrap(), &Draft::default()).unwrap();
}

#[test]
fn what_no_log_takes_is_refused_before_anything_is_hashed() {
    let config = config("");
    let store = Memory::new(&config).create(&config);
    let path = common::path(1);
    let short = [vec![1]];
    let long = [vec![1; 4_097]];
    let commit = [vec![1, 1], vec![2, 1]];
    let many = vec![vec![1, 1]; (1 << 16) + 1];
    let blob = [vec![0; (1 << 24) + 1]];
    let cases: [(&str, BlockInput<'_>); 6] = [
        (
            "claim 0 of the block: an entry has",
            BlockInput { claims: &short, ..BlockInput::default() },
        ),
        (
            "claim 0 of the block: an entry has",
            BlockInput { claims: &long, ..BlockInput::default() },
        ),
        ("claim 1 of the block: kind 2", BlockInput { claims: &commit, ..BlockInput::default() }),
        ("claims in a block: 65537", BlockInput { claims: &many, ..BlockInput::default() }),
        ("bytes in a blob: 16777217", BlockInput { blobs: &blob, ..BlockInput::default() }),
        ("path ", BlockInput { diff: &[(path, None), (path, None)], ..BlockInput::default() }),
    ];
    for (want, block) in cases {
        let text = store.prepare(block).unwrap_err().to_string();
        assert!(text.starts_with(want), "{want}: {text}");
    }
}

#[test]
fn another_chain_log_or_place_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path().join("store"));
    assert!(matches!(Store::open(&config), Err(StoreError::NoStore)));
    let store = create(&config);
    assert!(matches!(Store::open(&config), Err(StoreError::AlreadyOpen { .. })));
    let again = Store::create(&config, Seal::default(), []);
    assert!(matches!(again, Err(StoreError::NotEmpty { .. })), "{again:?}");
    drop(store);
    let mut other = config.clone();
    other.chain_id = 1;
    let refused = Store::open(&other).unwrap_err().to_string();
    assert_eq!(refused, "the store's chain id is 133717, this node expects 1");
    let mut other = config.clone();
    other.origin = "elsewhere".to_owned();
    let refused = Store::open(&other).unwrap_err().to_string();
    assert!(refused.contains("origin is example.org/hyperion/133717"), "{refused}");
    let unsorted = [(common::path(1), seal(0).block_hash), (common::path(1), seal(0).block_hash)];
    let mut other = config;
    other.dir = dir.path().join("other");
    let refused = Store::create(&other, Seal::default(), unsorted).unwrap_err().to_string();
    assert!(refused.contains("order of genesis leaves"), "{refused}");
}

#[test]
fn a_store_without_its_tail_is_refused_and_not_given_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path().join("store"));
    let store = create(&config);
    try_commit(&store, &Draft::default()).unwrap();
    drop(store);
    std::fs::remove_file(config.dir.join("tail")).unwrap();
    let refused = Store::open(&config).unwrap_err();
    assert!(matches!(&refused, StoreError::Io { path, .. } if path.ends_with("tail")), "{refused}");
    assert!(!config.dir.join("tail").exists());
}

#[test]
fn a_candidate_of_another_store_is_stale() {
    let config = config("");
    let (one, two) = (Memory::new(&config).create(&config), Memory::new(&config).create(&config));
    let refused = two.commit(one.prepare(Draft::default().input()).unwrap(), seal(1));
    assert!(matches!(refused, Err(StoreError::StalePrepared { head: 0 })), "{refused:?}");
    let on_foreign = two.prepare_on(&one.base(), Draft::default().input()).unwrap();
    let refused = two.commit(on_foreign, seal(1));
    assert!(matches!(refused, Err(StoreError::StalePrepared { head: 0 })), "{refused:?}");
}
