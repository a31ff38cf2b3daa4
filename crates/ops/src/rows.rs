//! Copies chosen rows: the operator `last_row`, for a whole batch.
//!
//! ```text
//! out[i] = x[rows[i]]
//! ```
//!
//! A program's `last_row` keeps the rows that produce output: the last row of a sequence, or in a generator
//! one row per token drawn.

/// Copies rows of `width` elements.
///
/// # Panics
///
/// When a row lies outside `x`, or `out` has not one row per chosen row.
pub fn rows<T: Copy>(chosen: &[u32], width: usize, x: &[T], out: &mut [T]) {
    assert_eq!(out.len(), chosen.len() * width, "one row of output per chosen row");
    for (out, row) in out.chunks_exact_mut(width).zip(chosen) {
        let at = *row as usize * width;
        out.copy_from_slice(&x[at..at + width]);
    }
}
