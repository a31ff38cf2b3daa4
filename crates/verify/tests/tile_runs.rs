//! Tensor roots against the vectors, and tiles opened under them.
#![expect(clippy::unwrap_used, reason = "what does not parse fails its test")]

mod common;

use common::{b256, claim_vectors, flips, number, text};
use hyperion_primitives::{
    B256, Dtype, Keccak, Mix, TILE_BYTES, TensorRoot, tensor_bytes, tensor_leaf, tensor_root,
};
use hyperion_verify::tensor::{OpeningError, TileRun, run_path, run_root};

#[test]
fn tensor_roots_are_those_of_the_vectors() {
    for case in claim_vectors()["ct1"].as_array().unwrap() {
        let dtype = Dtype::from_name(text(&case["dtype"])).unwrap();
        let dims: Vec<u64> = case["dims"].as_array().unwrap().iter().map(number).collect();
        let width = dtype.bytes();
        let count: u64 = dims.iter().product();
        // Element i is min + (i * 2654435761 + 12345 mod 2^bits): for signed types the top bit flips.
        let data: Vec<u8> = (0..count)
            .flat_map(|i| {
                let flip =
                    u64::from(matches!(dtype, Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64));
                let value =
                    i.wrapping_mul(2_654_435_761).wrapping_add(12_345) ^ flip << (8 * width - 1);
                value.to_le_bytes()[..width].to_vec()
            })
            .collect();
        assert_eq!(data.len(), number::<usize>(&case["bytes"]), "{case}");
        assert_eq!(tensor_bytes(dtype, &dims), Some(number(&case["bytes"])));
        assert_eq!(tensor_root(dtype, &dims, &data).unwrap().0, b256(&case["root"]), "{case}");
        let run = TileRun::open(&data, 0, 0).unwrap();
        assert_eq!(tensor_leaf(0, &run.tiles[0]), b256(&case["leaf_0"]));
        assert_eq!(run.check(&TensorRoot(b256(&case["root"])), dtype, &dims), Ok(()));
    }
}

fn tensor(tiles: usize, tail: usize) -> (Vec<u8>, [u64; 2], TensorRoot) {
    let mut mix = Mix::new(tiles as u64);
    let len = (tiles - 1) * TILE_BYTES + tail;
    let data: Vec<u8> = (0..len).map(|_| mix.u64().to_le_bytes()[0] | 1).collect();
    let dims = [1, len as u64];
    let root = tensor_root(Dtype::U8, &dims, &data).unwrap();
    (data, dims, root)
}

#[test]
fn every_run_of_every_small_tensor_opens() {
    for tiles in 1..=9 {
        let (data, dims, root) = tensor(tiles, 5);
        for first in 0..tiles {
            for last in first..tiles {
                let run = TileRun::open(&data, first, last).unwrap();
                assert_eq!(
                    run.check(&root, Dtype::U8, &dims),
                    Ok(()),
                    "{first} to {last} of {tiles}"
                );
                assert_eq!(TileRun::decode(&run.encode()).as_ref(), Ok(&run));
            }
            assert_eq!(TileRun::open(&data, first, tiles), None);
        }
    }
}

#[test]
fn a_run_says_what_is_wrong_with_it() {
    let (data, dims, root) = tensor(6, 5);
    let good = TileRun::open(&data, 3, 5).unwrap();
    let check = |run: &TileRun| run.check(&root, Dtype::U8, &dims).unwrap_err();
    let with = |change: &dyn Fn(&mut TileRun)| {
        let mut changed = good.clone();
        change(&mut changed);
        check(&changed)
    };
    assert_eq!(with(&|run| run.tiles.clear()), OpeningError::Empty);
    assert_eq!(with(&|run| run.first = 4), OpeningError::Outside { first: 4, after: 2, count: 6 });
    assert_eq!(
        with(&|run| run.first = u64::MAX),
        OpeningError::Outside { first: u64::MAX, after: 2, count: 6 }
    );
    assert_eq!(with(&|run| run.tiles[2][5] = 1), OpeningError::Fill);
    assert!(matches!(with(&|run| run.tiles[2][4] ^= 1), OpeningError::Root { .. }));
    assert!(matches!(with(&|run| run.path[0].0[0] ^= 1), OpeningError::Root { .. }));
    let path = |got| OpeningError::Path { got, first: 3, last: 5, count: 6 };
    let hashes = good.path.len();
    assert_eq!(with(&|run| run.path.push(B256::ZERO)), path(hashes + 1));
    assert_eq!(with(&|run| run.path.truncate(hashes - 1)), path(hashes - 1));
    assert_eq!(good.check(&root, Dtype::U8, &[]), Err(OpeningError::Shape));
    let transposed = good.check(&root, Dtype::U8, &[dims[1], 1]);
    assert!(matches!(transposed, Err(OpeningError::Root { .. })), "the shape is in the root");
    let retyped = good.check(&root, Dtype::I8, &dims);
    assert!(matches!(retyped, Err(OpeningError::Root { .. })), "the type is in the root");
}

#[test]
fn bytes_that_are_no_run_say_why() {
    let (data, dims, root) = tensor(2, 5);
    let run = TileRun::open(&data, 1, 1).unwrap();
    let good = run.encode();
    let length = good.len();
    assert_eq!(TileRun::decode(&good[..10]), Err(OpeningError::Length { got: 10, want: 11 }));
    assert_eq!(
        TileRun::decode(&good[..11]),
        Err(OpeningError::Length { got: 11, want: 11 + TILE_BYTES })
    );
    assert_eq!(
        TileRun::decode(&good[..length - 1]),
        Err(OpeningError::Length { got: length - 1, want: length })
    );
    let longer = [&good[..], &[0]].concat();
    assert_eq!(
        TileRun::decode(&longer),
        Err(OpeningError::Length { got: length + 1, want: length })
    );
    let mut empty = good.clone();
    empty[9] = 0;
    assert_eq!(TileRun::decode(&empty), Err(OpeningError::Empty));
    for (at, changed) in flips(&good) {
        let refused = TileRun::decode(&changed).and_then(|run| run.check(&root, Dtype::U8, &dims));
        assert!(refused.is_err(), "byte {at} changed, still accepted");
    }
}

/// Every run of every tree to 40 leaves, and the same run with a sibling too many or too few.
#[test]
fn runs_lead_to_the_root_and_only_at_their_own_length() {
    let all: Vec<B256> = (0..40).map(|i| Keccak::tagged(&[0]).word(i).finish()).collect();
    for count in 1..=all.len() {
        let leaves = &all[..count];
        let root = hyperion_primitives::merkle::root(leaves.iter().copied());
        for first in 0..count {
            for last in first..count {
                let path = run_path(leaves, first, last);
                let lead = |path: &[B256]| {
                    run_root(leaves[first..=last].to_vec(), first as u64, count as u64, path)
                };
                assert_eq!(lead(&path), root, "{first} to {last} of {count}");
                assert_eq!(lead(&[&path[..], &[B256::ZERO]].concat()), None);
                if let Some((_, shorter)) = path.split_last() {
                    assert_eq!(lead(shorter), None);
                }
            }
        }
        assert_eq!(run_root(Vec::new(), 0, count as u64, &[]), None);
        assert_eq!(run_root(leaves.to_vec(), 1, count as u64, &[]), None);
    }
    assert_eq!(run_root(all, u64::MAX, u64::MAX, &[]), None);
}
