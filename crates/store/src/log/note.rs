use hyperion_verify::note::{NOTE_BYTES_MAX, SignedNote};

use super::LogReader;
use crate::{PageStore, ReadTxn as _, Result, StoreError, Table, WriteTxn as _, key};

impl<P: PageStore> LogReader<'_, P> {
    /// Keeps a signed checkpoint, durably, in the place of an older one of the same size.
    ///
    /// The log's own signature is deterministic and can be made again at any time; what is worth keeping are the
    /// cosignatures. Costs a transaction of its own, so not for every block.
    ///
    /// # Errors
    ///
    /// `NotABlockEnd`, or `BadNote` when the note speaks of another log or root, is too long, or lacks the signature
    /// of the configured log key.
    pub fn put_note(&self, size: u64, note: &SignedNote) -> Result<()> {
        let bad = |what: String| StoreError::BadNote { size, what };
        if note.checkpoint != self.checkpoint(size)? {
            return Err(bad("it is of another checkpoint than this log's".to_owned()));
        }
        if let Some(key) = &self.store.config.log_key {
            note.verify(key).map_err(|error| bad(error.to_string()))?;
        }
        let text = note.to_string();
        if text.len() > NOTE_BYTES_MAX {
            return Err(bad(format!("{} bytes, at most {NOTE_BYTES_MAX}", text.len())));
        }
        self.store.write_aside(|txn| txn.put(Table::Note, &key::number(size), text.as_bytes()))
    }

    /// The signed checkpoint kept for a size.
    ///
    /// # Errors
    ///
    /// When the stored text is no signed note.
    pub fn note(&self, size: u64) -> Result<Option<SignedNote>> {
        let read = self.store.pages.read()?;
        let found = read.get(Table::Note, &key::number(size))?;
        found.map(|text| parse(&key::number(size), text)).transpose()
    }

    /// The signed checkpoint of the greatest size that one is kept for.
    ///
    /// # Errors
    ///
    /// As for [`note`](Self::note).
    pub fn newest_note(&self) -> Result<Option<SignedNote>> {
        let read = self.store.pages.read()?;
        read.last(Table::Note)?.map(|(key, text)| parse(key, text)).transpose()
    }
}

pub(crate) fn parse(key: &[u8], text: &[u8]) -> Result<SignedNote> {
    let damaged = |what: String| StoreError::corrupt("note", key, what);
    let text = std::str::from_utf8(text).map_err(|error| damaged(error.to_string()))?;
    text.parse().map_err(|error: hyperion_verify::note::NoteError| damaged(error.to_string()))
}
