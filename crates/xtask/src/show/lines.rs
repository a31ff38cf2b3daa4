//! The lines themselves: which binary of `bench/` measures each, and what its figures must be.

use super::Line;

/// Every line, in the order of the issues.
pub(super) const LINES: &[Line] = &[];
