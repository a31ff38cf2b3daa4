//! Named tables with one writer and stable read transactions.
//!
//! Start with [`PageStore`]. [`Lmdb`](crate::Lmdb) keeps the tables on disk, [`MemStore`](crate::MemStore) in an
//! ordered map. Keys are big-endian byte strings of at most 32 bytes, so key order is number order.

use std::ops::ControlFlow;

use crate::Result;

/// The tables of the `log` environment (`docs/store.md`, "Tables").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// What the store is: format, chain, origin.
    Meta,
    /// Commit records and state differences, by height and part.
    Block,
    /// Log entries in bundles, by index of the first.
    Leaf,
    /// Sixteen full tiles and their roots, by level and number.
    Run,
    /// Signed checkpoints, by log size.
    Note,
    /// Contents that a state word names by hash.
    Blob,
    /// The leaves that height 0 began with, by part.
    Genesis,
}

impl Table {
    /// Every table, in the order of their handles.
    pub const ALL: [Self; 7] =
        [Self::Meta, Self::Block, Self::Leaf, Self::Run, Self::Note, Self::Blob, Self::Genesis];

    /// The table's name in the environment.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Block => "block",
            Self::Leaf => "leaf",
            Self::Run => "run",
            Self::Note => "note",
            Self::Blob => "blob",
            Self::Genesis => "genesis",
        }
    }
}

/// What an environment takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes up to the last page ever used.
    pub file_bytes: u64,
    /// Bytes of those that the next writes may reuse.
    pub free_bytes: u64,
    /// Size of the address range; the file cannot outgrow it.
    pub map_bytes: u64,
    /// Reader slots taken, this process and foreign ones.
    pub readers: u32,
}

/// Named tables with one writer and stable read transactions.
pub trait PageStore: Send + Sync + 'static {
    /// A reading of one moment; owns what keeps the store alive.
    type Read: ReadTxn + 'static;
    /// The one writer's transaction.
    type Write<'s>: WriteTxn
    where
        Self: 's;

    /// Begins a reading of the newest committed moment; never waits for the writer.
    ///
    /// # Errors
    ///
    /// When no reader slot is free.
    fn read(&self) -> Result<Self::Read>;

    /// Begins writing; waits while another writer is at work.
    ///
    /// # Errors
    ///
    /// When an earlier failure left the environment unusable.
    fn write(&self) -> Result<Self::Write<'_>>;

    /// Sizes, for the metrics page.
    ///
    /// # Errors
    ///
    /// When the free list cannot be read.
    fn usage(&self) -> Result<Usage>;
}

/// Called with each key and value of a scan; `Break` ends it.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A stable reading of one moment.
pub trait ReadTxn: Send {
    /// The value under `key`.
    ///
    /// # Errors
    ///
    /// When a page of the table is damaged.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>>;

    /// The greatest key and its value.
    ///
    /// # Errors
    ///
    /// As for `get`.
    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>>;

    /// The greatest key not above `key`, and its value.
    ///
    /// # Errors
    ///
    /// As for `get`.
    fn floor(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>>;

    /// Visits keys from `from` on, in order.
    ///
    /// # Errors
    ///
    /// As for `get`.
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()>;
}

/// One writer's changes, all or nothing.
pub trait WriteTxn {
    /// The value under `key`, as this transaction sees it.
    ///
    /// # Errors
    ///
    /// When a page of the table is damaged.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>>;

    /// Sets the value under `key`.
    ///
    /// # Errors
    ///
    /// `MapFull` when the value does not fit; the transaction is then only good for dropping.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()>;

    /// As `put`, for a key greater than every key present; fills pages to the brim.
    ///
    /// # Errors
    ///
    /// As for `put`; `Corrupt` when the key is not the greatest.
    fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()>;

    /// Makes the changes durable, then visible.
    ///
    /// # Errors
    ///
    /// `DiskFull` may be tried again; after `Poisoned` only reopening tells what is on disk.
    fn commit(self) -> Result<()>;
}
