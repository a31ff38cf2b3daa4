//! Exact attention.

use hyperion_primitives::limits::{HEAD_DIM_MAX, WIDTH_MAX};

/// Heads and flags of an attention step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct AttentionShape {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; query head `h` reads head `h * kv_heads / heads`.
    pub kv_heads: u32,
    /// Columns of a head.
    pub head_dim: u32,
    /// Whether a row sees no later row.
    pub causal: bool,
    /// Whether attention weights are quantized to 15 bits instead of 8 (twice the products).
    pub p15: bool,
    /// A causal row sees itself and the `window - 1` rows before it; 0: all before it.
    pub window: u32,
}

impl AttentionShape {
    /// Attention of every row to every row, with 8-bit attention weights.
    ///
    /// `None` when a size is 0, `heads` is no multiple of `kv_heads`, a head is wider than
    /// [`HEAD_DIM_MAX`] or a row wider than [`WIDTH_MAX`].
    pub fn new(heads: u32, kv_heads: u32, head_dim: u32) -> Option<Self> {
        let groups = kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads);
        let head = (1..=HEAD_DIM_MAX).contains(&head_dim);
        let row = heads <= WIDTH_MAX && heads * head_dim.min(WIDTH_MAX) <= WIDTH_MAX;
        (groups && head && row).then_some(Self {
            heads,
            kv_heads,
            head_dim,
            causal: false,
            p15: false,
            window: 0,
        })
    }

    /// The same heads, each row seeing itself and rows before it: `window` in all, or every one if 0.
    #[must_use]
    pub const fn with_causal(self, window: u32) -> Self {
        Self { causal: true, window, ..self }
    }

    /// The same heads with 15-bit attention weights.
    #[must_use]
    pub const fn with_p15(self) -> Self {
        Self { p15: true, ..self }
    }
}
