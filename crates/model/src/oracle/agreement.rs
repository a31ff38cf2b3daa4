//! How near two answers are.

/// Cosine of the angle between two vectors, in f64; 0 where one of them is zero.
///
/// # Panics
///
/// When the lengths differ.
#[must_use]
pub fn cosine(lhs: &[f32], rhs: &[f32]) -> f64 {
    assert_eq!(lhs.len(), rhs.len(), "vectors of one space have one length");
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let norms = dot(lhs, lhs).sqrt() * dot(rhs, rhs).sqrt();
    if norms == 0.0 { 0.0 } else { dot(lhs, rhs) / norms }
}

/// Lowest index among the largest elements, as the operator `argmax` counts; `None` for an empty row.
#[must_use]
pub fn argmax<T: PartialOrd + Copy>(row: &[T]) -> Option<usize> {
    let mut best = None;
    for (index, &value) in row.iter().enumerate() {
        if best.is_none_or(|(_, top)| value > top) {
            best = Some((index, value));
        }
    }
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_sees_direction_alone() {
        let cases = [
            ("same direction", [3.0, 4.0], [6.0, 8.0], 1.0),
            ("opposite", [3.0, 4.0], [-3.0, -4.0], -1.0),
            ("right angle", [1.0, 0.0], [0.0, 5.0], 0.0),
            ("no direction", [0.0, 0.0], [1.0, 1.0], 0.0),
        ];
        for (name, lhs, rhs, want) in cases {
            assert!((cosine(&lhs, &rhs) - want).abs() < 1e-12, "{name}");
        }
    }

    #[test]
    fn argmax_takes_the_lowest_index_of_a_tie() {
        assert_eq!(argmax(&[1, 7, 7, 2]), Some(1));
        assert_eq!(argmax(&[-1.5, -2.5]), Some(0));
        assert_eq!(argmax::<i32>(&[]), None);
    }
}
