//! Bytes changed behind the store's back: fsck names the place, opening refuses or is right, nothing panics.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::ops::ControlFlow;

use common::{CHAIN, Draft, Memory, ORIGIN, config, seal};
use hyperion_primitives::{Mix, keccak256};
use hyperion_store::{
    FsckReport, Head, MemStore, PageStore as _, ReadTxn as _, Store, StoreConfig, StoreError,
    Table, WriteTxn as _, fsck,
};
use hyperion_verify::note::{KeyKind, NoteSigner};

/// A store with something in every table, all of it in the tables.
fn full_store() -> (StoreConfig, Memory, Head) {
    let mut config = config("");
    let signer = NoteSigner::new(ORIGIN, KeyKind::Log, &[1; 32]).unwrap();
    config.log_key = Some(signer.key().clone());
    let memory = Memory::new(&config);
    let mut genesis: Vec<_> = (100..1_400).map(|n| (common::path(n), keccak256(b"word"))).collect();
    genesis.sort_unstable();
    let blob = vec![9; 100];
    let store = Store::create_in(memory.medium(), &config, seal(0), genesis, &[blob]).unwrap();
    let mut mix = Mix::new(11);
    for _ in 0..6 {
        Draft::drawn(&mut mix, 3, 8, 40).commit(&store);
    }
    let claims = (0..4_100u16).map(|i| [&[1], &i.to_be_bytes()[..]].concat()).collect();
    let words =
        (0..700).map(|n| (common::path(2_000 + n), Some(keccak256(n.to_be_bytes())))).collect();
    Draft { claims, diff: words, blobs: Vec::new() }.commit(&store);
    let log = store.log();
    let note = log.checkpoint(log.size()).unwrap().sign(&signer);
    log.put_note(log.size(), &note).unwrap();
    store.flush().unwrap();
    let head = store.head();
    drop(store);
    (config, memory, head)
}

fn values(pages: &MemStore, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut values = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        values.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    pages.read().unwrap().scan(table, b"", visit).unwrap();
    values
}

fn put(pages: &MemStore, table: Table, key: &[u8], value: &[u8]) {
    let mut txn = pages.write().unwrap();
    txn.put(table, key, value).unwrap();
    txn.commit().unwrap();
}

/// Whether the report, or the refusal, speaks of the changed table; an entry may also show in the roots and runs
/// above it.
fn names(found: &Result<FsckReport, StoreError>, table: Table) -> bool {
    match found {
        Ok(report) => report.faults.iter().any(|fault| {
            fault.table == table.name()
                || table == Table::Leaf && ["block", "run"].contains(&fault.table)
        }),
        Err(StoreError::Format { .. }) => table == Table::Meta,
        Err(StoreError::Corrupt { table: of, .. }) => *of == table.name(),
        Err(_) => false,
    }
}

#[test]
fn every_changed_value_is_found_and_named() {
    let (config, memory, head) = full_store();
    assert!(fsck(memory.medium(), &config).unwrap().is_clean());
    let mut mix = Mix::new(12);
    for table in Table::ALL {
        let values = values(&memory.pages, table);
        assert!(!values.is_empty(), "{table:?} holds something");
        let step = values.len().div_ceil(6);
        for (key, value) in values.iter().step_by(step) {
            for change in 0..5u64 {
                let mut changed = value.clone();
                match change {
                    0 => {
                        changed.pop();
                    }
                    1 => changed.push(0),
                    _ => {
                        let bit = mix.below(8 * value.len() as u64) as usize;
                        changed[bit / 8] ^= 1 << (bit % 8);
                    }
                }
                put(&memory.pages, table, key, &changed);
                let found = fsck(memory.medium(), &config);
                let clean = found.as_ref().is_ok_and(FsckReport::is_clean);
                assert!(!clean, "{table:?} {key:02x?}: change {change} passed unseen");
                assert!(names(&found, table), "{table:?} {key:02x?}: change {change}: {found:?}");
                // Opening believes no more than it must, but what it accepts is the committed head.
                if let Ok(store) = Store::open_in(memory.medium(), &config) {
                    assert_eq!(store.head(), head, "{table:?} {key:02x?}");
                }
                put(&memory.pages, table, key, value);
            }
        }
    }
    assert!(fsck(memory.medium(), &config).unwrap().is_clean());
}

#[test]
fn opening_refuses_a_wrong_state_and_a_wrong_log() {
    let (config, memory, _) = full_store();
    let flip = |table, at: usize, byte: usize| {
        let (key, value) = values(&memory.pages, table).swap_remove(at);
        let mut changed = value.clone();
        changed[byte] ^= 1;
        put(&memory.pages, table, &key, &changed);
        let refused = Store::open_in(memory.medium(), &config).map(|store| store.head());
        put(&memory.pages, table, &key, &value);
        refused.unwrap_err().to_string()
    };
    let last = values(&memory.pages, Table::Leaf).len() - 1;
    let entry = flip(Table::Leaf, last, 2 + 1);
    assert!(entry.starts_with("log root at height 7 is"), "{entry}");
    let word = flip(Table::Genesis, 0, 40);
    assert!(word.starts_with("state root at height 0 is"), "{word}");
    let blocks = values(&memory.pages, Table::Block);
    let chunk = blocks.iter().position(|(key, _)| key[11] == 1).unwrap();
    let new_word = flip(Table::Block, chunk, 16 + 97 - 1);
    assert!(
        new_word.contains("held another word") || new_word.contains("state root"),
        "{new_word}"
    );
}

#[test]
fn no_change_of_the_tail_makes_another_history() {
    let config = config("");
    let memory = Memory::new(&config);
    let store = memory.create(&config);
    let mut mix = Mix::new(13);
    let mut heads = vec![store.head()];
    for _ in 0..6 {
        heads.push(Draft::drawn(&mut mix, 2, 4, 20).commit(&store));
    }
    drop(store);
    let mut used = 0;
    memory.tail.change(|bytes| used = 1 + bytes.iter().rposition(|byte| *byte != 0).unwrap());
    let mut outcomes = [0; 2];
    for _ in 0..400 {
        let (at, bit) = (mix.below(used as u64) as usize, mix.below(8));
        memory.tail.change(|bytes| bytes[at] ^= 1 << bit);
        match Store::open_in(memory.medium(), &config) {
            // The padding of a page, or the newest record, which a crash might have cut off as well.
            Ok(store) => {
                let head = store.head();
                assert_eq!(head, heads[head.height as usize]);
                assert!(head.height >= 5, "an older record is missed by those behind it");
                outcomes[0] += 1;
            }
            Err(StoreError::Corrupt { table: "tail", .. }) => outcomes[1] += 1,
            Err(other) => panic!("byte {at}, bit {bit}: {other}"),
        }
        memory.tail.change(|bytes| bytes[at] ^= 1 << bit);
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

#[test]
fn a_note_of_anything_else_is_refused() {
    let (config, memory, head) = full_store();
    let store = memory.open(&config);
    let log = store.log();
    let good = log.note(head.log_size).unwrap().unwrap();
    let mut other_root = good.clone();
    other_root.checkpoint.root = keccak256(b"another");
    let mut other_log = good.clone();
    other_log.checkpoint.origin = "elsewhere".to_owned();
    let forger = NoteSigner::new(ORIGIN, KeyKind::Log, &[2; 32]).unwrap();
    let forged = good.checkpoint.clone().sign(&forger);
    for (name, note) in [("root", other_root), ("log", other_log), ("signature", forged)] {
        let refused = log.put_note(head.log_size, &note);
        assert!(matches!(refused, Err(StoreError::BadNote { .. })), "{name}: {refused:?}");
    }
    let refused = log.put_note(head.log_size - 1, &good);
    assert!(matches!(refused, Err(StoreError::NotABlockEnd { .. })), "{refused:?}");
    assert_eq!(log.note(head.log_size).unwrap(), Some(good));
    assert_eq!(config.chain_id, CHAIN);
}
