//! What ends a block: the vectors, and that every encoding has one form.

mod common;

use common::{b256, bytes, draw, flips, store_vectors};
use hyperion_primitives::{B256, Mix};
use hyperion_verify::{
    commit::{
        CommitEntry, CommitError, CommitRecord, DIFF_CHUNK_ENTRIES_MAX, DIFF_ENTRY_BYTES,
        DiffChunk, DiffEntry, DiffError, diff_hash,
    },
    log::{leaf_hash, root_of},
    state::StatePath,
};

#[test]
fn the_block_of_the_vectors_encodes_byte_for_byte() {
    let vectors = store_vectors();
    let block = &vectors["block"];
    let genesis = CommitEntry::decode(&bytes(&block["genesis_entry"])).unwrap();
    let record = CommitRecord::decode(&bytes(&block["commit_record"])).unwrap();
    let commit = record.entry;
    assert_eq!(genesis.encode().to_vec(), bytes(&block["genesis_entry"]));
    assert_eq!(commit.encode().to_vec(), bytes(&block["commit_entry"]));
    assert_eq!(record.encode().to_vec(), bytes(&block["commit_record"]));
    assert_eq!((genesis.height, genesis.claims, genesis.size_after()), (0, 0, Some(1)));
    assert_eq!((commit.height, commit.claims, record.size_after), (1, 1, 3));
    assert_eq!((commit.chain_id, commit.first_index, commit.diff_entries), (133_717, 1, 6));
    assert_eq!((genesis.time_ms, commit.time_ms), (1_767_225_600_000, 1_767_225_601_000));
    assert_eq!(commit.parent, leaf_hash(&genesis.encode()));
    assert_eq!(commit.state_root, b256(&vectors["state"]["root"]));

    let entries = [
        bytes(&block["genesis_entry"]),
        bytes(&block["claim_entry"]),
        bytes(&block["commit_entry"]),
    ];
    let leaves = entries.map(|entry| leaf_hash(&entry));
    assert_eq!(root_of(&leaves), b256(&block["log_root"]));
    assert_eq!(record.log_root_after, b256(&block["log_root"]));

    let chunk = DiffChunk::decode(&bytes(&block["diff_chunk"])).unwrap();
    assert_eq!((chunk.height, chunk.part, chunk.entries.len()), (1, 1, 6));
    assert_eq!(DiffChunk::encode(1, 1, &chunk.entries), bytes(&block["diff_chunk"]));
    assert_eq!(diff_hash(&chunk.entries), b256(&block["diff_hash"]));
    assert_eq!(commit.diff_hash, b256(&block["diff_hash"]));
    assert_eq!(genesis.diff_hash, diff_hash([]));
}

#[test]
fn a_commit_that_is_none_says_why() {
    let record = CommitRecord {
        entry: CommitEntry { claims: 3, first_index: 4, ..CommitEntry::default() },
        size_after: 8,
        log_root_after: B256::repeat_byte(3),
    };
    let good = record.encode();
    assert_eq!(CommitRecord::decode(&good), Ok(record));
    assert_eq!(
        CommitRecord::decode(&good[..215]),
        Err(CommitError::Length { got: 215, want: 216 })
    );
    assert_eq!(CommitEntry::decode(&good), Err(CommitError::Length { got: 216, want: 176 }));
    for at in 0..4 {
        let mut changed = good;
        changed[at] ^= 4;
        let got = *changed.first_chunk().unwrap();
        assert_eq!(CommitRecord::decode(&changed), Err(CommitError::Header { got }));
    }
    let mut sized = record;
    sized.size_after = 9;
    let want = Some(8);
    assert_eq!(CommitRecord::decode(&sized.encode()), Err(CommitError::Size { got: 9, want }));
    sized.entry.first_index = u64::MAX - 3;
    assert_eq!(
        CommitRecord::decode(&sized.encode()),
        Err(CommitError::Size { got: 9, want: None })
    );
}

fn drawn_entries(count: usize) -> Vec<DiffEntry> {
    let mut mix = Mix::new(count as u64);
    let mut entries: Vec<_> = (0..count)
        .map(|i| DiffEntry {
            path: StatePath(draw(&mut mix)),
            old: (i % 3 != 0).then(|| draw(&mut mix)),
            new: (i % 3 != 1).then(|| if i % 2 == 0 { B256::ZERO } else { draw(&mut mix) }),
        })
        .collect();
    entries.sort_by_key(|entry| entry.path);
    entries
}

#[test]
fn chunks_of_every_kind_of_change_survive_and_flips_are_refused_or_another_chunk() {
    for count in [1, 2, 7, DIFF_CHUNK_ENTRIES_MAX] {
        let entries = drawn_entries(count);
        let encoded = DiffChunk::encode(9, 2, &entries);
        assert_eq!(encoded.len(), 16 + DIFF_ENTRY_BYTES * count);
        let chunk = DiffChunk::decode(&encoded).unwrap();
        assert_eq!((chunk.height, chunk.part, &chunk.entries), (9, 2, &entries));
        if count > 2 {
            continue;
        }
        for (at, changed) in flips(&encoded) {
            if let Ok(other) = DiffChunk::decode(&changed) {
                assert_ne!(other, chunk, "byte {at}");
                assert_eq!(DiffChunk::encode(other.height, other.part, &other.entries), changed);
            }
        }
    }
}

#[test]
fn a_chunk_that_is_none_says_why() {
    let good = DiffChunk::encode(9, 2, &drawn_entries(3));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = good.clone();
        change(&mut changed);
        DiffChunk::decode(&changed).unwrap_err()
    };
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let length = good.len();
    let second = 16 + DIFF_ENTRY_BYTES;
    let cases: [(&str, Change<'_>, DiffError); 12] = [
        ("nothing", &|c| c.clear(), DiffError::Length { got: 0, want: 16 }),
        (
            "a byte short",
            &|c| c.truncate(length - 1),
            DiffError::Length { got: length - 1, want: length },
        ),
        ("a byte long", &|c| c.push(0), DiffError::Length { got: length + 1, want: length }),
        ("version 2", &|c| c[0] = 2, DiffError::Header { got: [2, 0] }),
        ("a stray byte", &|c| c[1] = 1, DiffError::Header { got: [1, 1] }),
        ("no entries", &|c| c[3] = 0, DiffError::Count { got: 0 }),
        (
            "676 entries",
            &|c| c[2..4].copy_from_slice(&676_u16.to_be_bytes()),
            DiffError::Count { got: 676 },
        ),
        ("part 0", &|c| c[7] = 0, DiffError::Part),
        ("flag 4", &|c| c[16 + 32] |= 4, DiffError::Entry { entry: 0 }),
        ("no flag", &|c| c[second + 32] = 0, DiffError::Entry { entry: 1 }),
        ("no change", &|c| c[second + 32..second + 97].fill(0), DiffError::Entry { entry: 1 }),
        ("the same path twice", &|c| c.copy_within(16..48, second), DiffError::Order { entry: 1 }),
    ];
    for (name, change, want) in cases {
        assert_eq!(with(change), want, "{name}");
    }
    let same =
        DiffEntry { path: StatePath::default(), old: Some(B256::ZERO), new: Some(B256::ZERO) };
    assert_eq!(
        DiffChunk::decode(&DiffChunk::encode(1, 1, &[same])),
        Err(DiffError::Entry { entry: 0 })
    );
}
