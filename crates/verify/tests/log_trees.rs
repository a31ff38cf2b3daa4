//! The log's tree: the vectors of RFC 6962, and every proof of every small tree against the definition.

mod common;

use common::{b256, bytes, hashes, number, store_vectors, text};
use hyperion_primitives::B256;
use hyperion_verify::log::{
    ConsistencyError, EMPTY_ROOT, InclusionError, LogHash, check_consistency, check_inclusion,
    consistency_proof, inclusion_proof, leaf_hash, node_hash, root_of,
};

/// Largest tree of the exhaustive tests: every shape up to eight levels.
const SIZE_MAX: usize = 130;

fn leaves(count: usize) -> Vec<LogHash> {
    (0..count as u64).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

#[test]
fn roots_and_proofs_are_those_of_the_vectors() {
    let vectors = &store_vectors()["rfc6962"];
    let leaves: Vec<_> = vectors["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| leaf_hash(&bytes(entry)))
        .collect();
    assert_eq!(leaves, hashes(&vectors["leaf_hashes"]));
    for (size, root) in vectors["roots"].as_object().unwrap() {
        assert_eq!(root_of(&leaves[..size.parse().unwrap()]), b256(root), "{size} leaves");
    }
    for case in vectors["inclusion"].as_array().unwrap() {
        let (index, size) = (number::<usize>(&case["index"]), number::<usize>(&case["size"]));
        let path = hashes(&case["proof"]);
        assert_eq!(inclusion_proof(index, &leaves[..size]), Some(path.clone()));
        let root = root_of(&leaves[..size]);
        assert_eq!(
            check_inclusion(&leaves[index], index as u64, size as u64, &path, &root),
            Ok(())
        );
    }
    for case in vectors["consistency"].as_array().unwrap() {
        let (old, new) = (number::<usize>(&case["old"]), number::<usize>(&case["new"]));
        let proof = hashes(&case["proof"]);
        assert_eq!(consistency_proof(old, &leaves[..new]), Some(proof.clone()));
        let (old_root, new_root) = (root_of(&leaves[..old]), root_of(&leaves[..new]));
        let found = check_consistency(old as u64, new as u64, &old_root, &new_root, &proof);
        assert_eq!(found, Ok(()), "{old} to {new}");
    }
}

#[test]
fn the_large_tree_of_the_vectors_has_their_root_and_proof() {
    let vectors = &store_vectors()["tiles"];
    let leaves = leaves(number(&vectors["size"]));
    let root = root_of(&leaves);
    assert_eq!(root, b256(&vectors["root"]));
    let path = hashes(&vectors["inclusion_65536"]);
    assert_eq!(inclusion_proof(65_536, &leaves), Some(path.clone()));
    assert_eq!(check_inclusion(&leaves[65_536], 65_536, 70_000, &path, &root), Ok(()));
    assert_eq!(text(&vectors["entry"]), "u64 index");
}

/// Root by adding one leaf after the other, as an appender does; a second way to what `root_of` defines.
fn root_by_appending(leaves: &[LogHash]) -> LogHash {
    let mut subtrees: Vec<(u32, LogHash)> = Vec::new();
    for leaf in leaves {
        let mut top = (0, *leaf);
        while let Some(left) = subtrees.pop_if(|left| left.0 == top.0) {
            top = (top.0 + 1, node_hash(&left.1, &top.1));
        }
        subtrees.push(top);
    }
    let hashes = subtrees.into_iter().rev().map(|(_, hash)| hash);
    hashes.reduce(|right, left| node_hash(&left, &right)).unwrap_or(EMPTY_ROOT)
}

#[test]
fn every_inclusion_proof_of_every_small_tree_holds_and_no_other() {
    let all = leaves(SIZE_MAX);
    for size in 0..=SIZE_MAX {
        let leaves = &all[..size];
        let root = root_of(leaves);
        assert_eq!(root, root_by_appending(leaves), "{size} leaves");
        for index in 0..size {
            let (at, count) = (index as u64, size as u64);
            let mut path = inclusion_proof(index, leaves).unwrap();
            let check = |leaf: usize, path: &[B256], at| {
                check_inclusion(&all[leaf], at, count, path, &root)
            };
            assert_eq!(check(index, &path, at), Ok(()), "{index} of {size}");
            let neighbour = (index + 1) % SIZE_MAX;
            assert!(check(neighbour, &path, at).is_err(), "another leaf at {index} of {size}");
            if size > 1 {
                let elsewhere = (at + 1) % count;
                assert!(check(index, &path, elsewhere).is_err(), "{index} of {size}, as the next");
            }
            let want = path.len();
            path.push(B256::ZERO);
            assert_eq!(
                check(index, &path, at),
                Err(InclusionError::Length { got: want + 1, want })
            );
            path.truncate(want.saturating_sub(1));
            if want > 0 {
                assert_eq!(
                    check(index, &path, at),
                    Err(InclusionError::Length { got: want - 1, want })
                );
            }
        }
        assert_eq!(inclusion_proof(size, leaves), None);
        let outside = check_inclusion(&all[0], size as u64, size as u64, &[], &root);
        let (index, count) = (size as u64, size as u64);
        assert_eq!(outside, Err(InclusionError::IndexOutOfTree { index, size: count }));
    }
}

#[test]
fn every_consistency_proof_of_every_small_tree_holds_and_no_other() {
    let all = leaves(SIZE_MAX);
    let roots: Vec<_> = (0..=SIZE_MAX).map(|size| root_of(&all[..size])).collect();
    for new in 0..=SIZE_MAX {
        for old in 0..=new {
            let mut proof = consistency_proof(old, &all[..new]).unwrap();
            let check = |proof: &[B256], old_root, new_root| {
                check_consistency(old as u64, new as u64, old_root, new_root, proof)
            };
            assert_eq!(check(&proof, &roots[old], &roots[new]), Ok(()), "{old} to {new}");
            let other = B256::repeat_byte(7);
            assert!(check(&proof, &other, &roots[new]).is_err(), "{old} to {new}, older root");
            if old > 0 {
                assert!(check(&proof, &roots[old], &other).is_err(), "{old} to {new}, newer root");
            }
            for at in 0..proof.len() {
                let mut changed = proof.clone();
                changed[at].0[at % 32] ^= 1;
                assert!(check(&changed, &roots[old], &roots[new]).is_err(), "{old} to {new}");
            }
            let want = proof.len();
            proof.push(other);
            let got = want + 1;
            assert_eq!(
                check(&proof, &roots[old], &roots[new]),
                Err(ConsistencyError::Length { got, want })
            );
        }
        assert_eq!(consistency_proof(new + 1, &all[..new]), None);
    }
}

/// Shrinking, and sizes at the edge of a `u64`, where an index plus one would wrap.
#[test]
fn the_largest_sizes_are_refused_or_checked_without_panic() {
    let root = root_of(&leaves(3));
    let shrunk = check_consistency(4, 3, &root, &root, &[]);
    assert_eq!(shrunk, Err(ConsistencyError::Shrunk { old: 4, new: 3 }));
    assert_eq!(check_consistency(0, 0, &EMPTY_ROOT, &EMPTY_ROOT, &[]), Ok(()));
    assert_eq!(
        check_consistency(0, 5, &root, &root, &[]),
        Err(ConsistencyError::OldRoot { got: EMPTY_ROOT, want: root })
    );
    for path in [0, 1, 63, 64, 65, 300].map(|len| vec![root; len]) {
        for at in [0, 1, (1 << 63) - 1, 1 << 63, u64::MAX - 1] {
            assert!(check_inclusion(&root, at, u64::MAX, &path, &root).is_err());
            assert!(check_consistency(at, u64::MAX, &root, &EMPTY_ROOT, &path).is_err());
        }
    }
}
