//! Rows of a table by token id.
//!
//! ```text
//! x_i = sat(rshr(code_i * B, kw - 16))
//! ```

use crate::round::{rshr, sat};

/// Dequantizes one row of a table to Q16.
///
/// | argument | meaning | range |
/// |---|---|---|
/// | `codes` | the row | -127 to 127, or any `i16` but -32,768 |
/// | `mantissa` | `B` of the row | 1 to 255 |
/// | `exponent` | `kw` of the row | 2 to 40 |
///
/// # Panics
///
/// When the lengths differ.
pub fn embed(codes: &[i16], mantissa: u8, exponent: i8, out: &mut [i32]) {
    assert_eq!(codes.len(), out.len(), "one element per code");
    let shift = i32::from(exponent) - 16;
    for (out, code) in out.iter_mut().zip(codes) {
        // |code * B| < 2^23 and the shift is -14 at least, so nothing exceeds 2^37.
        *out = sat(rshr(i64::from(*code) * i64::from(mantissa), shift));
    }
}
