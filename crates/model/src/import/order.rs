//! The order of channels in which a model is stored: those that stand far above the rest come first.
//!
//! A few channels of an encoder carry values many times those of the others, and one step for a whole row of codes is
//! then too coarse for all the rest. Channels may be stored in any order, as long as everything that reads or writes them
//! agrees, so the massive ones are put side by side, where a linear step takes them apart with 15 bits.
//!
//! Which they are is read off the weights alone (`docs/model-format.md`, "Conversion"), so an import needs no sample text.

use std::cmp::Ordering;

use hyperion_primitives::limits::SAT;

use crate::{quantized::Matrix, real::Real};

/// Rows narrower than this are not divided.
const DIVIDED_MIN: usize = 256;
/// Parts begin at multiples of this many columns, the padding of a part's codes.
const PART: usize = 32;

/// Source channels in the order in which they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order(Vec<usize>);

impl Order {
    /// The source's own order.
    pub(crate) fn natural(channels: usize) -> Self {
        Self((0..channels).collect())
    }

    /// The source channel at a place.
    pub(crate) fn at(&self, place: usize) -> usize {
        self.0[place]
    }

    /// Whether it is the source's own.
    pub(crate) fn is_natural(&self) -> bool {
        self.0.is_sorted()
    }

    /// Hidden channels, by the sum over all norms of `⌊2^16·|β| / median |β|⌋`, β in Q16; equals in the source's order.
    ///
    /// A norm's output is `β` plus a part of variance `γ²`; where activations are massive, `β` holds most of it.
    pub(crate) fn of_norms(channels: usize, betas: &[&dyn Fn(usize) -> Option<Real>]) -> Self {
        if channels < DIVIDED_MIN {
            return Self::natural(channels);
        }
        let mut scores = vec![0_u64; channels];
        for beta in betas {
            // What is not representable is refused where the norm itself is converted.
            let fixed = |channel| beta(channel).and_then(|beta| beta.fixed(16, SAT));
            let sizes: Vec<u64> = (0..channels)
                .map(|at| fixed(at).map_or(0, |beta| beta.unsigned_abs().into()))
                .collect();
            let mut sorted = sizes.clone();
            sorted.sort_unstable();
            let median = sorted[channels / 2].max(1);
            scores.iter_mut().zip(&sizes).for_each(|(score, size)| *score += (size << 16) / median);
        }
        Self::by(channels, |lhs, rhs| scores[rhs].cmp(&scores[lhs]))
    }

    /// A matrix's columns, by their largest magnitude; equals in the source's order.
    ///
    /// Of the inner channels: a column of large weights sets the step of every row that it is part of.
    pub(crate) fn of_columns(matrix: &Matrix<'_>) -> Self {
        if matrix.columns < DIVIDED_MIN {
            return Self::natural(matrix.columns);
        }
        let mut peaks = vec![Real::default(); matrix.columns];
        for row in 0..matrix.rows {
            for (column, peak) in peaks.iter_mut().enumerate() {
                if let Some(value) =
                    (matrix.value)(row, column).filter(|value| value.exceeds(*peak))
                {
                    *peak = value;
                }
            }
        }
        Self::by(matrix.columns, |lhs, rhs| match (&peaks[lhs], &peaks[rhs]) {
            (lhs, rhs) if lhs.exceeds(*rhs) => Ordering::Less,
            (lhs, rhs) if rhs.exceeds(*lhs) => Ordering::Greater,
            _ => Ordering::Equal,
        })
    }

    fn by(channels: usize, compare: impl Fn(usize, usize) -> Ordering) -> Self {
        let mut order: Vec<usize> = (0..channels).collect();
        order.sort_by(|lhs, rhs| compare(*lhs, *rhs));
        Self(order)
    }
}

/// Where the parts of a divided row begin, and its end: first the columns of 15-bit inputs, then those of 8 bits.
pub(crate) fn bounds(columns: usize, parts: Parts) -> Vec<usize> {
    if columns < DIVIDED_MIN {
        return vec![0, columns];
    }
    let twenty_fourths = |count: usize| (columns * count / 24).next_multiple_of(PART);
    match parts {
        Parts::Two => vec![0, twenty_fourths(1), columns],
        Parts::Three => vec![0, twenty_fourths(1), twenty_fourths(5), columns],
    }
}

/// Into how many parts a row is divided.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parts {
    /// A norm's output: 1/24 of it and the rest.
    Two,
    /// An activation's output, whose values fall off slowly: 1/24, 4/24 and the rest.
    Three,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn real(value: u32) -> Real {
        Real { is_negative: value % 2 == 1, mantissa: value.into(), exponent: -16 }
    }

    #[test]
    fn massive_columns_come_first_and_equals_stay() {
        let value = |row: usize, column: usize| {
            Some(real(match (row, column) {
                (1, 77) => 900,
                (0, 3) => 901,
                _ => 5,
            }))
        };
        let matrix = Matrix::new(2, 300, &value);
        let order = Order::of_columns(&matrix);
        let rest = (0..300).filter(|at| ![3, 77].contains(at));
        assert_eq!(order.0, [3, 77].into_iter().chain(rest).collect::<Vec<_>>());
        assert!(!order.is_natural());
    }

    #[test]
    fn norms_are_weighed_by_their_own_medians() {
        // Ten times the median of a small norm outweighs twice that of a large one.
        let small = |at: usize| Some(real(if at == 9 { 50 } else { 5 }));
        let large = |at: usize| Some(real(if at == 4 { 80_000 } else { 40_000 }));
        let order = Order::of_norms(256, &[&small, &large]);
        assert_eq!(order.0[..3], [9, 4, 0]);
    }

    #[test]
    fn narrow_rows_are_left_as_they_are() {
        let value = |_, column: usize| Some(real(u32::try_from(column).unwrap()));
        let matrix = Matrix::new(1, 255, &value);
        assert!(Order::of_columns(&matrix).is_natural());
        assert!(Order::of_norms(255, &[&|at| value(0, at)]).is_natural());
        assert_eq!(bounds(255, Parts::Three), [0, 255]);
    }

    #[test]
    fn parts_begin_where_codes_are_padded() {
        assert_eq!(bounds(384, Parts::Two), [0, 32, 384]);
        assert_eq!(bounds(1_536, Parts::Three), [0, 64, 320, 1_536]);
        for columns in 256..5_000 {
            for parts in [Parts::Two, Parts::Three] {
                let bounds = bounds(columns, parts);
                assert!(bounds.is_sorted_by(|lhs, rhs| lhs < rhs), "{columns}");
                assert!(bounds[..bounds.len() - 1].iter().all(|at| at % PART == 0));
            }
        }
    }
}
