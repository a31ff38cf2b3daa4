use std::{ops::ControlFlow, sync::Arc};

use hyperion_verify::{
    commit::{COMMIT_RECORD_BYTES, CommitRecord},
    log::{LogHash, leaf_hash},
    note::Checkpoint,
};

use super::{
    HashSource, TILE_HASHES,
    proof::{consistency, inclusion},
    walk,
};
use crate::{PageStore, ReadTxn, Result, StoreError, Table, key, store::Inner, view::View};

/// Entries, tiles and proofs of the log as it was when the reader was made.
///
/// Cheap to make and never in a writer's way; make one for each request.
#[derive(Debug)]
pub struct LogReader<'s, P: PageStore> {
    pub(super) store: &'s Inner<P>,
    pub(super) view: Arc<View>,
}

impl<'s, P: PageStore> LogReader<'s, P> {
    pub(crate) fn new(store: &'s Inner<P>) -> Self {
        Self { store, view: store.view() }
    }

    /// Entries of the log.
    pub fn size(&self) -> u64 {
        self.view.head().log_size
    }

    /// Root of the log.
    pub fn root(&self) -> LogHash {
        self.view.head().log_root
    }

    /// The bytes of entry `index`.
    ///
    /// # Errors
    ///
    /// `OutsideLog` at or beyond [`size`](Self::size).
    pub fn entry(&self, index: u64) -> Result<Vec<u8>> {
        self.require("entry", index, index < self.size())?;
        if let Some(block) = self.view.pending_at(index) {
            let at = (index - block.first_index()) as usize;
            return Ok(block.entries.get(at).expect("the block holds the index").to_vec());
        }
        let read = self.store.pages.read()?;
        let found = read.floor(Table::Leaf, &key::number(index))?;
        let (at, bundle) = found.ok_or_else(|| no_entry(index))?;
        let first = key::read_number(at).ok_or_else(|| no_entry(index))?;
        match walk(bundle).nth((index - first) as usize) {
            Some(Ok(entry)) => Ok(entry.to_vec()),
            Some(Err(what)) => Err(StoreError::corrupt("leaf", at, what)),
            None => Err(no_entry(index)),
        }
    }

    /// Leaf hash of entry `index`.
    ///
    /// # Errors
    ///
    /// As for [`entry`](Self::entry).
    pub fn leaf(&self, index: u64) -> Result<LogHash> {
        self.require("entry", index, index < self.size())?;
        let read = self.store.pages.read()?;
        self.hashes(&read).node(0, index)
    }

    /// The first entry with this leaf hash, if there is one.
    ///
    /// The first call after opening reads the lowest level of the tree, later ones what has been appended since.
    ///
    /// # Errors
    ///
    /// `Corrupt` when a run is missing or has another length.
    pub fn index_of(&self, leaf: &LogHash) -> Result<Option<u64>> {
        let read = self.store.pages.read()?;
        let hashes = self.hashes(&read);
        self.store.leaves.find(leaf, self.size(), |n| hashes.tile(0, n))
    }

    /// The first `width` entries of bundle `n`, each as its length (u16) and its bytes: `/tile/entries/N`.
    ///
    /// # Errors
    ///
    /// `OutsideLog` when the width is 0, above 256, or reaches beyond the log.
    pub fn entries(&self, n: u64, width: u16) -> Result<Vec<u8>> {
        let first = self.require_tile("bundle", 0, n, width)?;
        let end = first + u64::from(width);
        let stored = end.min(self.view.stored_size());
        let mut bytes = Vec::new();
        let mut next = first;
        let mut damage = None;
        if first < stored {
            self.store.pages.read()?.scan(
                Table::Leaf,
                &key::number(first),
                &mut |at, bundle| {
                    if next >= stored {
                        return ControlFlow::Break(());
                    }
                    if key::read_number(at) != Some(next) {
                        damage = Some(no_entry(next));
                        return ControlFlow::Break(());
                    }
                    for entry in walk(bundle).take((stored - next) as usize) {
                        match entry {
                            Ok(entry) => push(&mut bytes, entry),
                            Err(what) => {
                                damage = Some(StoreError::corrupt("leaf", at, what));
                                return ControlFlow::Break(());
                            }
                        }
                        next += 1;
                    }
                    ControlFlow::Continue(())
                },
            )?;
        }
        if let Some(damage) = damage {
            return Err(damage);
        }
        while next < end {
            let block = self.view.pending_at(next).ok_or_else(|| no_entry(next))?;
            let from = (next - block.first_index()) as usize;
            let to = block.entries.len().min(from + (end - next) as usize);
            bytes.extend_from_slice(block.entries.slice(from, to));
            next += (to - from) as u64;
        }
        Ok(bytes)
    }

    /// The first `width` hashes of tile `n` of a level, 32 bytes each: `/tile/L/N`.
    ///
    /// # Errors
    ///
    /// `OutsideLog` when the width is 0, above 256, or reaches beyond the level.
    pub fn tile(&self, level: u8, n: u64, width: u16) -> Result<Vec<u8>> {
        self.require_tile("tile", level, n, width)?;
        let read = self.store.pages.read()?;
        let hashes = self.hashes(&read).tile(level, n)?;
        Ok(hashes[..usize::from(width)].iter().flat_map(|hash| hash.0).collect())
    }

    /// Proves that entry `index` is in the log of `size` entries; leaf side first.
    ///
    /// # Errors
    ///
    /// `OutsideLog` when `index` is not below `size`, or `size` is above [`size`](Self::size).
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<LogHash>> {
        self.require("size", size, size <= self.size())?;
        self.require("entry", index, index < size)?;
        let read = self.store.pages.read()?;
        let hashes = self.hashes(&read);
        inclusion(index, size, &mut |height, n| hashes.node(height, n))
    }

    /// Proves that the log of `new` entries begins with that of `old`.
    ///
    /// # Errors
    ///
    /// `OutsideLog` when `old` is above `new`, or `new` above [`size`](Self::size).
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<LogHash>> {
        self.require("size", new, new <= self.size())?;
        self.require("size", old, old <= new)?;
        let read = self.store.pages.read()?;
        let hashes = self.hashes(&read);
        consistency(old, new, &mut |height, n| hashes.node(height, n))
    }

    /// The commit record of a height.
    ///
    /// # Errors
    ///
    /// `AboveHead` when the height is not committed.
    pub fn record(&self, height: u64) -> Result<CommitRecord> {
        let head = self.view.head().height;
        if height > head {
            return Err(StoreError::AboveHead { height, head });
        }
        if let Some(block) = self.view.pending_height(height) {
            return Ok(block.record);
        }
        let read = self.store.pages.read()?;
        read_record(&read, height)
    }

    /// The height whose block holds entry `index`.
    ///
    /// # Errors
    ///
    /// `OutsideLog` at or beyond [`size`](Self::size).
    pub fn height_of(&self, index: u64) -> Result<u64> {
        self.require("entry", index, index < self.size())?;
        let (mut low, mut high) = (0, self.view.head().height);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.record(middle)?.size_after > index {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    /// What the log signs at a size.
    ///
    /// # Errors
    ///
    /// `NotABlockEnd` for a size at which no block ends.
    pub fn checkpoint(&self, size: u64) -> Result<Checkpoint> {
        let not_an_end = StoreError::NotABlockEnd { size };
        let Some(last) = size.checked_sub(1).filter(|last| *last < self.size()) else {
            return Err(not_an_end);
        };
        let record = self.record(self.height_of(last)?)?;
        if record.size_after != size {
            return Err(not_an_end);
        }
        Ok(Checkpoint {
            origin: self.store.config.origin.clone(),
            size,
            root: record.log_root_after,
        })
    }

    /// The three lines that the log signs at a size.
    ///
    /// # Errors
    ///
    /// As for [`checkpoint`](Self::checkpoint).
    pub fn checkpoint_body(&self, size: u64) -> Result<String> {
        Ok(self.checkpoint(size)?.body())
    }

    fn hashes<'a>(&'a self, read: &'a P::Read) -> HashSource<'a, P::Read> {
        HashSource { levels: self.view.edge.levels(), read, cache: &self.store.tiles }
    }

    fn require(&self, what: &'static str, index: u64, holds: bool) -> Result<()> {
        if holds {
            return Ok(());
        }
        Err(StoreError::OutsideLog { what, index, size: self.size() })
    }

    /// Checks a tile's address; gives the index of its first hash.
    fn require_tile(&self, what: &'static str, level: u8, n: u64, width: u16) -> Result<u64> {
        let held = self.view.edge.levels().get(usize::from(level));
        let count = held.map_or(0, super::Level::count);
        let end = n.checked_mul(TILE_HASHES).and_then(|at| at.checked_add(width.into()));
        let is_inside = end.is_some_and(|end| end <= count);
        self.require(what, n, is_inside && (1..=TILE_HASHES).contains(&width.into()))?;
        Ok(n * TILE_HASHES)
    }
}

/// The record of a height that is in the tables.
pub(crate) fn read_record(read: &impl ReadTxn, height: u64) -> Result<CommitRecord> {
    let key = key::block(height, 0);
    let bytes = read
        .get(Table::Block, &key)?
        .ok_or_else(|| StoreError::corrupt("block", &key, "the commit record is missing"))?;
    if bytes.len() != COMMIT_RECORD_BYTES {
        let what = format!("{} bytes, a commit record has {COMMIT_RECORD_BYTES}", bytes.len());
        return Err(StoreError::corrupt("block", &key, what));
    }
    CommitRecord::decode(bytes)
        .map_err(|error| StoreError::corrupt("block", &key, error.to_string()))
}

/// Leaf hash of the commit entry that a record repeats.
pub(crate) fn commit_leaf(record: &CommitRecord) -> LogHash {
    leaf_hash(&record.entry.encode())
}

fn push(bytes: &mut Vec<u8>, entry: &[u8]) {
    let len = u16::try_from(entry.len()).expect("`walk` gives entries of 4096 bytes at most");
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(entry);
}

fn no_entry(index: u64) -> StoreError {
    StoreError::corrupt("leaf", &key::number(index), "the entry is missing")
}
