//! Attends from rows of one query head to a packed head of keys and values.
//!
//! The same phases as the definition: scores and their top, exponentials and their sum, then block by block
//! weights, codes and weighed values. Everything between the products of a row stays in the first-level cache.

use alloc::vec::Vec;
use core::ops::Range;

use hyperion_primitives::limits::{HEAD_DIM_MAX, KEY_BLOCK, SAT};

use super::packed::{Head, KEYS, QUAD};
use crate::{
    cpu::Products,
    lanes::{Lanes, half, scale},
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
    weights: [i32; SPAN],
    codes: [[i8; SPAN]; 2],
    query: [i8; COLUMNS],
    pairs: [[i32; COLUMNS / 2]; 2],
    context: [i64; COLUMNS],
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
        Some(Self {
            scores,
            weights: [0; SPAN],
            codes: [[0; SPAN]; 2],
            query: [0; COLUMNS],
            pairs: [[0; COLUMNS / 2]; 2],
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

/// Attends from `R` rows; `first` is the absolute position of row 0 of the keys. Each `out` is `[head_dim]`.
#[inline(always)]
pub(crate) fn attend<K: Products, const R: usize>(
    k: K,
    (p15, first): (bool, usize),
    head: &Head,
    scratch: &mut Scratch,
    queries: &[Query<'_>; R],
    out: [&mut [i32]; R],
) {
    score(k, head, scratch, queries);
    for (row, (query, out)) in queries.iter().zip(out).enumerate() {
        let padded = head.rows.next_multiple_of(KEYS);
        let Scratch { scores, weights, codes, context, .. } = scratch;
        let scores = &mut scores[row * padded..][..padded];
        let sum = exponentials(k, scores, query.visible.clone());
        let sum_shift = bit_length(sum) - 16;
        let inverse = u32::try_from((1 << 31) / (sum >> sum_shift)).expect("2^16 at most");
        let mut blocks = Blocks { start: query.visible.start, end: query.visible.end, first };
        let block = Block { k, p15, head, scores, inverse, sum_shift };
        let whole = blocks.next().expect("a row sees a key");
        let Some(mut next) = blocks.next() else {
            block.values(whole, weights, codes, |column, y| out[column] = sat(y));
            continue;
        };
        block.values(whole, weights, codes, |column, y| context[column] = y);
        loop {
            block.values(next, weights, codes, |column, y| context[column] += y);
            match blocks.next() {
                Some(block) => next = block,
                None => break,
            }
        }
        for (out, sum) in out.iter_mut().zip(&context[..]) {
            *out = sat(*sum);
        }
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
                    for at in (0..KEYS).step_by(K::WIDTH) {
                        let m = k.mul(k.load(&m[at..]), mantissa);
                        let t = scale(k, k.load(&acc[row][at..]), m, half, shift);
                        k.store(t, &mut out[at..]);
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
fn exponentials<L: Lanes>(l: L, scores: &mut [i32], visible: Range<usize>) -> u64 {
    let least = l.splat(i32::MIN);
    let mut top = least;
    each_word::<L>(&visible, |at, from, to, whole| {
        let t = l.load(&scores[at..]);
        top = l.max(top, if whole { t } else { l.within(t, from, to, least) });
    });
    let top = l.splat(l.greatest(top));
    let (five, zero) = (l.splat(5), l.splat(0));
    // A lane collects 2^23 per word at most, so it is emptied every 128 words.
    let (mut sum, mut sums, mut words) = (0, zero, 0);
    each_word::<L>(&visible, |at, from, to, whole| {
        let below = l.sub(top, l.load(&scores[at..]));
        // A distance of 24 octaves or more shifts everything out.
        let octaves = l.add(l.shift_right(below, 8), five);
        let e = l.shift_right_each(l.lookup(&EXP2, below), octaves);
        let e = if whole { e } else { l.within(e, from, to, zero) };
        l.store(e, &mut scores[at..]);
        sums = l.add(sums, e);
        words += 1;
        if words % 128 == 0 {
            sum += l.total(sums);
            sums = zero;
        }
    });
    (sum + l.total(sums)).cast_unsigned()
}

/// Calls `f` with the place of each word that holds part of `range`, the part's bounds in the word, and
/// whether it is all of it.
#[inline(always)]
fn each_word<L: Lanes>(range: &Range<usize>, mut f: impl FnMut(usize, isize, isize, bool)) {
    let (start, end) = (range.start.cast_signed(), range.end.cast_signed());
    for at in (range.start / L::WIDTH * L::WIDTH..range.end).step_by(L::WIDTH) {
        let (from, to) = (start - at.cast_signed(), end - at.cast_signed());
        f(at, from, to, from <= 0 && to >= L::WIDTH.cast_signed());
    }
}

/// The blocks of absolute positions that a row sees, as rows.
struct Blocks {
    start: usize,
    end: usize,
    first: usize,
}

impl Iterator for Blocks {
    type Item = Range<usize>;

    #[inline(always)]
    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.start;
        let block = KEY_BLOCK as usize;
        let end = (self.first + start) / block * block + block - self.first;
        self.start = end.min(self.end);
        (start < self.end).then_some(start..self.start)
    }
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
    /// Hands out what the block adds to each column.
    #[inline(always)]
    fn values(
        self,
        rows: Range<usize>,
        weights: &mut [i32; SPAN],
        codes: &mut [[i8; SPAN]; 2],
        mut each: impl FnMut(usize, i64),
    ) {
        let Self { k, head, .. } = self;
        let start = rows.start / KEYS * KEYS;
        let end = rows.end.next_multiple_of(KEYS);
        let weights = &mut weights[..end - start];
        let (peak, exponent_max) = self.weigh(rows, start, weights);
        let quantizer = Quantizer::new(peak, KMIN);
        let [hi, lo] = codes.each_mut().map(|codes| &mut codes[..end - start]);
        if self.p15 {
            encode_fine(k, quantizer, weights, hi, lo);
        } else {
            encode(k, quantizer, weights, hi);
        }
        let mantissa = i64::from(quantizer.scale.mantissa);
        // Ap * G <= 255 * 2^16, so M is below 2^16.
        let multiplier = rshr(mantissa * i64::from(self.inverse), 8);
        let multiplier = u32::try_from(multiplier).expect("16 bits");
        let exponents = i32::from(quantizer.scale.exponent) + exponent_max;
        let shift = 23 + self.sum_shift.cast_signed() - exponents;

        let values = head.values(start / QUAD, end / QUAD);
        let mut acc = [[0; COLUMNS]; 2];
        let width = head.value_width();
        k.values(hi.as_chunks().0, values, &mut acc[0][..width]);
        if self.p15 {
            k.values_signed(lo.as_chunks().0, values, &mut acc[1][..width]);
        }
        let high = Requantizer::new(fit(multiplier, shift));
        let low = Requantizer::new(fit(multiplier, shift + 7));
        let mut word = [[0; 16]; 2];
        for at in (0..head.head_dim).step_by(K::WIDTH) {
            let columns = (head.head_dim - at).min(K::WIDTH);
            high.word(k, &acc[0][at..], &mut word[0]);
            if self.p15 {
                low.word(k, &acc[1][at..], &mut word[1]);
            }
            let sums = word[0].iter().zip(&word[1]).take(columns);
            for (column, (high, low)) in sums.enumerate() {
                each(at + column, i64::from(*high) + i64::from(*low));
            }
        }
    }

    /// Writes `w` of the keys from `start` on, 0 for those not in `rows`; the largest, and `kmax`.
    #[inline(always)]
    fn weigh(self, rows: Range<usize>, start: usize, weights: &mut [i32]) -> (u32, i32) {
        let Self { k, head, scores, .. } = self;
        let (exponents, mantissas) = (&head.value_steps.exponents, &head.value_steps.mantissas);
        let least = k.splat(i32::MIN);
        let mut greatest = least;
        each_word::<K>(&rows, |at, from, to, whole| {
            let exponent = k.load(&exponents[at..]);
            let exponent = if whole { exponent } else { k.within(exponent, from, to, least) };
            greatest = k.max(greatest, exponent);
        });
        let exponent_max = k.greatest(greatest);
        let (top, zero) = (k.splat(exponent_max), k.splat(0));
        let mut peak = k.splat(1);
        let (from, to) = (rows.start.cast_signed(), rows.end.cast_signed());
        for (i, out) in weights.chunks_exact_mut(K::WIDTH).enumerate() {
            let at = start + i * K::WIDTH;
            // e <= 2^23 and A <= 255, so a weight has 31 bits; one shifted by 31 or more is 0.
            let w = k.mul(k.load(&scores[at..]), k.load(&mantissas[at..]));
            let w = k.shift_right_each(w, k.sub(top, k.load(&exponents[at..])));
            let (from, to) = (from - at.cast_signed(), to - at.cast_signed());
            let whole = from <= 0 && to >= K::WIDTH.cast_signed();
            let w = if whole { w } else { k.within(w, from, to, zero) };
            peak = k.max(peak, w);
            k.store(w, out);
        }
        (k.greatest(peak).unsigned_abs(), exponent_max)
    }
}

/// Multiplier and shift of a row's columns, and whether a word of them can be requantized at once.
#[derive(Clone, Copy)]
struct Requantizer {
    multiplier: u32,
    shift: i32,
    at_once: Option<u32>,
}

impl Requantizer {
    #[inline(always)]
    fn new((multiplier, shift): (u32, i32)) -> Self {
        // A block's sum is below 2^22.
        let at_once = u32::try_from(shift).ok().filter(|shift| {
            *shift > 0 && (u64::from(multiplier) << 22 >> shift) < u64::from(SAT.unsigned_abs())
        });
        Self { multiplier, shift, at_once }
    }

    #[inline(always)]
    fn word<L: Lanes>(self, l: L, acc: &[i32], out: &mut [i32; 16]) {
        match self.at_once {
            Some(shift) => {
                let m = l.splat(self.multiplier.cast_signed());
                l.store(scale(l, l.load(acc), m, half(l, shift), shift), out);
            }
            None => {
                for (out, acc) in out.iter_mut().zip(&acc[..L::WIDTH]) {
                    *out = req(*acc, self.multiplier, self.shift);
                }
            }
        }
    }
}
