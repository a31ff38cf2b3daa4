//! Exact attention: two passes, an integer row maximum, no rescaled partial sums.
//!
//! ```text
//! (Q, Aq, kq)  = quantize(q, -4);  per key (K_j, Ak_j, kk_j) = quantize(k_j, -4)
//!                                  per value (V_j, Av_j, kv_j) = quantize(v_j, -7)
//! t_j = req(sum over c of Q_c * K_jc, Aq * Ak_j, 24 - kq - kk_j)         1/256 of an octave
//! with a cap, in octaves: t_j = rshr(softcap(clamp(t_j, +-2^21) * 2^8, cap), 8)
//! top = max t_j;  d_j = top - t_j;  e_j = 2^(-d_j / 256) in Q23, rounded down
//! Z = sum e_j;  zs = bl(Z) - 16;  G = floor(2^31 / (Z >> zs))             2^15..2^16
//! for each block of 256 absolute positions that holds visible keys, over its visible keys:
//!   kmax = max kv_j;  w_j = (e_j * Av_j) >> min(kmax - kv_j, 31)                < 2^31
//!   (P, Ap, kp) = quantize(w, -7);  M = rshr(Ap * G, 8);  s = 23 + zs - kp - kmax
//!   y_c = req(sum over j of P_j * V_jc, fit(M, s))
//!   p15: req(sum hi * V, fit(M, s)) + req(sum lo * V, fit(M, s + 7))
//! ctx_c = sat(sum over blocks of y_c)
//! ```
//!
//! Row `i` may see every key, or `j <= i` (causal), or `i - window < j <= i`. Everything about a row is
//! taken over its visible keys only: a maximum over the whole sequence would let the future leak into the
//! row and make decoding differ from prefill. The query's projection carries `log2(e) / sqrt(head_dim)`,
//! so no constant stands here. The value's scale is folded into `w`, which keeps the second product a
//! product of bytes and lets a sink, whose value is small, cost little of the range.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use hyperion_primitives::limits::{HEAD_DIM_MAX, KEY_BLOCK, WIDTH_MAX};

use crate::{
    Cap,
    gemm::dot,
    quantize::{KMIN, KMIN_SCORE, RowScale, quantize, quantize_fine, split},
    round::{bit_length, fit, req, rshr, sat},
    table::exp2_neg,
};

#[cfg(all(feature = "std", target_arch = "x86_64"))]
pub(crate) mod avx2;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
pub(crate) mod avx512;
#[cfg(feature = "std")]
pub(crate) mod kernel;
#[cfg(feature = "std")]
pub(crate) mod packed;
#[cfg(feature = "std")]
pub(crate) mod portable;

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
    /// What scores are softly kept within, in octaves.
    pub cap: Option<Cap>,
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
            cap: None,
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

    /// The same heads with scores softly kept within a cap in octaves.
    #[must_use]
    pub const fn with_cap(self, cap: Cap) -> Self {
        Self { cap: Some(cap), ..self }
    }

    /// Absolute positions that the row at `position` sees, of the keys at positions `keys`.
    pub const fn visible(self, position: u32, keys: Range<u32>) -> Range<u32> {
        let mut visible = keys;
        if self.causal {
            if visible.end > position {
                visible.end = position + 1;
            }
            let behind = position.saturating_sub(visible.start);
            if self.window > 0 && behind >= self.window {
                visible.start = position + 1 - self.window;
            }
        }
        visible
    }
}

/// Keys and values of one sequence as a cache holds them: quantized once per row and head, append-only.
///
/// The rows stand at absolute positions `first`, `first + 1`, and so on; keys come after `rope`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValues {
    kv_heads: usize,
    head_dim: usize,
    first: u32,
    keys: Vec<CodeRows>,
    values: Vec<CodeRows>,
}

/// Quantized rows of one head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct CodeRows {
    codes: Vec<i8>,
    scales: Vec<RowScale>,
}

impl CodeRows {
    fn push(&mut self, x: &[i32], kmin: i32) {
        let start = self.codes.len();
        self.codes.resize(start + x.len(), 0);
        self.scales.push(quantize(x, kmin, &mut self.codes[start..]));
    }

    fn push_codes(&mut self, (codes, scale): (&[i8], RowScale)) {
        self.codes.extend_from_slice(codes);
        self.scales.push(scale);
    }

    fn row(&self, row: usize, width: usize) -> (&[i8], RowScale) {
        (&self.codes[row * width..][..width], self.scales[row])
    }
}

impl KeyValues {
    /// No rows yet; the first to come stands at absolute position `first`.
    pub fn new(shape: AttentionShape, first: u32) -> Self {
        let kv_heads = shape.kv_heads as usize;
        Self {
            kv_heads,
            head_dim: shape.head_dim as usize,
            first,
            keys: vec![CodeRows::default(); kv_heads],
            values: vec![CodeRows::default(); kv_heads],
        }
    }

    /// Appends rows `[rows, kv_heads * head_dim]` of keys and of values, Q16 within `+-SAT`.
    ///
    /// # Panics
    ///
    /// When the slices are not equally many whole rows.
    pub fn append(&mut self, k: &[i32], v: &[i32]) {
        let width = self.kv_heads * self.head_dim;
        assert_eq!(k.len() % width, 0, "keys are [rows, kv_heads * head_dim]");
        assert_eq!(k.len(), v.len(), "as many values as keys");
        for (k, v) in k.chunks_exact(width).zip(v.chunks_exact(width)) {
            for head in 0..self.kv_heads {
                let columns = head * self.head_dim..(head + 1) * self.head_dim;
                self.keys[head].push(&k[columns.clone()], KMIN_SCORE);
                self.values[head].push(&v[columns], KMIN);
            }
        }
    }

    /// Appends to one head a key and a value that are quantized already.
    pub(crate) fn push(&mut self, head: usize, key: (&[i8], RowScale), value: (&[i8], RowScale)) {
        self.keys[head].push_codes(key);
        self.values[head].push_codes(value);
    }

    /// Absolute positions of the rows.
    pub fn positions(&self) -> Range<u32> {
        let rows =
            u32::try_from(self.keys[0].scales.len()).expect("a context has 2^16 rows at most");
        self.first..self.first + rows
    }
}

/// Attends from rows at absolute positions `position`, `position + 1`, … to the rows of a cache.
///
/// | argument | shape, row-major | range |
/// |---|---|---|
/// | `q` | `[rows, heads * head_dim]` | Q16 within `+-SAT` |
/// | `out` | `[rows, heads * head_dim]` | Q16 within `+-SAT` |
///
/// # Panics
///
/// When a slice is not of its shape, or a row sees no key.
pub fn attention(
    shape: AttentionShape,
    cache: &KeyValues,
    position: u32,
    q: &[i32],
    out: &mut [i32],
) {
    let (heads, head_dim) = (shape.heads as usize, shape.head_dim as usize);
    assert_eq!(q.len() % (heads * head_dim), 0, "q is [rows, heads * head_dim]");
    assert_eq!(q.len(), out.len(), "one element per element of q");
    let rows = q.chunks_exact(heads * head_dim).zip(out.chunks_exact_mut(heads * head_dim));
    for ((q, out), position) in rows.zip(position..) {
        let visible = shape.visible(position, cache.positions());
        for head in 0..heads {
            let columns = head * head_dim..(head + 1) * head_dim;
            let kv_head = head * cache.kv_heads / heads;
            let row = attend(shape, cache, kv_head, visible.clone(), &q[columns.clone()]);
            out[columns].copy_from_slice(&row.context);
        }
    }
}

/// Everything that attention computes for one row and head, for whoever checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attended {
    /// `t`, one per visible key, in 1/256 of an octave.
    pub scores: Vec<i32>,
    /// `e`, `2^23` at the top.
    pub exponentials: Vec<u32>,
    /// `Z`, `2^23` to `2^39`.
    pub sum: u64,
    /// `G`, `2^15` to `2^16`.
    pub inverse: u32,
    /// Blocks of 256 absolute positions that hold visible keys, ascending.
    pub blocks: Vec<Block>,
    /// `ctx`, Q16.
    pub context: Vec<i32>,
}

/// What one block of 256 absolute key positions adds to a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// `w`, one per visible key of the block.
    pub weights: Vec<i32>,
    /// `P`: 0 to 127, or to 16,256 with `p15`.
    pub codes: Vec<i16>,
    /// `Ap` and `kp`.
    pub scale: RowScale,
    /// `kmax`, the largest exponent among the values.
    pub exponent_max: i8,
    /// `M`, below `2^16`.
    pub multiplier: u32,
    /// `s`, before [`fit`].
    pub shift: i32,
}

/// Attends from one row of one query head to the visible rows of one head of a cache.
///
/// `q` is `[head_dim]`, Q16 within `+-SAT`; `visible` are absolute positions, one at least.
///
/// # Panics
///
/// When `visible` is empty or not within the cache.
pub fn attend(
    shape: AttentionShape,
    cache: &KeyValues,
    kv_head: usize,
    visible: Range<u32>,
    q: &[i32],
) -> Attended {
    let (keys, values) = (&cache.keys[kv_head], &cache.values[kv_head]);
    let row = |position: u32| (position - cache.first) as usize;

    let mut query = vec![0; q.len()];
    let scale = quantize(q, KMIN_SCORE, &mut query);
    let scores: Vec<i32> = visible
        .clone()
        .map(|j| {
            let (key, key_scale) = keys.row(row(j), cache.head_dim);
            // |acc| < 2^22; both exponents are -4 to 16, so the shift lies in -8..=32.
            let shift = 24 - i32::from(scale.exponent) - i32::from(key_scale.exponent);
            let score = req(dot(&query, key), product(scale, key_scale), shift);
            shape.cap.map_or(score, |cap| cap.apply_score(score))
        })
        .collect();

    let top = *scores.iter().max().expect("a row sees itself at least");
    let exponentials: Vec<u32> =
        scores.iter().map(|t| exp2_neg((top - t).cast_unsigned(), 5)).collect();
    let sum: u64 = exponentials.iter().map(|e| u64::from(*e)).sum();
    let sum_shift = bit_length(sum) - 16;
    let inverse = u32::try_from((1 << 31) / (sum >> sum_shift)).expect("2^16 at most");

    let mut blocks = Vec::new();
    let mut context = vec![0_i64; q.len()];
    let mut start = visible.start;
    while start < visible.end {
        let end = visible.end.min((start / KEY_BLOCK + 1) * KEY_BLOCK);
        let seen = &exponentials[(start - visible.start) as usize..(end - visible.start) as usize];
        let rows = row(start)..row(end);
        let block = Block::new(shape.p15, seen, &values.scales[rows.clone()], inverse, sum_shift);
        let codes = &values.codes[rows.start * cache.head_dim..rows.end * cache.head_dim];
        for (column, y) in context.iter_mut().enumerate() {
            *y += block.column(shape.p15, codes.chunks_exact(cache.head_dim).map(|v| v[column]));
        }
        blocks.push(block);
        start = end;
    }
    let context = context.into_iter().map(sat).collect();
    Attended { scores, exponentials, sum, inverse, blocks, context }
}

/// `Aq * Ak`.
fn product(query: RowScale, key: RowScale) -> u32 {
    u32::from(query.mantissa) * u32::from(key.mantissa)
}

impl Block {
    /// Weighs the values of one block: `inverse` is `G`, `sum_shift` is `zs`.
    fn new(
        p15: bool,
        exponentials: &[u32],
        values: &[RowScale],
        inverse: u32,
        sum_shift: u32,
    ) -> Self {
        let exponent_max = values.iter().map(|v| v.exponent).max().expect("a block holds a key");
        let weights: Vec<i32> = exponentials
            .iter()
            .zip(values)
            .map(|(e, v)| {
                let shift = (i32::from(exponent_max) - i32::from(v.exponent)).min(31);
                // e <= 2^23 and A <= 255.
                i32::try_from((e * u32::from(v.mantissa)) >> shift).expect("below 2^31")
            })
            .collect();
        let mut codes = vec![0_i16; weights.len()];
        let scale = if p15 {
            quantize_fine(&weights, KMIN, &mut codes)
        } else {
            let mut short = vec![0_i8; weights.len()];
            let scale = quantize(&weights, KMIN, &mut short);
            codes.iter_mut().zip(short).for_each(|(code, short)| *code = short.into());
            scale
        };
        // Ap * G <= 255 * 2^16, so M is below 2^16.
        let multiplier = rshr(i64::from(scale.mantissa) * i64::from(inverse), 8);
        // zs is 8 to 24 and both exponents -7 to 17, so the shift lies in -3..=61.
        let shift =
            23 + sum_shift.cast_signed() - i32::from(scale.exponent) - i32::from(exponent_max);
        Self {
            weights,
            codes,
            scale,
            exponent_max,
            multiplier: u32::try_from(multiplier).expect("16 bits"),
            shift,
        }
    }

    /// `y` of one column, whose value codes are `column`; each product sums to less than `2^22`.
    fn column(&self, p15: bool, column: impl Iterator<Item = i8>) -> i64 {
        let (mut high, mut low) = (0, 0);
        for (code, value) in self.codes.iter().zip(column) {
            let value = i32::from(value);
            if p15 {
                let (hi, lo) = split(*code);
                high += i32::from(hi) * value;
                low += i32::from(lo) * value;
            } else {
                high += i32::from(*code) * value;
            }
        }
        let half = |acc, shift| {
            let (multiplier, shift) = fit(self.multiplier, shift);
            i64::from(req(acc, multiplier, shift))
        };
        // Without p15 the low sum is 0, and so is its part.
        half(high, self.shift) + half(low, self.shift + 7)
    }
}
