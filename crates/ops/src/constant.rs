//! Irrational constants that conversion writes into a model file, correctly rounded.
//!
//! ```text
//! rope_frequency        round(2^64 * theta^(-2j / rot) / 2 pi)
//! rope_llama3           the "llama3" scaling of a frequency, in exact rationals
//! attention_multiplier  round(2^30 * log2(e) / sqrt(head_dim))
//! ```
//!
//! Reals are non-negative integers of 192 fraction bits inside 512. Each step errs by a few units of the last
//! place, so a result is off by less than `2^-110` before it is rounded; one that lies within `2^-100` of a
//! rounding boundary is refused rather than guessed. None of this runs during inference.

use hyperion_primitives::U512;

const FRACTION: usize = 192;

/// Turns per position of rotary pair `j`, in units of `2^-64`; `theta` is a ratio of at least 1.
///
/// `None` when `theta` is below 1 or no ratio, `2j` is not below `rot`, or the rounding is too close to
/// call.
pub fn rope_frequency(theta: (u64, u64), rot: u32, j: u32) -> Option<u64> {
    let (numerator, denominator) = theta;
    if denominator == 0 || numerator < denominator || j >= rot.div_ceil(2) {
        return None;
    }
    let exponent = ln(numerator, denominator) * U512::from(2 * u64::from(j)) / U512::from(rot);
    round(divide(one(), multiply(exp(exponent), pi() << 1)), 64)
}

/// Scales a frequency as the "llama3" rule says: long waves by `1 / factor`, short ones not, those between
/// `context / high` and `context / low` positions by a blend.
///
/// `None` when `high` is not above `low` or `factor` is 0.
pub fn rope_llama3(frequency: u64, factor: u32, low: u32, high: u32, context: u32) -> Option<u64> {
    if high <= low || factor == 0 {
        return None;
    }
    let word = |value: u32| U512::from(value);
    let (f, factor) = (U512::from(frequency), word(factor));
    let whole = word(high - low) << 64;
    let part = (word(context) * f).saturating_sub(word(low) << 64).min(whole);
    // 2^(1 + 64 + 96 + 32) at most.
    let numerator = (f << 1) * (whole - part + part * factor) + whole * factor;
    u64::try_from(numerator / ((whole * factor) << 1)).ok()
}

/// Multiplier of the query's projection, Q30: `log2(e) / sqrt(scale)`; `scale` is `head_dim` unless the
/// model says otherwise.
///
/// `None` when `scale` is 0, or the rounding is too close to call.
pub fn attention_multiplier(scale: u32) -> Option<u64> {
    if scale == 0 {
        return None;
    }
    let root = sqrt(U512::from(scale) << (2 * FRACTION));
    round(divide(divide(one(), ln(2, 1)), root), 30)
}

fn one() -> U512 {
    U512::from(1) << FRACTION
}

/// Both below `2^60`, as reals.
fn multiply(a: U512, b: U512) -> U512 {
    (a * b) >> FRACTION
}

/// `a` is below `2^128`, as a real.
fn divide(a: U512, b: U512) -> U512 {
    (a << FRACTION) / b
}

/// `value * 2^bits`, rounded half up; `None` within `2^-100` of the boundary.
fn round(value: U512, bits: usize) -> Option<u64> {
    let scaled = value << bits;
    let half = one() >> 1;
    let fraction = scaled & (one() - U512::from(1));
    let margin = if fraction > half { fraction - half } else { half - fraction };
    let certain = margin > one() >> 100;
    u64::try_from((scaled + half) >> FRACTION).ok().filter(|_| certain)
}

/// Sum of `first * (n-th factor)` until the terms vanish: `term(n, t)` turns term `n - 1` into term `n`.
fn series(first: U512, mut term: impl FnMut(u64, U512) -> U512) -> U512 {
    let (mut t, mut sum, mut n) = (first, first, 1);
    while !t.is_zero() {
        t = term(n, t);
        sum += t;
        n += 1;
    }
    sum
}

/// `atanh(1 / x)`-like sums: `z + z^3/3 + z^5/5 + …`.
fn atanh(z: U512) -> U512 {
    let square = multiply(z, z);
    let (mut power, mut sum, mut n) = (z, z, 3_u64);
    while !power.is_zero() {
        power = multiply(power, square);
        sum += power / U512::from(n);
        n += 2;
    }
    sum
}

/// Natural logarithm of a ratio of at least 1: a power of two, and `2 atanh((z - 1) / (z + 1))` of the rest.
fn ln(numerator: u64, denominator: u64) -> U512 {
    let x = (U512::from(numerator) << FRACTION) / U512::from(denominator);
    let octaves = x.bit_len() - 1 - FRACTION;
    let z = x >> octaves;
    let rest = atanh(divide(z - one(), z + one())) << 1;
    let ln2 = atanh(one() / U512::from(3)) << 1;
    rest + ln2 * U512::from(octaves)
}

/// `e^x` for `x` below 45: octaves, and the Taylor series of the rest.
fn exp(x: U512) -> U512 {
    let ln2 = ln(2, 1);
    let octaves = usize::try_from(x / ln2).expect("65 at most");
    let rest = x % ln2;
    series(one(), |n, t| multiply(t, rest) / U512::from(n)) << octaves
}

/// Machin: `16 atan(1/5) - 4 atan(1/239)`.
fn pi() -> U512 {
    (atan_inverse(5) << 4) - (atan_inverse(239) << 2)
}

/// `atan(1 / x)`: the positive and the negative terms apart, so that no difference falls below 0.
fn atan_inverse(x: u64) -> U512 {
    let (mut power, mut sums, mut n) = (one() / U512::from(x), [U512::ZERO; 2], 0);
    while !power.is_zero() {
        sums[n % 2] += power / U512::from(2 * n + 1);
        power /= U512::from(x * x);
        n += 1;
    }
    sums[0] - sums[1]
}

/// Floor of the square root, bit by bit.
fn sqrt(v: U512) -> U512 {
    let mut root = U512::ZERO;
    for bit in (0..256).rev() {
        let with = root | (U512::from(1) << bit);
        // (2^256 - 1)^2 < 2^512.
        if with * with <= v {
            root = with;
        }
    }
    root
}
