//! Requantizes accumulators, a word at a time, where no saturation can occur.
//!
//! All channels of a layer share one shift per row. With `top` the largest `kw`,
//! `m_n = B_n * 2^(top - kw_n)` is below `2^23` and
//!
//! ```text
//! req(acc, A * B_n, kw_n - kx) = rshr(acc * (A * m_n), top - kx)      A * m_n < 2^31
//! ```
//!
//! because a factor of two in both the product and the divisor changes no rounding.

use hyperion_primitives::limits::SAT;

use crate::{
    lanes::{Lanes, half, scale},
    quantize::RowScale,
};

/// Channels of a panel as the kernel reads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratios<'a> {
    /// `m`, one per channel.
    pub(crate) multipliers: &'a [i32],
    /// Q16, one per channel.
    pub(crate) bias: &'a [i32],
    /// `top`.
    pub(crate) top: i32,
    /// No accumulator of the panel times `m` is larger in magnitude.
    pub(crate) reach: u64,
    /// No bias of the panel is larger in magnitude.
    pub(crate) bias_max: u32,
}

impl Ratios<'_> {
    /// The shift for a row of this step, if no result of the panel can saturate on the way; the low halves
    /// of 15-bit codes need 7 bits more, and may add half as much again.
    pub(crate) fn shift(&self, scale: RowScale, fine: bool) -> Option<u32> {
        let shift = self.top - i32::from(scale.exponent);
        let shift = u32::try_from(shift).ok().filter(|shift| (1..=32).contains(shift))?;
        if fine && shift > 25 {
            return None;
        }
        // reach < 2^54 and A < 2^8; the low half's sum is below 1/128 of the high half's, and each rounds.
        let high = (self.reach * u64::from(scale.mantissa)) >> shift;
        let low = if fine { (high >> 7) + 1 } else { 0 };
        let most = high + 1 + low + u64::from(self.bias_max);
        (most <= u64::from(SAT.unsigned_abs())).then_some(shift)
    }
}

/// Requantizes the accumulators of one row and panel, whole words; `out` takes as many as it holds.
#[inline(always)]
pub(crate) fn requantize<L: Lanes>(
    l: L,
    ratios: &Ratios<'_>,
    (mantissa, shift): (u8, u32),
    acc: &[i32],
    out: &mut [i32],
) {
    let (mantissa, half) = (l.splat(mantissa.into()), half(l, shift));
    for (i, out) in out.chunks_mut(L::WIDTH).enumerate() {
        let at = i * L::WIDTH;
        let m = l.mul(l.load(&ratios.multipliers[at..]), mantissa);
        let y = scale(l, l.load(&acc[at..]), m, half, shift);
        l.store_some(l.add(y, l.load(&ratios.bias[at..])), out);
    }
}

/// Requantizes the accumulators of high and low halves; otherwise as [`requantize`].
#[inline(always)]
pub(crate) fn requantize_fine<L: Lanes>(
    l: L,
    ratios: &Ratios<'_>,
    (mantissa, shift): (u8, u32),
    [hi, lo]: [&[i32]; 2],
    out: &mut [i32],
) {
    let mantissa = l.splat(mantissa.into());
    let halves = [half(l, shift), half(l, shift + 7)];
    for (i, out) in out.chunks_mut(L::WIDTH).enumerate() {
        let at = i * L::WIDTH;
        let m = l.mul(l.load(&ratios.multipliers[at..]), mantissa);
        let high = scale(l, l.load(&hi[at..]), m, halves[0], shift);
        let low = scale(l, l.load(&lo[at..]), m, halves[1], shift + 7);
        l.store_some(l.add(l.add(high, low), l.load(&ratios.bias[at..])), out);
    }
}
