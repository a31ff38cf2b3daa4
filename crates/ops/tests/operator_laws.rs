//! What single operators promise for every input.

use hyperion_ops::{
    ActivationTable, GemmShape, NormKind, NormShape, PoolMode, Sampling,
    activation::activation,
    argmax::argmax,
    gemm::{dot, gemm},
    norm::norm,
    pool::{pool, pool_unit},
    rope::{cos_sin, turn},
    sample::{Past, draw, sample},
    table::exp2_neg,
};
use hyperion_primitives::limits::SAT;
use proptest::prelude::*;

fn codes(len: usize) -> impl Strategy<Value = Vec<i8>> {
    prop::collection::vec(-127_i8..=127, len)
}

/// A row whose width in bits is itself drawn.
fn row(len: usize) -> impl Strategy<Value = Vec<i32>> {
    (1_u32..31).prop_flat_map(move |bits| {
        let bound = SAT.min(1 << bits);
        prop::collection::vec(-bound..=bound, len)
    })
}

proptest! {
    #[test]
    fn a_product_is_the_sum_over_any_split_of_its_depth(
        (lhs, rhs, at) in (1_usize..200).prop_flat_map(|n| (codes(n), codes(n), 0..=n))
    ) {
        let halves = dot(&lhs[..at], &rhs[..at]) + dot(&lhs[at..], &rhs[at..]);
        prop_assert_eq!(halves, dot(&lhs, &rhs));
        let backwards = |codes: &[i8]| codes.iter().rev().copied().collect::<Vec<_>>();
        prop_assert_eq!(dot(&backwards(&lhs), &backwards(&rhs)), dot(&lhs, &rhs));
    }

    #[test]
    fn every_element_of_a_product_is_a_dot_product(
        (rows, cols, depth, lhs, rhs) in (1_usize..5, 1_usize..5, 1_usize..40)
            .prop_flat_map(|(r, c, d)| (Just(r), Just(c), Just(d), codes(r * d), codes(c * d)))
    ) {
        let mut out = vec![0; rows * cols];
        gemm(GemmShape::new(rows, cols, depth).unwrap(), &lhs, &rhs, &mut out);
        for (i, got) in out.iter().enumerate() {
            let (row, col) = (i / cols * depth, i % cols * depth);
            prop_assert_eq!(*got, dot(&lhs[row..row + depth], &rhs[col..col + depth]));
        }
    }

    #[test]
    fn a_normalised_row_has_a_mean_square_of_one(x in row(64), layer: bool) {
        let kind = if layer { NormKind::Layer } else { NormKind::Rms };
        let shape = NormShape::new(kind, 0, 64).unwrap();
        let mut y = [0; 64];
        norm(shape, &[1 << 14; 64], None, &x, &mut y);
        // Rows of a few bits keep a share of their mean, so only rows that have the bits are measured.
        let spread = x.iter().max().unwrap().abs_diff(*x.iter().min().unwrap());
        if spread > 1 << 12 {
            let square: i64 = y.iter().map(|y| i64::from(*y).pow(2)).sum::<i64>() / 64;
            prop_assert!(square.abs_diff(1 << 32) <= 1 << 21, "{square}");
        }
    }

    #[test]
    fn a_non_linearity_is_never_above_relu_nor_far_below(x in -SAT..=SAT) {
        for table in ActivationTable::ALL {
            let mut y = [0];
            activation(table, &[x], &mut y);
            let below = x.max(0) - y[0];
            // The largest correction is SILU's, 0.2785.
            prop_assert!((0..=18_251).contains(&below), "{table:?}");
            prop_assert!(table != ActivationTable::Relu || below == 0);
        }
    }

    #[test]
    fn a_turn_keeps_the_length_of_a_pair(
        x0 in -(SAT / 2)..=SAT / 2,
        x1 in -(SAT / 2)..=SAT / 2,
        frequency: u64,
        position in 0_u32..65_536,
    ) {
        let angle = cos_sin(frequency, position);
        let (y0, y1) = turn((x0, x1), angle);
        let square = |a: i32, b: i32| i128::from(a).pow(2) + i128::from(b).pow(2);
        let (before, after) = (square(x0, x1), square(y0, y1));
        // Cosine and sine are good to half of 2^-14 each, the results to half a unit.
        let slack = (before >> 12) + i128::from(x0.unsigned_abs()) + i128::from(x1.unsigned_abs()) + 2;
        prop_assert!((before - after).abs() <= slack, "{before} and {after}");
    }

    #[test]
    fn a_pooled_row_has_length_one_and_a_mean_lies_between(
        (count, x) in (1_usize..9).prop_flat_map(|count| (Just(count), row(count * 16)))
    ) {
        let (mut mean, mut unit) = ([0; 16], [0; 16]);
        pool(PoolMode::Mean, &x, &mut mean);
        for (column, mean) in mean.iter().enumerate() {
            let column = || (0..count).map(|row| x[row * 16 + column]);
            prop_assert!(column().min().unwrap() <= *mean && *mean <= column().max().unwrap());
        }
        for mode in PoolMode::ALL {
            pool_unit(mode, &x, &mut unit);
            let square: i64 = unit.iter().map(|u| i64::from(*u).pow(2)).sum();
            prop_assert!(square == 0 || square.abs_diff(1 << 30) <= 1 << 18, "{square}");
        }
        let mut first = [0; 16];
        pool(PoolMode::First, &x, &mut first);
        prop_assert_eq!(&first[..], &x[..16]);
        pool(PoolMode::Last, &x, &mut first);
        prop_assert_eq!(&first[..], &x[x.len() - 16..]);
    }

    #[test]
    fn the_largest_place_is_the_first_of_the_largest(x in prop::collection::vec(-3..3, 1..20)) {
        let place = argmax(&x) as usize;
        prop_assert!(x[..place].iter().all(|v| *v < x[place]));
        prop_assert!(x[place..].iter().all(|v| *v <= x[place]));
    }

    #[test]
    fn a_token_is_drawn_from_what_is_kept(
        logits in row(40),
        temperature in 656_u32..400_000,
        top_k in 0_u32..41,
        top_p in 1_u32..=65_536,
        seed: [u8; 32],
        position: u32,
    ) {
        let sampling = Sampling::new(temperature, top_k, top_p, 0, 0).unwrap();
        let drawn = draw(sampling, &seed, position, &logits);
        prop_assert!(drawn.kept.contains(&drawn.token) && drawn.point < drawn.total);
        prop_assert!(top_k == 0 || drawn.kept.len() <= top_k as usize);
        prop_assert!(drawn.kept.contains(&argmax(&logits)), "the likeliest token is always kept");
        let least = drawn.kept.iter().map(|token| logits[*token as usize]).min().unwrap();
        let left_out = (0..40).filter(|token| !drawn.kept.contains(token));
        for token in left_out {
            prop_assert!(logits[token as usize] <= least, "what is kept ranks above the rest");
        }
        prop_assert_eq!(sample(sampling, &seed, position, &logits, Past::default()), drawn.token);
        for narrow in [Sampling::new(temperature, 1, 65_536, 0, 0), Sampling::new(temperature, 0, 1, 0, 0)] {
            let token = sample(narrow.unwrap(), &seed, position, &logits, Past::default());
            prop_assert_eq!(token, sample(Sampling::GREEDY, &seed, position, &logits, Past::default()));
        }
    }

    #[test]
    fn a_power_of_two_falls_by_half_per_octave(d in 0_u32..8_000, drop in 0_u32..6) {
        let (here, further) = (exp2_neg(d, drop), exp2_neg(d + 256, drop));
        prop_assert_eq!(further, here / 2);
        prop_assert!(exp2_neg(d + 1, drop) <= here);
    }
}
