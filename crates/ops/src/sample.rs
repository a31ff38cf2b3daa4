//! Draws a token from logits; every step is an integer.
//!
//! ```text
//! r_i = repetition's rule for each token of prompt or answer, else logit_i             (repetition.rs)
//! l_i = sat(r_i - frequency * count_i - (presence if count_i > 0))
//! temperature 0: argmax l.  Otherwise
//! tau = floor(24204406 * 2^16 / temperature)                       24204406 = round(2^24 * log2 e)
//! d_i = rshr((max l - l_i) * tau, 32);  w_i = 2^(-d_i / 256) in Q28, rounded down
//! rank by (l descending, index ascending); keep the first top_k; total = sum of kept w
//! top_p < 65536: keep the shortest prefix with cum * 65536 >= top_p * total
//! min_p > 0: of these keep the tokens with w * 65536 >= min_p * max w                    max w = 2^28
//! u = keccak256("DR1" ‖ seed ‖ u32be position) mod sum of kept w
//! token = first index, in ascending INDEX order, whose running kept sum exceeds u
//! ```
//!
//! The draw walks index order so that no sort is needed to check it. It runs on the CPU whatever device
//! computed the logits. Total variation from the float softmax is 4e-4 at most over 2,000 tokens.

use alloc::vec::Vec;

use hyperion_primitives::{Keccak, limits::VOCABULARY_MAX};

use crate::{
    argmax::argmax,
    repetition::{REPETITION_MAX, REPETITION_MIN, repeated},
    round::sat,
    table::exp2_neg,
};

/// `round(2^24 * log2 e)`.
pub const LOG2E_Q24: u64 = 24_204_406;

/// How a token is drawn; [`new`](Self::new) checks the ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sampling {
    /// Temperature in Q16: 0 takes the largest logit, else 656 (0.01) to 6,553,600 (100).
    pub temperature_q16: u32,
    /// Tokens kept by rank; 0: all.
    pub top_k: u32,
    /// Share of the weight kept, Q16, 1 to 65,536.
    pub top_p_q16: u32,
    /// Taken off a logit per earlier occurrence of its token, Q16, magnitude `2^21` at most.
    pub frequency_q16: i32,
    /// Taken off a logit once its token has occurred, Q16, magnitude `2^21` at most.
    pub presence_q16: i32,
    /// Weight that a kept token has at least, as a share of the likeliest one's, Q16, 0 (off) to 65,536.
    pub min_p_q16: u32,
    /// What [`repeated`] divides or multiplies the logits of prompt and answer by, Q16, 8,192 (1/8) to 524,288 (8);
    /// 65,536: off.
    pub repetition_q16: u32,
}

impl Sampling {
    /// Takes the largest logit.
    pub const GREEDY: Self = Self {
        temperature_q16: 0,
        top_k: 0,
        top_p_q16: 65_536,
        frequency_q16: 0,
        presence_q16: 0,
        min_p_q16: 0,
        repetition_q16: 65_536,
    };

    /// Without [`min_p`](Self::min_p) and [`repetition`](Self::repetition). `None` when a number is outside its range.
    pub fn new(
        temperature_q16: u32,
        top_k: u32,
        top_p_q16: u32,
        frequency_q16: i32,
        presence_q16: i32,
    ) -> Option<Self> {
        let warm = temperature_q16 == 0 || (656..=6_553_600).contains(&temperature_q16);
        let share = (1..=65_536).contains(&top_p_q16);
        let small = |penalty: i32| penalty.unsigned_abs() <= 1 << 21;
        (warm && share && small(frequency_q16) && small(presence_q16)).then_some(Self {
            temperature_q16,
            top_k,
            top_p_q16,
            frequency_q16,
            presence_q16,
            ..Self::GREEDY
        })
    }

    /// The same with a least share of the likeliest token's weight; `None` when it is above 65,536.
    pub fn min_p(self, min_p_q16: u32) -> Option<Self> {
        (min_p_q16 <= 65_536).then_some(Self { min_p_q16, ..self })
    }

    /// The same with a penalty on what prompt or answer hold; `None` when it is outside 8,192 to 524,288.
    pub fn repetition(self, repetition_q16: u32) -> Option<Self> {
        let fits = (REPETITION_MIN..=REPETITION_MAX).contains(&repetition_q16);
        fits.then_some(Self { repetition_q16, ..self })
    }

    /// Whether draws depend on the tokens of the answer before them.
    pub fn counts(&self) -> bool {
        (self.frequency_q16, self.presence_q16) != (0, 0)
    }

    /// Whether draws depend on which tokens prompt and answer hold.
    pub const fn sees(&self) -> bool {
        self.repetition_q16 != 65_536
    }
}

/// What a draw is penalised by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past<'a> {
    /// How often each token was output before, one per logit and 65,536 at most, or empty for never.
    pub counts: &'a [u32],
    /// The tokens that prompt or answer hold, each once, all below the number of logits.
    pub seen: &'a [u32],
}

/// Everything a draw was made of, for whoever checks one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// `tau`, below `2^32`.
    pub tau: u64,
    /// `d`, in 1/256 of an octave, one per token.
    pub distances: Vec<u32>,
    /// `w`, one per token, `2^28` at most.
    pub weights: Vec<u32>,
    /// Indices of the kept tokens, ascending.
    pub kept: Vec<u32>,
    /// Sum of their weights, below `2^46`.
    pub total: u64,
    /// `u`, below `total`.
    pub point: u64,
    /// The token.
    pub token: u32,
}

/// Draws one token.
///
/// | argument | meaning | range |
/// |---|---|---|
/// | `logits` | one per token id, natural-log units | Q16 within `+-SAT`, 1 to 262,144 of them |
/// | `past` | what was read and output before | |
/// | `position` | number of tokens already output | |
///
/// # Panics
///
/// When there are no logits or too many, or as [`penalised`].
pub fn sample(
    sampling: Sampling,
    seed: &[u8; 32],
    position: u32,
    logits: &[i32],
    past: Past<'_>,
) -> u32 {
    let logits = penalised(sampling, logits, past);
    if sampling.temperature_q16 == 0 {
        argmax(&logits)
    } else {
        draw(sampling, seed, position, &logits).token
    }
}

/// `l`: logits after penalties.
///
/// # Panics
///
/// When the counts are neither none nor one per logit, or a token that was seen has no logit.
pub fn penalised(sampling: Sampling, logits: &[i32], past: Past<'_>) -> Vec<i32> {
    let Past { counts, seen } = past;
    assert!(counts.is_empty() || counts.len() == logits.len(), "one count per logit");
    let mut penalised = logits.to_vec();
    for token in seen {
        // From the logits as they came: a token named twice would be penalised once.
        let token = *token as usize;
        penalised[token] = repeated(logits[token], sampling.repetition_q16);
    }
    for (logit, count) in penalised.iter_mut().zip(counts) {
        let presence = if *count > 0 { i64::from(sampling.presence_q16) } else { 0 };
        // |frequency * count| <= 2^37.
        let frequency = i64::from(sampling.frequency_q16) * i64::from(*count);
        *logit = sat(i64::from(*logit) - frequency - presence);
    }
    penalised
}

/// Draws from penalised logits at a temperature above 0, keeping every intermediate value.
///
/// # Panics
///
/// When the temperature is 0, or there are no logits or more than [`VOCABULARY_MAX`].
pub fn draw(sampling: Sampling, seed: &[u8; 32], position: u32, logits: &[i32]) -> Draw {
    assert!(logits.len() <= VOCABULARY_MAX as usize, "a vocabulary has 2^18 tokens at most");
    let best = i64::from(logits[argmax(logits) as usize]);
    let tau = (LOG2E_Q24 << 16) / u64::from(sampling.temperature_q16);
    let distances: Vec<u32> = logits
        .iter()
        .map(|logit| {
            let below = (best - i64::from(*logit)).cast_unsigned();
            // below < 2^31 and tau < 2^32: the product and its rounding term stay inside a u64.
            let distance = (below * tau + (1 << 31)) >> 32;
            u32::try_from(distance).expect("below 2^31")
        })
        .collect();
    let weights: Vec<u32> = distances.iter().map(|distance| exp2_neg(*distance, 0)).collect();
    let (kept, total) = kept(sampling, logits, &weights);
    let digest = Keccak::tagged(b"DR1").update(seed).u32(position).finish();
    // Byte by byte from the top: the remainder is below 2^46, so 256 of it and a byte fit.
    let point = digest.iter().fold(0, |rest, byte| (rest * 256 + u64::from(*byte)) % total);
    let mut running = 0;
    let token = kept.iter().copied().find(|token| {
        running += u64::from(weights[*token as usize]);
        running > point
    });
    let token = token.expect("the point lies below the sum of all kept weights");
    Draw { tau, distances, weights, kept, total, point, token }
}

/// The tokens that `top_k`, `top_p` and `min_p` keep, in index order, and the sum of their weights.
fn kept(sampling: Sampling, logits: &[i32], weights: &[u32]) -> (Vec<u32>, u64) {
    let weight = |token: &u32| u64::from(weights[*token as usize]);
    let count = u32::try_from(logits.len()).expect("2^18 at most");
    let mut ranked: Vec<u32> = (0..count).collect();
    ranked.sort_by_key(|token| (core::cmp::Reverse(logits[*token as usize]), *token));
    if sampling.top_k > 0 {
        ranked.truncate(sampling.top_k as usize);
    }
    let mut total: u64 = ranked.iter().map(weight).sum();
    if sampling.top_p_q16 < 65_536 {
        let wanted = u64::from(sampling.top_p_q16) * total;
        let mut running = 0;
        let full = ranked.iter().position(|token| {
            running += weight(token);
            running << 16 >= wanted
        });
        ranked.truncate(full.expect("all of it is enough") + 1);
        total = running;
    }
    if sampling.min_p_q16 > 0 {
        // The likeliest weight is 2^28, so this is w * 2^16 >= min_p * 2^28.
        let least = u64::from(sampling.min_p_q16) << 12;
        ranked.retain(|token| weight(token) >= least);
        total = ranked.iter().map(weight).sum();
    }
    ranked.sort_unstable();
    (ranked, total)
}
