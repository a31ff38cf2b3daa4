//! Makes tokens that stand in prompt or answer already less likely, whichever sign their logits have.
//!
//! ```text
//! r = penalty, Q16:  l > 0: min(SAT, floor(l * 2^16 / r));  l <= 0: sat(rshr(l * r, 16))
//! ```
//!
//! The rule is that of Keskar et al., "CTRL", arXiv 1909.05858, 4.1, in the form that Hugging Face's
//! `RepetitionPenaltyLogitsProcessor` gave it: negative logits are multiplied. `r` below 65,536 makes them likelier.

use crate::round::{rshr, sat};

/// The least penalty, 1/8 in Q16.
pub const REPETITION_MIN: u32 = 8_192;
/// The greatest penalty, 8 in Q16.
pub const REPETITION_MAX: u32 = 524_288;

/// A logit, Q16 within `+-SAT`, after a penalty in Q16; 65,536 leaves it as it is.
///
/// # Panics
///
/// When the penalty is 0.
pub fn repeated(logit: i32, repetition_q16: u32) -> i32 {
    let (logit, repetition) = (i64::from(logit), i64::from(repetition_q16));
    if logit > 0 {
        // Below 2^46.
        sat((logit << 16) / repetition)
    } else {
        // At most 2^30 * 2^19 in magnitude.
        sat(rshr(logit * repetition, 16))
    }
}
