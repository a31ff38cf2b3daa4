//! Alone, batched, in one piece or in many: a sequence gets the same bits.

#![expect(clippy::unwrap_used, reason = "a model of constant sizes is within every limit")]

use hyperion_ops::{
    AttentionShape, Backend, LinearShape, NormKind, NormShape, Pairing, PoolMode, Reference,
    RopeShape, Sequence, Step, View, Weights,
    attention::{KeyValues, attention},
    rope::rope,
};
use hyperion_primitives::{Dtype, Mix, limits::SAT, w8r};
use proptest::prelude::*;

const HEAD_DIM: u32 = 8;

/// Rows of activations of the width given, of up to `bits` bits.
fn rows(mix: &mut Mix, rows: usize, width: usize) -> Vec<i32> {
    (0..rows)
        .flat_map(|_| {
            let bits = 1 + u32::try_from(mix.below(28)).unwrap();
            (0..width).map(|_| mix.i32(bits)).collect::<Vec<_>>()
        })
        .collect()
}

fn causal_shapes() -> impl Strategy<Value = AttentionShape> {
    (1_u32..3, 1_u32..3, 0_u32..40, any::<bool>()).prop_map(|(kv_heads, group, window, p15)| {
        let shape = AttentionShape::new(kv_heads * group, kv_heads, HEAD_DIM).unwrap();
        let shape = shape.with_causal(window);
        if p15 { shape.with_p15() } else { shape }
    })
}

/// Lengths of pieces that together are `total`.
fn cut(total: usize, mix: &mut Mix) -> Vec<usize> {
    let mut pieces = Vec::new();
    let mut left = total;
    while left > 0 {
        let piece = 1 + usize::try_from(mix.below(left as u64)).unwrap();
        pieces.push(piece);
        left -= piece;
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decoding_equals_prefill_in_any_pieces(
        shape in causal_shapes(),
        count in 1_usize..60,
        first in 200_u32..300,
        seed: u64,
    ) {
        let mut mix = Mix::new(seed);
        let (width, kv_width) = (shape.heads * HEAD_DIM, shape.kv_heads * HEAD_DIM);
        let (width, kv_width) = (width as usize, kv_width as usize);
        let (q, k, v) =
            (rows(&mut mix, count, width), rows(&mut mix, count, kv_width), rows(&mut mix, count, kv_width));
        let mut cache = KeyValues::new(shape, first);
        cache.append(&k, &v);
        let mut want = vec![0; q.len()];
        attention(shape, &cache, first, &q, &mut want);

        let mut cache = KeyValues::new(shape, first);
        let mut got = vec![0; q.len()];
        let mut done = 0;
        for piece in cut(count, &mut mix) {
            let (rows, kv) = (done * width..(done + piece) * width, done * kv_width..(done + piece) * kv_width);
            cache.append(&k[kv.clone()], &v[kv]);
            let position = first + u32::try_from(done).unwrap();
            attention(shape, &cache, position, &q[rows.clone()], &mut got[rows]);
            done += piece;
        }
        prop_assert_eq!(got, want);
    }

    #[test]
    fn a_causal_row_knows_nothing_of_what_it_does_not_see(
        shape in causal_shapes(),
        count in 2_usize..50,
        seed: u64,
    ) {
        let mut mix = Mix::new(seed);
        let width = (shape.heads * HEAD_DIM) as usize;
        let kv_width = (shape.kv_heads * HEAD_DIM) as usize;
        let q = rows(&mut mix, 1, width);
        let (mut k, mut v) = (rows(&mut mix, count, kv_width), rows(&mut mix, count, kv_width));
        let position = u32::try_from(mix.below(count as u64)).unwrap();
        let seen = shape.visible(position, 0..u32::try_from(count).unwrap());
        let attend = |k: &[i32], v: &[i32]| {
            let mut cache = KeyValues::new(shape, 0);
            cache.append(k, v);
            let mut out = vec![0; width];
            attention(shape, &cache, position, &q, &mut out);
            out
        };
        let want = attend(&k, &v);
        for row in (0..count).filter(|row| !seen.contains(&u32::try_from(*row).unwrap())) {
            k[row * kv_width..][..kv_width].fill(SAT);
            v[row * kv_width..][..kv_width].fill(-SAT);
        }
        prop_assert_eq!(attend(&k, &v), want);
    }

    #[test]
    fn a_row_turns_by_its_own_position(count in 1_usize..20, position in 0_u32..65_000, seed: u64) {
        let mut mix = Mix::new(seed);
        let shape = RopeShape::new(2, HEAD_DIM, 6, Pairing::Adjacent).unwrap();
        let turns = [mix.u64(), mix.u64(), mix.u64()];
        let width = 2 * HEAD_DIM as usize;
        let x = rows(&mut mix, count, width);
        let (mut want, mut got) = (vec![0; x.len()], vec![0; x.len()]);
        rope(shape, &turns, position, &x, &mut want);
        for (row, position) in (0..count).zip(position..) {
            let place = row * width..(row + 1) * width;
            rope(shape, &turns, position, &x[place.clone()], &mut got[place]);
        }
        prop_assert_eq!(got, want);
    }

    #[test]
    fn a_sequence_gets_the_same_bits_alone_and_in_a_batch(
        lengths in prop::collection::vec(1_u32..20, 1..5),
        causal: bool,
        seed: u64,
    ) {
        let mut mix = Mix::new(seed);
        let model = Model::new(&mut mix, causal);
        let inputs: Vec<Vec<i32>> =
            lengths.iter().map(|count| rows(&mut mix, *count as usize, WIDTH as usize)).collect();
        let together = model.run(&inputs, 1);
        for (input, want) in inputs.iter().zip(&together) {
            prop_assert_eq!(&model.run(std::slice::from_ref(input), 1)[0], want);
        }
        prop_assert_eq!(model.run(&inputs, 6), together, "one list of steps in several calls");
    }
}

const WIDTH: u32 = 2 * HEAD_DIM;

/// A block of a model: norm, one projection to q, k and v, attention, and a pooled row.
struct Model {
    causal: bool,
    gamma: Vec<i32>,
    codes: Vec<u8>,
    mantissas: Vec<u8>,
    bias: Vec<i32>,
}

impl Model {
    fn new(mix: &mut Mix, causal: bool) -> Self {
        let codes: Vec<i8> =
            (0..3 * WIDTH * 32).map(|i| if i % 32 < WIDTH { code(mix) } else { 0 }).collect();
        let mut committed = vec![0; codes.len()];
        w8r::encode(&codes, &mut committed);
        Self {
            causal,
            gamma: (0..WIDTH).map(|_| mix.i32(15)).collect(),
            codes: committed,
            mantissas: (0..3 * WIDTH).map(|_| code(mix).unsigned_abs().max(1)).collect(),
            bias: (0..3 * WIDTH).map(|_| mix.i32(16)).collect(),
        }
    }

    /// Pooled rows of each sequence, with the steps given in `calls` calls.
    fn run(&self, inputs: &[Vec<i32>], calls: usize) -> Vec<Vec<u8>> {
        let mut backend = Reference::default();
        let mut sequences = Vec::new();
        let mut row = 0;
        for input in inputs {
            let rows = u32::try_from(input.len()).unwrap() / WIDTH;
            sequences.push(Sequence { row, rows, position: 0 });
            row += rows;
        }
        let mut view = |dtype: Dtype, rows: u32, width: u32| {
            let bytes = u64::from(rows) * u64::from(width) * dtype.bytes() as u64;
            let buffer = backend.alloc(bytes).unwrap();
            View { buffer, dtype, offset: 0, rows, width, stride: width }
        };
        let input = view(Dtype::I32, row, WIDTH);
        let normed = view(Dtype::I32, row, WIDTH);
        let qkv = view(Dtype::I32, row, 3 * WIDTH);
        let context = view(Dtype::I32, row, WIDTH);
        let pooled = view(Dtype::I16, u32::try_from(inputs.len()).unwrap(), WIDTH);
        let bytes: Vec<u8> = inputs.concat().into_iter().flat_map(i32::to_le_bytes).collect();
        backend.write(input.buffer, 0, &bytes).unwrap();

        let norm = NormShape::new(NormKind::Layer, 42_950, WIDTH).unwrap();
        let linear = LinearShape::new(WIDTH, 3 * WIDTH).unwrap().with_bias();
        let attention = AttentionShape::new(2, 2, HEAD_DIM).unwrap();
        let attention = if self.causal { attention.with_causal(0) } else { attention };
        let scale = backend.pack(&Weights::Norm { gamma: &self.gamma, beta: None }).unwrap();
        let weights = backend
            .pack(&Weights::Linear {
                shape: linear,
                codes: &self.codes,
                groups: None,
                mantissas: &self.mantissas,
                exponents: &vec![15; self.mantissas.len()],
                bias: Some(&self.bias),
                smooth: None,
            })
            .unwrap();
        let [q, k, v] = [0, 1, 2].map(|part| qkv.columns(part * WIDTH, WIDTH));
        let sequences = &sequences;
        let steps = [
            Step::Norm { weights: scale, shape: norm, input, out: normed },
            Step::Linear { weights, shape: linear, input: normed, out: qkv },
            Step::Attention { shape: attention, sequences, q, k, v, out: context },
            Step::Add { lhs: context, rhs: normed, out: input },
            Step::Pool { mode: PoolMode::Mean, unit: true, sequences, input, out: pooled },
        ];
        for call in steps.chunks(steps.len().div_ceil(calls)) {
            backend.run(call).unwrap();
        }
        let row_bytes = 2 * WIDTH as usize;
        let mut bytes = vec![0; inputs.len() * row_bytes];
        backend.read(pooled.buffer, 0, &mut bytes).unwrap();
        bytes.chunks_exact(row_bytes).map(<[u8]>::to_vec).collect()
    }
}

fn code(mix: &mut Mix) -> i8 {
    i8::try_from(mix.i32(7).max(-127)).unwrap()
}
