//! Channels mixed so that none stands out.
//!
//! A few channels of a decoder are many times the rest, and the step of a row of 8-bit codes is then too coarse for all others.
//! What flows from layer to layer may be held in any orthogonal basis, as long as everything that writes it turns into the
//! basis and everything that reads it turns back, and a root mean square is the same in all of them. So channels are taken
//! in blocks of m, a power of four, and each block is multiplied by `R = H·D/√m`: D signs, H the Hadamard matrix of
//! Sylvester. √m is a power of two, so every entry of a mixed matrix is an exact sum of the source's numbers.
//!
//! Idea: `QuaRot` (Ashkboos et al. 2024, arXiv:2404.00456).

use hyperion_primitives::Mix;

use crate::{quantized::Quantized, real::Real};

/// Channels of a block at most, and at least.
const BLOCK_MAX: usize = 1024;
const BLOCK_MIN: usize = 16;
/// Where the stream of signs starts.
const SIGNS_SEED: u64 = 4;
/// Binary digits below the largest magnitude that are kept of what is mixed. Sums of 2^10 and of 2^8 numbers fit an i64.
const DIGITS: i32 = 44;

/// How channels are mixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mixing {
    block: usize,
    /// `√m = 2^shift`.
    shift: i32,
    /// Whether a channel's sign is turned.
    signs: Vec<bool>,
}

impl Mixing {
    /// Blocks as large as the greatest power of four that divides the number of channels, 1,024 at most; `None` where that is
    /// below 16.
    pub(super) fn of(channels: usize) -> Option<Self> {
        let block = 1_usize << (channels.trailing_zeros() / 2 * 2).min(BLOCK_MAX.trailing_zeros());
        let mut mix = Mix::new(SIGNS_SEED);
        let words: Vec<u64> = (0..channels.div_ceil(64)).map(|_| mix.u64()).collect();
        let signs = (0..channels).map(|at| words[at / 64] >> (at % 64) & 1 == 1).collect();
        let shift = i32::try_from(block.trailing_zeros() / 2).expect("5 at most");
        (channels > 0 && block >= BLOCK_MIN).then_some(Self { block, shift, signs })
    }

    /// `√m·R x`, in place; `x` is whole repetitions of the channels.
    fn apply(&self, x: &mut [i64]) {
        for part in x.chunks_mut(self.signs.len()) {
            for (x, turned) in part.iter_mut().zip(&self.signs) {
                *x = if *turned { -*x } else { *x };
            }
            for block in part.chunks_mut(self.block) {
                let mut half = 1;
                while half < block.len() {
                    for pair in block.chunks_mut(2 * half) {
                        let (low, high) = pair.split_at_mut(half);
                        for (low, high) in low.iter_mut().zip(high) {
                            (*low, *high) = (*low + *high, *low - *high);
                        }
                    }
                    half *= 2;
                }
            }
        }
    }

    /// The matrix R, or its transpose, in exact codes: `64 · 128 / 2^13 = 1`.
    pub(super) fn matrix(&self, is_transposed: bool) -> Quantized {
        let channels = self.signs.len();
        let mut rows = vec![vec![0_i8; channels]; channels];
        for out in 0..channels {
            let start = out / self.block * self.block;
            for place in start..start + self.block {
                let is_odd = ((out - start) & (place - start)).count_ones() % 2 == 1;
                let code = if is_odd != self.signs[place] { -64 } else { 64 };
                let (row, column) = if is_transposed { (place, out) } else { (out, place) };
                rows[row][column] = code;
            }
        }
        Quantized::exact(&rows, i8::try_from(13 + self.shift).expect("18 at most"))
    }
}

/// Numbers of a row or a matrix, mixed: `values · 2^exponent`.
#[derive(Clone, Debug, Default)]
pub(super) struct Mixed {
    values: Vec<i64>,
    exponent: i32,
}

impl Mixed {
    /// Numbers as they are, but for what lies 2^-44 below the largest of them.
    pub(super) fn new(numbers: impl Iterator<Item = Option<Real>> + Clone) -> Self {
        let top = |real: &Real| (real.mantissa != 0).then(|| real.exponent + bits(real.mantissa));
        let Some(top) = numbers.clone().flatten().filter_map(|real| top(&real)).max() else {
            return Self { values: vec![0; numbers.count()], exponent: 0 };
        };
        let exponent = top - DIGITS;
        // A number that is none was refused when its tensor was read.
        let fixed = |real: Option<Real>| {
            let real = real.unwrap_or_default();
            let shift = real.exponent - exponent;
            let magnitude = if shift >= 0 {
                real.mantissa << shift.min(DIGITS)
            } else {
                real.mantissa.checked_shr(shift.unsigned_abs()).unwrap_or(0)
            };
            let magnitude = i64::try_from(magnitude).expect("2^44 at most");
            if real.is_negative { -magnitude } else { magnitude }
        };
        Self { values: numbers.map(fixed).collect(), exponent }
    }

    /// Mixes along rows: each is whole repetitions of the channels.
    pub(super) fn columns(mut self, mixing: &Mixing) -> Self {
        mixing.apply(&mut self.values);
        self.exponent -= mixing.shift;
        self
    }

    /// Mixes along columns of a matrix `[rows, width]`: rows are whole repetitions of the channels.
    pub(super) fn rows(mut self, mixing: &Mixing, width: usize) -> Self {
        let rows = self.values.len() / width;
        let mut column = vec![0; rows];
        for at in 0..width {
            let own = self.values.iter().skip(at).step_by(width);
            column.iter_mut().zip(own).for_each(|(to, from)| *to = *from);
            mixing.apply(&mut column);
            let own = self.values.iter_mut().skip(at).step_by(width);
            own.zip(&column).for_each(|(to, from)| *to = *from);
        }
        self.exponent -= mixing.shift;
        self
    }

    /// One of them.
    pub(super) fn value(&self, index: usize) -> Real {
        let value = self.values[index];
        Real {
            is_negative: value < 0,
            mantissa: value.unsigned_abs().into(),
            exponent: self.exponent,
        }
    }
}

fn bits(mantissa: u128) -> i32 {
    i32::try_from(128 - mantissa.leading_zeros()).expect("128 at most")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn real(value: i64) -> Real {
        Real { is_negative: value < 0, mantissa: value.unsigned_abs().into(), exponent: -3 }
    }

    fn whole(value: Real) -> i64 {
        // In units of 2^-20.
        let shift = value.exponent + 20;
        let magnitude = i64::try_from(value.mantissa << shift.max(0) >> (-shift).max(0)).unwrap();
        if value.is_negative { -magnitude } else { magnitude }
    }

    #[test]
    fn blocks_are_powers_of_four() {
        let block = |channels| Mixing::of(channels).map(|mixing| mixing.block);
        let cases = [(576, 64), (768, 256), (896, 64), (1_024, 1_024), (48, 16), (8_192, 1_024)];
        for (channels, want) in cases {
            assert_eq!(block(channels), Some(want), "{channels}");
        }
        assert_eq!((block(0), block(24), block(100)), (None, None, None));
    }

    #[test]
    fn mixing_twice_by_the_transpose_changes_nothing() {
        let mixing = Mixing::of(48).unwrap();
        let mut mix = Mix::new(3);
        let x: Vec<i64> = (0..48).map(|_| mix.i32(10).into()).collect();
        let mixed = Mixed::new(x.iter().map(|x| Some(real(*x)))).columns(&mixing);
        // Rows of R times x, by the exact codes, and back.
        let codes = |is_transposed| {
            let quantized = mixing.matrix(is_transposed);
            let rows = quantized.codes.chunks(64).map(|row| {
                let mut codes = vec![0_i8; 64];
                hyperion_primitives::w8r::decode(row, &mut codes).unwrap();
                codes
            });
            (rows.collect::<Vec<_>>(), i64::from(quantized.exponents[0]))
        };
        let (forth, exponent) = codes(false);
        for (row, codes) in forth.iter().enumerate() {
            let sum: i64 = codes.iter().zip(&x).map(|(code, x)| i64::from(*code) * x).sum();
            // sum · 128 · 2^-exponent · 2^-3, in units of 2^-20.
            assert_eq!(whole(mixed.value(row)), sum << (7 - exponent - 3 + 20));
        }
        let (back, _) = codes(true);
        for (row, codes) in back.iter().enumerate() {
            let sum: i64 =
                (0..48).map(|at| (i64::from(codes[at]) * whole(mixed.value(at))) >> 6).sum();
            assert_eq!(sum, x[row] << (20 - 3 + 2), "times √16");
        }
    }

    #[test]
    fn rows_are_mixed_as_columns_of_the_transpose_are() {
        let mixing = Mixing::of(16).unwrap();
        let mut mix = Mix::new(5);
        let x: Vec<i64> = (0..32 * 3).map(|_| mix.i32(30).into()).collect();
        let by_rows = Mixed::new(x.iter().map(|x| Some(real(*x)))).rows(&mixing, 3);
        for column in 0..3 {
            let own: Vec<i64> = x.iter().skip(column).step_by(3).copied().collect();
            let by_columns = Mixed::new(own.iter().map(|x| Some(real(*x)))).columns(&mixing);
            for row in 0..32 {
                let got = whole(by_rows.value(row * 3 + column));
                assert_eq!(got, whole(by_columns.value(row)));
            }
        }
    }

    #[test]
    fn what_is_far_below_the_largest_is_left_out() {
        let tiny = Real { mantissa: 1, exponent: -60, ..Real::default() };
        let mixed = Mixed::new([Some(Real::ONE), Some(tiny), Some(real(-5))].into_iter());
        assert_eq!(mixed.values, [1 << 43, 0, -5 << 40]);
        assert!(Mixed::new([None, Some(Real::default())].into_iter()).values == [0, 0]);
    }
}
