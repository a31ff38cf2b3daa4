//! The sampler against definitions that share no line with it: exact ratios for penalties and kept sets, double precision for
//! the odds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::float_arithmetic,
    reason = "what is compared with are real numbers"
)]

use hyperion_ops::{
    Sampling,
    repetition::{REPETITION_MAX, REPETITION_MIN, repeated},
    sample::{Past, draw, penalised, sample},
};
use hyperion_primitives::{Mix, limits::SAT};
use proptest::prelude::*;

fn warm(temperature: u32, top_k: u32, top_p: u32, min_p: u32) -> Sampling {
    Sampling::new(temperature, top_k, top_p, 0, 0).unwrap().min_p(min_p).unwrap()
}

proptest! {
    #[test]
    fn a_repeated_logit_is_the_exact_ratio_rounded_once(
        logit in -SAT..=SAT,
        r in REPETITION_MIN..=REPETITION_MAX,
    ) {
        let got = i128::from(repeated(logit, r));
        let (logit, r, sat) = (i128::from(logit), i128::from(r), i128::from(SAT));
        if logit > 0 {
            // got = floor(logit * 2^16 / r), unless that is beyond the range.
            prop_assert!(got * r <= logit << 16);
            prop_assert!(got == sat || (got + 1) * r > logit << 16);
        } else {
            // 2^16 got - logit * r lies in (-2^15, 2^15], unless saturated.
            let off = (got << 16) - logit * r;
            prop_assert!(got == -sat && logit * r <= -sat << 16 || (-(1 << 15) < off && off <= 1 << 15));
        }
    }

    #[test]
    fn penalties_come_in_one_order_and_count_what_they_say(
        logits in prop::collection::vec(-SAT..=SAT, 12),
        counts in prop::collection::vec(0_u32..4, 12),
        read in prop::collection::vec(any::<bool>(), 12),
        r in REPETITION_MIN..=REPETITION_MAX,
        frequency in -(1_i32 << 21)..=1 << 21,
        presence in -(1_i32 << 21)..=1 << 21,
    ) {
        let sampling = Sampling::new(0, 0, 65_536, frequency, presence).unwrap();
        let sampling = sampling.repetition(r).unwrap();
        let seen: Vec<u32> = (0..12).filter(|i| read[*i as usize] || counts[*i as usize] > 0).collect();
        let got = penalised(sampling, &logits, Past { counts: &counts, seen: &seen });
        for i in 0..12 {
            let was = if seen.contains(&(i as u32)) { repeated(logits[i], r) } else { logits[i] };
            let less = i128::from(frequency) * i128::from(counts[i])
                + if counts[i] > 0 { i128::from(presence) } else { 0 };
            let want = (i128::from(was) - less).clamp(-i128::from(SAT), i128::from(SAT));
            prop_assert_eq!(i128::from(got[i]), want);
        }
        // Two tokens of the same text are one.
        let once = penalised(sampling, &logits, Past { counts: &[], seen: &seen });
        let all: Vec<u32> = seen.iter().chain(&seen).copied().collect();
        prop_assert_eq!(&once, &penalised(sampling, &logits, Past { counts: &[], seen: &all }));
        let off = Sampling::new(0, 0, 65_536, 0, 0).unwrap();
        prop_assert_eq!(&penalised(off, &logits, Past { counts: &counts, seen: &seen }), &logits);
    }

    /// Each rule by itself, over the weights that the draw says it used.
    #[test]
    fn the_kept_set_is_what_every_rule_keeps(
        spread in 0_u32..24,
        stream: u64,
        temperature in 656_u32..400_000,
        top_k in 0_u32..40,
        top_p in 1_u32..=65_536,
        min_p in 0_u32..=65_536,
    ) {
        let mut mix = Mix::new(stream);
        let logits: Vec<i32> = (0..40).map(|_| mix.i32(spread)).collect();
        let drawn = draw(warm(temperature, top_k, top_p, min_p), &[7; 32], 3, &logits);
        let weight = |i: &u32| u128::from(drawn.weights[*i as usize]);
        let before = |a: u32, b: u32| (logits[b as usize], a) < (logits[a as usize], b);
        let rank = |i: u32| (0..40).filter(|other| before(*other, i)).count();
        let in_k = |i: &u32| top_k == 0 || rank(*i) < top_k as usize;
        let total: u128 = (0..40).filter(in_k).map(|i| weight(&i)).sum();
        let kept: Vec<u32> = (0..40)
            .filter(in_k)
            .filter(|i| {
                // What ranks before it is not yet enough.
                let above: u128 = (0..40).filter(|other| before(*other, *i)).map(|i| weight(&i)).sum();
                top_p == 65_536 || above << 16 < u128::from(top_p) * total
            })
            .filter(|i| weight(i) << 16 >= u128::from(min_p) << 28)
            .collect();
        prop_assert_eq!(&drawn.kept, &kept);
        prop_assert_eq!(u128::from(drawn.total), kept.iter().map(weight).sum::<u128>());
        prop_assert_eq!(drawn.weights.iter().max(), Some(&(1 << 28)));
    }
}

/// Odds of an integer draw and of a softmax in double precision: half the sum of their differences.
#[test]
fn odds_are_near_those_of_real_numbers() {
    let mut mix = Mix::new(11);
    let mut worst = 0.0_f64;
    for case in 0..40 {
        let logits: Vec<i32> = (0..2000).map(|_| mix.i32(20) / 2).collect();
        let seen: Vec<u32> = (0..2000).step_by(3).collect();
        let (temperature, r) = (40_000 + case * 2_000, 65_536 + case * 1_000);
        let min_p = [0, 655, 3_277, 13_107][case as usize % 4];
        let sampling = warm(temperature, 0, 65_536, min_p).repetition(r).unwrap();
        let row = penalised(sampling, &logits, Past { counts: &[], seen: &seen });
        let drawn = draw(sampling, &[1; 32], 0, &row);

        let ratio = f64::from(r) / 65_536.0;
        let mut real: Vec<f64> = logits.iter().map(|logit| f64::from(*logit) / 65_536.0).collect();
        for token in &seen {
            let logit = &mut real[*token as usize];
            *logit = if *logit > 0.0 { *logit / ratio } else { *logit * ratio };
        }
        let warmth = f64::from(temperature) / 65_536.0;
        let most = real.iter().copied().fold(f64::MIN, f64::max);
        let least = f64::from(min_p) / 65_536.0;
        let odds: Vec<f64> = real.iter().map(|logit| ((logit - most) / warmth).exp()).collect();
        // At the edge of min-p a rounded weight may fall on the other side: those are left out of the comparison of sets.
        let odds: Vec<f64> = odds.iter().map(|w| if *w >= least { *w } else { 0.0 }).collect();
        let sum: f64 = odds.iter().sum();
        let mut apart = 0.0;
        for (i, odds) in odds.iter().enumerate() {
            let kept = drawn.kept.binary_search(&(i as u32)).is_ok();
            let weight = if kept { f64::from(drawn.weights[i]) } else { 0.0 };
            apart += (weight / drawn.total as f64 - odds / sum).abs();
        }
        worst = worst.max(apart / 2.0);
    }
    println!("total variation {worst:.2e}");
    assert!(worst < 1e-3, "{worst}");
}

#[test]
fn settings_that_are_off_change_no_draw() {
    let mut mix = Mix::new(5);
    for position in 0..200 {
        let logits: Vec<i32> = (0..50).map(|_| mix.i32(18)).collect();
        let plain = Sampling::new(70_000, 7, 60_000, 900, -40).unwrap();
        let off = plain.min_p(0).unwrap().repetition(65_536).unwrap();
        let counts: Vec<u32> = (0..50).map(|i| u32::from(i % 9 == 0)).collect();
        let seen: Vec<u32> = (0..50).step_by(2).collect();
        let old = sample(plain, &[3; 32], position, &logits, Past { counts: &counts, seen: &[] });
        let new = sample(off, &[3; 32], position, &logits, Past { counts: &counts, seen: &seen });
        assert_eq!(old, new);
    }
}
