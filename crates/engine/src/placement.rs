//! Which device has room for which model, decided before anything is loaded.

/// Where models go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Per device, the models it holds.
    pub(crate) holds: Vec<Vec<bool>>,
    /// Models that no device has room for: bytes needed, and the most that any device had left.
    pub(crate) unfit: Vec<(usize, u64, u64)>,
}

/// Gives each model, in order, to every device that has room for it.
///
/// `needs`: weights and buffers per model; `memory`: bytes per device.
pub(crate) fn place(needs: &[u64], memory: &[u64]) -> Placement {
    let mut left = memory.to_vec();
    let mut holds = vec![vec![false; needs.len()]; memory.len()];
    let mut unfit = Vec::new();
    for (model, needed) in needs.iter().enumerate() {
        let largest = left.iter().copied().max().unwrap_or(0);
        if *needed > largest {
            unfit.push((model, *needed, largest));
        }
        for (left, holds) in left.iter_mut().zip(&mut holds) {
            if let Some(rest) = left.checked_sub(*needed) {
                (*left, holds[model]) = (rest, true);
            }
        }
    }
    Placement { holds, unfit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_go_wherever_there_is_room_and_the_rest_is_told_the_numbers() {
        let placed = place(&[60, 50, 10], &[100, 70]);
        assert_eq!(placed.holds, [[true, false, true], [true, false, true]]);
        assert_eq!(placed.unfit, [(1, 50, 40)]);
        assert_eq!(place(&[1], &[]).unfit, [(0, 1, 0)]);
    }
}
