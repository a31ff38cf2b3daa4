//! Outputs by content: equal calls give equal bytes, so the second needs no device.

use hyperion_primitives::{B256, ModelId};

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
