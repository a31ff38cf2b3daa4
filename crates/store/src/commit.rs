//! A block, told in order: prepare, write, sync, apply, publish.
//!
//! `prepare` hashes and changes nothing, so any number of candidates may exist, also one on another that is not
//! committed yet ([`Store::prepare_on`]): hashing of the next block then overlaps the disk's work for this one.
//! `commit` makes one candidate durable and only then visible.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
};

use hyperion_primitives::{B256, keccak256};
use hyperion_verify::{
    commit::{CommitEntry, CommitRecord, DiffEntry, diff_hash},
    log::{LogHash, leaf_hash},
    state::{StatePath, Word},
};

use crate::{
    CrashPoint, Head, PageStore, Result, Store, StoreError,
    block::Block,
    error::hex,
    log::{Edge, Entries, check_claim},
    state::{Change, Trie},
    store::{Inner, Writer, next_id},
    view::{StateView, View},
};

/// Most claims of a block.
pub const CLAIMS_MAX: usize = 1 << 16;
/// Most changed words of a block.
pub const DIFF_ENTRIES_MAX: usize = 1 << 20;
/// Most bytes of one blob.
pub const BLOB_BYTES_MAX: usize = 1 << 24;

/// Claims from which hashing them on a thread of their own pays.
const CLAIMS_PER_THREAD_MIN: usize = 256;

/// What a block brings.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockInput<'a> {
    /// Words by path, in any order, no path twice; `None` removes. Words that do not change are left out of the diff.
    pub diff: &'a [(StatePath, Option<Word>)],
    /// Log entries in their final order, 2 to 4 096 bytes each, of any kind but 2.
    pub claims: &'a [Vec<u8>],
    /// Contents that words of this block name by keccak-256.
    pub blobs: &'a [Vec<u8>],
}

/// What the block's author says about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// The block's time, Unix milliseconds.
    pub time_ms: u64,
    /// Hash of the executed block; zero if none, at height 0 the digest of the chain's specification.
    pub block_hash: B256,
}

/// A candidate block: hashed, not written. Dropping it abandons it.
#[derive(Debug)]
pub struct Prepared {
    base: u64,
    id: u64,
    height: u64,
    first_index: u64,
    trie: Trie,
    retired_bytes: usize,
    entries: Entries,
    leaves: Vec<LogHash>,
    diff: Vec<DiffEntry>,
    diff_hash: B256,
    blobs: Vec<(B256, Vec<u8>)>,
}

impl Prepared {
    /// Root of the state after the block.
    pub fn state_root(&self) -> B256 {
        self.trie.root()
    }

    /// The block's height.
    pub const fn height(&self) -> u64 {
        self.height
    }

    /// Log index of the block's first claim.
    pub const fn first_index(&self) -> u64 {
        self.first_index
    }

    /// Entries of the log after the block, its commit entry included.
    pub fn log_size(&self) -> u64 {
        self.first_index + self.entries.len() as u64 + 1
    }

    /// What the block after this one stands on.
    pub fn base(&self) -> Base {
        Base {
            id: self.id,
            height: self.height,
            log_size: self.log_size(),
            trie: self.trie.clone(),
        }
    }

    /// Words the block changes.
    pub fn diff_entries(&self) -> usize {
        self.diff.len()
    }
}

/// What a candidate stands on: the head, or a candidate that is not committed yet.
#[derive(Clone, Debug)]
pub struct Base {
    id: u64,
    height: u64,
    log_size: u64,
    trie: Trie,
}

impl Base {
    /// Height of the block that candidates stand on.
    pub const fn height(&self) -> u64 {
        self.height
    }

    /// Entries of the log before a candidate's first claim, which is also that claim's index.
    pub const fn log_size(&self) -> u64 {
        self.log_size
    }

    /// The word at a path before the candidate.
    pub fn get(&self, path: &StatePath) -> Option<Word> {
        self.trie.get(path)
    }
}

impl<P: PageStore> Store<P> {
    /// What the next block stands on if nothing else is committed before it.
    pub fn base(&self) -> Base {
        let view = self.inner.view();
        let head = view.head();
        Base {
            id: view.id,
            height: head.height,
            log_size: head.log_size,
            trie: view.state.trie.clone(),
        }
    }

    /// Computes the state root of the head and `block` and changes nothing.
    ///
    /// # Errors
    ///
    /// `TooLarge`, `BadEntry` or `DuplicatePath` for a block that no log takes.
    pub fn prepare(&self, block: BlockInput<'_>) -> Result<Prepared> {
        self.inner.prepare(&self.base(), block)
    }

    /// As [`prepare`](Self::prepare), on another candidate perhaps ([`Prepared::base`]), to be committed right after it.
    ///
    /// # Errors
    ///
    /// As for `prepare`.
    pub fn prepare_on(&self, base: &Base, block: BlockInput<'_>) -> Result<Prepared> {
        self.inner.prepare(base, block)
    }

    /// Makes a candidate durable, then visible. What it returns survives a loss of power.
    ///
    /// # Errors
    ///
    /// `StalePrepared` when the head is not what the candidate stands on. `DiskLow`, `DiskFull` and `MapFull` leave
    /// the store as it was; after `Poisoned` it takes no more blocks.
    pub fn commit(&self, prepared: Prepared, seal: Seal) -> Result<Head> {
        self.inner.commit(prepared, seal)
    }
}

impl<P: PageStore> Inner<P> {
    fn prepare(&self, base: &Base, block: BlockInput<'_>) -> Result<Prepared> {
        check_size("claims in a block", block.claims.len(), CLAIMS_MAX)?;
        check_size("changed words in a block", block.diff.len(), DIFF_ENTRIES_MAX)?;
        for blob in block.blobs {
            check_size("bytes in a blob", blob.len(), BLOB_BYTES_MAX)?;
        }
        for (position, claim) in block.claims.iter().enumerate() {
            check_claim(position, claim)?;
        }
        let changes = sorted(block.diff)?;
        let threads = self.config.threads;
        let hash_claims = || {
            let entries = encoded(block.claims);
            let leaves = entries.leaf_hashes();
            (entries, leaves)
        };
        let ((entries, leaves), updated) = if threads > 1
            && block.claims.len() >= CLAIMS_PER_THREAD_MIN
            && !changes.is_empty()
        {
            thread::scope(|scope| {
                let claims = scope.spawn(hash_claims);
                let updated = base.trie.update(&changes, threads);
                (claims.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), updated)
            })
        } else {
            (hash_claims(), base.trie.update(&changes, threads))
        };
        let diff: Vec<DiffEntry> = changes
            .iter()
            .zip(updated.replaced)
            .map(|(&(path, new), old)| DiffEntry { path, old, new })
            .filter(|entry| entry.old != entry.new)
            .collect();
        Ok(Prepared {
            base: base.id,
            id: next_id(),
            height: base.height + 1,
            first_index: base.log_size,
            trie: updated.trie,
            retired_bytes: updated.retired_bytes,
            entries,
            leaves,
            diff_hash: diff_hash(&diff),
            diff,
            blobs: block.blobs.iter().map(|blob| (keccak256(blob), blob.clone())).collect(),
        })
    }

    fn commit(&self, prepared: Prepared, seal: Seal) -> Result<Head> {
        let mut writer = self.writer.lock();
        writer.check()?;
        writer.guard(|writer| self.write(writer, prepared, seal))
    }

    fn write(&self, writer: &mut Writer, prepared: Prepared, seal: Seal) -> Result<Head> {
        let view = self.view();
        if prepared.base != view.id {
            return Err(StoreError::StalePrepared { head: view.head().height });
        }
        self.check_disk()?;
        let (block, mut next) = self.sealed(&view, prepared, seal);
        self.config.crash.pass(CrashPoint::BeforeWrite)?;
        let bytes = block.tail_bytes();
        let goes_to_tail = bytes <= self.config.tail_block_bytes_max
            && view.pending.len() < self.config.tail_blocks_max
            && writer.tail.has_room(bytes);
        let mut pending = view.pending.to_vec();
        pending.push(block);
        if goes_to_tail {
            let record = pending.last().expect("pushed above").to_tail();
            writer.tail.write(&record, &self.config.crash)?;
            self.config.crash.pass(CrashPoint::TailDurable)?;
            self.commits.tail.fetch_add(1, Ordering::Relaxed);
        } else {
            self.write_log(&pending, &next.edge)?;
            self.config.crash.pass(CrashPoint::LogDurable)?;
            writer.tail.reset();
            pending.clear();
            next.edge.drop_finished_runs();
        }
        next.pending = Arc::new(pending);
        view.state.trie.succeed(&next.state.trie);
        self.config.crash.pass(CrashPoint::Applied)?;
        let head = *next.head();
        self.publish(next);
        self.config.crash.pass(CrashPoint::Published)?;
        Ok(head)
    }

    /// The block as it will lie on disk, and the view after it.
    fn sealed(&self, view: &View, prepared: Prepared, seal: Seal) -> (Arc<Block>, View) {
        let head = view.head();
        let entry = CommitEntry {
            claims: u32::try_from(prepared.entries.len()).expect("2^16 claims at most"),
            height: prepared.height,
            time_ms: seal.time_ms,
            chain_id: self.config.chain_id,
            first_index: prepared.first_index,
            diff_entries: prepared.diff.len() as u64,
            parent: head.commit_leaf,
            block_hash: seal.block_hash,
            state_root: prepared.trie.root(),
            diff_hash: prepared.diff_hash,
        };
        let mut edge = view.edge.clone();
        let record = append(&mut edge, &prepared.leaves, entry);
        let mut entries = prepared.entries;
        entries.push(&entry.encode());
        let block = Block { record, entries, diff: prepared.diff, blobs: prepared.blobs };
        let state = StateView {
            head: head_of(&record),
            trie: prepared.trie,
            retired_bytes: prepared.retired_bytes,
        };
        let next = View {
            id: prepared.id,
            state: Arc::new(state),
            edge,
            pending: Arc::clone(&view.pending),
        };
        (Arc::new(block), next)
    }
}

/// Appends a block's entries to the log's end; gives the record that ends it.
pub(crate) fn append(edge: &mut Edge, leaves: &[LogHash], entry: CommitEntry) -> CommitRecord {
    for leaf in leaves {
        edge.push(*leaf);
    }
    edge.push(leaf_hash(&entry.encode()));
    CommitRecord { entry, size_after: edge.size(), log_root_after: edge.root() }
}

/// The head that a commit record describes.
pub(crate) fn head_of(record: &CommitRecord) -> Head {
    Head {
        height: record.entry.height,
        state_root: record.entry.state_root,
        log_size: record.size_after,
        log_root: record.log_root_after,
        commit_leaf: leaf_hash(&record.entry.encode()),
        time_ms: record.entry.time_ms,
        block_hash: record.entry.block_hash,
    }
}

fn encoded(claims: &[Vec<u8>]) -> Entries {
    // One more for the commit entry that ends the block.
    let bytes = claims.iter().map(|claim| 2 + claim.len()).sum::<usize>() + 256;
    let mut entries = Entries::with_capacity(claims.len() + 1, bytes);
    for claim in claims {
        entries.push(claim);
    }
    entries
}

fn sorted(diff: &[(StatePath, Option<Word>)]) -> Result<Vec<Change>> {
    let mut changes = diff.to_vec();
    changes.sort_unstable_by_key(|(path, _)| *path);
    match changes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(StoreError::DuplicatePath { path: hex(pair[0].0.0.as_slice()) }),
        None => Ok(changes),
    }
}

fn check_size(what: &'static str, got: usize, max: usize) -> Result<()> {
    if got <= max {
        return Ok(());
    }
    Err(StoreError::TooLarge { what, got: got as u64, max: max as u64 })
}
