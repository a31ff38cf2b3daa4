//! What ends a block in the log, and what the block changed.
//!
//! The last entry of every block is a [`CommitEntry`]: it chains to the one before and names the state root, so that one
//! inclusion proof turns a checkpoint into an anchor of that height's state. A store keeps it as a [`CommitRecord`],
//! with the log's size and root after it. The block's changes are [`DiffEntry`]s, kept in [`DiffChunk`]s and named
//! together by [`diff_hash`].

mod diff;

pub use diff::{
    DIFF_CHUNK_ENTRIES_MAX, DIFF_ENTRY_BYTES, DiffChunk, DiffEntry, DiffError, diff_hash,
};
use hyperion_primitives::B256;

use crate::{
    bytes::{Fields, Writer},
    log::LogHash,
};

/// Bytes of a commit entry.
pub const COMMIT_ENTRY_BYTES: usize = 176;
/// Bytes of a commit record.
pub const COMMIT_RECORD_BYTES: usize = 216;
/// First byte of a log entry that ends a block.
pub const COMMIT_KIND: u8 = 2;
const COMMIT_VERSION: u8 = 1;

/// The log entry that ends a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitEntry {
    /// Claims in this block, the entries just before this one.
    pub claims: u32,
    /// Blocks before this one.
    pub height: u64,
    /// The block's time, Unix milliseconds.
    pub time_ms: u64,
    /// EIP-155 id of the chain.
    pub chain_id: u64,
    /// Index of the block's first entry; this one is `first_index + claims`.
    pub first_index: u64,
    /// Words the block changed.
    pub diff_entries: u64,
    /// Leaf hash of the commit entry before; zero at height 0.
    pub parent: LogHash,
    /// Hash of the executed block; at height 0 the digest of the chain's specification.
    pub block_hash: B256,
    /// Root of the state after the block.
    pub state_root: B256,
    /// [`diff_hash`] of the changes.
    pub diff_hash: B256,
}

/// Why bytes are no commit entry or record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Another length.
    #[error("{got} bytes, want {want}")]
    Length {
        /// The bytes given.
        got: usize,
        /// The bytes of an entry, or of a record.
        want: usize,
    },
    /// The first four bytes.
    #[error("the entry begins with {got:02x?}, want kind 2, version 1 and two zeros")]
    Header {
        /// The bytes found.
        got: [u8; 4],
    },
    /// The record's size is not the index of its entry and one more.
    #[error("the record says {got} entries after the block, its entry says {want:?}")]
    Size {
        /// The size found.
        got: u64,
        /// `first_index + claims + 1`; `None` beyond `u64`.
        want: Option<u64>,
    },
}

impl CommitEntry {
    /// Entries of the log after the block; `None` beyond `u64`.
    pub fn size_after(&self) -> Option<u64> {
        self.first_index.checked_add(self.claims.into())?.checked_add(1)
    }

    /// The canonical encoding.
    pub fn encode(&self) -> [u8; COMMIT_ENTRY_BYTES] {
        let mut bytes = [0; COMMIT_ENTRY_BYTES];
        Writer::new(&mut bytes)
            .put([COMMIT_KIND, COMMIT_VERSION, 0, 0])
            .put(self.claims.to_be_bytes())
            .put(self.height.to_be_bytes())
            .put(self.time_ms.to_be_bytes())
            .put(self.chain_id.to_be_bytes())
            .put(self.first_index.to_be_bytes())
            .put(self.diff_entries.to_be_bytes())
            .put(self.parent)
            .put(self.block_hash)
            .put(self.state_root)
            .put(self.diff_hash)
            .done();
        bytes
    }

    /// Reads a commit entry.
    ///
    /// # Errors
    ///
    /// When length, kind, version or the two zero bytes are not a commit entry's.
    pub fn decode(bytes: &[u8]) -> Result<Self, CommitError> {
        if bytes.len() != COMMIT_ENTRY_BYTES {
            return Err(CommitError::Length { got: bytes.len(), want: COMMIT_ENTRY_BYTES });
        }
        let mut fields = Fields::new(bytes);
        let header = fields.array();
        if header != [COMMIT_KIND, COMMIT_VERSION, 0, 0] {
            return Err(CommitError::Header { got: header });
        }
        Ok(Self {
            claims: fields.u32(),
            height: fields.u64(),
            time_ms: fields.u64(),
            chain_id: fields.u64(),
            first_index: fields.u64(),
            diff_entries: fields.u64(),
            parent: fields.b256(),
            block_hash: fields.b256(),
            state_root: fields.b256(),
            diff_hash: fields.b256(),
        })
    }
}

/// A commit entry with the log's size and root after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitRecord {
    /// The block's last entry.
    pub entry: CommitEntry,
    /// Entries of the log after the block: `first_index + claims + 1`.
    pub size_after: u64,
    /// Root of the log after the block.
    pub log_root_after: LogHash,
}

impl CommitRecord {
    /// The canonical encoding: entry, size as u64, root.
    pub fn encode(&self) -> [u8; COMMIT_RECORD_BYTES] {
        let mut bytes = [0; COMMIT_RECORD_BYTES];
        Writer::new(&mut bytes)
            .put(self.entry.encode())
            .put(self.size_after.to_be_bytes())
            .put(self.log_root_after)
            .done();
        bytes
    }

    /// Reads a commit record.
    ///
    /// # Errors
    ///
    /// When the length is not a record's, the entry is none, or the size is not the one that the entry implies.
    pub fn decode(bytes: &[u8]) -> Result<Self, CommitError> {
        if bytes.len() != COMMIT_RECORD_BYTES {
            return Err(CommitError::Length { got: bytes.len(), want: COMMIT_RECORD_BYTES });
        }
        let (entry, after) = bytes.split_at(COMMIT_ENTRY_BYTES);
        let entry = CommitEntry::decode(entry)?;
        let mut fields = Fields::new(after);
        let size_after = fields.u64();
        if entry.size_after() != Some(size_after) {
            return Err(CommitError::Size { got: size_after, want: entry.size_after() });
        }
        Ok(Self { entry, size_after, log_root_after: fields.b256() })
    }
}
