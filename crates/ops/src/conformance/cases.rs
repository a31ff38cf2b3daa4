//! One case per operator stem: draw a shape, weights and inputs, run the step, read the result.

use alloc::{vec, vec::Vec};

use hyperion_primitives::{Dtype, limits::padded_depth};

use super::{
    Stem,
    device::{Device, Matrix, le},
    draw::{Draw, committed},
    program,
};
use crate::{
    ActivationTable, AttentionShape, BackendError, Cache, Cap, LinearShape, NormKind, NormShape,
    Pairing, PoolMode, RopeShape, Sampling, Sequence, Step, TableCodes, View, WeightId, Weights,
    cache::PageShape,
    logprob::logprobs,
    repetition::{REPETITION_MAX, REPETITION_MIN},
    sample::{Past, penalised, sample},
};

type Outcome = Result<Vec<Matrix>, BackendError>;

/// Runs the next case of a stem and gives its outputs, in the order they are hashed.
pub(super) fn run(stem: Stem, draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    match stem {
        Stem::Quantize => quantize(draw, device),
        Stem::Gemm => gemm(draw, device),
        Stem::Requantize => requantize(draw, device),
        Stem::Linear => linear(draw, device),
        Stem::Embed => embed(draw, device),
        Stem::Position => position(draw, device),
        Stem::Norm => norm(draw, device),
        Stem::Rope => rope(draw, device),
        Stem::Attention => attention(draw, device, None),
        Stem::Activation => activation(draw, device),
        Stem::Gate => gate(draw, device),
        Stem::Add => add(draw, device),
        Stem::Rows => rows(draw, device),
        Stem::Pool => pool(draw, device),
        Stem::Argmax => argmax(draw, device),
        Stem::Sample => Ok(vec![drawn_token(draw)]),
        Stem::ProgramEncoder => program::encoder(draw, device),
        Stem::ProgramDecoder => program::decoder(draw, device),
        Stem::Cache => cache(draw, device, None),
        Stem::Softcap => softcap(draw, device),
        Stem::Nibbles => nibbles(draw, device),
        Stem::Repetition => Ok(repeated_tokens(draw)),
        Stem::Logprob => Ok(told_odds(draw)),
    }
}

/// Runs one step into a fresh place of shape `[rows, width]` and reads it.
fn one<'s>(
    draw: &mut Draw,
    device: &mut Device<'_>,
    (dtype, rows, width): (Dtype, u32, u32),
    step: impl FnOnce(View) -> Step<'s>,
) -> Outcome {
    let out = device.output(draw, dtype, rows, width)?;
    device.run(&[step(out)])?;
    Ok(vec![device.read(out)?])
}

/// Everything a linear layer is packed from.
pub(super) struct Layer {
    pub(super) shape: LinearShape,
    pub(super) codes: Vec<i8>,
    pub(super) mantissas: Vec<u8>,
    pub(super) exponents: Vec<i8>,
    pub(super) bias: Vec<i32>,
    pub(super) smooth: Vec<u16>,
}

impl Layer {
    pub(super) fn pack(&self, device: &mut Device<'_>) -> Result<WeightId, BackendError> {
        device.pack(&Weights::Linear {
            shape: self.shape,
            codes: &committed(&self.codes),
            groups: None,
            mantissas: &self.mantissas,
            exponents: &self.exponents,
            bias: self.shape.bias.then_some(&self.bias),
            smooth: self.shape.smooth.then_some(&self.smooth),
        })
    }

    fn apply(&self, draw: &mut Draw, device: &mut Device<'_>, x: &[i32]) -> Outcome {
        let weights = self.pack(device)?;
        let shape = self.shape;
        let input = device.input(draw, shape.k, x)?;
        one(draw, device, (Dtype::I32, input.rows, shape.n), |out| Step::Linear {
            weights,
            shape,
            input,
            out,
        })
    }
}

fn shape(k: u32, n: u32) -> LinearShape {
    LinearShape::new(k, n).expect("drawn within the limits")
}

/// One code of 1 or -1 per output, so that an output is a code of the row times its step.
fn quantize(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let k = draw.length();
    let shape = shape(k, draw.short_length());
    let shape = if draw.once_in(2) { shape.with_a15() } else { shape };
    let mut codes = vec![0; (shape.n * shape.depth()) as usize];
    for row in codes.chunks_exact_mut(shape.depth() as usize) {
        row[draw.below(k) as usize] = draw.pick(&[1, -1]);
    }
    // With larger exponents most rows would round to 0 and show nothing.
    let low = draw.between(2, 10);
    let (_, exponents) = draw.steps(shape.n, low, 8, 25);
    let mantissas = vec![128; shape.n as usize];
    let layer = Layer { shape, codes, mantissas, exponents, bias: vec![], smooth: vec![] };
    let rows = draw.row_count(k);
    let x = draw.rows(rows, k);
    layer.apply(draw, device, &x)
}

/// Inputs that are their own codes, and channels of step 1: the outputs are the accumulators.
fn gemm(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let deep = draw.once_in(64);
    let k = if deep { draw.pick(&[16_384, 131_040]) } else { draw.length() };
    let n = if deep { draw.between(1, 5) } else { draw.length().min(257) };
    let shape = shape(k, n);
    let codes = draw.codes(n, k, shape.depth());
    let layer = Layer {
        shape,
        codes,
        mantissas: vec![4; n as usize],
        exponents: vec![2; n as usize],
        bias: vec![],
        smooth: vec![],
    };
    let rows = draw.row_count(k);
    let x: Vec<i32> = draw.codes(rows, k, k).into_iter().map(i32::from).collect();
    layer.apply(draw, device, &x)
}

/// Rows and weights of one sign, so that accumulators are large, and every step there is.
fn requantize(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let k = draw.length();
    let mut shape = shape(k, draw.short_length()).with_bias();
    shape.a15 = draw.once_in(3);
    let (low, bits) = (draw.between(2, 25), draw.between(1, 30));
    let mut codes = draw.codes(shape.n, k, shape.depth());
    codes.iter_mut().for_each(|code| *code = code.abs());
    let (mantissas, exponents) = draw.steps(shape.n, low, 15, 25);
    let bias = draw.values(shape.n, bits);
    let layer = Layer { shape, codes, mantissas, exponents, bias, smooth: vec![] };
    let rows = draw.row_count(k);
    let mut x = draw.rows(rows, k);
    for row in x.chunks_exact_mut(k as usize) {
        let sign = draw.pick(&[1, -1]);
        row.iter_mut().for_each(|x| *x = sign * x.abs());
    }
    layer.apply(draw, device, &x)
}

fn linear(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let k = draw.length();
    let mut shape = shape(k, draw.length().min(257));
    shape.bias = draw.once_in(2);
    shape.a15 = draw.once_in(3);
    shape.smooth = draw.once_in(3);
    let layer = layer(draw, shape);
    let rows = draw.row_count(k.max(shape.n));
    let x = draw.rows(rows, k);
    layer.apply(draw, device, &x)
}

/// A layer of any weights.
fn layer(draw: &mut Draw, shape: LinearShape) -> Layer {
    let codes = draw.codes(shape.n, shape.k, shape.depth());
    let (low, bits) = (draw.between(2, 25), draw.between(1, 30));
    let (mantissas, exponents) = draw.steps(shape.n, low, 15, 25);
    let bias = draw.values(shape.n, bits);
    // 2^28 / col with col from 4,097 to 2^24.
    let smooth = (0..shape.k).map(|_| half_word(draw.between(16, 65_520))).collect();
    Layer { shape, codes, mantissas, exponents, bias, smooth }
}

fn half_word(value: u32) -> u16 {
    u16::try_from(value).expect("drawn within 16 bits")
}

/// A table of any codes, 8 bits or 16.
pub(super) fn table(
    draw: &mut Draw,
    device: &mut Device<'_>,
    rows: u32,
    width: u32,
) -> Result<WeightId, BackendError> {
    let low = draw.between(2, 40);
    if draw.once_in(2) {
        let (mantissas, exponents) = draw.steps(rows, low.min(25), 15, 25);
        let codes = committed(&draw.codes(rows, width, padded_depth(width)));
        let codes = TableCodes::W8r(&codes);
        let table =
            Weights::Table { rows, width, codes, mantissas: &mantissas, exponents: &exponents };
        return device.pack(&table);
    }
    let (mantissas, exponents) = draw.steps(rows, low, 15, 40);
    let codes: Vec<i16> = (0..rows * width)
        .map(|_| i16::try_from(draw.value(15).max(-32_767)).expect("16 bits"))
        .collect();
    let codes = le(&codes, |code| code.to_le_bytes());
    let codes = TableCodes::I16(&codes);
    device.pack(&Weights::Table {
        rows,
        width,
        codes,
        mantissas: &mantissas,
        exponents: &exponents,
    })
}

fn embed(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let (vocabulary, width) = (draw.length(), draw.length().min(384));
    let table = table(draw, device, vocabulary, width)?;
    let rows = draw.row_count(width);
    let ids: Vec<u32> = (0..rows).map(|_| draw.below(vocabulary)).collect();
    let tokens = device.tokens(draw, &ids)?;
    one(draw, device, (Dtype::I32, rows, width), |out| Step::Embed { table, tokens, out })
}

fn position(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let (context, width) = (draw.between(40, 300), draw.length().min(384));
    let table = table(draw, device, context, width)?;
    let mut sequences = draw.sequences(9, 33);
    for sequence in &mut sequences {
        sequence.position %= context - sequence.rows;
    }
    let rows: u32 = sequences.iter().map(|sequence| sequence.rows).sum();
    let x = draw.rows(rows, width);
    let input = device.input(draw, width, &x)?;
    let sequences = &sequences;
    one(draw, device, (Dtype::I32, rows, width), |out| Step::Position {
        table,
        sequences,
        input,
        out,
    })
}

fn norm(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let group = draw.length();
    let kind = draw.pick(&[NormKind::Layer, NormKind::Rms]);
    let eps_q32 = match draw.below(4) {
        0 => 0,
        1 => 42_950,
        2 => u32::MAX,
        _ => draw.below(1 << 20),
    };
    let shape = NormShape::new(kind, eps_q32, group).expect("drawn within the limits");
    let (gamma_bits, beta_bits) = (draw.between(1, 22), draw.between(1, 30));
    let gamma: Vec<i32> =
        draw.values(group, gamma_bits).into_iter().map(|gamma| gamma.max(1 - (1 << 22))).collect();
    let beta = draw.values(group, beta_bits);
    let beta = (kind == NormKind::Layer).then_some(&beta[..]);
    let weights = device.pack(&Weights::Norm { gamma: &gamma, beta })?;
    let width = group * if group <= 64 { draw.between(1, 3) } else { 1 };
    let rows = draw.row_count(width);
    let x = draw.rows(rows, width);
    let input = device.input(draw, width, &x)?;
    one(draw, device, (Dtype::I32, rows, width), |out| Step::Norm { weights, shape, input, out })
}

fn rope(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let (heads, head_dim) = (draw.between(1, 4), draw.between(2, 80));
    let rot = 2 * draw.between(1, head_dim / 2);
    let pairing = draw.pick(&[Pairing::Half, Pairing::Adjacent]);
    let shape = RopeShape::new(heads, head_dim, rot, pairing).expect("drawn within the limits");
    let turns: Vec<u64> = (0..rot / 2).map(|_| draw.u64() >> draw.below(40)).collect();
    let frequencies = device.pack(&Weights::Frequencies(&turns))?;
    let sequences = draw.sequences(9, 33);
    let rows = sequences.iter().map(|sequence| sequence.rows).sum();
    let width = heads * head_dim;
    let x = draw.rows(rows, width);
    let input = device.input(draw, width, &x)?;
    let sequences = &sequences;
    one(draw, device, (Dtype::I32, rows, width), |out| Step::Rope {
        frequencies,
        shape,
        sequences,
        input,
        out,
    })
}

fn attention(draw: &mut Draw, device: &mut Device<'_>, cap: Option<Cap>) -> Outcome {
    let kv_heads = draw.between(1, 3);
    let heads = kv_heads * draw.between(1, 3);
    let head_dim = draw.pick(&[1, 2, 8, 15, 16, 17, 32, 33, 64, 80]);
    let shape = AttentionShape::new(heads, kv_heads, head_dim).expect("drawn within the limits");
    let shape = match draw.below(3) {
        0 => shape,
        1 => shape.with_causal(0),
        _ => {
            let window_max = draw.pick(&[8, 40, 300]);
            shape.with_causal(draw.between(1, window_max))
        }
    };
    let shape = if draw.once_in(2) { shape.with_p15() } else { shape };
    let shape = cap.map_or(shape, |cap| shape.with_cap(cap));
    let sequences = draw.sequences(3, 300);
    let rows: u32 = sequences.iter().map(|sequence| sequence.rows).sum();
    let mut matrix = |heads: u32| {
        let x: Vec<i32> = (0..rows * heads).flat_map(|_| draw.row(head_dim)).collect();
        device.input(draw, heads * head_dim, &x)
    };
    let (q, k, v) = (matrix(heads)?, matrix(kv_heads)?, matrix(kv_heads)?);
    let sequences = &sequences;
    one(draw, device, (Dtype::I32, rows, q.width), |out| Step::Attention {
        shape,
        sequences,
        q,
        k,
        v,
        out,
    })
}

/// Two pieces of each sequence, one after the other; the outputs of both, and the pages.
fn cache(draw: &mut Draw, device: &mut Device<'_>, cap: Option<Cap>) -> Outcome {
    let kv_heads = draw.between(1, 3);
    let heads = kv_heads * draw.between(1, 3);
    let head_dim = draw.pick(&[1, 2, 8, 15, 16, 17, 32, 33, 64, 80]);
    let shape = AttentionShape::new(heads, kv_heads, head_dim).expect("drawn within the limits");
    let window = if draw.once_in(3) { draw.between(1, 300) } else { 0 };
    let shape = shape.with_causal(window);
    let shape = if draw.once_in(2) { shape.with_p15() } else { shape };
    let shape = cap.map_or(shape, |cap| shape.with_cap(cap));
    let page_rows = draw.pick(&[1, 5, 16, 32, 256]);
    let page = PageShape::new(shape, page_rows).expect("causal, with a few rows");
    let ends: Vec<[u32; 2]> = (0..draw.between(1, 3))
        .map(|_| {
            let past = if draw.once_in(4) { 0 } else { draw.length().min(300) };
            [past, past + draw.short_length()]
        })
        .collect();
    // Pages lie in any order, and some belong to nobody.
    let count: u32 = ends.iter().map(|[_, end]| page.pages(*end)).sum();
    let mut free: Vec<u32> = (0..count + 2).collect();
    let mut take = |draw: &mut Draw| {
        let at = draw.below(u32::try_from(free.len()).expect("few pages"));
        free.swap_remove(at as usize)
    };
    let pages: Vec<Vec<u32>> =
        ends.iter().map(|[_, end]| (0..page.pages(*end)).map(|_| take(draw)).collect()).collect();
    let width = u32::try_from(page.bytes()).expect("a small page");
    let memory = device.plain(Dtype::U8, count + 2, width)?;
    let mut outputs = Vec::new();
    for piece in 0..2 {
        let (mut row, mut sequences, mut own) = (0, Vec::new(), Vec::new());
        for ([past, end], pages) in ends.iter().zip(&pages) {
            let (position, end) = if piece == 0 { (0, *past) } else { (*past, *end) };
            if end > position {
                sequences.push(Sequence { row, rows: end - position, position });
                own.push(pages.as_slice());
                row += end - position;
            }
        }
        if sequences.is_empty() {
            continue;
        }
        let mut matrix = |heads: u32| {
            let x: Vec<i32> = (0..row * heads).flat_map(|_| draw.row(head_dim)).collect();
            device.input(draw, heads * head_dim, &x)
        };
        let (q, k, v) = (matrix(heads)?, matrix(kv_heads)?, matrix(kv_heads)?);
        let cache = Cache { buffer: memory.buffer, page, pages: &own };
        let sequences = &sequences;
        let result = one(draw, device, (Dtype::I32, row, q.width), |out| Step::CachedAttention {
            shape,
            sequences,
            cache,
            q,
            k,
            v,
            out,
        });
        outputs.extend(result?);
    }
    outputs.push(device.read(memory)?);
    Ok(outputs)
}

/// Two matrices of one shape.
fn pair(draw: &mut Draw, device: &mut Device<'_>) -> Result<(View, View), BackendError> {
    let width = draw.length();
    let rows = draw.row_count(width);
    let (lhs, rhs) = (draw.rows(rows, width), draw.rows(rows, width));
    Ok((device.input(draw, width, &lhs)?, device.input(draw, width, &rhs)?))
}

fn activation(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let table = draw.pick(&ActivationTable::ALL);
    let width = draw.length();
    let rows = draw.row_count(width);
    let x = draw.rows(rows, width);
    let input = device.input(draw, width, &x)?;
    one(draw, device, (Dtype::I32, rows, width), |out| Step::Activation { table, input, out })
}

/// A linear step on weights of four bits.
fn nibbles(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let k = draw.length();
    let shape = shape(k, draw.short_length()).with_w4();
    let shape = if draw.once_in(3) { shape.with_a15() } else { shape };
    let (n, depth) = (shape.n, shape.depth());
    let mut half = || u8::try_from(draw.between(1, 15)).expect("four bits");
    let codes: Vec<u8> = (0..n * depth / 2).map(|_| half() | half() << 4).collect();
    let scale = |draw: &mut Draw| u8::try_from(draw.between(1, 17)).expect("17 at most");
    let groups: Vec<u8> = (0..n * depth / 32).map(|_| scale(draw)).collect();
    let low = draw.between(2, 10);
    let (mantissas, exponents) = draw.steps(n, low, 8, 25);
    let weights = device.pack(&Weights::Linear {
        shape,
        codes: &codes,
        groups: Some(&groups),
        mantissas: &mantissas,
        exponents: &exponents,
        bias: None,
        smooth: None,
    })?;
    let rows = draw.row_count(k);
    let x = draw.rows(rows, k);
    let input = device.input(draw, k, &x)?;
    one(draw, device, (Dtype::I32, rows, n), |out| Step::Linear { weights, shape, input, out })
}

/// Values and scores, whose caps are drawn from the same range.
fn softcap(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let cap = Cap::new(draw.between(1 << 16, 1 << 24)).expect("drawn within the limits");
    match draw.below(4) {
        0 => attention(draw, device, Some(cap)),
        1 => cache(draw, device, Some(cap)),
        _ => {
            let width = draw.length();
            let rows = draw.row_count(width);
            let x = draw.rows(rows, width);
            let input = device.input(draw, width, &x)?;
            one(draw, device, (Dtype::I32, rows, width), |out| Step::Softcap { cap, input, out })
        }
    }
}

fn gate(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let (gate, up) = pair(draw, device)?;
    one(draw, device, (Dtype::I32, up.rows, up.width), |out| Step::Gate { gate, up, out })
}

fn add(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let (lhs, rhs) = pair(draw, device)?;
    one(draw, device, (Dtype::I32, lhs.rows, lhs.width), |out| Step::Add { lhs, rhs, out })
}

fn rows(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let width = draw.length();
    let rows = draw.row_count(width);
    let dtype = draw.pick(&[Dtype::I32, Dtype::U32, Dtype::I16]);
    let bytes: Vec<u8> = (0..rows as usize * width as usize * dtype.bytes())
        .map(|_| draw.u64().to_le_bytes()[0])
        .collect();
    let input = device.place(draw, dtype, width, &bytes)?;
    let count = draw.between(1, rows);
    let chosen: Vec<u32> = (0..count).map(|_| draw.below(rows)).collect();
    let rows = &chosen;
    one(draw, device, (dtype, count, width), |out| Step::Rows { rows, input, out })
}

fn pool(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let width = draw.length();
    let mode = draw.pick(&PoolMode::ALL);
    let unit = draw.once_in(2);
    let sequences = draw.sequences(if width > 65 { 9 } else { 99 }, 300);
    let rows = sequences.iter().map(|sequence| sequence.rows).sum();
    let x = draw.rows(rows, width);
    let input = device.input(draw, width, &x)?;
    let dtype = if unit { Dtype::I16 } else { Dtype::I32 };
    let count = u32::try_from(sequences.len()).expect("99 at most");
    let sequences = &sequences;
    one(draw, device, (dtype, count, width), |out| Step::Pool { mode, unit, sequences, input, out })
}

fn argmax(draw: &mut Draw, device: &mut Device<'_>) -> Outcome {
    let width = draw.length();
    let rows = draw.row_count(width);
    let mut x = draw.rows(rows, width);
    if draw.once_in(2) {
        // Few different values, so that the largest stands in several places.
        x.iter_mut().for_each(|x| *x &= 7);
    }
    let input = device.input(draw, width, &x)?;
    one(draw, device, (Dtype::U32, rows, 1), |out| Step::Argmax { input, out })
}

/// The sampler runs on the CPU whatever the device, so this case asks the definition.
fn drawn_token(draw: &mut Draw) -> Matrix {
    let width = draw.length();
    let logits = draw.row(width);
    let temperature = if draw.once_in(8) { 0 } else { draw.between(656, 6_553_600) };
    let top_k = if draw.once_in(2) { 0 } else { draw.between(1, width) };
    let top_p = if draw.once_in(2) { 65_536 } else { draw.between(1, 65_536) };
    let (frequency, presence) = (draw.value(21), draw.value(21));
    let sampling = Sampling::new(temperature, top_k, top_p, frequency, presence);
    let counts: Vec<u32> = (0..width).map(|_| draw.below(4).saturating_sub(2)).collect();
    let mut seed = [0; 32];
    seed.as_chunks_mut().0.iter_mut().for_each(|word| *word = draw.u64().to_le_bytes());
    let position = draw.below(65_536);
    let sampling = sampling.expect("drawn within the limits");
    let past = Past { counts: &counts, seen: &[] };
    let token = sample(sampling, &seed, position, &logits, past);
    let bytes = token.to_le_bytes().to_vec();
    Matrix { dtype: Dtype::U32, rows: 1, width: 1, bytes, strayed: false }
}

/// Penalised logits and the token drawn from them, with every setting that a draw has.
fn repeated_tokens(draw: &mut Draw) -> Vec<Matrix> {
    let width = draw.length();
    let logits = draw.row(width);
    let temperature = if draw.once_in(8) { 0 } else { draw.between(656, 1 << 18) };
    let top_k = if draw.once_in(2) { 0 } else { draw.between(1, width) };
    let top_p = if draw.once_in(2) { 65_536 } else { draw.between(1, 65_536) };
    let (frequency, presence) = (draw.value(18), draw.value(18));
    // A quarter of the range of min-p holds nearly all that people ask for.
    let min_p = if draw.once_in(4) { draw.between(0, 65_536) } else { draw.between(1, 16_384) };
    let repetition =
        if draw.once_in(4) { 65_536 } else { draw.between(REPETITION_MIN, REPETITION_MAX) };
    let sampling = Sampling::new(temperature, top_k, top_p, frequency, presence)
        .and_then(|sampling| sampling.min_p(min_p)?.repetition(repetition))
        .expect("drawn within the limits");
    let counts: Vec<u32> = (0..width).map(|_| draw.below(4).saturating_sub(2)).collect();
    let seen: Vec<u32> =
        (0..width).filter(|token| counts[*token as usize] > 0 || draw.once_in(4)).collect();
    let mut seed = [0; 32];
    seed.as_chunks_mut().0.iter_mut().for_each(|word| *word = draw.u64().to_le_bytes());
    let position = draw.below(65_536);
    let past = Past { counts: &counts, seen: &seen };
    let row = penalised(sampling, &logits, past);
    let token = sample(sampling, &seed, position, &logits, past);
    let one_row = |dtype, width, bytes| Matrix { dtype, rows: 1, width, bytes, strayed: false };
    vec![
        one_row(Dtype::I32, width, row.iter().flat_map(|logit| logit.to_le_bytes()).collect()),
        one_row(Dtype::U32, 1, token.to_le_bytes().to_vec()),
    ]
}

/// Log probabilities of every token of a row, and the likeliest tokens.
fn told_odds(draw: &mut Draw) -> Vec<Matrix> {
    let width = draw.length();
    let logits = draw.row(width);
    let count = draw.between(1, 20);
    let told = logprobs(&logits, 0, count as usize).top_q16;
    let own = |token| logprobs(&logits, token, 0).own_q16.to_le_bytes();
    let top: Vec<u8> = told.iter().flat_map(|(token, _)| token.to_le_bytes()).collect();
    let matrix = |dtype, width, bytes| Matrix { dtype, rows: 1, width, bytes, strayed: false };
    vec![
        matrix(Dtype::I32, width, (0..width).flat_map(own).collect()),
        matrix(Dtype::U32, count.min(width), top),
    ]
}
