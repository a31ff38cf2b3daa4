//! Products of attention as plain loops.

use super::packed::{KEYS, KeyPair, QUAD};

/// Scores of `R` queries with a panel of keys; a query is its pairs of codes, two halves of 32 bits.
pub(crate) fn scores<const R: usize>(
    queries: [&[i32]; R],
    keys: &[KeyPair],
    out: &mut [[i32; KEYS]; R],
) {
    for (query, out) in queries.into_iter().zip(out) {
        out.fill(0);
        for (pair, keys) in query.iter().zip(keys) {
            let (low, high) = (pair << 16 >> 16, pair >> 16);
            for (out, key) in out.iter_mut().zip(keys.as_chunks::<2>().0) {
                // At most 127^2 * 256 in all.
                *out += low * i32::from(key[0]) + high * i32::from(key[1]);
            }
        }
    }
}

/// Adds rows of values, each times its code, -127 to 127; `acc` is `[width]`.
pub(crate) fn values(codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]) {
    for (codes, values) in codes.iter().zip(values.chunks_exact(QUAD * acc.len())) {
        let codes = codes.map(i32::from);
        for (acc, values) in acc.iter_mut().zip(values.as_chunks::<QUAD>().0) {
            // At most 127^2 * 320 in all.
            *acc += (0..QUAD).map(|i| codes[i] * i32::from(values[i])).sum::<i32>();
        }
    }
}
