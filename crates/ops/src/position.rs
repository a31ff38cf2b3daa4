//! Adds a learned row for each absolute position.
//!
//! ```text
//! y_i = sat(x_i + sat(rshr(code_i * B, kw - 16)))
//! ```

use crate::{add::add, embed::embed};

/// Adds one row of a position table to one row of activations.
///
/// `codes`, `mantissa` and `exponent` are a table row as in [`embed`]; `x` is Q16 within `+-SAT`.
///
/// # Panics
///
/// When the lengths differ.
pub fn position(codes: &[i16], mantissa: u8, exponent: i8, x: &[i32], out: &mut [i32]) {
    let mut row = alloc::vec![0; codes.len()];
    embed(codes, mantissa, exponent, &mut row);
    add(x, &row, out);
}
