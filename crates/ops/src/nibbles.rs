//! Weights of four bits, in groups of 32 with a whole scale each.
//!
//! ```text
//! W_i = s * (h_i - 8)            h from 1 to 15, s from 1 to 17, so |W| <= 119
//! ```
//!
//! A linear step on such weights is the linear step on the codes `W`: sums, requantization and bounds are those of
//! [`linear`](mod@crate::linear), and nothing downstream knows the difference. A group takes 17 bytes instead of 32: byte `i`
//! of 16 holds `h_i` low and `h_(i+16)` high, and one holds the scale.

use alloc::{vec, vec::Vec};

use hyperion_primitives::w8r;

/// Codes of a group.
pub const GROUP: usize = 32;
/// The greatest scale: `15 * 17` fits a byte, which kernels rely on.
pub const SCALE_MAX: u8 = 17;

/// The codes of rows: `halves` are 16 bytes a group, `scales` one.
///
/// # Panics
///
/// When the lengths do not fit together.
pub fn nibbles(halves: &[u8], scales: &[u8], out: &mut [i8]) {
    assert_eq!(out.len(), GROUP * scales.len(), "a scale for each group");
    assert_eq!(halves.len(), GROUP / 2 * scales.len(), "two codes a byte");
    let groups = halves.as_chunks::<{ GROUP / 2 }>().0.iter().zip(scales);
    for ((halves, scale), out) in groups.zip(out.as_chunks_mut::<GROUP>().0) {
        let code = |half: u8| {
            // 7 * 17 at most where the halves and the scale are what they may be.
            let half = i16::from(half) - 8;
            i8::try_from(half * i16::from(*scale)).expect("the model file was checked")
        };
        for (i, byte) in halves.iter().enumerate() {
            out[i] = code(byte & 15);
            out[i + GROUP / 2] = code(byte >> 4);
        }
    }
}

/// The committed bytes of the same weights with eight bits, for devices that keep them so.
///
/// # Panics
///
/// As [`nibbles`].
pub fn widened(halves: &[u8], scales: &[u8]) -> Vec<u8> {
    let mut codes = vec![0; GROUP * scales.len()];
    nibbles(halves, scales, &mut codes);
    let mut bytes = vec![0; codes.len()];
    w8r::encode(&codes, &mut bytes);
    bytes
}

/// Whether these are halves and scales of a model: no half is 0, every scale is 1 to 17.
pub fn are_valid(halves: &[u8], scales: &[u8]) -> bool {
    halves.iter().all(|byte| byte & 15 != 0 && byte >> 4 != 0)
        && scales.iter().all(|scale| (1..=SCALE_MAX).contains(scale))
}
