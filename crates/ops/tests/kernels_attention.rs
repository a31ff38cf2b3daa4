//! Attention of every kernel set against the definition: steps far apart, blocks cut anywhere, every flag.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod kernels;

use hyperion_ops::{AttentionShape, Sequence, Step};
use hyperion_primitives::Mix;
use kernels::{equal, input, matrix, read};
use proptest::prelude::*;

/// Sequences of these rows at these positions, one after another.
fn sequences(lengths: &[(u32, u32)]) -> Vec<Sequence> {
    let mut row = 0;
    lengths
        .iter()
        .map(|(rows, position)| {
            let sequence = Sequence { row, rows: *rows, position: *position };
            row += rows;
            sequence
        })
        .collect()
}

/// Runs attention on rows whose sizes are drawn per row and head, from one bit to `bits`.
fn attend(shape: AttentionShape, sequences: &[Sequence], bits: (u32, u32), threads: &[usize]) {
    equal(threads, |device| {
        let mut mix = Mix::new(3);
        let rows: usize = sequences.iter().map(|sequence| sequence.rows as usize).sum();
        let mut draw = |heads: u32| -> Vec<i32> {
            let mut x = vec![0; rows * (heads * shape.head_dim) as usize];
            for head in x.chunks_mut(shape.head_dim as usize) {
                let size =
                    bits.0 + u32::try_from(mix.below(u64::from(bits.1 - bits.0 + 1))).unwrap();
                head.fill_with(|| mix.i32(size).max(1 - (1 << size)));
            }
            x
        };
        let width = |heads: u32| (heads * shape.head_dim) as usize;
        let (q, k, v) = (draw(shape.heads), draw(shape.kv_heads), draw(shape.kv_heads));
        let q = input(device, width(shape.heads), &q);
        let (k, v) =
            (input(device, width(shape.kv_heads), &k), input(device, width(shape.kv_heads), &v));
        let out = matrix(device, rows, width(shape.heads));
        device.run(&[Step::Attention { shape, sequences, q, k, v, out }]).unwrap();
        read(device, out)
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn attention_equals_the_definition(
        kv_heads in 1_u32..4, group in 1_u32..4, head_dim in 1_u32..70,
        lengths in prop::collection::vec((1_u32..90, 0_u32..700), 1..4),
        causal in any::<bool>(), window in prop_oneof![Just(0_u32), 1_u32..80], p15 in any::<bool>(),
        bits in (0_u32..20, 0_u32..11),
    ) {
        let shape = AttentionShape::new(kv_heads * group, kv_heads, head_dim).unwrap();
        let shape = if causal { shape.with_causal(window) } else { shape };
        let shape = if p15 { shape.with_p15() } else { shape };
        attend(shape, &sequences(&lengths), (bits.0, bits.0 + bits.1), &[1, 3]);
    }
}

#[test]
fn blocks_of_keys_are_cut_at_absolute_positions() {
    let shape = AttentionShape::new(2, 1, 32).unwrap();
    for (rows, position) in [(256, 0), (257, 0), (300, 250), (513, 511), (40, 65_490), (3, 255)] {
        let sequences = sequences(&[(rows, position)]);
        attend(shape, &sequences, (14, 18), &[1]);
        attend(shape.with_causal(0).with_p15(), &sequences, (14, 18), &[1]);
        attend(shape.with_causal(70), &sequences, (14, 18), &[1]);
    }
}

/// Keys whose exponents differ by more than 15 have no common step in 31 bits.
#[test]
fn keys_far_apart_in_size_take_the_slow_path_and_agree() {
    let shape = AttentionShape::new(2, 2, 16).unwrap();
    attend(shape, &sequences(&[(50, 0), (33, 9)]), (0, 30), &[1]);
    attend(shape.with_p15(), &sequences(&[(50, 0)]), (0, 30), &[1]);
    attend(shape, &sequences(&[(50, 0)]), (30, 30), &[1]);
    attend(shape, &sequences(&[(50, 0)]), (0, 0), &[1]);
}

#[test]
fn the_widest_head_agrees() {
    let shape = AttentionShape::new(1, 1, 256).unwrap();
    attend(shape.with_causal(0), &sequences(&[(35, 240)]), (16, 18), &[1]);
}
