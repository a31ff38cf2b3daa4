//! The log's bytes against the vectors of a second implementation, through the store's own files.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::{CHAIN, ORIGIN, config};
use hyperion_primitives::{B256, keccak256};
use hyperion_store::{
    BlockInput, DirLock, Lmdb, PageStore as _, ReadTxn as _, Seal, StatePath, Store, Table, Word,
};
use hyperion_verify::note::{KeyKind, NoteKey, SignedNote};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/store.json")).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn hash(value: &Value) -> B256 {
    B256::from_slice(&bytes(value))
}

/// What the store's tables hold, once it is closed.
fn tables(config: &hyperion_store::StoreConfig) -> Lmdb {
    Lmdb::open(DirLock::take(&config.dir).unwrap(), config.log_map_bytes).unwrap()
}

#[test]
fn the_worked_block_byte_for_byte() {
    let (dir, vectors) = (tempfile::tempdir().unwrap(), vectors());
    let block = &vectors["block"];
    let mut config = config(dir.path().join("store"));
    let public =
        ed25519_dalek::SigningKey::from_bytes(&bytes(&block["log_key_seed"]).try_into().unwrap())
            .verifying_key();
    config.log_key = Some(NoteKey::new(ORIGIN, KeyKind::Log, public.as_bytes()).unwrap());
    assert_eq!((config.chain_id, config.origin.as_str()), (CHAIN, ORIGIN));
    let genesis = Seal { time_ms: 1_767_225_600_000, block_hash: keccak256("chain spec") };
    let store = Store::create(&config, genesis, []).unwrap();

    let items = vectors["state"]["items"].as_array().unwrap();
    let diff: Vec<(StatePath, Option<Word>)> = items
        .iter()
        .map(|item| (StatePath(hash(&item["path"])), Some(hash(&item["word"]))))
        .collect();
    let claims = [bytes(&block["claim_entry"])];
    let prepared = store.prepare(BlockInput { diff: &diff, claims: &claims, blobs: &[] }).unwrap();
    assert_eq!(prepared.state_root(), hash(&vectors["state"]["root"]));
    let seal = Seal { time_ms: 1_767_225_601_000, block_hash: keccak256("block 1") };
    let head = store.commit(prepared, seal).unwrap();
    assert_eq!(head.log_root, hash(&block["log_root"]));

    let snapshot = store.snapshot();
    for item in items {
        let proof = snapshot.pin().unwrap().prove(&StatePath(hash(&item["path"]))).unwrap();
        assert_eq!(proof.encode(), bytes(&item["proof"]), "{}", item["name"]);
    }
    let log = store.log();
    assert_eq!(log.entry(0).unwrap(), bytes(&block["genesis_entry"]));
    assert_eq!(log.entry(2).unwrap(), bytes(&block["commit_entry"]));
    assert_eq!(log.record(1).unwrap().encode().to_vec(), bytes(&block["commit_record"]));
    let note: SignedNote = block["checkpoint"].as_str().unwrap().parse().unwrap();
    assert_eq!(log.checkpoint(3).unwrap(), note.checkpoint);
    log.put_note(3, &note).unwrap();
    assert_eq!(log.note(3).unwrap(), Some(note.clone()));
    assert_eq!(log.newest_note().unwrap(), Some(note));
    store.flush().unwrap();
    drop((snapshot, store));

    let read = tables(&config).read().unwrap();
    let get = |table, key: &[u8]| read.get(table, key).unwrap().unwrap().to_vec();
    let key = bytes(&block["block_key_part0"]);
    assert_eq!(get(Table::Block, &key), bytes(&block["commit_record"]));
    let key = bytes(&block["block_key_part1"]);
    assert_eq!(get(Table::Block, &key), bytes(&block["diff_chunk"]));
    assert_eq!(get(Table::Leaf, &1u64.to_be_bytes()), bytes(&block["leaf_value_first_index_1"]));
    assert_eq!(
        get(Table::Note, &3u64.to_be_bytes()),
        block["checkpoint"].as_str().unwrap().as_bytes()
    );
}
