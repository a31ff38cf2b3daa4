//! Two whole programs, so that a step also meets what another step left: an encoder and a generator's
//! prefill.

use alloc::{vec, vec::Vec};

use hyperion_primitives::Dtype;

use super::{
    cases::{Layer, table},
    device::{Device, Matrix},
    draw::Draw,
};
use crate::{
    ActivationTable, AttentionShape, BackendError, LinearShape, NormKind, NormShape, Pairing,
    PoolMode, RopeShape, Sequence, Step, View, WeightId, Weights,
};

const VOCABULARY: u32 = 97;
const CONTEXT: u32 = 1024;
const WIDTH: u32 = 64;
const HEAD_DIM: u32 = 16;
const HEADS: u32 = WIDTH / HEAD_DIM;
const BLOCKS: u32 = 2;
/// Turns per position of `rope` at base 10,000; a constant, because computing them takes longer than the program.
const TURNS: [u64; HEAD_DIM as usize / 2] = [
    0x28be_60db_9391_054a,
    0x0ce2_6010_05b0_277c,
    0x0413_09af_8ec1_b3bb,
    0x0149_d668_0091_9d8c,
    0x0068_4dc4_c179_c52c,
    0x0020_fbd7_3341_c2f4,
    0x000a_6e2d_468c_2d51,
    0x0003_4c62_51ec_f9e5,
];

/// Post-norm blocks with learned positions and GELU; the last rows, and each sequence's mean of length one.
pub(super) fn encoder(
    draw: &mut Draw,
    device: &mut Device<'_>,
) -> Result<Vec<Matrix>, BackendError> {
    let mut sequences = draw.batch();
    sequences.iter_mut().for_each(|sequence| sequence.position = 0);
    let mut program = Program::new(draw, device, &sequences);
    let embedded = program.embed()?;
    let positions = table(program.draw, program.device, CONTEXT, WIDTH)?;
    let out = program.fresh(WIDTH)?;
    let input = embedded;
    let sequences = program.sequences;
    program.steps.push(Step::Position { table: positions, sequences, input, out });
    let mut x = program.norm(NormKind::Layer, out)?;
    for _ in 0..BLOCKS {
        let qkv = program.linear(x, shape(WIDTH, 3 * WIDTH).with_bias())?;
        let [q, k, v] = [0, WIDTH, 2 * WIDTH].map(|start| qkv.columns(start, WIDTH));
        let context = program.attention(heads(HEADS), q, k, v)?;
        let projected = program.linear(context, shape(WIDTH, WIDTH).with_bias())?;
        let sum = program.add(x, projected)?;
        let middle = program.norm(NormKind::Layer, sum)?;
        let up = program.linear(middle, shape(WIDTH, 4 * WIDTH).with_bias())?;
        let up = program.activation(ActivationTable::Gelu, up)?;
        let down = program.linear(up, shape(4 * WIDTH, WIDTH).with_bias())?;
        let sum = program.add(middle, down)?;
        x = program.norm(NormKind::Layer, sum)?;
    }
    let out = program.device.output(program.draw, Dtype::I16, program.count(), WIDTH)?;
    let (mode, unit, input) = (PoolMode::Mean, true, x);
    program.steps.push(Step::Pool { mode, unit, sequences, input, out });
    program.run(&[x, out])
}

/// Pre-norm blocks with rotary positions, grouped heads, causal attention with 15-bit weights and a gated
/// feed-forward layer on 15-bit inputs; logits and the likeliest token of each sequence's last row.
pub(super) fn decoder(
    draw: &mut Draw,
    device: &mut Device<'_>,
) -> Result<Vec<Matrix>, BackendError> {
    let sequences = draw.batch();
    let last: Vec<u32> = sequences.iter().map(|s| s.row + s.rows - 1).collect();
    let mut program = Program::new(draw, device, &sequences);
    let (kv_width, inner) = (WIDTH / 2, 3 * WIDTH);
    let attention = heads(HEADS / 2).with_causal(0).with_p15();
    let mut x = program.embed()?;
    for _ in 0..BLOCKS {
        let normed = program.norm(NormKind::Rms, x)?;
        let qkv = program.linear(normed, shape(WIDTH, WIDTH + 2 * kv_width))?;
        let q = program.rope(HEADS, qkv.columns(0, WIDTH))?;
        let k = program.rope(HEADS / 2, qkv.columns(WIDTH, kv_width))?;
        let v = qkv.columns(WIDTH + kv_width, kv_width);
        let context = program.attention(attention, q, k, v)?;
        let projected = program.linear(context, shape(WIDTH, WIDTH))?;
        let middle = program.add(x, projected)?;
        let normed = program.norm(NormKind::Rms, middle)?;
        let both = program.linear(normed, shape(WIDTH, 2 * inner))?;
        let gate = program.activation(ActivationTable::Silu, both.columns(0, inner))?;
        let (up, out) = (both.columns(inner, inner), program.fresh(inner)?);
        program.steps.push(Step::Gate { gate, up, out });
        let down = program.linear(out, shape(inner, WIDTH).with_a15())?;
        x = program.add(middle, down)?;
    }
    let out = program.device.output(program.draw, Dtype::I32, program.count(), WIDTH)?;
    program.steps.push(Step::Rows { rows: &last, input: x, out });
    let normed = program.norm(NormKind::Rms, out)?;
    let input = program.linear(normed, shape(WIDTH, VOCABULARY))?;
    let out = program.device.output(program.draw, Dtype::U32, program.count(), 1)?;
    program.steps.push(Step::Argmax { input, out });
    program.run(&[input, out])
}

fn shape(k: u32, n: u32) -> LinearShape {
    LinearShape::new(k, n).expect("constant sizes within the limits")
}

fn heads(kv_heads: u32) -> AttentionShape {
    AttentionShape::new(HEADS, kv_heads, HEAD_DIM).expect("constant sizes within the limits")
}

/// A list of steps under construction; each method packs its weights and gives the place of its result.
struct Program<'p, 'd> {
    draw: &'p mut Draw,
    device: &'p mut Device<'d>,
    sequences: &'p [Sequence],
    steps: Vec<Step<'p>>,
}

impl<'p, 'd> Program<'p, 'd> {
    fn new(draw: &'p mut Draw, device: &'p mut Device<'d>, sequences: &'p [Sequence]) -> Self {
        Self { draw, device, sequences, steps: Vec::new() }
    }

    /// Runs all steps in one call and reads the places asked for.
    fn run(self, outputs: &[View]) -> Result<Vec<Matrix>, BackendError> {
        self.device.run(&self.steps)?;
        outputs.iter().map(|view| self.device.read(*view)).collect()
    }

    fn count(&self) -> u32 {
        u32::try_from(self.sequences.len()).expect("few sequences")
    }

    fn rows(&self) -> u32 {
        self.sequences.iter().map(|sequence| sequence.rows).sum()
    }

    /// A place for a value of the batch.
    fn fresh(&mut self, width: u32) -> Result<View, BackendError> {
        self.device.output(self.draw, Dtype::I32, self.rows(), width)
    }

    fn embed(&mut self) -> Result<View, BackendError> {
        let table = table(self.draw, self.device, VOCABULARY, WIDTH)?;
        let ids: Vec<u32> = (0..self.rows()).map(|_| self.draw.below(VOCABULARY)).collect();
        let tokens = self.device.tokens(self.draw, &ids)?;
        let out = self.fresh(WIDTH)?;
        self.steps.push(Step::Embed { table, tokens, out });
        Ok(out)
    }

    fn norm(&mut self, kind: NormKind, input: View) -> Result<View, BackendError> {
        let shape = NormShape::new(kind, 42_950, input.width).expect("within the limits");
        let gamma: Vec<i32> = (0..input.width).map(|_| 16_384 + self.draw.value(12)).collect();
        let beta = self.draw.values(input.width, 14);
        let beta = (kind == NormKind::Layer).then_some(&beta[..]);
        let weights = self.device.pack(&Weights::Norm { gamma: &gamma, beta })?;
        let out = self.device.output(self.draw, Dtype::I32, input.rows, input.width)?;
        self.steps.push(Step::Norm { weights, shape, input, out });
        Ok(out)
    }

    /// A layer whose outputs are about as large as its inputs.
    fn linear(&mut self, input: View, shape: LinearShape) -> Result<View, BackendError> {
        let codes = self.draw.codes(shape.n, shape.k, shape.depth());
        // Codes spread by about 73, so a step of 200 * 2^-17 suits a depth of 64 to 256.
        let mantissas = (0..shape.n).map(|_| self.draw.byte(128)).collect();
        let exponents = vec![17; shape.n as usize];
        let bias = self.draw.values(shape.n, 14);
        let layer = Layer { shape, codes, mantissas, exponents, bias, smooth: Vec::new() };
        let weights = layer.pack(self.device)?;
        let out = self.device.output(self.draw, Dtype::I32, input.rows, shape.n)?;
        self.steps.push(Step::Linear { weights, shape, input, out });
        Ok(out)
    }

    fn rope(&mut self, heads: u32, input: View) -> Result<View, BackendError> {
        let shape = RopeShape::new(heads, HEAD_DIM, HEAD_DIM, Pairing::Half);
        let shape = shape.expect("constant sizes within the limits");
        let frequencies: WeightId = self.device.pack(&Weights::Frequencies(&TURNS))?;
        let out = self.fresh(input.width)?;
        let sequences = self.sequences;
        self.steps.push(Step::Rope { frequencies, shape, sequences, input, out });
        Ok(out)
    }

    fn attention(
        &mut self,
        shape: AttentionShape,
        q: View,
        k: View,
        v: View,
    ) -> Result<View, BackendError> {
        let out = self.fresh(q.width)?;
        let sequences = self.sequences;
        self.steps.push(Step::Attention { shape, sequences, q, k, v, out });
        Ok(out)
    }

    fn activation(&mut self, table: ActivationTable, input: View) -> Result<View, BackendError> {
        let out = self.fresh(input.width)?;
        self.steps.push(Step::Activation { table, input, out });
        Ok(out)
    }

    fn add(&mut self, lhs: View, rhs: View) -> Result<View, BackendError> {
        let out = self.fresh(lhs.width)?;
        self.steps.push(Step::Add { lhs, rhs, out });
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::rope_frequency;

    #[test]
    fn turns_are_those_of_rope_at_base_10_000() {
        for (j, turn) in (0..).zip(TURNS) {
            assert_eq!(rope_frequency((10_000, 1), HEAD_DIM, j), Some(turn));
        }
    }
}
