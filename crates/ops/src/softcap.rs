//! Keeps values softly within a cap: `cap * tanh(x / cap)`, of logits and of attention scores.
//!
//! ```text
//! d = min(rshr(|x| * R, 24), 2^25 - 1);  R = floor(C / cap);  C = round(2^45 * log2(e))      octaves in Q20
//! n = d >> 20;  i = (d >> 12) & 255;  f = d & 4095
//! E = (exp2[i] - rshr((exp2[i] - exp2[i+1]) * f, 12)) >> n;  exp2[256] = 2^27               e^(-2|x|/cap) in Q28
//! y = sign(x) * floor((2^28 - E) * cap / (2^28 + E))
//! ```
//!
//! `tanh(u) = (1 - e^(-2u)) / (1 + e^(-2u))`, the exponential read off the table of powers with a straight line between two
//! entries: no table of its own, one division.

use crate::{round::rshr, table::EXP2};

/// `2^45 * log2(e)`, rounded.
const TURN: u64 = 50_760_319_129_350;
/// One, in the unit of the exponential.
const ONE: u32 = 1 << 28;

/// A cap that can be computed with; only [`new`](Self::new) makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cap {
    q16: u32,
    inverse: u32,
}

impl Cap {
    /// A cap of 1 to 256, Q16; `None` outside.
    pub const fn new(q16: u32) -> Option<Self> {
        if q16 < 1 << 16 || q16 > 1 << 24 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "between 2^21 and 2^30")]
        let inverse = (TURN / q16 as u64) as u32;
        Some(Self { q16, inverse })
    }

    /// The cap in Q16.
    pub const fn q16(self) -> u32 {
        self.q16
    }

    /// `R`, below `2^30`.
    pub const fn inverse(self) -> u32 {
        self.inverse
    }

    /// One value, Q16 within `+-SAT`; the result is within the cap.
    pub fn apply(self, x: i32) -> i32 {
        // Below 2^60.
        let octaves = rshr(i64::from(x.unsigned_abs()) * i64::from(self.inverse), 24);
        let d = u32::try_from(octaves.min((1 << 25) - 1)).expect("25 bits");
        let (index, fraction) = ((d >> 12 & 255) as usize, d & 4095);
        let low = EXP2[index];
        let next = EXP2.get(index + 1).copied().unwrap_or(ONE / 2);
        // Neighbours are less than 2^20 apart, so the product and its rounding term are below 2^32.
        let e = (low - (((low - next) * fraction + (1 << 11)) >> 12)) >> (d >> 20);
        let magnitude = u64::from(ONE - e) * u64::from(self.q16) / u64::from(ONE + e);
        let magnitude = i32::try_from(magnitude).expect("the cap at most");
        if x < 0 { -magnitude } else { magnitude }
    }

    /// One attention score in 1/256 of an octave; the cap is in octaves.
    ///
    /// 2^21 of them lie eight caps and more away from zero, where nothing changes any more.
    pub fn apply_score(self, score: i32) -> i32 {
        let near = score.clamp(-(1 << 21), 1 << 21);
        let capped = self.apply(near << 8);
        // 2^24 at most.
        (capped + 128) >> 8
    }
}

/// Caps element by element; `x` is Q16 within `+-SAT`.
///
/// # Panics
///
/// When the lengths differ.
pub fn softcap(cap: Cap, x: &[i32], out: &mut [i32]) {
    assert_eq!(x.len(), out.len(), "one element per element");
    for (out, x) in out.iter_mut().zip(x) {
        *out = cap.apply(*x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_odd_never_falls_and_never_leaves_itself() {
        for q16 in [1 << 16, 30 << 16, 50 << 16, 4_727_423, 1 << 24] {
            let cap = Cap::new(q16).unwrap();
            let mut last = 0;
            for step in 0..4_000_000 / 37 {
                let x = step * 37 * 8;
                let y = cap.apply(x);
                assert!(y >= last && y <= x + 1 && y.unsigned_abs() <= q16, "{q16} {x} {y} {last}");
                assert_eq!(cap.apply(-x), -y);
                last = y;
            }
            assert_eq!(cap.apply((1 << 30) - 1), q16.cast_signed());
        }
        assert_eq!((Cap::new((1 << 16) - 1), Cap::new((1 << 24) + 1)), (None, None));
    }

    #[test]
    fn scores_are_capped_in_octaves() {
        let cap = Cap::new(72 << 16).unwrap();
        assert_eq!(cap.apply_score(0), 0);
        assert_eq!(cap.apply_score((1 << 30) - 1), 72 << 8);
        assert_eq!(cap.apply_score(-(1 << 30) + 1), -72 << 8);
        assert_eq!(cap.apply_score(256), 256);
    }
}
