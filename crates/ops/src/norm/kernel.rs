//! Normalises groups, a word at a time.

use hyperion_primitives::limits::SAT;

use crate::{
    NormKind, NormShape,
    lanes::{Lanes, half, scale, work},
    quantize::kernel::peak,
    round::{bit_length, inv_root, rshr, sat},
};

work! {
    /// Every group of a row.
    Norm(shape: NormShape, weights: &'a NormWeights, x: &'a [i32], out: &'a mut [i32]) -> (), Lanes,
    |l| {
        let group = shape.group as usize;
        for (x, out) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
            norm(l, shape, weights, x, out);
        }
    }
}

/// Scale and shift of a group, with their largest magnitudes.
#[derive(Debug)]
pub(crate) struct NormWeights {
    /// Q14, one per column.
    pub(crate) gamma: alloc::vec::Vec<i32>,
    /// Q16, one per column; zeros where there is none.
    pub(crate) beta: alloc::vec::Vec<i32>,
    gamma_max: u32,
    beta_max: u32,
}

impl NormWeights {
    pub(crate) fn new(gamma: &[i32], beta: Option<&[i32]>) -> Self {
        let largest = |x: &[i32]| x.iter().map(|x| x.unsigned_abs()).max().unwrap_or(0);
        let beta = beta.map_or_else(|| alloc::vec![0; gamma.len()], <[i32]>::to_vec);
        let (gamma_max, beta_max) = (largest(gamma), largest(&beta));
        Self { gamma: gamma.to_vec(), beta, gamma_max, beta_max }
    }
}

/// Words whose 24-bit lanes add up inside 32 bits.
const RUN: usize = 64;

const _: () = assert!((RUN << 24) < 1 << 31);

/// Normalises one group, as [`crate::norm::norm`].
#[inline(always)]
pub(crate) fn norm<L: Lanes>(
    l: L,
    shape: NormShape,
    weights: &NormWeights,
    x: &[i32],
    out: &mut [i32],
) {
    let peak = peak(l, x);
    let drop = bit_length(peak.into()).saturating_sub(24);
    let sum = shorten(l, drop, x, out);
    let d = i64::from(shape.group);
    let mean = if shape.kind == NormKind::Layer { (2 * sum + d).div_euclid(2 * d) } else { 0 };
    // The mean of 24-bit numbers is one.
    let mean = i32::try_from(mean).expect("24 bits");
    let squares = centre(l, mean, out);
    let variance = squares / d.cast_unsigned() + u64::from(shape.eps_q32 >> (2 * drop));
    // The variance is below 2^49, so k is 18 at most and the shift lies in 2..=26.
    let (reciprocal, k) = inv_root(variance.max(1));
    let shift = (17 + k / 2).cast_unsigned();
    let reciprocal = i32::try_from(reciprocal).expect("17 bits");

    let centred_max = u64::from(peak >> drop) + 1 + u64::from(mean.unsigned_abs());
    let t_max = ((centred_max * u64::from(reciprocal.unsigned_abs())) >> shift) + 1;
    let most = ((t_max * u64::from(weights.gamma_max)) >> 12) + 1 + u64::from(weights.beta_max);
    if most <= u64::from(SAT.unsigned_abs()) {
        rescale(l, (reciprocal, shift), weights, out);
    } else {
        rescale_saturating((reciprocal, shift), weights, out);
    }
}

/// Writes the group in 24 bits and returns its sum.
#[inline(always)]
fn shorten<L: Lanes>(l: L, drop: u32, x: &[i32], out: &mut [i32]) -> i64 {
    let half = l.splat((1 << drop) >> 1);
    let mut sum = 0;
    for (x, out) in x.chunks(RUN * L::WIDTH).zip(out.chunks_mut(RUN * L::WIDTH)) {
        let mut sums = l.splat(0);
        for (x, out) in x.chunks(L::WIDTH).zip(out.chunks_mut(L::WIDTH)) {
            let c = l.shift_right(l.add(l.load_some(x), half), drop);
            sums = l.add(sums, c);
            l.store_some(c, out);
        }
        sum += l.total(sums);
    }
    sum
}

/// Takes the mean away and returns the sum of squares.
#[inline(always)]
fn centre<L: Lanes>(l: L, mean: i32, c: &mut [i32]) -> u64 {
    let mean = l.splat(mean);
    let mut squares = l.wide_splat(0);
    for c in c.chunks_mut(L::WIDTH) {
        let mut centred = l.sub(l.load_some(c), mean);
        if c.len() < L::WIDTH {
            centred = l.within(centred, 0, c.len().cast_signed(), l.splat(0));
        }
        let (even, odd) = l.products(centred, centred);
        squares = l.wide_add(squares, l.wide_add(even, odd));
        l.store_some(centred, c);
    }
    // At most 2^62 + 2^12 in all.
    l.wide_total(squares).cast_unsigned()
}

#[inline(always)]
fn rescale<L: Lanes>(l: L, (reciprocal, shift): (i32, u32), weights: &NormWeights, c: &mut [i32]) {
    let (reciprocal, halves) = (l.splat(reciprocal), [half(l, shift), half(l, 12)]);
    let columns = weights.gamma.chunks(L::WIDTH).zip(weights.beta.chunks(L::WIDTH));
    for (c, (gamma, beta)) in c.chunks_mut(L::WIDTH).zip(columns) {
        let t = scale(l, l.load_some(c), reciprocal, halves[0], shift);
        let y = scale(l, t, l.load_some(gamma), halves[1], 12);
        l.store_some(l.add(y, l.load_some(beta)), c);
    }
}

/// The last line of the definition, for columns whose scale may saturate them.
#[cold]
#[inline(never)]
fn rescale_saturating((reciprocal, shift): (i32, u32), weights: &NormWeights, c: &mut [i32]) {
    for (c, (gamma, beta)) in c.iter_mut().zip(weights.gamma.iter().zip(&weights.beta)) {
        let t = rshr(i64::from(*c) * i64::from(reciprocal), shift.cast_signed());
        // |t * gamma| < 2^44.
        *c = sat(rshr(t * i64::from(*gamma), 12) + i64::from(*beta));
    }
}
