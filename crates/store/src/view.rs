//! What is visible: the newest block's log and state, and the states of recent heights.
//!
//! A view is never changed. The writer builds the next one and puts it in the place of the old; readers clone an
//! `Arc` and go on with it for as long as they like, so neither waits for the other beyond that clone.

use std::{collections::VecDeque, sync::Arc};

use hyperion_primitives::B256;
use hyperion_verify::log::LogHash;

use crate::{block::Block, log::Edge, state::Trie};

/// Heights kept even when they exceed the memory set aside for them.
const HEIGHTS_MIN: usize = 8;

/// The newest durable height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Blocks since genesis, which is height 0.
    pub height: u64,
    /// Root of the state after the block.
    pub state_root: B256,
    /// Entries of the log.
    pub log_size: u64,
    /// Root of the log.
    pub log_root: LogHash,
    /// Leaf hash of the block's commit entry, the parent of the next one.
    pub commit_leaf: LogHash,
    /// The block's time, Unix milliseconds.
    pub time_ms: u64,
    /// Hash of the executed block.
    pub block_hash: B256,
}

/// One height's state.
#[derive(Debug)]
pub(crate) struct StateView {
    pub(crate) head: Head,
    pub(crate) trie: Trie,
    /// Memory that the height before keeps for itself.
    pub(crate) retired_bytes: usize,
}

/// The newest height.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Names the candidate that became this block; candidates on it carry the number.
    pub(crate) id: u64,
    pub(crate) state: Arc<StateView>,
    pub(crate) edge: Edge,
    /// Blocks that are durable in the tail and not in the tables, in order.
    pub(crate) pending: Arc<Vec<Arc<Block>>>,
}

impl View {
    pub(crate) fn head(&self) -> &Head {
        &self.state.head
    }

    /// Entries that are in the tables.
    pub(crate) fn stored_size(&self) -> u64 {
        self.pending.first().map_or(self.head().log_size, |block| block.first_index())
    }

    /// The pending block that holds entry `index`.
    pub(crate) fn pending_at(&self, index: u64) -> Option<&Block> {
        let after = self.pending.partition_point(|block| block.first_index() <= index);
        let block = self.pending.get(after.checked_sub(1)?)?;
        (index < block.record.size_after).then_some(block)
    }

    /// The pending block of a height.
    pub(crate) fn pending_height(&self, height: u64) -> Option<&Block> {
        let first = self.pending.first()?.height();
        let at = usize::try_from(height.checked_sub(first)?).ok()?;
        self.pending.get(at).map(AsRef::as_ref)
    }
}

/// The newest view and the recent states, oldest first; the last one is the view's.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) view: Arc<View>,
    recent: VecDeque<Arc<StateView>>,
    retired_bytes: usize,
}

impl Published {
    pub(crate) fn new(view: View) -> Self {
        let recent = VecDeque::from([Arc::clone(&view.state)]);
        Self { view: Arc::new(view), recent, retired_bytes: 0 }
    }

    /// Puts `view` in place and gives out the states that left the window, for the caller to drop unlocked.
    pub(crate) fn advance(
        &mut self,
        view: View,
        heights_max: usize,
        bytes_max: usize,
    ) -> Vec<Arc<StateView>> {
        self.retired_bytes += view.state.retired_bytes;
        self.recent.push_back(Arc::clone(&view.state));
        self.view = Arc::new(view);
        let mut gone = Vec::new();
        while self.recent.len() > heights_max.max(1)
            || (self.retired_bytes > bytes_max && self.recent.len() > HEIGHTS_MIN)
        {
            let Some(oldest) = self.recent.pop_front() else { break };
            // What the oldest kept for itself is free now; the next one knows how much that was.
            if let Some(next) = self.recent.front() {
                self.retired_bytes -= next.retired_bytes.min(self.retired_bytes);
            }
            gone.push(oldest);
        }
        gone
    }

    /// Puts `view`, of the same height, in place.
    pub(crate) fn replace(&mut self, view: View) {
        self.view = Arc::new(view);
    }

    /// The state at a height; the oldest height held when it is not.
    pub(crate) fn at(&self, height: u64) -> Result<Arc<StateView>, u64> {
        let oldest = self.oldest();
        height
            .checked_sub(oldest)
            .and_then(|at| self.recent.get(usize::try_from(at).ok()?))
            .cloned()
            .ok_or(oldest)
    }

    pub(crate) fn oldest(&self) -> u64 {
        self.recent.front().map_or(self.view.head().height, |state| state.head.height)
    }

    pub(crate) fn heights(&self) -> usize {
        self.recent.len()
    }

    pub(crate) const fn retired_bytes(&self) -> usize {
        self.retired_bytes
    }
}
