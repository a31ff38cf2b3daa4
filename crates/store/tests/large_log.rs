//! A log that fills runs at two levels, written by large blocks and read back after a reopen.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::{Draft, Memory, config};
use hyperion_primitives::Mix;
use hyperion_store::LogHash;
use hyperion_verify::log::{check_consistency, check_inclusion, leaf_hash, root_of};

#[test]
fn eighty_thousand_claims_survive_a_reopen() {
    let config = config("");
    let memory = Memory::new(&config);
    let mut store = memory.create(&config);
    let mut leaves: Vec<LogHash> = vec![leaf_hash(&store.log().entry(0).unwrap())];
    let mut ends = vec![1];
    for block in 0..20u16 {
        let claims: Vec<Vec<u8>> =
            (0..4_000 + block).map(|i| [&[1], &i.to_be_bytes()[..]].concat()).collect();
        leaves.extend(claims.iter().map(|claim| leaf_hash(claim)));
        let draft = Draft { claims, ..Draft::default() };
        draft.commit(&store);
        leaves.push(leaf_hash(&store.log().entry(leaves.len() as u64).unwrap()));
        ends.push(leaves.len() as u64);
        assert_eq!(store.head().log_root, root_of(&leaves), "block {block}");
        if block % 7 == 6 {
            drop(store);
            store = memory.open(&config);
        }
    }
    let log = store.log();
    let root = log.root();
    let mut mix = Mix::new(3);
    for _ in 0..200 {
        let index = mix.below(log.size());
        assert_eq!(log.leaf(index).unwrap(), leaves[index as usize]);
        let path = log.inclusion(index, log.size()).unwrap();
        check_inclusion(&leaves[index as usize], index, log.size(), &path, &root).unwrap();
    }
    for round in 0..3 {
        for _ in 0..200 {
            // A claim that comes again in a later block is found where it came first.
            let leaf = leaves[mix.below(log.size()) as usize];
            let first = leaves.iter().position(|other| *other == leaf).map(|at| at as u64);
            assert_eq!(log.index_of(&leaf).unwrap(), first, "round {round}");
        }
        assert_eq!(log.index_of(&leaf_hash(b"nobody's")).unwrap(), None);
    }
    for old in ends {
        let proof = log.consistency(old, log.size()).unwrap();
        let old_root = log.checkpoint(old).unwrap().root;
        check_consistency(old, log.size(), &old_root, &root, &proof).unwrap();
    }
    // Tiles of every level, whole and partial, as a client asks for them.
    for (level, width) in [(0, 256), (1, 256), (2, 1)] {
        let tile = log.tile(level, 0, width).unwrap();
        assert_eq!(tile.len(), 32 * usize::from(width));
        let step = 256usize.pow(level.into());
        assert_eq!(tile[..32], root_of(&leaves[..step]).0, "level {level}");
    }
    drop(store);
    let report = hyperion_store::fsck(memory.medium(), &config).unwrap();
    assert!(report.is_clean(), "{:?}", report.faults);
    assert_eq!((report.blocks, report.entries, report.runs), (21, leaves.len() as u64, 19));
}

#[test]
fn what_lies_outside_the_log_is_refused_by_name() {
    let config = config("");
    let store = Memory::new(&config).create(&config);
    let log = store.log();
    let refusals = [
        ("entry", log.entry(1).unwrap_err().to_string()),
        ("bundle", log.entries(0, 2).unwrap_err().to_string()),
        ("bundle", log.entries(0, 0).unwrap_err().to_string()),
        ("bundle", log.entries(u64::MAX, 1).unwrap_err().to_string()),
        ("tile", log.tile(0, 0, 257).unwrap_err().to_string()),
        ("tile", log.tile(1, 0, 1).unwrap_err().to_string()),
        ("tile", log.tile(255, 0, 1).unwrap_err().to_string()),
        ("entry", log.inclusion(1, 1).unwrap_err().to_string()),
        ("size", log.inclusion(0, 2).unwrap_err().to_string()),
        ("size", log.consistency(2, 1).unwrap_err().to_string()),
        ("size", log.consistency(0, 2).unwrap_err().to_string()),
        ("entry", log.height_of(1).unwrap_err().to_string()),
    ];
    for (at, (what, text)) in refusals.iter().enumerate() {
        assert!(
            text.starts_with(what) && text.ends_with("outside a log of 1 entries"),
            "{at}: {text}"
        );
    }
    for size in [0, 2, u64::MAX] {
        assert!(log.checkpoint(size).unwrap_err().to_string().contains("no block ends"), "{size}");
    }
}
