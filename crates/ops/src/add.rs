//! Saturating sum of two values.
//!
//! ```text
//! y_i = sat(a_i + b_i)
//! ```
//!
//! It saturates on its own: folding it into the saturation of the layer before gives other bits.

use crate::round::sat;

/// Adds element by element; inputs are Q16 within `+-SAT`.
///
/// # Panics
///
/// When the lengths differ.
pub fn add(lhs: &[i32], rhs: &[i32], out: &mut [i32]) {
    assert_eq!((lhs.len(), lhs.len()), (rhs.len(), out.len()), "three rows of one length");
    for ((out, lhs), rhs) in out.iter_mut().zip(lhs).zip(rhs) {
        *out = sat(i64::from(*lhs) + i64::from(*rhs));
    }
}
