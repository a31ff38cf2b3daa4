//! A row of activations becomes codes and one step.
//!
//! ```text
//! a   = max(1, max |x_i|);  p = max(0, bl(a) - 15)
//! cap = min(rshr(a, p), 32767);  xs_i = clamp(rshr(x_i, p), +-32767)
//! u   = max(ceil(128 * cap / 127), 128 * 2^(kmin + 7))        the step in units of 2^-7
//! e   = bl(u) - 8;  A = ceil(u / 2^e);  A = 256 becomes A = 128, e + 1
//! k   = e - 7 + p;  R = floor(2^23 / A)
//! codes_i = rshr(xs_i * R, 16 + e), or 9 + e for 15-bit codes
//! ```
//!
//! The step is `A * 2^k` in units of the row's last bit (15-bit codes: `A * 2^k / 128`), and the same step
//! quantizes and dequantizes, so rounding it up to 8 bits costs range (0.8 % at most), never scale.

use hyperion_primitives::limits::SAT;

use crate::round::rshr;

#[cfg(feature = "std")]
pub(crate) mod kernel;

/// `kmin` of linear inputs, values and attention weights: the smallest step is one last bit, so tiny rows
/// are exact.
pub const KMIN: i32 = -7;
/// `kmin` of queries and keys; it bounds the shift of a score by 32.
pub const KMIN_SCORE: i32 = -4;
/// `kmin` of 15-bit codes of a linear step; it bounds the shift of the low half by 32.
pub const KMIN_FINE: i32 = 0;

/// The step of a row of codes, `mantissa * 2^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowScale {
    /// `A`, 128 to 255.
    pub mantissa: u8,
    /// `k`, -7 to 17; at most 16 when the row lay in `+-SAT`.
    pub exponent: i8,
}

impl Default for RowScale {
    /// The finest step there is, which is what a row of zeros gets at [`KMIN`].
    fn default() -> Self {
        Self { mantissa: 128, exponent: -7 }
    }
}

/// Everything that one row's codes are computed with; it depends on the row's peak only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantizer {
    /// The step.
    pub scale: RowScale,
    /// `p`, 0 to 16: low bits that are rounded away first.
    pub drop: u8,
    /// `R`, 32,896 to 65,536.
    pub reciprocal: i32,
    /// `e`, 0 to 8: codes are `rshr(xs * R, 16 + e)`, or `9 + e` for 15 bits.
    pub shift: u8,
}

/// `R` of each mantissa from 128 on.
const RECIPROCALS: [usize; 128] = {
    let (mut table, mut mantissa) = ([0; 128], 128);
    while mantissa < 256 {
        table[mantissa - 128] = (1 << 23) / mantissa;
        mantissa += 1;
    }
    table
};

impl Quantizer {
    /// The quantizer of a row whose largest magnitude is `peak`; `kmin` is -7 to 0.
    ///
    /// # Panics
    ///
    /// When `peak` is `2^31` or more.
    pub fn new(peak: u32, kmin: i32) -> Self {
        assert!(peak < 1 << 31, "a row lies inside i32 without i32::MIN");
        debug_assert!((-7..=0).contains(&kmin));
        let peak = peak.max(1);
        // Everything below fits 32 bits; the sum of a peak and half a unit is below 2^31 + 2^15.
        let drop = (u32::BITS - peak.leading_zeros()).saturating_sub(15);
        let cap = ((peak + ((1 << drop) >> 1)) >> drop).min(32_767);
        // cap <= 32,767 gives u <= 33,026, so e <= 8.
        let step = (cap * 128).div_ceil(127).max(128 << (kmin + 7));
        let mut shift = u32::BITS - step.leading_zeros() - 8;
        let mut mantissa = (step + (1 << shift) - 1) >> shift;
        if mantissa == 256 {
            mantissa = 128;
            shift += 1;
        }
        Self {
            scale: RowScale {
                mantissa: u8::try_from(mantissa).expect("256 was replaced"),
                exponent: i8::try_from((shift + drop).cast_signed() - 7).expect("-7..=17"),
            },
            drop: u8::try_from(drop).expect("16 at most"),
            reciprocal: i32::try_from(RECIPROCALS[mantissa as usize - 128]).expect("2^16 at most"),
            shift: u8::try_from(shift).expect("0..=8"),
        }
    }

    /// The 8-bit code of an element, -127 to 127.
    pub fn code(self, x: i32) -> i8 {
        i8::try_from(self.scaled(x, 16)).expect("the step was rounded up")
    }

    /// The 15-bit code of an element, -16,256 to 16,256; [`split`] takes it apart.
    pub fn fine_code(self, x: i32) -> i16 {
        i16::try_from(self.scaled(x, 9)).expect("the step was rounded up")
    }

    fn scaled(self, x: i32, bits: i32) -> i32 {
        let short = rshr(i64::from(x), i32::from(self.drop)).clamp(-32_767, 32_767);
        let short = i32::try_from(short).expect("16 bits");
        let shift = bits + i32::from(self.shift);
        // |xs * R| <= 127 * 2^24, and the rounding term adds 2^23 at most.
        (short * self.reciprocal + (1 << (shift - 1))) >> shift
    }
}

/// Largest magnitude of a row, 1 at least.
pub fn peak(x: &[i32]) -> u32 {
    x.iter().map(|v| v.unsigned_abs()).fold(1, u32::max)
}

/// Quantizes a row to 8-bit codes.
///
/// | argument | shape | range |
/// |---|---|---|
/// | `x` | `[n]` | any `i32` but `i32::MIN`; activations lie in `+-SAT` |
/// | `kmin` | | [`KMIN`] or [`KMIN_SCORE`] |
/// | `codes` | `[n]` | -127 to 127 |
///
/// # Panics
///
/// When the lengths differ or an element is `i32::MIN`.
pub fn quantize(x: &[i32], kmin: i32, codes: &mut [i8]) -> RowScale {
    assert_eq!(x.len(), codes.len(), "one code per element");
    let quantizer = Quantizer::new(peak(x), kmin);
    for (code, x) in codes.iter_mut().zip(x) {
        *code = quantizer.code(*x);
    }
    quantizer.scale
}

/// Quantizes a row to 15-bit codes, -16,256 to 16,256; otherwise as [`quantize`].
///
/// # Panics
///
/// When the lengths differ or an element is `i32::MIN`.
pub fn quantize_fine(x: &[i32], kmin: i32, codes: &mut [i16]) -> RowScale {
    assert_eq!(x.len(), codes.len(), "one code per element");
    let quantizer = Quantizer::new(peak(x), kmin);
    for (code, x) in codes.iter_mut().zip(x) {
        *code = quantizer.fine_code(*x);
    }
    quantizer.scale
}

/// A 15-bit code as `hi * 128 + lo`, `hi` in -127 to 127, `lo` in -64 to 63.
///
/// # Panics
///
/// When the code is outside -16,256 to 16,256.
pub fn split(code: i16) -> (i8, i8) {
    let hi = (code + 64) >> 7;
    let lo = code - (hi << 7);
    (
        i8::try_from(hi).expect("a code is within +-127 * 128"),
        i8::try_from(lo).expect("the remainder is within -64..=63"),
    )
}

/// Multiplies a row by Q14 factors, one per column: `sat(rshr(x * g, 14))`, the *smooth* slot of a linear
/// step.
///
/// # Panics
///
/// When the lengths differ.
pub fn smooth(x: &[i32], factors: &[u16], out: &mut [i32]) {
    assert_eq!((x.len(), x.len()), (factors.len(), out.len()), "one factor per column");
    for ((out, x), factor) in out.iter_mut().zip(x).zip(factors) {
        // |x * g| < 2^46.
        *out = crate::round::sat(rshr(i64::from(*x) * i64::from(*factor), 14));
    }
}

const _: () =
    assert!(SAT < 1 << 30, "an activation's peak has 30 bits, so its exponent is 16 at most");
