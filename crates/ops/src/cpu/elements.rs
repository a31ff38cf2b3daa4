//! Operators that work element by element, as plain loops that a compiler turns into vectors.

use hyperion_primitives::limits::{HEAD_DIM_MAX, SAT};

use super::weights::TableRow;
use crate::{
    PoolMode, RopeShape,
    lanes::{Lanes, work},
    rope::{cos_sin, turn},
    round::{bit_length, inv_root, rshr, sat},
};

work! {
    /// [`add`].
    Add(lhs: &'a [i32], rhs: &'a [i32], out: &'a mut [i32]) -> (), Lanes, |l| add(l, lhs, rhs, out)
}

work! {
    /// [`add_to`].
    AddTo(out: &'a mut [i32], rhs: &'a [i32]) -> (), Lanes, |l| add_to(l, out, rhs)
}

work! {
    /// [`multiply`].
    Gate(gate: &'a [i32], up: &'a [i32], out: &'a mut [i32]) -> (), Lanes, |_l| multiply(gate, up, out)
}

work! {
    /// [`smooth`].
    Smooth(x: &'a [i32], factors: &'a [u16], out: &'a mut [i32]) -> (), Lanes, |_l| smooth(x, factors, out)
}

work! {
    /// A table row.
    Embed(row: TableRow<'a>, out: &'a mut [i32]) -> (), Lanes, |_l| table_row(row, out)
}

work! {
    /// A row and a table row.
    Position(row: TableRow<'a>, x: &'a [i32], learned: &'a mut [i32], out: &'a mut [i32]) -> (), Lanes,
    |l| {
        table_row(row, learned);
        add(l, x, learned, out);
    }
}

work! {
    /// [`rope`].
    Rope(shape: RopeShape, frequencies: &'a [u64], position: u32, x: &'a [i32], out: &'a mut [i32]) -> (), Lanes,
    |_l| rope(shape, frequencies, position, x, out)
}

work! {
    /// Adds a row to the sums of its columns.
    Sum(x: &'a [i32], sums: &'a mut [i64]) -> (), Lanes,
    |_l| {
        for (sum, x) in sums.iter_mut().zip(x) {
            // A context has 2^16 rows, so a sum stays below 2^46.
            *sum = sum.wrapping_add(i64::from(*x));
        }
    }
}

/// Saturating sum of two words within `+-SAT`, which cannot leave an `i32` before it saturates.
#[inline(always)]
pub(super) fn saturating_sum<L: Lanes>(l: L, lhs: L::Word, rhs: L::Word) -> L::Word {
    l.max(l.min(l.add(lhs, rhs), l.splat(SAT)), l.splat(-SAT))
}

/// Saturating sum, as [`crate::add::add`].
#[inline(always)]
fn add<L: Lanes>(l: L, lhs: &[i32], rhs: &[i32], out: &mut [i32]) {
    let words = lhs.chunks(L::WIDTH).zip(rhs.chunks(L::WIDTH)).zip(out.chunks_mut(L::WIDTH));
    for ((lhs, rhs), out) in words {
        l.store_some(saturating_sum(l, l.load_some(lhs), l.load_some(rhs)), out);
    }
}

/// Saturating sum in place.
#[inline(always)]
fn add_to<L: Lanes>(l: L, out: &mut [i32], rhs: &[i32]) {
    for (out, rhs) in out.chunks_mut(L::WIDTH).zip(rhs.chunks(L::WIDTH)) {
        l.store_some(saturating_sum(l, l.load_some(out), l.load_some(rhs)), out);
    }
}

/// Product, as [`crate::gate::gate`].
#[inline(always)]
fn multiply(gate: &[i32], up: &[i32], out: &mut [i32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        // Below 2^60, rounding term and all.
        *out = sat((i64::from(*gate) * i64::from(*up)).wrapping_add(1 << 15) >> 16);
    }
}

/// Product with Q14 factors, as [`crate::quantize::smooth`].
#[inline(always)]
fn smooth(x: &[i32], factors: &[u16], out: &mut [i32]) {
    for ((out, x), factor) in out.iter_mut().zip(x).zip(factors) {
        // Below 2^46.
        *out = sat((i64::from(*x) * i64::from(*factor)).wrapping_add(1 << 13) >> 14);
    }
}

/// A table row in Q16, as [`crate::embed::embed`].
#[inline(always)]
fn embed<C: Copy + Into<i32>>(codes: &[C], step: (u8, i8), out: &mut [i32]) {
    let (mantissa, shift) = (i32::from(step.0), i32::from(step.1) - 16);
    for (out, code) in out.iter_mut().zip(codes) {
        // |code * B| < 2^23.
        let product = (*code).into().wrapping_mul(mantissa);
        *out = if shift > 0 {
            product.wrapping_add(1 << (shift - 1)) >> shift
        } else {
            sat(i64::from(product) << -shift)
        };
    }
}

/// Turns the pairs of every head of a row, as [`crate::rope::rope`].
#[inline(always)]
fn rope(shape: RopeShape, frequencies: &[u64], position: u32, x: &[i32], out: &mut [i32]) {
    let head_dim = shape.head_dim as usize;
    let mut angles = [(0, 0); HEAD_DIM_MAX as usize / 2];
    let angles = &mut angles[..frequencies.len()];
    for (angle, frequency) in angles.iter_mut().zip(frequencies) {
        *angle = cos_sin(*frequency, position);
    }
    out.copy_from_slice(x);
    for head in out.chunks_exact_mut(head_dim) {
        for (j, angle) in (0..).zip(&*angles) {
            let (first, second) = shape.pair(j);
            let (first, second) = (first as usize, second as usize);
            (head[first], head[second]) = turn((head[first], head[second]), *angle);
        }
    }
}

#[inline(always)]
fn table_row(row: TableRow<'_>, out: &mut [i32]) {
    match row {
        TableRow::Bytes(codes, step) => embed(codes, step, out),
        TableRow::Halves(codes, step) => embed(codes, step, out),
    }
}

/// The rows of a sequence of `rows` rows that a mode sums.
pub(super) fn pooled(mode: PoolMode, rows: usize) -> core::ops::Range<usize> {
    match mode {
        PoolMode::Mean => 0..rows,
        PoolMode::First => 0..1,
        PoolMode::Last => rows - 1..rows,
    }
}

/// Means in Q16; `rows` is 1 for a single chosen row.
pub(super) fn pool_mean(rows: i64, sums: &[i64]) -> impl Iterator<Item = i32> {
    sums.iter().map(move |sum| sat((2 * sum + rows).div_euclid(2 * rows)))
}

/// The row of length one in Q15; `sums` is spoilt.
pub(super) fn pool_unit(sums: &mut [i64]) -> impl Iterator<Item = i16> {
    let peak = sums.iter().map(|sum| sum.unsigned_abs()).fold(1, u64::max);
    let drop = bit_length(peak).saturating_sub(24).cast_signed();
    let mut squares = 0;
    for sum in &mut *sums {
        *sum = rshr(*sum, drop);
        // |c| <= 2^24 and a row is 2^14 wide at most, so the squares stay below 2^62.
        squares += sum.unsigned_abs().pow(2);
    }
    let (reciprocal, k) = inv_root(squares.max(1));
    sums.iter().map(move |c| {
        let unit = rshr(c * i64::from(reciprocal), 16 + k / 2).clamp(-32_767, 32_767);
        i16::try_from(unit).expect("clamped on the line above")
    })
}
