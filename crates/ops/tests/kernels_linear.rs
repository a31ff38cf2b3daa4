//! Linear steps of every kernel set against the definition: any codes, any steps, saturation on every path.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod kernels;

use hyperion_ops::LinearShape;
use kernels::{Layer, equal};
use proptest::{collection::vec, prelude::*, sample::select};

/// Largest value of an activation.
const SAT: i32 = (1 << 30) - 1;

/// Codes of one row of weights: small, large, or all at an extreme.
fn weight_row(k: usize) -> impl Strategy<Value = Vec<i8>> {
    prop_oneof![
        vec(-127_i8..=127, k),
        vec(-20_i8..=20, k),
        vec(select(vec![-127_i8, 127]), k),
        Just(vec![127; k]),
        Just(vec![0; k]),
    ]
}

/// A row of inputs of some size; `[-127, 127]` are their own codes.
fn input_row(k: usize) -> impl Strategy<Value = Vec<i32>> {
    (0_u32..=30).prop_flat_map(move |bits| {
        let most = (1_i32 << bits) - 1;
        prop_oneof![
            4 => vec(-most..=most, k),
            2 => vec(-127_i32..=127, k),
            1 => vec(select(vec![-most, most, 0, 1]), k),
            1 => Just(vec![most; k]),
        ]
    })
}

fn layer(k: usize, n: usize) -> impl Strategy<Value = Layer> {
    let codes = vec(weight_row(k), n).prop_map(|rows| rows.concat());
    let steps = (2_i8..=25).prop_flat_map(move |low| {
        let exponents = vec(low..=25.min(low + 15), n);
        (vec(1_u8..=255, n), exponents, vec(-SAT..=SAT, n), 0_u32..31)
    });
    (codes, steps, any::<bool>(), any::<bool>()).prop_map(
        move |(codes, (mantissas, exponents, bias, shift), with_bias, a15)| {
            let mut shape =
                LinearShape::new(u32::try_from(k).unwrap(), u32::try_from(n).unwrap()).unwrap();
            (shape.bias, shape.a15) = (with_bias, a15);
            let bias = bias.into_iter().map(|bias| bias >> shift).collect();
            Layer { shape, codes, mantissas, exponents, bias }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn linear_steps_equal_the_definition(
        (layer, x) in (1_usize..420, 1_usize..90, 1_usize..80).prop_flat_map(|(k, n, rows)| {
            (layer(k, n), vec(input_row(k), rows).prop_map(|rows| rows.concat()))
        })
    ) {
        equal(&[1, 3], |device| layer.apply(device, &x));
    }
}

/// The first row of a tile of 64 was once quantized with the plan of the last.
#[test]
fn rows_beyond_a_tile_keep_their_own_scale() {
    let shape = LinearShape::new(384, 100).unwrap();
    let codes = (0..38_400_i32).map(|i| i8::try_from(i * 37 % 255 - 127).unwrap()).collect();
    let layer =
        Layer { shape, codes, mantissas: vec![200; 100], exponents: vec![17; 100], bias: vec![] };
    let x: Vec<i32> = (0..131 * 384).map(|i| (i * 7919 % 4001 - 2000) << (i / 384 % 15)).collect();
    equal(&[1, 2, 5], |device| layer.apply(device, &x));
}

#[test]
fn the_greatest_depth_at_its_extremes_neither_wraps_nor_saturates_early() {
    let k = 131_040;
    let shape = LinearShape::new(131_040, 2).unwrap();
    let codes = [vec![127; k], vec![-127; k]].concat();
    let layer = Layer { shape, codes, mantissas: vec![4; 2], exponents: vec![2; 2], bias: vec![] };
    equal(&[1], |device| layer.apply(device, &[vec![127; k], vec![-127; k]].concat()));
}
