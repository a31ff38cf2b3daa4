//! `docs/store.md` prints bytes of a real block; they are recomputed here.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::{Memory, config};
use hyperion_primitives::{B256, keccak256, sha256};
use hyperion_store::{
    BlockInput, PageStore as _, ReadTxn as _, Seal, StatePath, Store, Table, Word,
};
use serde_json::Value;

/// The lines `name = value` of the page's block of vectors.
fn printed() -> Vec<(String, String)> {
    let page = include_str!("../../../docs/store.md");
    let block = page.split("```vectors\n").nth(1).unwrap().split("```").next().unwrap();
    let lines = block.lines().map(|line| line.split_once('=').unwrap());
    lines.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn the_page_prints_what_the_store_writes() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/store.json")).unwrap();
    let hash = |value: &Value| -> B256 { value.as_str().unwrap().parse().unwrap() };
    let items = vectors["state"]["items"].as_array().unwrap();
    let diff: Vec<(StatePath, Option<Word>)> = items
        .iter()
        .map(|item| (StatePath(hash(&item["path"])), Some(hash(&item["word"]))))
        .collect();
    let claims = [hex::decode(vectors["block"]["claim_entry"].as_str().unwrap()).unwrap()];

    let config = config("");
    let memory = Memory::new(&config);
    let genesis = Seal { time_ms: 1_767_225_600_000, block_hash: keccak256("chain spec") };
    let store = Store::create_in(memory.medium(), &config, genesis, [], &[]).unwrap();
    let prepared = store.prepare(BlockInput { diff: &diff, claims: &claims, blobs: &[] }).unwrap();
    let seal = Seal { time_ms: 1_767_225_601_000, block_hash: keccak256("block 1") };
    store.commit(prepared, seal).unwrap();
    let mut page = Vec::new();
    memory.tail.change(|bytes| page = bytes[..4_096].to_vec());
    store.flush().unwrap();

    let read = memory.pages.read().unwrap();
    let get = |table, key: &[u8]| read.get(table, key).unwrap().unwrap().to_vec();
    let key = |height: u64, part: u32| [&height.to_be_bytes()[..], &part.to_be_bytes()].concat();
    let digest = |bytes: Vec<u8>| hex::encode(sha256(bytes));
    let computed = [
        ("meta format", hex::encode(get(Table::Meta, b"format"))),
        ("meta origin", String::from_utf8(get(Table::Meta, b"origin")).unwrap()),
        ("block key", hex::encode(key(1, 0))),
        ("SHA-256(record)", digest(get(Table::Block, &key(1, 0)))),
        ("SHA-256(chunk)", digest(get(Table::Block, &key(1, 1)))),
        ("SHA-256(bundle)", digest(get(Table::Leaf, &1u64.to_be_bytes()))),
        ("tail begins", hex::encode(&page[..9])),
        ("SHA-256(page)", digest(page)),
    ];
    let computed: Vec<(String, String)> =
        computed.map(|(name, value)| (name.to_owned(), value)).into();
    let lines = |pairs: &[(String, String)]| {
        pairs.iter().map(|(name, value)| format!("{name:<15} = {value}\n")).collect::<String>()
    };
    assert_eq!(lines(&printed()), lines(&computed), "computed:\n{}", lines(&computed));
}
