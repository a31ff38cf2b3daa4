//! A block as it is kept: record, entries, changes, blobs; and its two ways to disk.
//!
//! In the log's tables a block is bundles, a commit record, diff chunks and blobs. In the tail it is one record:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | `hytail/1` |
//! | 8 | 32 | SHA-256 of everything from offset 40 on |
//! | 40 | 4 | bytes from offset 40 on |
//! | 44, 48 | 4 each | bytes of the claims, number of blobs |
//! | 52 | 216 | commit record |
//! | 268 | | claims as a bundle, diff chunks, blobs as length u32 and bytes |
//!
//! The digest tells a whole record from one that a crash cut short.

use std::sync::Arc;

use hyperion_primitives::{B256, keccak256, sha256};
use hyperion_verify::commit::{
    COMMIT_RECORD_BYTES, CommitRecord, DIFF_CHUNK_ENTRIES_MAX, DIFF_ENTRY_BYTES, DiffChunk,
    DiffEntry,
};

use crate::{
    Result, Table, WriteTxn, key,
    log::{Edge, Entries, TILE_HASHES, walk},
};

const MAGIC: &[u8; 8] = b"hytail/1";
const BODY: usize = 40;
const CHUNK_HEADER_BYTES: usize = 16;
const CLAIMS: usize = BODY + 12 + COMMIT_RECORD_BYTES;

/// One committed block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) record: CommitRecord,
    /// The claims, then the commit entry.
    pub(crate) entries: Entries,
    /// Changed words in path order.
    pub(crate) diff: Vec<DiffEntry>,
    /// Contents by their keccak-256.
    pub(crate) blobs: Vec<(B256, Vec<u8>)>,
}

impl Block {
    pub(crate) const fn height(&self) -> u64 {
        self.record.entry.height
    }

    /// Index of the block's first entry.
    pub(crate) const fn first_index(&self) -> u64 {
        self.record.entry.first_index
    }

    /// Bytes of the tail's record, or a little less than what the log's tables take.
    pub(crate) fn tail_bytes(&self) -> usize {
        let blobs = self.blobs.iter().map(|(_, blob)| 4 + blob.len()).sum::<usize>();
        let chunks = self.diff.len().div_ceil(DIFF_CHUNK_ENTRIES_MAX) * CHUNK_HEADER_BYTES;
        CLAIMS + self.claims().len() + chunks + self.diff.len() * DIFF_ENTRY_BYTES + blobs
    }

    /// The diff's chunks as they lie in the tables, with their parts.
    fn chunks(&self) -> impl Iterator<Item = (u32, Vec<u8>)> {
        let parts = (1..).zip(self.diff.chunks(DIFF_CHUNK_ENTRIES_MAX));
        parts.map(|(part, entries)| (part, DiffChunk::encode(self.height(), part, entries)))
    }

    fn claims(&self) -> &[u8] {
        self.entries.slice(0, self.entries.len() - 1)
    }

    /// The tail's record.
    pub(crate) fn to_tail(&self) -> Vec<u8> {
        let claims = self.claims();
        let len = |bytes: usize| {
            u32::try_from(bytes).expect("what goes to the tail is smaller than it").to_be_bytes()
        };
        let mut bytes = Vec::with_capacity(self.tail_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; 32]);
        bytes.extend_from_slice(&len(self.tail_bytes() - BODY));
        bytes.extend_from_slice(&len(claims.len()));
        bytes.extend_from_slice(&len(self.blobs.len()));
        bytes.extend_from_slice(&self.record.encode());
        bytes.extend_from_slice(claims);
        for (_, chunk) in self.chunks() {
            bytes.extend_from_slice(&chunk);
        }
        for (_, blob) in &self.blobs {
            bytes.extend_from_slice(&len(blob.len()));
            bytes.extend_from_slice(blob);
        }
        let digest = sha256(&bytes[BODY..]);
        bytes[8..BODY].copy_from_slice(digest.as_slice());
        bytes
    }

    /// Reads the record at the start of `bytes`, which may go on behind it; `None` when there is no whole one.
    pub(crate) fn from_tail(bytes: &[u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(BODY)?;
        let body_bytes = u32::from_be_bytes(body.first_chunk().copied()?) as usize;
        let body = body.get(..body_bytes)?;
        if head[..8] != *MAGIC || sha256(body).as_slice() != &head[8..] {
            return None;
        }
        let mut rest = body.get(4..)?;
        let claims_bytes = take_u32(&mut rest)?;
        let blobs = take_u32(&mut rest)?;
        let record = CommitRecord::decode(take(&mut rest, COMMIT_RECORD_BYTES)?).ok()?;
        let mut entries = Entries::default();
        for entry in walk(take(&mut rest, claims_bytes)?) {
            entries.push(entry.ok()?);
        }
        if entries.len() != record.entry.claims as usize {
            return None;
        }
        entries.push(&record.entry.encode());
        let mut diff: Vec<DiffEntry> = Vec::new();
        let mut left = usize::try_from(record.entry.diff_entries).ok()?;
        for part in 1.. {
            if left == 0 {
                break;
            }
            let count = left.min(DIFF_CHUNK_ENTRIES_MAX);
            let chunk = take(&mut rest, CHUNK_HEADER_BYTES + count * DIFF_ENTRY_BYTES)?;
            let chunk = DiffChunk::decode(chunk).ok()?;
            if (chunk.height, chunk.part) != (record.entry.height, part) {
                return None;
            }
            diff.extend(chunk.entries);
            left -= count;
        }
        let blobs = (0..blobs)
            .map(|_| {
                let len = take_u32(&mut rest)?;
                let blob = take(&mut rest, len)?.to_vec();
                Some((keccak256(&blob), blob))
            })
            .collect::<Option<Vec<_>>>()?;
        rest.is_empty().then_some(Self { record, entries, diff, blobs })
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(head)
}

fn take_u32(rest: &mut &[u8]) -> Option<usize> {
    Some(u32::from_be_bytes(take(rest, 4)?.try_into().ok()?) as usize)
}

/// Writes consecutive blocks and the runs they finish; `edge` is the log's end after the last of them.
pub(crate) fn write(txn: &mut impl WriteTxn, blocks: &[Arc<Block>], edge: &Edge) -> Result<()> {
    write_entries(txn, blocks)?;
    for block in blocks {
        let height = block.height();
        txn.append(Table::Block, &key::block(height, 0), &block.record.encode())?;
        for (part, chunk) in block.chunks() {
            txn.append(Table::Block, &key::block(height, part), &chunk)?;
        }
        for (hash, blob) in &block.blobs {
            if txn.get(Table::Blob, hash.as_slice())?.is_none() {
                txn.put(Table::Blob, hash.as_slice(), blob)?;
            }
        }
    }
    for (level, n, run) in edge.finished_runs() {
        txn.put(Table::Run, &key::run(level, n), &run)?;
    }
    Ok(())
}

/// Cuts the blocks' entries at multiples of 256; bundles join what lies between two of them.
fn write_entries(txn: &mut impl WriteTxn, blocks: &[Arc<Block>]) -> Result<()> {
    let mut joined = Vec::new();
    let mut first = blocks.first().map_or(0, |block| block.first_index());
    for block in blocks {
        let mut from = 0;
        while from < block.entries.len() {
            let index = block.first_index() + from as u64;
            let room = (TILE_HASHES - index % TILE_HASHES) as usize;
            let to = block.entries.len().min(from + room);
            let slice = block.entries.slice(from, to);
            let next = block.first_index() + to as u64;
            let ends = next.is_multiple_of(TILE_HASHES);
            match (joined.is_empty(), ends) {
                (true, true) => txn.append(Table::Leaf, &key::number(index), slice)?,
                (false, true) => {
                    joined.extend_from_slice(slice);
                    txn.append(Table::Leaf, &key::number(first), &joined)?;
                    joined.clear();
                }
                (_, false) => joined.extend_from_slice(slice),
            }
            if ends {
                first = next;
            }
            from = to;
        }
    }
    if !joined.is_empty() {
        txn.append(Table::Leaf, &key::number(first), &joined)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hyperion_primitives::Mix;
    use hyperion_verify::{
        commit::{CommitEntry, diff_hash},
        state::{StatePath, Word},
    };

    use super::*;

    fn drawn(seed: u64) -> Block {
        let mut mix = Mix::new(seed);
        let mut entries = Entries::default();
        for _ in 0..mix.below(5) {
            entries.push(&vec![1; 2 + mix.below(300) as usize]);
        }
        // One case has more changes than a chunk holds.
        let words = if seed == 3 { 700 } else { mix.below(9) };
        let mut diff: Vec<DiffEntry> = (0..words)
            .map(|_| DiffEntry {
                path: StatePath(keccak256(mix.u64().to_be_bytes())),
                old: (mix.below(2) == 0).then_some(Word::ZERO),
                new: Some(keccak256(mix.u64().to_be_bytes())),
            })
            .collect();
        diff.sort_unstable_by_key(|entry| entry.path);
        let blobs = (0..mix.below(3)).map(|n| vec![7; 30 * n as usize]);
        let blobs = blobs.map(|blob| (keccak256(&blob), blob)).collect();
        let entry = CommitEntry {
            claims: entries.len() as u32,
            height: mix.u64() >> 1,
            diff_entries: diff.len() as u64,
            diff_hash: diff_hash(&diff),
            ..CommitEntry::default()
        };
        entries.push(&entry.encode());
        let size_after = entry.size_after().unwrap();
        let record = CommitRecord { entry, size_after, log_root_after: B256::ZERO };
        Block { record, entries, diff, blobs }
    }

    #[test]
    fn a_record_of_the_tail_reads_back_whole_or_not_at_all() {
        for seed in 0..12 {
            let block = drawn(seed);
            let bytes = block.to_tail();
            assert_eq!(bytes.len(), block.tail_bytes(), "seed {seed}");
            let longer = [&bytes[..], &[0; 100]].concat();
            let read = Block::from_tail(&longer).unwrap();
            assert_eq!(read.to_tail(), bytes, "seed {seed}");
            assert_eq!(read.record, block.record);
            let entries: Vec<&[u8]> = block.entries.iter().collect();
            assert_eq!(read.entries.iter().collect::<Vec<_>>(), entries);
            assert_eq!((read.diff, read.blobs), (block.diff, block.blobs));
            for length in (0..bytes.len()).step_by(7) {
                assert!(Block::from_tail(&bytes[..length]).is_none(), "{length} bytes");
            }
            let mut changed = bytes.clone();
            for at in (0..bytes.len()).step_by(5) {
                changed[at] ^= 0x10;
                assert!(Block::from_tail(&changed).is_none(), "byte {at}");
                changed[at] ^= 0x10;
            }
        }
    }

    #[test]
    fn a_digest_over_nonsense_is_still_no_block() {
        let mut mix = Mix::new(99);
        let whole = drawn(4).to_tail();
        for _ in 0..2_000 {
            let mut bytes = whole.clone();
            for _ in 0..=mix.below(3) {
                let at = BODY + 4 + mix.below((bytes.len() - BODY - 4) as u64) as usize;
                bytes[at] = mix.u64() as u8;
            }
            let digest = sha256(&bytes[BODY..]);
            bytes[8..BODY].copy_from_slice(digest.as_slice());
            // What it accepts it also writes: one block, one encoding.
            if let Some(block) = Block::from_tail(&bytes) {
                assert!(block.to_tail() == bytes, "a second encoding");
            }
        }
    }
}
