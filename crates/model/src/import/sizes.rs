//! Sizes of decoders, checked against the operator set before a weight is read.

use hyperion_ops::{AttentionShape, constant::attention_multiplier};
use hyperion_primitives::limits::CONTEXT_MAX;

use super::ImportError;

/// Layers of a decoder at most; the deepest published ones have some 130.
const LAYERS_MAX: usize = 1024;

/// A size as the operator set counts; too large a one stays too large.
pub(super) fn small(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// Says that a configuration asks for what there is not.
pub(super) fn unsupported(
    key: &'static str,
    got: &dyn ToString,
    want: &'static str,
) -> ImportError {
    ImportError::Unsupported { key, got: got.to_string(), want }
}

/// Sizes that every decoder has, checked against the operator set before anything is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) vocab: usize,
    /// Positions, [`CONTEXT_MAX`] at most.
    pub(super) context: u32,
    /// Causal, with 15-bit attention weights, seeing all that came before.
    pub(super) attention: AttentionShape,
    /// `log2(e)/√head_dim`.
    pub(super) query_q30: u32,
}

/// Sizes as a configuration states them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stated {
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) vocab: usize,
    pub(super) positions: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Where it is not `hidden / heads`.
    pub(super) head_dim: Option<usize>,
}

impl Sizes {
    /// Checks what is stated.
    pub(super) fn new(stated: Stated) -> Result<Self, ImportError> {
        let Stated { hidden, inner, layers, vocab, positions, heads, kv_heads, head_dim } = stated;
        let within = |key, got: usize, max: u32, want| {
            let fits = (1..=max as usize).contains(&got);
            if fits { Ok(()) } else { Err(unsupported(key, &got, want)) }
        };
        use hyperion_primitives::limits::{DEPTH_MAX, VOCABULARY_MAX, WIDTH_MAX};
        within("hidden_size", hidden, WIDTH_MAX, "1 to 16,384 is supported")?;
        within("intermediate_size", inner, DEPTH_MAX, "1 to 131,071 is supported")?;
        within("num_hidden_layers", layers, small(LAYERS_MAX), "1 to 1,024 is supported")?;
        within("vocab_size", vocab, VOCABULARY_MAX, "1 to 262,144 is supported")?;
        within("max_position_embeddings", positions, u32::MAX, "1 to 4,294,967,295")?;
        let divides = heads > 0 && hidden.is_multiple_of(heads);
        let head_dim = head_dim.unwrap_or(if divides { hidden / heads } else { 0 });
        let attention = AttentionShape::new(small(heads), small(kv_heads), small(head_dim));
        let attention = attention.ok_or_else(|| {
            let got = format!("{heads}, num_key_value_heads {kv_heads}, head_dim {head_dim}");
            let want =
                "a multiple of num_key_value_heads, heads of 1 to 256 columns, 16,384 in all";
            unsupported("num_attention_heads", &got, want)
        })?;
        let query_q30 = attention_multiplier(attention.head_dim)
            .and_then(|multiplier| u32::try_from(multiplier).ok());
        let query_q30 = query_q30
            .ok_or_else(|| unsupported("head_dim", &head_dim, "heads of at least 2 columns"))?;
        Ok(Self {
            hidden,
            inner,
            layers,
            vocab,
            context: small(positions).min(CONTEXT_MAX),
            attention: attention.with_causal(0).with_p15(),
            query_q30,
        })
    }

    /// Columns of all query heads.
    pub(super) const fn query_width(&self) -> usize {
        self.attention.heads as usize * self.attention.head_dim as usize
    }

    /// Columns of all key heads, and of all value heads.
    pub(super) const fn kv_width(&self) -> usize {
        self.attention.kv_heads as usize * self.attention.head_dim as usize
    }
}
