//! Queries and keys whose columns are about as large as each other.
//!
//! A product of a query and a key stays what it is when a column of the one is multiplied by what the same column of the other is
//! divided by, and a rotary turn leaves that true where both columns of a pair have one factor. Trained keys have a few columns many
//! times the rest, and a row of codes of eight bits has one step for all. With `|q|·s = |k|/s` the roundings of both weigh least
//! (Xiao et al. 2023, arXiv:2211.10438, with α = ½). How large a column is, its weights say: what they read comes from
//! a norm, so that its channels are about one. Factors are powers of two, so nothing is rounded.

use hyperion_ops::AttentionShape;

use crate::real::Real;

/// Exponents are within this.
const SHIFT_MAX: i32 = 8;
/// Binary digits of a weight that its square is made of.
const DIGITS: u32 = 24;

/// The square of a weight in units of 2^-48, below 2^62; larger weights than 2^7 count as that.
pub(super) fn square(weight: Real) -> u128 {
    let fixed = weight.fixed(DIGITS, i32::MAX).unwrap_or(i32::MAX);
    u128::from(fixed.unsigned_abs()).pow(2)
}

/// For each row of queries, keys and values, one below the other, the power of two that it is to be multiplied by. `energy` is the
/// sum of the squares of a row's weights and of its bias.
pub(super) fn shifts(
    shape: AttentionShape,
    rows: usize,
    energy: &mut dyn FnMut(usize) -> u128,
) -> Vec<i32> {
    let [heads, kv_heads, columns] =
        [shape.heads, shape.kv_heads, shape.head_dim].map(|size| size as usize);
    let (queries, readers) = (heads * columns, heads / kv_heads);
    let mut shifts = vec![0; rows];
    for head in 0..kv_heads {
        for column in 0..columns / 2 {
            let pair = [column, column + columns / 2];
            let keys = pair.map(|column| queries + head * columns + column);
            let key: u128 = keys.iter().map(|row| energy(*row)).sum();
            let of =
                |reader: usize| pair.map(|column| (head * readers + reader) * columns + column);
            let reading: Vec<usize> = (0..readers).flat_map(of).collect();
            let query: u128 = reading.iter().map(|row| energy(*row)).sum();
            let shift = fourth_root(key * readers as u128, query);
            reading.iter().for_each(|row| shifts[*row] = shift);
            keys.iter().for_each(|row| shifts[*row] = -shift);
        }
    }
    shifts
}

/// The power of two that is next to the fourth root of a ratio, as an exponent within ±[`SHIFT_MAX`]; 0 where either is nothing. Both
/// are below 2^90.
fn fourth_root(over: u128, under: u128) -> i32 {
    if over == 0 || under == 0 {
        return 0;
    }
    // Whether the ratio is below 2^(4·shift + 2), which is half way to the next.
    let is_below = |shift: &i32| match u32::try_from(4 * shift + 2) {
        Ok(digits) => over < under << digits,
        Err(_) => over << (4 * shift + 2).unsigned_abs() < under,
    };
    (-SHIFT_MAX..SHIFT_MAX).find(is_below).unwrap_or(SHIFT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_rounded_in_its_exponent() {
        for (over, under, want) in [
            (1, 1, 0),
            (3, 1, 0),
            (4, 1, 1),
            (63, 1, 1),
            (64, 1, 2),
            (1, 3, 0),
            (1, 4, 0),
            (1, 5, -1),
            (1, 64, -1),
            (1, 65, -2),
            (0, 9, 0),
            (9, 0, 0),
            (1 << 89, 1, 8),
            (1, 1 << 89, -8),
        ] {
            assert_eq!(fourth_root(over, under), want, "{over}/{under}");
        }
    }

    #[test]
    fn pairs_of_a_group_have_one_factor() {
        // Two query heads for each of two key heads, four columns: of the second key head the pair (1, 3) is 16 times the rest.
        let shape = AttentionShape::new(4, 2, 4).unwrap();
        let mut energy = |row: usize| if [21, 23].contains(&row) { 256 } else { 1 };
        let shifts = shifts(shape, 32, &mut energy);
        for (row, shift) in shifts.into_iter().enumerate() {
            let want = match row {
                21 | 23 => -2,
                9 | 11 | 13 | 15 => 2,
                _ => 0,
            };
            assert_eq!(shift, want, "row {row}");
        }
    }

    #[test]
    fn a_square_is_of_what_fits() {
        let real = |mantissa, exponent| Real { is_negative: true, mantissa, exponent };
        assert_eq!(square(real(1, 0)), 1 << 48);
        assert_eq!(square(real(3, -1)), 9 << 46);
        assert_eq!(square(real(1, 20)), u128::from(i32::MAX.unsigned_abs()).pow(2));
    }
}
