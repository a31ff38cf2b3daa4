//! Accumulators of a linear step become activations.
//!
//! ```text
//! y_n = sat(req(acc_n, A * B_n, kw_n - kx) + bias_n)
//! 15-bit codes:  y_n = sat(sat(req(hi_n, A * B_n, kw_n - kx) + req(lo_n, A * B_n, kw_n - kx + 7)) + bias_n)
//! ```
//!
//! `A * 2^kx` is the step of the input row, `B_n * 2^-kw_n` that of output channel `n`; two 8-bit mantissas
//! make a multiplier of at most 65,025.

use crate::{
    quantize::RowScale,
    round::{req, sat},
};

#[cfg(feature = "std")]
pub(crate) mod kernel;

/// Scale and shift of the output channels of a linear step, `[n]` each.
#[derive(Clone, Copy, Debug)]
pub struct Channels<'a> {
    /// `B`, 1 to 255.
    pub mantissas: &'a [u8],
    /// `kw`, 2 to 25, and at most 15 above the least of them.
    pub exponents: &'a [i8],
    /// Q16, within `+-SAT`.
    pub bias: Option<&'a [i32]>,
}

impl Channels<'_> {
    /// Multiplier and shift of channel `n` for a row of step `scale`.
    fn ratio(&self, scale: RowScale, n: usize) -> (u32, i32) {
        let multiplier = u32::from(scale.mantissa) * u32::from(self.mantissas[n]);
        (multiplier, i32::from(self.exponents[n]) - i32::from(scale.exponent))
    }

    fn bias(&self, n: usize) -> i64 {
        self.bias.map_or(0, |bias| i64::from(bias[n]))
    }
}

/// Requantizes one row of accumulators of 8-bit codes.
///
/// `acc` and `out` are `[n]`; the row's step has an exponent of 16 at most, as every row within `+-SAT` has.
///
/// # Panics
///
/// When a slice is shorter than `acc`.
pub fn requantize(scale: RowScale, channels: &Channels<'_>, acc: &[i32], out: &mut [i32]) {
    for (n, acc) in acc.iter().enumerate() {
        let (multiplier, shift) = channels.ratio(scale, n);
        out[n] = sat(i64::from(req(*acc, multiplier, shift)) + channels.bias(n));
    }
}

/// Requantizes one row of accumulators of the high and low halves of 15-bit codes; otherwise as
/// [`requantize`].
///
/// # Panics
///
/// When a slice is shorter than `hi`.
pub fn requantize_fine(
    scale: RowScale,
    channels: &Channels<'_>,
    hi: &[i32],
    lo: &[i32],
    out: &mut [i32],
) {
    for (n, hi) in hi.iter().enumerate() {
        let (multiplier, shift) = channels.ratio(scale, n);
        let halves =
            i64::from(req(*hi, multiplier, shift)) + i64::from(req(lo[n], multiplier, shift + 7));
        out[n] = sat(i64::from(sat(halves)) + channels.bias(n));
    }
}
