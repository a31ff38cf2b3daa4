//! Natural logarithms of probabilities, from logits, in integers: what interfaces call logprobs.
//!
//! ```text
//! m = max l;  D_i = ((m - l_i) * 24204406 + 2^23) >> 24                        octaves in Q16
//! a = (D_i >> 8) & 255,  b = D_i & 255,  n = D_i >> 16
//! g = 2^32 - (b * 11629080 >> 8) + (b^2 * 62974 >> 18)                         2^(-b/65536) in Q32
//! e_i = n <= 44 ? (exp2[a] * g >> 16) >> n : 0;  Z = sum of e_i                Q44
//! L = log2 Z in Q24, bit by bit:  x = top 32 bits of Z;  24 times: x = x^2 >> 31, a carry is the next bit
//! logprob_i = max(-SAT, l_i - m - ((L * 11629080 + 2^31) >> 32))               11629080 = round(2^24 * ln 2)
//! ```
//!
//! They are those of the logits as they come, before temperature and penalties, and no part of a claim: whoever has the logits
//! has them. Each is within one unit of Q16 (1.6e-5) of the real number.

use alloc::vec::Vec;

use hyperion_primitives::limits::{SAT, VOCABULARY_MAX};

use crate::{argmax::argmax, round::bit_length, sample::LOG2E_Q24, table::EXP2};

/// Most alternatives that are told beside a token.
pub const ALTERNATIVES_MAX: usize = 20;

/// `round(2^24 * ln 2)`.
const LN2_Q24: u64 = 11_629_080;

/// How likely one token was, and which were the likeliest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logprobs {
    /// The token's own log probability, Q16, `-SAT` to 0.
    pub own_q16: i32,
    /// The likeliest tokens with theirs, by logit descending and index ascending.
    pub top_q16: Vec<(u32, i32)>,
}

/// Log probability of a token, and the `alternatives` likeliest tokens with theirs, fewer where there are fewer logits.
///
/// | argument | meaning | range |
/// |---|---|---|
/// | `logits` | one per token id, natural-log units | Q16 within `+-SAT`, 1 to 262,144 of them |
/// | `token` | index of a logit | |
/// | `alternatives` | how many | 20 at most |
///
/// # Panics
///
/// When there are no logits or too many, the token has none, or more than [`ALTERNATIVES_MAX`] are asked for.
pub fn logprobs(logits: &[i32], token: u32, alternatives: usize) -> Logprobs {
    let log_sum = log_sum_exp(logits);
    let of = |token: u32| {
        let below = i64::from(logits[token as usize]) - log_sum;
        i32::try_from(below.max(-i64::from(SAT)))
            .expect("not above 0, as the sum holds every token")
    };
    let top_q16 = likeliest(logits, alternatives).into_iter().map(|token| (token, of(token)));
    Logprobs { own_q16: of(token), top_q16: top_q16.collect() }
}

/// `ln sum exp l`, Q16; at least the largest logit, and 13 above it at most.
///
/// # Panics
///
/// When there are no logits or more than [`VOCABULARY_MAX`].
pub fn log_sum_exp(logits: &[i32]) -> i64 {
    assert!(logits.len() <= VOCABULARY_MAX as usize, "a vocabulary has 2^18 tokens at most");
    let most = i64::from(logits[argmax(logits) as usize]);
    // Terms are 2^44 at most, so the sum stays within 2^62; the largest is 2^44.
    let sum: u64 =
        logits.iter().map(|logit| term((most - i64::from(*logit)).cast_unsigned())).sum();
    // Below 2^29 times below 2^24.
    let log = (log2_q24(sum) - (44 << 24)) * LN2_Q24;
    most + ((log + (1 << 31)) >> 32).cast_signed()
}

/// `e^-below` in Q44; `below` in Q16, less than `2^31`.
fn term(below: u64) -> u64 {
    let octaves = (below * LOG2E_Q24 + (1 << 23)) >> 24;
    let whole = octaves >> 16;
    if whole > 44 {
        return 0;
    }
    let fine = octaves & 255;
    let fine = (1 << 32) - ((fine * LN2_Q24) >> 8) + ((fine * fine * 62_974) >> 18);
    // 2^28 * 2^32 at most.
    ((u64::from(EXP2[(octaves >> 8 & 255) as usize]) * fine) >> 16) >> whole
}

/// Logarithm to base 2 in Q24, rounded down up to a unit; `v` is `2^31` at least.
fn log2_q24(v: u64) -> u64 {
    let whole = bit_length(v) - 1;
    let mut x = v >> (whole - 31);
    let mut log = u64::from(whole);
    for _ in 0..24 {
        // x lies in [2^31, 2^32).
        x = (x * x) >> 31;
        let carry = x >> 32;
        x >>= carry;
        log = log << 1 | carry;
    }
    log
}

/// The indices of the largest logits, by logit descending and index ascending.
fn likeliest(logits: &[i32], count: usize) -> Vec<u32> {
    assert!(count <= ALTERNATIVES_MAX, "20 alternatives at most");
    let mut best: Vec<(i32, u32)> = Vec::with_capacity(count + 1);
    for (token, logit) in (0_u32..).zip(logits) {
        if best.len() == count && best.last().is_none_or(|(least, _)| least >= logit) {
            continue;
        }
        // An equal logit of a lower index stays before.
        let place = best.partition_point(|(other, _)| other >= logit);
        best.insert(place, (*logit, token));
        best.truncate(count);
    }
    best.into_iter().map(|(_, token)| token).collect()
}
