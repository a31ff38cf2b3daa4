//! Models of a few hundred weights, made on the spot.

use std::sync::Arc;

use hyperion_model::{
    Model, Trust,
    file::{Parts, TensorPart},
    program::{Codes, Input, Node, Op, Program, ValueId},
};
use hyperion_ops::{ActivationTable, AttentionShape, LinearShape, NormKind, NormShape, PoolMode};
use hyperion_primitives::{B256, Mix, limits::padded_depth, w8r};

/// Width of the classifier's input.
pub(crate) const PIXELS: u32 = 16;
/// Token ids of the encoder.
pub(crate) const VOCABULARY: u32 = 50;

struct Maker {
    mix: Mix,
    nodes: Vec<Node>,
    tensors: Vec<TensorPart>,
}

impl Maker {
    fn new(seed: u64) -> Self {
        Self { mix: Mix::new(seed), nodes: Vec::new(), tensors: Vec::new() }
    }

    fn push(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        self.nodes.push(Node { op, inputs: inputs.to_vec() });
        self.nodes.len() as ValueId
    }

    fn tensor(&mut self, slot: u16, data: Vec<u8>) {
        self.tensors.push(TensorPart { op: self.nodes.len() as u32 - 1, slot, data: data.into() });
    }

    /// Codes of `rows` rows, with scales that keep activations ordinary.
    fn table(&mut self, rows: u32, width: u32, exponent: u8) {
        let padded = padded_depth(width);
        let mut data = Vec::new();
        for _ in 0..rows {
            let codes: Vec<i8> = (0..padded)
                .map(
                    |column| {
                        if column < width { (self.mix.below(255) as i16 - 127) as i8 } else { 0 }
                    },
                )
                .collect();
            let mut row = vec![0; codes.len()];
            w8r::encode(&codes, &mut row);
            data.extend(row);
        }
        self.tensor(0, data);
        let mantissas = (0..rows).map(|_| 128 + self.mix.below(128) as u8).collect();
        self.tensor(1, mantissas);
        self.tensor(2, vec![exponent; rows as usize]);
    }

    fn linear(&mut self, k: u32, n: u32, input: ValueId) -> ValueId {
        let shape = LinearShape::new(k, n).unwrap().with_bias();
        let value = self.push(Op::Linear(shape), &[input]);
        self.table(n, k, 14);
        let bias = (0..n).flat_map(|_| self.mix.i32(15).to_le_bytes()).collect();
        self.tensor(3, bias);
        value
    }

    fn build(self, input: Input, context: u32) -> Arc<Model> {
        let program = Program::new(input, context, self.nodes).unwrap();
        let parts = Parts { program, tokenizer_hash: B256::ZERO, tensors: self.tensors };
        let mut bytes = Vec::new();
        parts.write(&mut bytes).unwrap();
        Arc::new(Model::from_bytes(bytes, Trust::Nothing).unwrap())
    }
}

/// Rows of 16 in, rows of 10 out: three layers like those of the digits model. Inputs of up to 40 rows.
pub(crate) fn classifier(seed: u64) -> Arc<Model> {
    let mut maker = Maker::new(seed);
    let hidden = maker.linear(PIXELS, 24, 0);
    let hidden = maker.push(Op::Activation(ActivationTable::Relu), &[hidden]);
    let hidden = maker.linear(24, 24, hidden);
    let hidden = maker.push(Op::Activation(ActivationTable::Gelu), &[hidden]);
    maker.linear(24, 10, hidden);
    maker.build(Input::Rows(PIXELS), 40)
}

/// Token ids in, one unit vector out: an attention block between embedding and pooling. Up to 40 tokens.
pub(crate) fn encoder(seed: u64) -> Arc<Model> {
    let (width, heads) = (32, 2);
    let mut maker = Maker::new(seed);
    let rows = maker.push(Op::Embed { vocab: VOCABULARY, width, codes: Codes::W8r }, &[0]);
    maker.table(VOCABULARY, width, 14);
    let rows = norm(&mut maker, width, rows);
    let [q, k, v] = [(); 3].map(|()| maker.linear(width, width, rows));
    let shape = AttentionShape::new(heads, heads, width / heads).unwrap();
    let seen = maker.push(Op::Attention(shape), &[q, k, v]);
    let seen = maker.linear(width, width, seen);
    let sum = maker.push(Op::Add, &[rows, seen]);
    let sum = norm(&mut maker, width, sum);
    maker.push(Op::Pool { mode: PoolMode::Mean, unit: true }, &[sum]);
    maker.build(Input::Tokens, 40)
}

/// Token ids in, tokens out: two causal attention blocks. Up to `context` tokens.
pub(crate) fn generator(seed: u64, context: u32) -> Arc<Model> {
    let (width, heads) = (32, 4);
    let mut maker = Maker::new(seed);
    let mut rows = maker.push(Op::Embed { vocab: VOCABULARY, width, codes: Codes::W8r }, &[0]);
    maker.table(VOCABULARY, width, 14);
    for _ in 0..2 {
        let read = norm(&mut maker, width, rows);
        let q = maker.linear(width, width, read);
        let [k, v] = [(); 2].map(|()| maker.linear(width, width / 2, read));
        let shape = AttentionShape::new(heads, heads / 2, width / heads).unwrap().with_causal(0);
        let seen = maker.push(Op::Attention(shape), &[q, k, v]);
        let seen = maker.linear(width, width, seen);
        rows = maker.push(Op::Add, &[rows, seen]);
    }
    let rows = norm(&mut maker, width, rows);
    let last = maker.push(Op::LastRow, &[rows]);
    let logits = maker.linear(width, VOCABULARY, last);
    maker.push(Op::Sample, &[logits]);
    maker.build(Input::Tokens, context)
}

fn norm(maker: &mut Maker, width: u32, input: ValueId) -> ValueId {
    let shape = NormShape::new(NormKind::Layer, 43, width).unwrap();
    let value = maker.push(Op::Norm(shape), &[input]);
    let gamma = (0..width).flat_map(|_| (16_384 + maker.mix.i32(12)).to_le_bytes()).collect();
    let beta = (0..width).flat_map(|_| maker.mix.i32(12).to_le_bytes()).collect();
    maker.tensor(0, gamma);
    maker.tensor(1, beta);
    value
}

/// An input of the classifier.
pub(crate) fn pixels(seed: u64, rows: u32) -> Vec<u8> {
    let mut mix = Mix::new(seed);
    (0..rows * PIXELS).flat_map(|_| mix.i32(18).to_le_bytes()).collect()
}

/// An input of the encoder.
pub(crate) fn tokens(seed: u64, count: u32) -> Vec<u8> {
    let mut mix = Mix::new(seed);
    (0..count).flat_map(|_| (mix.below(VOCABULARY.into()) as u32).to_le_bytes()).collect()
}
