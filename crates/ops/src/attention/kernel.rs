//! Attends from rows of one query head to a packed head of keys and values.
//!
//! The same phases as the definition: scores and their top, exponentials and their sum, then block by block
//! weights, codes and weighed values. Everything between the products of a row stays in the first-level cache.

use alloc::vec::Vec;
use core::ops::Range;

use hyperion_primitives::limits::{HEAD_DIM_MAX, KEY_BLOCK, SAT};

use super::packed::{Head, KEYS, QUAD};
use crate::{
    Cap,
    cpu::Products,
    lanes::{Lanes, Work, half, scale},
    quantize::{
        KMIN, KMIN_SCORE, Quantizer, RowScale,
        kernel::{encode, encode_fine, quantize},
    },
    round::{bit_length, fit, req, rshr, sat},
    table::EXP2,
};

/// Keys of a block, in whole groups of 32 on either side.
const SPAN: usize = KEY_BLOCK as usize + 2 * KEYS;
const COLUMNS: usize = HEAD_DIM_MAX as usize;

/// Room for the rows that are attended from together.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Scores, then exponentials, one row of the padded keys per query.
    scores: Vec<i32>,
    query: [i8; COLUMNS],
    pairs: [[i32; COLUMNS / 2]; 2],
    block: BlockScratch,
    context: [i64; COLUMNS],
}

/// Room for one block of one row.
#[derive(Debug)]
struct BlockScratch {
    weights: [i32; SPAN],
    codes: [[i8; SPAN]; 2],
    sums: [[i32; COLUMNS]; 2],
}

impl Scratch {
    /// Bytes that room for sequences of `rows` rows takes.
    pub(crate) fn bytes(rows: usize) -> u64 {
        (2 * rows.next_multiple_of(KEYS) * size_of::<i32>() + size_of::<Self>()) as u64
    }

    /// Room for sequences of `rows` rows; `None` when there is no memory.
    pub(crate) fn new(rows: usize) -> Option<Self> {
        let len = 2 * rows.next_multiple_of(KEYS);
        let mut scores = Vec::new();
        scores.try_reserve_exact(len).ok()?;
        scores.resize(len, 0);
        let sums = [[0; COLUMNS]; 2];
        Some(Self {
            scores,
            query: [0; COLUMNS],
            pairs: [[0; COLUMNS / 2]; 2],
            block: BlockScratch { weights: [0; SPAN], codes: [[0; SPAN]; 2], sums },
            context: [0; COLUMNS],
        })
    }
}

/// One row of a query head.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    /// Q16, `[head_dim]`.
    pub(crate) q: &'a [i32],
    /// Keys it sees, one at least, by their row.
    pub(crate) visible: Range<usize>,
}

/// Attends from `R` rows of a head.
#[derive(Debug)]
pub(crate) struct Attend<'a, const R: usize> {
    /// Whether attention weights have 15 bits.
    pub(crate) p15: bool,
    /// What scores are softly kept within, in octaves.
    pub(crate) cap: Option<Cap>,
    /// Absolute position of the first key.
    pub(crate) first: usize,
    pub(crate) head: &'a Head,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) queries: [Query<'a>; R],
    /// `[head_dim]` each.
    pub(crate) out: [&'a mut [i32]; R],
}

impl<K: Products, const R: usize> Work<K> for Attend<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run(self, k: K) {
        let Self { p15, cap, first, head, scratch, queries, out } = self;
        score(k, head, scratch, &queries);
        let padded = head.rows.next_multiple_of(KEYS);
        let rows = scratch.scores.chunks_exact_mut(padded.max(1));
        for ((query, out), scores) in queries.iter().zip(out).zip(rows) {
            if let Some(cap) = cap {
                scores[query.visible.clone()].iter_mut().for_each(|t| *t = cap.apply_score(*t));
            }
            let sum = exponentials(k, scores, &query.visible);
            let sum_shift = bit_length(sum) - 16;
            let inverse = u32::try_from((1 << 31) / (sum >> sum_shift)).expect("2^16 at most");
            let block = Block { k, p15, head, scores, inverse, sum_shift };
            let Range { mut start, end } = query.visible;
            let stop = block_end(first, start).min(end);
            block.sum(start..stop, &mut scratch.block);
            if stop == end && !p15 {
                // One block: its sums, saturated already, are the result.
                out.copy_from_slice(&scratch.block.sums[0][..head.head_dim]);
                continue;
            }
            let context = &mut scratch.context[..head.head_dim];
            context.fill(0);
            collect(p15, &scratch.block, context);
            start = stop;
            while start < end {
                let stop = block_end(first, start).min(end);
                block.sum(start..stop, &mut scratch.block);
                collect(p15, &scratch.block, context);
                start = stop;
            }
            for (out, sum) in out.iter_mut().zip(&*context) {
                *out = sat(*sum);
            }
        }
    }
}

/// The row after `row` at which the next block of absolute positions starts.
#[inline(always)]
fn block_end(first: usize, row: usize) -> usize {
    let block = KEY_BLOCK as usize;
    (first + row) / block * block + block - first
}

/// Adds what a block adds to each column.
#[inline(always)]
fn collect(p15: bool, block: &BlockScratch, context: &mut [i64]) {
    let [high, low] = &block.sums;
    for (column, context) in context.iter_mut().enumerate() {
        let low = if p15 { i64::from(low[column]) } else { 0 };
        *context += i64::from(high[column]) + low;
    }
}

/// Writes the scores of all queries with the panels that one of them sees.
#[inline(always)]
fn score<K: Products, const R: usize>(
    k: K,
    head: &Head,
    scratch: &mut Scratch,
    queries: &[Query<'_>; R],
) {
    let padded = head.rows.next_multiple_of(KEYS);
    let mut steps = [RowScale::default(); R];
    let pairs = head.head_dim.div_ceil(2);
    for (row, query) in queries.iter().enumerate() {
        let codes = &mut scratch.query[..head.head_dim.next_multiple_of(32)];
        steps[row] = quantize(k, query.q, KMIN_SCORE, codes);
        for (pair, codes) in scratch.pairs[row].iter_mut().zip(codes.as_chunks::<2>().0) {
            *pair = i32::from(codes[0]) & 0xffff | i32::from(codes[1]) << 16;
        }
    }
    let shifts: [Option<u32>; R] = steps.map(|step| score_shift(head, step));
    let start = queries.iter().map(|query| query.visible.start).min().unwrap_or(0) / KEYS;
    let end = queries.iter().map(|query| query.visible.end).max().unwrap_or(0).div_ceil(KEYS);
    let packed: [&[i32]; R] = core::array::from_fn(|row| &scratch.pairs[row][..pairs]);
    let mut acc = [[0; KEYS]; R];
    for panel in start..end {
        k.scores(packed, head.keys(panel), &mut acc);
        for row in 0..R {
            let out = &mut scratch.scores[row * padded + panel * KEYS..][..KEYS];
            match shifts[row] {
                Some(shift) => {
                    let m = &head.key_multipliers[panel * KEYS..][..KEYS];
                    let (mantissa, half) = (k.splat(steps[row].mantissa.into()), half(k, shift));
                    let words = acc[row].chunks_exact(K::WIDTH).zip(m.chunks_exact(K::WIDTH));
                    for (out, (acc, m)) in out.chunks_exact_mut(K::WIDTH).zip(words) {
                        let m = k.mul(k.load(m), mantissa);
                        k.store(scale(k, k.load(acc), m, half, shift), out);
                    }
                }
                None => score_each(head, steps[row], panel, &acc[row], out),
            }
        }
    }
}

/// The shift that scores of a query share, if one exists and no score can saturate.
fn score_shift(head: &Head, query: RowScale) -> Option<u32> {
    let (least, greatest) = head.key_exponents;
    let shift = u32::try_from(24 - i32::from(query.exponent) - least).ok()?;
    if greatest - least > 15 || !(1..=32).contains(&shift) {
        return None;
    }
    // |acc| <= 127^2 * 256 < 2^22 and the multiplier is below 2^31.
    let acc = 127 * 127 * head.head_dim as u64;
    let multiplier = (u64::from(query.mantissa) * 255) << (greatest - least);
    ((acc * multiplier) >> shift < u64::from(SAT.unsigned_abs())).then_some(shift)
}

/// Scores by the definition, for steps too far apart.
#[cold]
#[inline(never)]
fn score_each(head: &Head, query: RowScale, panel: usize, acc: &[i32], out: &mut [i32]) {
    let rows = panel * KEYS..head.rows.min((panel + 1) * KEYS);
    for ((out, acc), row) in out.iter_mut().zip(acc).zip(rows) {
        let mantissa = head.key_steps.mantissas[row].cast_unsigned();
        let shift = 24 - i32::from(query.exponent) - head.key_steps.exponents[row];
        *out = req(*acc, u32::from(query.mantissa) * mantissa, shift);
    }
}

/// Replaces scores by exponentials, `2^23` at the top, and returns their sum; only visible ones count.
#[inline(always)]
fn exponentials<L: Lanes>(l: L, scores: &mut [i32], visible: &Range<usize>) -> u64 {
    let start = visible.start / L::WIDTH * L::WIDTH;
    let scores = &mut scores[start..visible.end.next_multiple_of(L::WIDTH)];
    let least = l.splat(i32::MIN);
    let mut top = least;
    for (word, scores) in scores.chunks_exact(L::WIDTH).enumerate() {
        top = l.max(top, only(l, l.load(scores), start + word * L::WIDTH, visible, least));
    }
    let top = l.splat(l.greatest(top));
    let (five, zero) = (l.splat(5), l.splat(0));
    // A lane collects 2^23 per word at most, so it is emptied every 128 words.
    let (mut sum, mut at) = (0, start);
    for scores in scores.chunks_mut(128 * L::WIDTH) {
        let mut sums = zero;
        for scores in scores.chunks_exact_mut(L::WIDTH) {
            let below = l.sub(top, l.load(scores));
            // A distance of 24 octaves or more shifts everything out.
            let octaves = l.add(l.shift_right(below, 8), five);
            let e = l.shift_right_each(l.lookup(&EXP2, below), octaves);
            let e = only(l, e, at, visible, zero);
            l.store(e, scores);
            sums = l.add(sums, e);
            at += L::WIDTH;
        }
        sum += l.total(sums);
    }
    sum.cast_unsigned()
}

/// The lanes of the word at `at` that are in `rows`, and `other` elsewhere.
#[inline(always)]
fn only<L: Lanes>(l: L, x: L::Word, at: usize, rows: &Range<usize>, other: L::Word) -> L::Word {
    if rows.start <= at && at + L::WIDTH <= rows.end {
        return x;
    }
    let (from, to) = (rows.start.cast_signed(), rows.end.cast_signed());
    l.within(x, from - at.cast_signed(), to - at.cast_signed(), other)
}

/// What the blocks of a row share.
#[derive(Clone, Copy)]
struct Block<'a, K> {
    k: K,
    p15: bool,
    head: &'a Head,
    scores: &'a [i32],
    inverse: u32,
    sum_shift: u32,
}

impl<K: Products> Block<'_, K> {
    /// Leaves what the block adds to each column in the scratch: high halves, or all, and low halves.
    #[inline(always)]
    fn sum(self, rows: Range<usize>, scratch: &mut BlockScratch) {
        let Self { k, head, .. } = self;
        let start = rows.start / KEYS * KEYS;
        let end = rows.end.next_multiple_of(KEYS);
        let BlockScratch { weights, codes: [hi, lo], sums } = scratch;
        let weights = &mut weights[..end - start];
        let (peak, exponent_max) = self.weigh(&rows, start, weights);
        let quantizer = Quantizer::new(peak, KMIN);
        let (hi, lo) = (&mut hi[..end - start], &mut lo[..end - start]);
        let mantissa = i64::from(quantizer.scale.mantissa);
        // Ap * G <= 255 * 2^16, so M is below 2^16.
        let multiplier = rshr(mantissa * i64::from(self.inverse), 8);
        let multiplier = u32::try_from(multiplier).expect("16 bits");
        let exponents = i32::from(quantizer.scale.exponent) + exponent_max;
        let shift = 23 + self.sum_shift.cast_signed() - exponents;

        let values = head.values(start / QUAD, end / QUAD);
        let [high_sums, low_sums] = sums.each_mut().map(|sums| &mut sums[..head.value_width()]);
        high_sums.fill(0);
        if self.p15 {
            encode_fine(k, quantizer, weights, [&mut *hi, &mut *lo]);
            low_sums.fill(0);
            k.values_signed(lo.as_chunks().0, values, low_sums);
            requantize(k, fit(multiplier, shift + 7), low_sums);
        } else {
            encode(k, quantizer, weights, hi);
        }
        k.values(hi.as_chunks().0, values, high_sums);
        requantize(k, fit(multiplier, shift), high_sums);
    }

    /// Writes `w` of the keys from `start` on, 0 for those not in `rows`; the largest, and `kmax`.
    #[inline(always)]
    fn weigh(self, rows: &Range<usize>, start: usize, weights: &mut [i32]) -> (u32, i32) {
        let Self { k, head, scores, .. } = self;
        let place = start..start + weights.len();
        let exponents = &head.value_steps.exponents[place.clone()];
        let mantissas = &head.value_steps.mantissas[place.clone()];
        let least = k.splat(i32::MIN);
        let (mut greatest, mut at) = (least, start);
        for exponents in exponents.chunks_exact(K::WIDTH) {
            greatest = k.max(greatest, only(k, k.load(exponents), at, rows, least));
            at += K::WIDTH;
        }
        let exponent_max = k.greatest(greatest);
        let (top, zero) = (k.splat(exponent_max), k.splat(0));
        let (mut peak, mut at) = (k.splat(1), start);
        let steps = mantissas.chunks_exact(K::WIDTH).zip(exponents.chunks_exact(K::WIDTH));
        let words = scores[place].chunks_exact(K::WIDTH).zip(steps);
        for (out, (e, (mantissas, exponents))) in weights.chunks_exact_mut(K::WIDTH).zip(words) {
            // e <= 2^23 and A <= 255, so a weight has 31 bits; one shifted by 31 or more is 0.
            let w = k.mul(k.load(e), k.load(mantissas));
            let w = k.shift_right_each(w, k.sub(top, k.load(exponents)));
            let w = only(k, w, at, rows, zero);
            peak = k.max(peak, w);
            k.store(w, out);
            at += K::WIDTH;
        }
        (k.greatest(peak).unsigned_abs(), exponent_max)
    }
}

/// Requantizes a block's sums, each below `2^22`, with one multiplier and shift; whole words.
#[inline(always)]
fn requantize<L: Lanes>(l: L, (multiplier, shift): (u32, i32), sums: &mut [i32]) {
    let fits = |shift: &u32| {
        *shift > 0 && ((u64::from(multiplier) << 22) >> shift) < u64::from(SAT.unsigned_abs())
    };
    let Some(shift) = u32::try_from(shift).ok().filter(fits) else {
        return sums.iter_mut().for_each(|sum| *sum = req(*sum, multiplier, shift));
    };
    let (m, half) = (l.splat(multiplier.cast_signed()), half(l, shift));
    for sums in sums.chunks_exact_mut(L::WIDTH) {
        l.store(scale(l, l.load(sums), m, half, shift), sums);
    }
}
