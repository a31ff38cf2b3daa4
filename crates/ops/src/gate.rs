//! Product of two values, as gated feed-forward layers need it.
//!
//! ```text
//! y_i = sat(rshr(g_i * u_i, 16))
//! ```

use crate::round::{rshr, sat};

/// Multiplies element by element; inputs are Q16 within `+-SAT`.
///
/// # Panics
///
/// When the lengths differ.
pub fn gate(gate: &[i32], up: &[i32], out: &mut [i32]) {
    assert_eq!((gate.len(), gate.len()), (up.len(), out.len()), "three rows of one length");
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        // The product is below 2^60.
        *out = sat(rshr(i64::from(*gate) * i64::from(*up), 16));
    }
}
