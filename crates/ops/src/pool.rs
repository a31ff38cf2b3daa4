//! One row per sequence: the mean, the first or the last of its rows, scaled to length one if asked.
//!
//! ```text
//! S_c  = sum over rows of x_rc, or the row chosen
//! mean: y_c = floor((2 S_c + rows) / 2 rows);  first, last: y_c = S_c                        Q16
//! unit: a = max(1, max |S|);  p = max(0, bl(a) - 24);  c = rshr(S, p)
//!       (R, k) = inv_root(max(1, sum c^2));  y = clamp(rshr(c * R, 16 + k/2), +-32767)       Q15
//! ```

use alloc::vec::Vec;

use hyperion_primitives::limits::SAT;

use crate::round::{bit_length, inv_root, rshr};

/// Which rows a pooled row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// The mean of all rows.
    Mean,
    /// The first row.
    First,
    /// The last row.
    Last,
}

impl PoolMode {
    /// Every mode, in code order.
    pub const ALL: [Self; 3] = [Self::Mean, Self::First, Self::Last];

    /// The number that a program names it by.
    pub const fn code(self) -> u8 {
        match self {
            Self::Mean => 0,
            Self::First => 1,
            Self::Last => 2,
        }
    }

    /// The mode with this code; `None` for a number that names none.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.code() == code)
    }
}

/// Pools the rows of one sequence to Q16.
///
/// `x` is `[rows, width]` with 1 to 65,536 rows, Q16 within `+-SAT`; `out` is `[width]`.
///
/// # Panics
///
/// When `x` is not whole rows of `out`'s width, or has none.
pub fn pool(mode: PoolMode, x: &[i32], out: &mut [i32]) {
    let rows = (x.len() / out.len()) as u64;
    let sums = sums(mode, x, out.len());
    let count = if mode == PoolMode::Mean { rows.cast_signed() } else { 1 };
    for (out, sum) in out.iter_mut().zip(sums) {
        // |S| <= 2^46; a mean is no larger than the largest element, so it stays within +-SAT.
        let mean = (2 * sum + count).div_euclid(2 * count);
        debug_assert!(mean.unsigned_abs() <= u64::from(SAT.unsigned_abs()));
        *out = i32::try_from(mean).expect("a mean of i32 is an i32");
    }
}

/// Pools the rows of one sequence to a vector of length one in Q15; otherwise as [`pool`].
///
/// # Panics
///
/// When `x` is not whole rows of `out`'s width, or has none.
pub fn pool_unit(mode: PoolMode, x: &[i32], out: &mut [i16]) {
    let sums = sums(mode, x, out.len());
    let peak = sums.iter().map(|sum| sum.unsigned_abs()).fold(1, u64::max);
    let drop = bit_length(peak).saturating_sub(24).cast_signed();
    let c: Vec<i64> = sums.into_iter().map(|sum| rshr(sum, drop)).collect();
    // |c| <= 2^24 and a row is 2^14 wide at most, so the squares stay below 2^62.
    let squares: u64 = c.iter().map(|c| c.unsigned_abs().pow(2)).sum();
    let (reciprocal, k) = inv_root(squares.max(1));
    for (out, c) in out.iter_mut().zip(c) {
        let unit = rshr(c * i64::from(reciprocal), 16 + k / 2).clamp(-32_767, 32_767);
        *out = i16::try_from(unit).expect("clamped on the line above");
    }
}

/// `S` of each column.
fn sums(mode: PoolMode, x: &[i32], width: usize) -> Vec<i64> {
    assert!(!x.is_empty() && x.len().is_multiple_of(width), "x is [rows, width], one row at least");
    let chosen = match mode {
        PoolMode::Mean => x,
        PoolMode::First => &x[..width],
        PoolMode::Last => &x[x.len() - width..],
    };
    let mut sums = alloc::vec![0; width];
    for row in chosen.chunks_exact(width) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += i64::from(*x);
        }
    }
    sums
}
