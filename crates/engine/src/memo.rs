//! Outputs by content: equal calls give equal bytes, so the second needs no device.
//!
//! Only a cache: emptying it at any moment changes time, never a result.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use dashmap::{DashMap, Entry};
use hyperion_model::Tensor;
use hyperion_primitives::{B256, ModelId};
use parking_lot::Mutex;

/// All that an output depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content {
    /// Program, tokenizer and weights.
    pub model: ModelId,
    /// Hash over the input's root.
    pub input_hash: B256,
    /// Zero for models without a sampler.
    pub sampling_hash: B256,
    /// Zero for greedy runs.
    pub seed: B256,
}

/// What an entry weighs beside its output.
const ENTRY_BYTES: u64 = 512;

#[derive(Debug)]
struct Kept {
    output: Arc<Tensor>,
    /// Asked for since it was last considered for eviction.
    used: AtomicBool,
}

impl Kept {
    fn bytes(&self) -> u64 {
        ENTRY_BYTES + self.output.data.len() as u64
    }
}

/// Outputs by content, bounded in bytes. What has not been asked for leaves first, in order of age; what has
/// been gets a second round.
#[derive(Debug)]
pub(crate) struct Memo {
    outputs: DashMap<Content, Kept>,
    order: Mutex<VecDeque<Content>>,
    bytes: AtomicU64,
    bytes_max: u64,
}

impl Memo {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            outputs: DashMap::new(),
            order: Mutex::default(),
            bytes: AtomicU64::new(0),
            bytes_max,
        }
    }

    pub(crate) fn get(&self, content: &Content) -> Option<Arc<Tensor>> {
        let kept = self.outputs.get(content)?;
        kept.used.store(true, Ordering::Relaxed);
        Some(Arc::clone(&kept.output))
    }

    /// Keeps an output, if it is small enough to be kept at all.
    pub(crate) fn insert(&self, content: Content, output: &Arc<Tensor>) {
        let kept = Kept { output: Arc::clone(output), used: AtomicBool::new(false) };
        let bytes = kept.bytes();
        if bytes > self.bytes_max {
            return;
        }
        match self.outputs.entry(content) {
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => drop(place.insert(kept)),
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.order.lock().push_back(content);
        self.make_room();
    }

    /// Evicts until the bound holds. The two locks are never held together.
    fn make_room(&self) {
        while self.bytes() > self.bytes_max {
            let Some(oldest) = self.order.lock().pop_front() else { return };
            let used = self
                .outputs
                .get(&oldest)
                .is_some_and(|kept| kept.used.swap(false, Ordering::Relaxed));
            if used {
                self.order.lock().push_back(oldest);
            } else {
                self.remove(&oldest);
            }
        }
    }

    /// Forgets an output.
    pub(crate) fn remove(&self, content: &Content) {
        if let Some((_, kept)) = self.outputs.remove(content) {
            self.bytes.fetch_sub(kept.bytes(), Ordering::Relaxed);
        }
    }

    /// Bytes kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use hyperion_primitives::Dtype;

    use super::*;

    fn content(n: u8) -> Content {
        let (model, hash) = (ModelId::default(), B256::repeat_byte(n));
        Content { model, input_hash: hash, sampling_hash: B256::ZERO, seed: B256::ZERO }
    }

    fn output(bytes: usize) -> Arc<Tensor> {
        Arc::new(Tensor::new(Dtype::U8, [1, bytes as u64], vec![7; bytes]))
    }

    #[test]
    fn what_is_not_asked_for_leaves_first() {
        let memo = Memo::new(3 * (ENTRY_BYTES + 100));
        for n in 0..3 {
            memo.insert(content(n), &output(100));
        }
        assert!(memo.get(&content(0)).is_some());
        memo.insert(content(3), &output(100));
        let kept = [0, 1, 2, 3].map(|n| memo.outputs.contains_key(&content(n)));
        assert_eq!(kept, [true, false, true, true]);
        assert_eq!(memo.bytes(), 3 * (ENTRY_BYTES + 100));
    }

    #[test]
    fn nothing_larger_than_the_bound_is_kept_and_nothing_is_counted_twice() {
        let memo = Memo::new(ENTRY_BYTES + 10);
        memo.insert(content(0), &output(11));
        assert_eq!(memo.bytes(), 0);
        memo.insert(content(1), &output(10));
        memo.insert(content(1), &output(10));
        assert_eq!(memo.bytes(), ENTRY_BYTES + 10);
        memo.remove(&content(1));
        memo.insert(content(2), &output(1));
        assert_eq!(memo.bytes(), ENTRY_BYTES + 1);
    }
}
