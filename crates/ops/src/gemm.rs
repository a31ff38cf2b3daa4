//! Integer matrix products.
//!
//! ```text
//! out[row, col] = sum over d of lhs[row, d] * rhs[col, d]
//! ```
//!
//! Codes lie in -127 to 127 and `127^2 * (2^17 - 1) < 2^31`, so the sum is exact in an `i32` in any order,
//! any tiling and any split of the depth.

use hyperion_primitives::limits::DEPTH_MAX;

#[cfg(all(feature = "std", target_arch = "x86_64"))]
pub(crate) mod avx2;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
pub(crate) mod avx512;
#[cfg(feature = "std")]
pub(crate) mod narrow;
#[cfg(feature = "std")]
pub(crate) mod packed;
#[cfg(feature = "std")]
pub(crate) mod plan;
#[cfg(feature = "std")]
pub(crate) mod portable;

/// Sizes of a product; holding one means that no sum can leave an `i32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GemmShape {
    /// Rows of `lhs` and of the result: tokens.
    pub rows: usize,
    /// Rows of `rhs`, columns of the result: output channels.
    pub cols: usize,
    /// Length of every dot product, 1 to [`DEPTH_MAX`].
    pub depth: usize,
}

impl GemmShape {
    /// Checks the sizes; `None` when the depth is 0 or above [`DEPTH_MAX`], or an operand would not fit
    /// the address space.
    pub fn new(rows: usize, cols: usize, depth: usize) -> Option<Self> {
        let deep = u32::try_from(depth).ok().is_some_and(|depth| (1..=DEPTH_MAX).contains(&depth));
        rows.checked_mul(depth)?;
        cols.checked_mul(depth)?;
        rows.checked_mul(cols)?;
        deep.then_some(Self { rows, cols, depth })
    }
}

/// Multiplies activation codes by weight codes, exactly.
///
/// | argument | shape, row-major | range |
/// |---|---|---|
/// | `lhs` | `[rows, depth]`, one token per row | -127 to 127 |
/// | `rhs` | `[cols, depth]`, one output channel per row | -127 to 127 |
/// | `out` | `[rows, cols]` | `127^2 * depth` at most in magnitude |
///
/// # Panics
///
/// When a slice is not of its shape.
pub fn gemm(shape: GemmShape, lhs: &[i8], rhs: &[i8], out: &mut [i32]) {
    let GemmShape { rows, cols, depth } = shape;
    assert_eq!(lhs.len(), rows * depth, "lhs is [rows, depth]");
    assert_eq!(rhs.len(), cols * depth, "rhs is [cols, depth]");
    assert_eq!(out.len(), rows * cols, "out is [rows, cols]");
    if cols == 0 {
        return;
    }
    for (lhs, out) in lhs.chunks_exact(depth).zip(out.chunks_exact_mut(cols)) {
        for (rhs, out) in rhs.chunks_exact(depth).zip(out) {
            *out = dot(lhs, rhs);
        }
    }
}

/// Dot product of two rows of codes, each -127 to 127 and [`DEPTH_MAX`] long at most.
pub fn dot(lhs: &[i8], rhs: &[i8]) -> i32 {
    lhs.iter().zip(rhs).map(|(l, r)| i32::from(*l) * i32::from(*r)).sum()
}

#[cfg(all(test, feature = "std"))]
mod tests;
