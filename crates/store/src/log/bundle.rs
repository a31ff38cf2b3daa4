//! Entries as they lie in the log: each as its length (u16) and its bytes, up to 256 of them in one value.
//!
//! A bundle never crosses a multiple of 256, so `/tile/entries/N` is the concatenation of the values whose keys are
//! in [256 N, 256 N + 256).

use hyperion_verify::log::{LogHash, leaf_hash};

use crate::{Result, StoreError};

/// Shortest and longest entry, in bytes: a kind and a version at least.
pub(crate) const ENTRY_BYTES_MIN: usize = 2;
pub(crate) const ENTRY_BYTES_MAX: usize = 4096;

/// Entries in log order, encoded as bundles are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    bytes: Vec<u8>,
    /// Where each entry's length stands, and the end.
    starts: Vec<u32>,
}

impl Entries {
    pub(crate) fn with_capacity(entries: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), starts: Vec::with_capacity(entries) }
    }

    /// Appends an entry; its length has been checked.
    pub(crate) fn push(&mut self, entry: &[u8]) {
        let start = u32::try_from(self.bytes.len()).expect("2^16 entries of 4 KiB are below 4 GiB");
        let len = u16::try_from(entry.len()).expect("an entry has 4096 bytes at most");
        self.starts.push(start);
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(entry);
    }

    pub(crate) const fn len(&self) -> usize {
        self.starts.len()
    }

    /// The entries from `from` to before `to`, encoded.
    pub(crate) fn slice(&self, from: usize, to: usize) -> &[u8] {
        let at = |entry| self.starts.get(entry).map_or(self.bytes.len(), |start| *start as usize);
        &self.bytes[at(from)..at(to)]
    }

    pub(crate) fn get(&self, entry: usize) -> Option<&[u8]> {
        (entry < self.len()).then(|| &self.slice(entry, entry + 1)[2..])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|entry| &self.slice(entry, entry + 1)[2..])
    }

    pub(crate) fn leaf_hashes(&self) -> Vec<LogHash> {
        self.iter().map(leaf_hash).collect()
    }
}

/// Walks a bundle's entries; an item is `Err` when the bytes do not add up, and nothing follows it.
pub(crate) fn walk(bundle: &[u8]) -> impl Iterator<Item = Result<&[u8], &'static str>> {
    let mut rest = bundle;
    core::iter::from_fn(move || {
        let (len, after) = match rest.split_first_chunk() {
            Some((len, after)) => (usize::from(u16::from_be_bytes(*len)), after),
            None if rest.is_empty() => return None,
            None => {
                rest = &[];
                return Some(Err("half a length at the end of the bundle"));
            }
        };
        if !(ENTRY_BYTES_MIN..=ENTRY_BYTES_MAX).contains(&len) {
            rest = &[];
            return Some(Err("an entry's length is not in 2 to 4096"));
        }
        let Some((entry, after)) = after.split_at_checked(len) else {
            rest = &[];
            return Some(Err("the bundle ends inside an entry"));
        };
        rest = after;
        Some(Ok(entry))
    })
}

/// Refuses what no reader would take for an entry of a block: another length, or the kind that ends a block.
pub(crate) fn check_claim(position: usize, entry: &[u8]) -> Result<()> {
    let what = if !(ENTRY_BYTES_MIN..=ENTRY_BYTES_MAX).contains(&entry.len()) {
        "an entry has 2 to 4096 bytes"
    } else if entry[0] == hyperion_verify::commit::COMMIT_KIND {
        "kind 2 ends a block and is the store's own"
    } else {
        return Ok(());
    };
    Err(StoreError::BadEntry { position, what })
}
