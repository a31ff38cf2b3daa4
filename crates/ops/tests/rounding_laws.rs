//! What rounding, scales and roots promise for every input, not only for the vectors.

use hyperion_ops::{
    quantize::{Quantizer, quantize, quantize_fine, split},
    round::{bit_length, fit, inv_root, isqrt32, req, rshr, sat, wide},
};
use hyperion_primitives::limits::SAT;
use proptest::prelude::*;

/// Activations of a row whose width in bits is itself drawn.
fn row() -> impl Strategy<Value = Vec<i32>> {
    (0_u32..31).prop_flat_map(|bits| {
        let bound = SAT.min(1 << bits);
        prop::collection::vec(-bound..=bound, 1..70)
    })
}

proptest! {
    #[test]
    fn a_shift_rounds_to_the_nearest_and_a_tie_upwards(x in -(1_i64 << 60)..1 << 60, s in 1_i32..=32) {
        let rounded = rshr(x, s);
        // rounded - 1/2 <= x / 2^s < rounded + 1/2, in halves of the last place.
        let twice = i128::from(x) * 2;
        let (low, high) = (2 * i128::from(rounded) - 1, 2 * i128::from(rounded) + 1);
        prop_assert!(low << s <= twice && twice < high << s);
    }

    #[test]
    fn kernels_and_proofs_evaluate_the_same_requantization(
        acc in -i32::MAX..=i32::MAX,
        a in 128_u32..=255,
        b in 1_u32..=255,
        low in 2_i32..=25,
        above in 0_i32..=15,
        kx in -7_i32..=16,
    ) {
        let kw = (low + above).min(25);
        let want = req(acc, a * b, kw - kx);
        // One shift for the whole row: low + 15 - kx, with B moved up by what kw is above low.
        let shift = low + 15 - kx;
        if shift >= 1 {
            let multiplier = a * (b << (15 - (kw - low)));
            prop_assert_eq!(sat(wide(acc, multiplier, shift.cast_unsigned())), want);
        }
        // One shift for the whole layer: 32.
        let product = (i128::from(acc) * i128::from(a) * i128::from(b)) << (kx + 7 + 25 - kw);
        let exact = (product + (1 << 31)) >> 32;
        let bound = i128::from(SAT);
        prop_assert_eq!(exact.clamp(-bound, bound), i128::from(want));
    }

    #[test]
    fn a_fitted_ratio_is_the_ratio_or_less(m in 0_u32..1 << 16, s in -3_i32..=68) {
        let (fitted, shift) = fit(m, s);
        prop_assert!(shift <= 32 && fitted <= m);
        // Beyond a shift of 32, whole low bits go; nothing else changes.
        let dropped = (s - 32).clamp(0, 31);
        prop_assert_eq!((fitted, shift), (m >> dropped, s.min(32)));
    }

    #[test]
    fn an_inverse_root_is_good_to_thirteen_bits_of_its_square(v in 1_u64.., shift in 0_u32..64) {
        let v = (v >> shift).max(1);
        let (reciprocal, k) = inv_root(v);
        prop_assert!((1 << 15..=1 << 16).contains(&reciprocal) && k % 2 == 0);
        // R^2 * v is 2^(62 + k) within 2^-13 of itself.
        let square = u128::from(reciprocal).pow(2) * u128::from(v);
        let one = 1_u128 << (62 + k);
        prop_assert!(square.abs_diff(one) <= one >> 13, "{square} against {one}");
    }

    #[test]
    fn a_square_root_is_the_floor(v: u32) {
        let root = u64::from(isqrt32(v));
        prop_assert!(root * root <= u64::from(v) && u64::from(v) < (root + 1) * (root + 1));
    }

    #[test]
    fn codes_times_the_step_give_the_row_back(x in row()) {
        let peak = x.iter().map(|x| u64::from(x.unsigned_abs())).max().unwrap().max(1);
        // What is rounded away before the row is quantized, in units of 2^-7.
        let coarse = 128_i64 << bit_length(peak).saturating_sub(15);
        for kmin in [-7, -4] {
            let mut codes = vec![0; x.len()];
            let scale = quantize(&x, kmin, &mut codes);
            let exponent = i32::from(scale.exponent);
            prop_assert!(scale.mantissa >= 128 && (kmin..=16).contains(&exponent));
            let step = i64::from(scale.mantissa) << (exponent + 7);
            for (x, code) in x.iter().zip(codes) {
                prop_assert!(code != -128);
                let error = (i64::from(*x) * 128 - i64::from(code) * step).abs();
                // The 16-bit reciprocal costs a thousandth of a code beyond the half.
                prop_assert!(error * 1000 <= 501 * step + 1000 * coarse, "{x} as {code}");
            }
        }
        let mut codes = vec![0; x.len()];
        let scale = quantize_fine(&x, 0, &mut codes);
        for (x, code) in x.iter().zip(codes) {
            let step = i64::from(scale.mantissa) << scale.exponent;
            let error = (i64::from(*x) * 128 - i64::from(code) * step).abs();
            prop_assert!(error * 100 <= 101 * step + 100 * coarse, "{x} as {code}");
            let (hi, lo) = split(code);
            prop_assert_eq!(i16::from(hi) * 128 + i16::from(lo), code);
            prop_assert!(hi >= -127 && (-64..=63).contains(&lo));
        }
    }
}

#[test]
fn every_peak_of_fifteen_bits_and_every_power_beyond_gives_a_quantizer_in_range() {
    let powers = (15..31).flat_map(|bit| (1_u32 << bit) - 2..=(1 << bit) + 2);
    for peak in (0..=33_000).chain(powers).chain([(1 << 31) - 1]) {
        for kmin in [-7, -4, 0] {
            let quantizer = Quantizer::new(peak, kmin);
            assert!(quantizer.scale.mantissa >= 128, "{peak}");
            assert!((kmin..=17).contains(&i32::from(quantizer.scale.exponent)), "{peak}");
            assert!((32_896..=65_536).contains(&quantizer.reciprocal), "{peak}");
            assert!(quantizer.shift <= 8 && quantizer.drop <= 16, "{peak}");
            let top = peak.cast_signed();
            assert!(quantizer.code(top) >= 0 && quantizer.code(-top) >= -127, "{peak}");
            assert!(quantizer.fine_code(top).abs() <= 127 * 128, "{peak}");
        }
    }
}

#[test]
#[should_panic(expected = "a row lies inside i32 without i32::MIN")]
fn the_one_row_without_a_magnitude_is_refused() {
    quantize(&[i32::MIN], -7, &mut [0]);
}
