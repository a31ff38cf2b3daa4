//! LMDB behind its wall and the map in memory keep the same contract.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::ops::ControlFlow;

use hyperion_store::{DirLock, Lmdb, MemStore, PageStore, ReadTxn, StoreError, Table, WriteTxn};

fn scanned(read: &impl ReadTxn, table: Table, from: &[u8]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    read.scan(table, from, &mut |key, _| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    keys
}

fn keep_the_contract(store: &impl PageStore) {
    let empty = store.read().unwrap();
    assert_eq!(empty.get(Table::Leaf, b"b").unwrap(), None);
    assert_eq!(empty.last(Table::Leaf).unwrap(), None);
    assert_eq!(empty.floor(Table::Leaf, b"b").unwrap(), None);

    let mut txn = store.write().unwrap();
    txn.put(Table::Leaf, b"d", b"4").unwrap();
    txn.put(Table::Leaf, b"b", &[7; 10_000]).unwrap();
    txn.append(Table::Leaf, b"f", b"").unwrap();
    txn.put(Table::Run, b"c", b"of another table").unwrap();
    assert_eq!(txn.get(Table::Leaf, b"d").unwrap(), Some(&b"4"[..]), "a writer sees its writes");
    assert_eq!(store.read().unwrap().get(Table::Leaf, b"d").unwrap(), None, "others do not");
    txn.commit().unwrap();

    let read = store.read().unwrap();
    assert_eq!(read.get(Table::Leaf, b"b").unwrap(), Some(&[7; 10_000][..]));
    assert_eq!(read.get(Table::Leaf, b"f").unwrap(), Some(&b""[..]), "an empty value is a value");
    let cases: [(&[u8], Option<&[u8]>); 6] = [
        (b"a", None),
        (b"b", Some(b"b")),
        (b"c", Some(b"b")),
        (b"e", Some(b"d")),
        (b"f", Some(b"f")),
        (b"g", Some(b"f")),
    ];
    for (key, want) in cases {
        let got = read.floor(Table::Leaf, key).unwrap().map(|(key, _)| key);
        assert_eq!(got, want, "floor of {key:?}");
    }
    assert_eq!(read.last(Table::Leaf).unwrap(), Some((&b"f"[..], &b""[..])));
    assert_eq!(scanned(&read, Table::Leaf, b""), [b"b", b"d", b"f"]);
    assert_eq!(scanned(&read, Table::Leaf, b"c"), [b"d", b"f"]);
    assert_eq!(scanned(&read, Table::Leaf, b"g"), [b""; 0]);
    let mut seen = 0;
    read.scan(Table::Leaf, b"", &mut |_, _| {
        seen += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(seen, 1, "Break ends a scan");

    // A dropped transaction leaves nothing; a replaced value does not change under its readers.
    let mut dropped = store.write().unwrap();
    dropped.put(Table::Leaf, b"x", b"").unwrap();
    drop(dropped);
    let mut txn = store.write().unwrap();
    txn.put(Table::Leaf, b"b", b"new").unwrap();
    txn.commit().unwrap();
    assert_eq!(read.get(Table::Leaf, b"b").unwrap(), Some(&[7; 10_000][..]), "readings are stable");
    let read = store.read().unwrap();
    assert_eq!(read.get(Table::Leaf, b"x").unwrap(), None);
    assert_eq!(read.get(Table::Leaf, b"b").unwrap(), Some(&b"new"[..]));
    assert_eq!(empty.get(Table::Leaf, b"b").unwrap(), None);

    let mut txn = store.write().unwrap();
    let refused = txn.append(Table::Leaf, b"e", b"");
    assert!(matches!(refused, Err(StoreError::Corrupt { table: "leaf", .. })), "{refused:?}");
    drop(txn);
    assert!(store.usage().unwrap().file_bytes > 0);
}

fn lmdb(dir: &std::path::Path, map_bytes: u64) -> Lmdb {
    std::fs::create_dir_all(dir.join("log")).unwrap();
    Lmdb::open(DirLock::take(dir).unwrap(), map_bytes).unwrap()
}

#[test]
fn the_map_in_memory() {
    keep_the_contract(&MemStore::default());
}

#[test]
fn lmdb_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    keep_the_contract(&lmdb(dir.path(), 16 << 20));
}

#[test]
fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DirLock::take(dir.path()).unwrap();
    let again = DirLock::take(&dir.path().join("."));
    assert!(matches!(again, Err(StoreError::AlreadyOpen { .. })), "{again:?}");
    drop(lock);
    DirLock::take(dir.path()).unwrap();
}

#[test]
fn a_reading_keeps_its_environment_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = lmdb(dir.path(), 16 << 20);
    let mut txn = store.write().unwrap();
    txn.put(Table::Blob, b"k", b"v").unwrap();
    txn.commit().unwrap();
    let read = store.read().unwrap();
    drop(store);
    // Readings may move to another thread, and the directory stays taken until the last of them ends.
    let read = std::thread::spawn(move || {
        assert_eq!(read.get(Table::Blob, b"k").unwrap(), Some(&b"v"[..]));
        read
    });
    let read = read.join().unwrap();
    assert!(matches!(DirLock::take(dir.path()), Err(StoreError::AlreadyOpen { .. })));
    drop(read);
    assert_eq!(
        lmdb(dir.path(), 16 << 20).read().unwrap().get(Table::Blob, b"k").unwrap(),
        Some(&b"v"[..])
    );
}

#[test]
fn a_full_map_keeps_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let store = lmdb(dir.path(), 1 << 20);
    let mut txn = store.write().unwrap();
    txn.put(Table::Blob, b"kept", b"v").unwrap();
    txn.commit().unwrap();
    let mut txn = store.write().unwrap();
    let refused = txn.put(Table::Blob, b"large", &vec![0; 2 << 20]);
    assert!(
        matches!(refused, Err(StoreError::MapFull { table: "blob", map_bytes }) if map_bytes == 1 << 20),
        "{refused:?}"
    );
    drop(txn);
    let mut txn = store.write().unwrap();
    txn.put(Table::Blob, b"small", b"").unwrap();
    txn.commit().unwrap();
    drop(store);
    let larger = lmdb(dir.path(), 8 << 20);
    let mut txn = larger.write().unwrap();
    txn.put(Table::Blob, b"large", &vec![0; 2 << 20]).unwrap();
    txn.commit().unwrap();
    assert_eq!(larger.read().unwrap().get(Table::Blob, b"kept").unwrap(), Some(&b"v"[..]));
}

/// What `lmdb-rkv` offers and the wall must never use; the reasons stand in `docs/store.md`.
#[test]
fn the_wall_keeps_its_rules() {
    let source = include_str!("../src/lmdb.rs");
    let code: String = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let forbidden = [
        "WRITE_MAP",
        "MAP_ASYNC",
        "NO_SYNC",
        "NO_META_SYNC",
        "NO_LOCK",
        "NO_MEM_INIT",
        "DUP_SORT",
        "INTEGER_KEY",
        "begin_nested_txn",
        ".reserve(",
        "environment.set_map_size",
        "RwCursor",
        "open_rw_cursor",
        ".iter",
        "close_db",
        "drop_db",
        ".sync(",
    ];
    for word in forbidden {
        assert!(!code.contains(word), "crates/store/src/lmdb.rs uses {word}");
    }
    // One reason for each block.
    assert_eq!(code.matches("unsafe ").count(), source.matches("// SAFETY: ").count());
}
