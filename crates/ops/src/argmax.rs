//! The place of the largest element.

/// Lowest index among the largest elements.
///
/// # Panics
///
/// When the row is empty or longer than a `u32` counts.
pub fn argmax(x: &[i32]) -> u32 {
    assert!(!x.is_empty(), "an empty row has no largest element");
    let mut best = 0;
    for (i, value) in x.iter().enumerate() {
        if *value > x[best] {
            best = i;
        }
    }
    u32::try_from(best).expect("rows are shorter than 2^32")
}
