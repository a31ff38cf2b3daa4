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
    pub(crate) bounds: Bounds,
}

/// What results of some channels, a panel's or a layer's, cannot exceed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// `top` of the layer.
    pub(crate) top: i32,
    /// No accumulator times `m` is larger in magnitude.
    pub(crate) reach: u64,
    /// No bias is larger in magnitude.
    pub(crate) bias_max: u32,
}

impl Bounds {
    /// The shift for a row of this step, if no result of the channels can saturate on the way; the low halves
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

/// What all channels of a row share.
#[derive(Clone, Copy)]
pub(crate) struct Row<L: Lanes> {
    mantissa: L::Word,
    shift: u32,
    half: L::Wide,
    half_low: L::Wide,
}

impl<L: Lanes> Row<L> {
    /// A row whose step has this mantissa, with the shift that [`Bounds::shift`] gave.
    #[inline(always)]
    pub(crate) fn new(l: L, mantissa: u8, shift: u32) -> Self {
        let half_low = half(l, (shift + 7).min(32));
        Self { mantissa: l.splat(mantissa.into()), shift, half: half(l, shift), half_low }
    }

    /// Requantizes a word of accumulators; `m` and `bias` are those of its channels.
    #[inline(always)]
    pub(crate) fn word(self, l: L, acc: &[i32], m: &[i32], bias: &[i32]) -> L::Word {
        let m = l.mul(l.load(m), self.mantissa);
        l.add(scale(l, l.load(acc), m, self.half, self.shift), l.load(bias))
    }

    /// Requantizes a word of accumulators of high and of low halves.
    #[inline(always)]
    pub(crate) fn word_fine(self, l: L, [hi, lo]: [&[i32]; 2], m: &[i32], bias: &[i32]) -> L::Word {
        let m = l.mul(l.load(m), self.mantissa);
        let high = scale(l, l.load(hi), m, self.half, self.shift);
        let low = scale(l, l.load(lo), m, self.half_low, self.shift + 7);
        l.add(l.add(high, low), l.load(bias))
    }
}
