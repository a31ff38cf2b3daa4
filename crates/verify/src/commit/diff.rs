use alloc::vec::Vec;

use hyperion_primitives::B256;
use sha2::{Digest as _, Sha256};

use crate::{
    bytes::{Fields, Writer},
    state::{StatePath, Word},
};

/// Bytes of one change: path, flags, old word, new word.
pub const DIFF_ENTRY_BYTES: usize = 97;
/// Most changes in a chunk, which then fills 16 pages of LMDB.
pub const DIFF_CHUNK_ENTRIES_MAX: usize = 675;
const HEADER_BYTES: usize = 16;
const VERSION: u8 = 1;

/// One word of the state before and after a block; `None` where the path held nothing.
///
/// With both words the same bytes redo a block and undo it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiffEntry {
    /// Where.
    pub path: StatePath,
    /// The word before.
    pub old: Option<Word>,
    /// The word after; differs from `old`.
    pub new: Option<Word>,
}

/// Why bytes are no diff chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiffError {
    /// Another length than the count calls for.
    #[error("the diff chunk has {got} bytes, want {want}")]
    Length {
        /// The bytes given.
        got: usize,
        /// The bytes its header and count call for.
        want: usize,
    },
    /// The first two bytes.
    #[error("the diff chunk begins with {got:02x?}, want version 1 and a zero")]
    Header {
        /// The bytes found.
        got: [u8; 2],
    },
    /// None, or too many.
    #[error("the diff chunk counts {got} entries, want 1 to {DIFF_CHUNK_ENTRIES_MAX}")]
    Count {
        /// The count found.
        got: u16,
    },
    /// Parts count from 1; part 0 of a block is its commit record.
    #[error("the diff chunk is part 0, and a block's parts count from 1")]
    Part,
    /// A flag that means nothing, a word where the flags say none, or no change at all.
    #[error("entry {entry} of the diff chunk changes nothing or is not in its one form")]
    Entry {
        /// Its place in the chunk.
        entry: usize,
    },
    /// The paths do not ascend.
    #[error("the path of entry {entry} of the diff chunk does not follow the one before")]
    Order {
        /// Its place in the chunk.
        entry: usize,
    },
}

impl DiffEntry {
    /// The canonical encoding: absent words are zero, flag bit 0 says old present, bit 1 new present.
    pub fn encode(&self) -> [u8; DIFF_ENTRY_BYTES] {
        let flags = u8::from(self.old.is_some()) | u8::from(self.new.is_some()) << 1;
        let mut bytes = [0; DIFF_ENTRY_BYTES];
        Writer::new(&mut bytes)
            .put(self.path.0)
            .put([flags])
            .put(self.old.unwrap_or_default())
            .put(self.new.unwrap_or_default())
            .done();
        bytes
    }

    /// `None` when the flags or words are not in their one form, or nothing changes.
    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let path = StatePath(fields.b256());
        let flags = fields.u8();
        let mut word = |present: bool| {
            let word = fields.b256();
            if present { Some(Some(word)) } else { word.is_zero().then_some(None) }
        };
        let (old, new) = (word(flags & 1 != 0)?, word(flags & 2 != 0)?);
        (flags < 4 && old != new).then_some(Self { path, old, new })
    }
}

/// A part of a block's changes: redo log, undo log and history at once.
///
/// `1 ‖ 0 ‖ count u16 ‖ part u32 ‖ height u64`, then the entries. Paths strictly ascend, over all parts of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffChunk {
    /// The block.
    pub height: u64,
    /// Which of the block's parts, from 1.
    pub part: u32,
    /// 1 to [`DIFF_CHUNK_ENTRIES_MAX`] changes, paths strictly ascending.
    pub entries: Vec<DiffEntry>,
}

impl DiffChunk {
    /// The canonical encoding of such a chunk, from borrowed entries.
    ///
    /// # Panics
    ///
    /// When there are no entries or more than [`DIFF_CHUNK_ENTRIES_MAX`].
    pub fn encode(height: u64, part: u32, entries: &[DiffEntry]) -> Vec<u8> {
        assert!((1..=DIFF_CHUNK_ENTRIES_MAX).contains(&entries.len()), "{} entries", entries.len());
        let count = u16::try_from(entries.len()).expect("675 at most");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + entries.len() * DIFF_ENTRY_BYTES);
        bytes.extend([VERSION, 0]);
        bytes.extend(count.to_be_bytes());
        bytes.extend(part.to_be_bytes());
        bytes.extend(height.to_be_bytes());
        for entry in entries {
            bytes.extend(entry.encode());
        }
        bytes
    }

    /// Reads a chunk.
    ///
    /// # Errors
    ///
    /// When the bytes are not exactly the encoding of a chunk.
    pub fn decode(bytes: &[u8]) -> Result<Self, DiffError> {
        let got = bytes.len();
        if got < HEADER_BYTES {
            return Err(DiffError::Length { got, want: HEADER_BYTES });
        }
        let mut fields = Fields::new(bytes);
        let header = fields.array();
        if header != [VERSION, 0] {
            return Err(DiffError::Header { got: header });
        }
        let (count, part, height) = (fields.u16(), fields.u32(), fields.u64());
        if !(1..=DIFF_CHUNK_ENTRIES_MAX).contains(&count.into()) {
            return Err(DiffError::Count { got: count });
        }
        if part == 0 {
            return Err(DiffError::Part);
        }
        let want = HEADER_BYTES + usize::from(count) * DIFF_ENTRY_BYTES;
        if got != want {
            return Err(DiffError::Length { got, want });
        }
        let mut entries: Vec<DiffEntry> = Vec::with_capacity(count.into());
        for entry in 0..usize::from(count) {
            let read = DiffEntry::decode(&mut fields).ok_or(DiffError::Entry { entry })?;
            if entries.last().is_some_and(|before| before.path >= read.path) {
                return Err(DiffError::Order { entry });
            }
            entries.push(read);
        }
        Ok(Self { height, part, entries })
    }
}

/// SHA-256 over the encodings of all of a block's changes in path order; chunk headers are left out, so that how they
/// are cut into chunks is free to change.
pub fn diff_hash<'a>(entries: impl IntoIterator<Item = &'a DiffEntry>) -> B256 {
    let mut hasher = Sha256::new();
    for entry in entries {
        hasher.update(entry.encode());
    }
    B256::new(hasher.finalize().into())
}
