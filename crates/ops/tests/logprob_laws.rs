//! Log probabilities against double precision, and against what they have to add up to.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::float_arithmetic,
    reason = "what is compared with are real numbers"
)]

use hyperion_ops::logprob::{ALTERNATIVES_MAX, log_sum_exp, logprobs};
use hyperion_primitives::{Mix, limits::SAT};
use proptest::prelude::*;

/// Log probabilities in double precision, in units of 2^-16.
fn real(logits: &[i32]) -> Vec<f64> {
    let most = f64::from(*logits.iter().max().unwrap());
    let below = |logit: &i32| f64::from(*logit) - most;
    let sum: f64 = logits.iter().map(|logit| (below(logit) / 65_536.0).exp()).sum();
    logits.iter().map(|logit| below(logit) - sum.ln() * 65_536.0).collect()
}

#[test]
fn every_log_probability_is_within_a_unit_of_the_real_one() {
    let mut mix = Mix::new(17);
    let mut worst = 0.0_f64;
    let lengths = [1, 2, 3, 50, 1000, 32_000, 262_144];
    for (case, len) in lengths.into_iter().cycle().take(140).enumerate() {
        let bits = mix.below(31) as u32;
        let logits: Vec<i32> = match case % 5 {
            // All alike, and all alike but one: the longest sums.
            0 => vec![mix.i32(bits).clamp(-SAT, SAT); len],
            1 => (0..len).map(|i| if i == 0 { 1 << bits.min(20) } else { 0 }).collect(),
            _ => (0..len).map(|_| mix.i32(bits).clamp(-SAT, SAT)).collect(),
        };
        let want = real(&logits);
        for token in (0..len).step_by(1 + len / 50) {
            let got = f64::from(logprobs(&logits, token as u32, 0).own_q16);
            worst = worst.max((got - want[token].max(-f64::from(SAT))).abs());
        }
    }
    println!("off by {worst:.3} units of 2^-16 at most");
    assert!(worst <= 1.0, "{worst}");
}

#[test]
fn a_certain_token_has_zero_and_the_edges_are_held() {
    assert_eq!(logprobs(&[-SAT], 0, 20).top_q16, [(0, 0)]);
    let told = logprobs(&[SAT, -SAT], 1, 2);
    assert_eq!((told.own_q16, told.top_q16), (-SAT, vec![(0, 0), (1, -SAT)]));
    // Two alike: ln 1/2 = -45425.9 / 65536.
    assert_eq!(logprobs(&[7, 7], 0, 0).own_q16, -45_426);
    assert_eq!(log_sum_exp(&vec![0; 1 << 18]), 817_670, "18 ln 2");
}

proptest! {
    #[test]
    fn alternatives_are_the_likeliest_and_say_the_same(
        logits in prop::collection::vec(-40_i32..40, 1..60),
        scale in 0_u32..16,
        count in 0..=ALTERNATIVES_MAX,
    ) {
        let logits: Vec<i32> = logits.iter().map(|logit| logit << scale).collect();
        let mut ranked: Vec<u32> = (0..logits.len() as u32).collect();
        ranked.sort_by_key(|token| (-i64::from(logits[*token as usize]), *token));
        ranked.truncate(count);
        let told = logprobs(&logits, 0, count);
        let tokens: Vec<u32> = told.top_q16.iter().map(|(token, _)| *token).collect();
        prop_assert_eq!(tokens, ranked);
        for (token, logprob) in told.top_q16 {
            prop_assert_eq!(logprobs(&logits, token, 0).own_q16, logprob);
            prop_assert!(logprob <= 0);
        }
    }
}
