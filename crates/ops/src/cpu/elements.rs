//! Operators that work element by element, as plain loops that a compiler turns into vectors.

use hyperion_primitives::limits::{HEAD_DIM_MAX, SAT};

use crate::{
    PoolMode, RopeShape,
    rope::{cos_sin, turn},
    round::{bit_length, inv_root, rshr, sat},
};

/// Saturating sum, as [`crate::add::add`].
#[inline(always)]
pub(super) fn add(lhs: &[i32], rhs: &[i32], out: &mut [i32]) {
    for ((out, lhs), rhs) in out.iter_mut().zip(lhs).zip(rhs) {
        *out = sum(*lhs, *rhs);
    }
}

/// Saturating sum in place.
#[inline(always)]
pub(super) fn add_to(out: &mut [i32], rhs: &[i32]) {
    for (out, rhs) in out.iter_mut().zip(rhs) {
        *out = sum(*out, *rhs);
    }
}

#[inline(always)]
fn sum(lhs: i32, rhs: i32) -> i32 {
    // Two numbers within +-SAT stay inside an i32.
    lhs.wrapping_add(rhs).clamp(-SAT, SAT)
}

/// Product, as [`crate::gate::gate`].
#[inline(always)]
pub(super) fn gate(gate: &[i32], up: &[i32], out: &mut [i32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        // Below 2^60, rounding term and all.
        *out = sat((i64::from(*gate) * i64::from(*up)).wrapping_add(1 << 15) >> 16);
    }
}

/// Product with Q14 factors, as [`crate::quantize::smooth`].
#[inline(always)]
pub(super) fn smooth(x: &[i32], factors: &[u16], out: &mut [i32]) {
    for ((out, x), factor) in out.iter_mut().zip(x).zip(factors) {
        // Below 2^46.
        *out = sat((i64::from(*x) * i64::from(*factor)).wrapping_add(1 << 13) >> 14);
    }
}

/// A table row in Q16, as [`crate::embed::embed`].
#[inline(always)]
pub(super) fn embed<C: Copy + Into<i32>>(codes: &[C], step: (u8, i8), out: &mut [i32]) {
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
pub(super) fn rope(
    shape: RopeShape,
    frequencies: &[u64],
    position: u32,
    x: &[i32],
    out: &mut [i32],
) {
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

/// `S` of each column of a sequence's rows, as [`crate::pool`](mod@crate::pool) defines it.
#[inline(always)]
pub(super) fn pool_sums<'r>(
    mode: PoolMode,
    mut rows: impl DoubleEndedIterator<Item = &'r [i32]>,
    sums: &mut [i64],
) {
    let mut add = |row: Option<&[i32]>| {
        for (sum, x) in sums.iter_mut().zip(row.unwrap_or_default()) {
            *sum += i64::from(*x);
        }
    };
    match mode {
        PoolMode::Mean => rows.for_each(|row| add(Some(row))),
        PoolMode::First => add(rows.next()),
        PoolMode::Last => add(rows.next_back()),
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
