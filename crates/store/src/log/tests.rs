use hyperion_primitives::{B256, sha256};
use hyperion_verify::log::{check_inclusion, inclusion_proof, leaf_hash, root_of};
use serde_json::Value;

use super::{Edge, Entries, HashSource, TileCache, proof};
use crate::{
    MemStore, PageStore as _, ReadTxn as _, Table, WriteTxn as _, key, recover::read_edge,
};

const SIZE: u64 = 70_000;

fn hash(value: &Value) -> B256 {
    value.as_str().unwrap().parse().unwrap()
}

/// The vectors' tree, whose entry i is u64 i: its end, and its runs and entries in tables.
fn tree() -> (Edge, MemStore) {
    let (mut edge, pages) = (Edge::default(), MemStore::default());
    let mut txn = pages.write().unwrap();
    let mut bundle = Entries::default();
    for index in 0..SIZE {
        edge.push(leaf_hash(&index.to_be_bytes()));
        bundle.push(&index.to_be_bytes());
        if index % 256 == 255 || index + 1 == SIZE {
            let first = key::number(index / 256 * 256);
            txn.append(Table::Leaf, &first, bundle.slice(0, bundle.len())).unwrap();
            bundle = Entries::default();
        }
        // Runs leave the edge at odd moments, as blocks of all sizes make them.
        if index % 5_001 == 0 {
            for (level, n, run) in edge.finished_runs() {
                txn.put(Table::Run, &key::run(level, n), &run).unwrap();
            }
            edge.drop_finished_runs();
        }
    }
    for (level, n, run) in edge.finished_runs() {
        txn.put(Table::Run, &key::run(level, n), &run).unwrap();
    }
    edge.drop_finished_runs();
    txn.commit().unwrap();
    (edge, pages)
}

#[test]
fn a_tree_of_70_000_entries_is_the_vectors() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../tests/vectors/store.json")).unwrap();
    let want = &vectors["tiles"];
    let (edge, pages) = tree();
    assert_eq!(edge.root(), hash(&want["root"]));
    let held: Vec<u64> = edge.levels().iter().map(|level| level.count() - level.base()).collect();
    let lengths = ["level0", "level1", "level2"].map(|l| want["edge_lengths"][l].as_u64().unwrap());
    assert_eq!(held, lengths);

    let read = pages.read().unwrap();
    let run = read.get(Table::Run, &key::run(0, 0)).unwrap().unwrap();
    assert_eq!(sha256(run), hash(&want["run_0_0_sha256"]));
    assert!(read.get(Table::Run, &key::run(0, 16)).unwrap().is_some());
    assert!(read.get(Table::Run, &key::run(0, 17)).unwrap().is_none());
    assert!(read.get(Table::Run, &key::run(1, 0)).unwrap().is_none());

    let cache = TileCache::default();
    let source = HashSource { levels: edge.levels(), read: &read, cache: &cache };
    let tile_hash = |level, n| {
        let bytes: Vec<u8> =
            source.tile(level, n).unwrap().iter().flat_map(|hash| hash.0).collect();
        sha256(&bytes)
    };
    assert_eq!(tile_hash(0, 0), hash(&want["tile_0_0_sha256"]));
    assert_eq!(tile_hash(1, 0), hash(&want["tile_1_0_sha256"]));
    assert_eq!(source.tile(2, 0).unwrap(), [hash(&want["tile_2_0_partial"])]);
    let path = proof::inclusion(65_536, SIZE, &mut |height, n| source.node(height, n)).unwrap();
    let want_path: Vec<B256> =
        want["inclusion_65536"].as_array().unwrap().iter().map(hash).collect();
    assert_eq!(path, want_path);
}

#[test]
fn the_end_of_the_log_is_rebuilt_from_runs_and_entries() {
    let (edge, pages) = tree();
    let read = pages.read().unwrap();
    let rebuilt = read_edge(&read, SIZE).unwrap();
    assert_eq!(rebuilt.root(), edge.root());
    let (mut one, mut two) = (edge, rebuilt);
    for index in SIZE..SIZE + 300 {
        one.push(leaf_hash(&index.to_be_bytes()));
        two.push(leaf_hash(&index.to_be_bytes()));
        assert_eq!(one.root(), two.root(), "after {index}");
    }
}

#[test]
fn proofs_across_tiles_and_runs_equal_the_definition() {
    let (edge, pages) = tree();
    let read = pages.read().unwrap();
    let cache = TileCache::default();
    let source = HashSource { levels: edge.levels(), read: &read, cache: &cache };
    let leaves: Vec<B256> = (0..SIZE).map(|i| leaf_hash(&i.to_be_bytes())).collect();
    let sizes = [1, 2, 255, 256, 257, 4_095, 4_096, 4_097, 65_535, 65_536, 65_537, 69_632, SIZE];
    for size in sizes {
        let tree = &leaves[..size as usize];
        let root = proof::subtree_root(0, size, &mut |h, n| source.node(h, n)).unwrap();
        assert_eq!(root, root_of(tree), "root of {size}");
        for index in [0, 1, size / 3, size / 2, size - 1].into_iter().filter(|i| *i < size) {
            let path = proof::inclusion(index, size, &mut |h, n| source.node(h, n)).unwrap();
            assert_eq!(Some(&path), inclusion_proof(index as usize, tree).as_ref());
            check_inclusion(&leaves[index as usize], index, size, &path, &root).unwrap();
        }
    }
}
