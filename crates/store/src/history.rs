//! Words at older heights, from the diffs: each one knows the word it replaced.

use std::ops::ControlFlow;

use hyperion_verify::{
    commit::{DIFF_ENTRY_BYTES, DiffEntry},
    state::{StatePath, Word},
};

use crate::{PageStore, ReadTxn as _, Result, Store, StoreError, Table, error::hex, key};

/// Bytes before the first entry of a diff chunk.
const CHUNK_HEADER_BYTES: usize = 16;

impl<P: PageStore> Store<P> {
    /// The word at a path after the block of `height`.
    ///
    /// Walks the diffs of the heights above until one names the path, so it costs milliseconds for old heights; for
    /// recent ones [`snapshot_at`](Self::snapshot_at) is faster.
    ///
    /// # Errors
    ///
    /// `AboveHead`, or `DiffMissing` when a diff on the way is gone.
    pub fn value_at(&self, height: u64, path: &StatePath) -> Result<Option<Word>> {
        let view = self.inner.view();
        let head = view.head().height;
        if height > head {
            return Err(StoreError::AboveHead { height, head });
        }
        let stored = view.pending.first().map_or(head, |block| block.height() - 1);
        let mut replaced: Option<Option<Word>> = None;
        let mut next = height + 1;
        let mut damage = None;
        if height < stored {
            self.inner.pages.read()?.scan(
                Table::Block,
                &key::block(next, 0),
                &mut |at, bytes| {
                    match key::read_block(at) {
                        Some((found, _)) if found > stored => return ControlFlow::Break(()),
                        Some((found, 0)) if found == next => {
                            next += 1;
                            return ControlFlow::Continue(());
                        }
                        Some((found, 1..)) if found + 1 == next => {}
                        _ => {
                            damage = Some(StoreError::DiffMissing { height: next });
                            return ControlFlow::Break(());
                        }
                    }
                    match find(bytes, path) {
                        Ok(None) => ControlFlow::Continue(()),
                        Ok(found) => {
                            replaced = found;
                            ControlFlow::Break(())
                        }
                        Err(what) => {
                            damage = Some(StoreError::corrupt("block", at, what));
                            ControlFlow::Break(())
                        }
                    }
                },
            )?;
        }
        if let Some(damage) = damage {
            return Err(damage);
        }
        let pending = view.pending.iter().filter(|block| block.height() > height);
        let replaced = replaced.or_else(|| {
            pending.flat_map(|block| lookup(&block.diff, path)).map(|entry| entry.old).next()
        });
        Ok(replaced.unwrap_or_else(|| view.state.trie.get(path)))
    }
}

fn lookup<'d>(diff: &'d [DiffEntry], path: &StatePath) -> Option<&'d DiffEntry> {
    diff.binary_search_by(|entry| entry.path.cmp(path)).ok().map(|at| &diff[at])
}

/// The word that a chunk says it replaced at a path, without decoding the other entries.
fn find(chunk: &[u8], path: &StatePath) -> Result<Option<Option<Word>>, String> {
    let entries = chunk.get(CHUNK_HEADER_BYTES..).unwrap_or_default();
    let count = entries.len() / DIFF_ENTRY_BYTES;
    let entry = |at: usize| &entries[at * DIFF_ENTRY_BYTES..(at + 1) * DIFF_ENTRY_BYTES];
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        match entry(middle)[..32].cmp(path.0.as_slice()) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => {
                let old = entry(middle);
                return match old[32] {
                    0..=3 => Ok(Some((old[32] & 1 == 1).then(|| Word::from_slice(&old[33..65])))),
                    flags => Err(format!("flags {flags} at path {}", hex(path.0.as_slice()))),
                };
            }
        }
    }
    Ok(None)
}
