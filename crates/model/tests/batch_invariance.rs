//! An answer depends on its own input only: alone, in any batch, in any order, fused or not, on any device.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::sync::Arc;

use common::Folder;
use hyperion_model::{
    Model, ModelError, Prepared, Program, Tensor, Trust,
    file::{Parts, TensorPart},
    program::{Codes, Input, Node, Op},
};
use hyperion_ops::{
    ActivationTable, AttentionShape, Backend, Cpu, KernelSet, LinearShape, NormKind, NormShape,
    Pairing, Reference, RopeShape, Serial,
};
use hyperion_primitives::{B256, Mix, w8r};
use proptest::prelude::*;

/// Rows that the device is asked to reserve.
const ROWS_MAX: u32 = 128;

/// A causal block with everything that encoders lack: grouped heads, rotary positions, a window, RMS norms, a gate,
/// 15-bit inputs and attention weights, factors per column, chosen rows.
fn decoder() -> Model {
    let mut mix = Mix::new(11);
    let linear = |k, n| LinearShape::new(k, n).unwrap();
    let norm = |group| Op::Norm(NormShape::new(NormKind::Rms, 42_950, group).unwrap());
    let rope = |heads, pairing| Op::Rope(RopeShape::new(heads, 8, 6, pairing).unwrap());
    let attention = AttentionShape::new(4, 2, 8).unwrap().with_causal(20).with_p15();
    let ops: [(Op, &[u32]); 20] = [
        (Op::Embed { vocab: 23, width: 16, codes: Codes::I16 }, &[0]), // 1
        (norm(16), &[1]),                                              // 2
        (Op::Linear(linear(16, 64).with_bias().with_smooth()), &[2]),  // 3
        (Op::Columns { start: 0, len: 32 }, &[3]),                     // 4
        (Op::Columns { start: 32, len: 16 }, &[3]),                    // 5
        (Op::Columns { start: 48, len: 16 }, &[3]),                    // 6
        (norm(8), &[4]),                                               // 7
        (rope(4, Pairing::Half), &[7]),                                // 8
        (rope(2, Pairing::Adjacent), &[5]),                            // 9
        (Op::Attention(attention), &[8, 9, 6]),                        // 10
        (Op::Linear(linear(32, 16)), &[10]),                           // 11
        (Op::Add, &[11, 1]),                                           // 12
        (Op::Linear(linear(16, 40)), &[12]),                           // 13
        (Op::Columns { start: 0, len: 20 }, &[13]),                    // 14
        (Op::Columns { start: 20, len: 20 }, &[13]),                   // 15
        (Op::Activation(ActivationTable::Silu), &[14]),                // 16
        (Op::Gate, &[16, 15]),                                         // 17
        (Op::Linear(linear(20, 16).with_a15()), &[17]),                // 18
        (Op::LastRow, &[18]),                                          // 19
        (Op::Linear(linear(16, 23)), &[19]),                           // 20
    ];
    let mut tensors = Vec::new();
    for (op, (kind, _)) in (0_u32..).zip(&ops) {
        let mut put =
            |slot, data: Vec<u8>| tensors.push(TensorPart { op, slot, data: Arc::from(data) });
        let scales =
            |rows: u32, exponent: u8| (vec![200; rows as usize], vec![exponent; rows as usize]);
        match *kind {
            Op::Embed { vocab, width, .. } => {
                let (mantissas, exponents) = scales(vocab, 20);
                put(
                    0,
                    (0..vocab * width).flat_map(|_| (mix.i32(14) as i16).to_le_bytes()).collect(),
                );
                put(1, mantissas);
                put(2, exponents);
            }
            Op::Norm(shape) => {
                put(0, (0..shape.group).flat_map(|_| mix.i32(15).to_le_bytes()).collect());
            }
            Op::Linear(shape) => {
                let (mantissas, exponents) = scales(shape.n, 14);
                let mut codes = Vec::new();
                for _ in 0..shape.n {
                    let code =
                        |column| if column < shape.k { mix.below(255) as i8 ^ -128 } else { 0 };
                    let row: Vec<i8> =
                        (0..shape.depth()).map(code).map(|code| code.max(-127)).collect();
                    let mut bytes = vec![0; row.len()];
                    w8r::encode(&row, &mut bytes);
                    codes.extend(bytes);
                }
                put(0, codes);
                put(1, mantissas);
                put(2, exponents);
                if shape.bias {
                    put(3, (0..shape.n).flat_map(|_| mix.i32(16).to_le_bytes()).collect());
                }
                if shape.smooth {
                    put(
                        4,
                        (0..shape.k)
                            .flat_map(|_| (8192 + mix.below(16_384) as u16).to_le_bytes())
                            .collect(),
                    );
                }
            }
            Op::Rope(shape) => {
                put(0, (0..shape.rot / 2).flat_map(|_| mix.u64().to_le_bytes()).collect());
            }
            _ => {}
        }
    }
    let nodes = ops.map(|(op, inputs)| Node { op, inputs: inputs.to_vec() });
    let program = Program::new(Input::Tokens, 48, nodes.to_vec()).unwrap();
    let mut file = Vec::new();
    Parts { program, tokenizer_hash: B256::ZERO, tensors }.write(&mut file).unwrap();
    Model::from_bytes(file, Trust::Nothing).unwrap()
}

/// The definitions, and every kernel set of this machine.
fn devices() -> Vec<Box<dyn Backend>> {
    let reference: Box<dyn Backend> = Box::new(Reference::default());
    let cpus = KernelSet::available()
        .into_iter()
        .map(|set| Box::new(Cpu::new(set, Arc::new(Serial))) as _);
    [reference].into_iter().chain(cpus).collect()
}

/// Runs each batch of indices, and hands the outputs back by index.
fn outputs(
    model: &Model,
    backend: &mut dyn Backend,
    inputs: &[Vec<u8>],
    batches: &[Vec<usize>],
    is_fused: bool,
) -> Vec<Tensor> {
    let prepared = Prepared::load(model, backend, ROWS_MAX).unwrap();
    let mut outputs = vec![None; inputs.len()];
    for batch in batches {
        let batched: Vec<&[u8]> = batch.iter().map(|index| inputs[*index].as_slice()).collect();
        let run = if is_fused { Prepared::run } else { Prepared::run_unfused };
        let answers = run(&prepared, backend, &batched).unwrap();
        for (index, answer) in batch.iter().zip(answers) {
            outputs[*index] = Some(answer);
        }
    }
    prepared.unload(backend);
    backend.reset();
    outputs.into_iter().map(Option::unwrap).collect()
}

/// Lengths of some sequences, and an order and cut of them into batches.
fn batches() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, usize)> {
    proptest::collection::vec(1..=40_usize, 1..4).prop_flat_map(|lengths| {
        let order: Vec<usize> = (0..lengths.len()).collect();
        let cut = 0..=lengths.len();
        (Just(lengths), Just(order).prop_shuffle(), cut)
    })
}

fn holds(model: &Model, lengths: &[usize], order: &[usize], cut: usize) {
    let mut mix = Mix::new(lengths.iter().fold(1, |seed, len| seed * 41 + *len as u64));
    let inputs: Vec<Vec<u8>> = lengths.iter().map(|len| common::tokens(&mut mix, *len)).collect();
    let alone: Vec<Vec<usize>> = (0..inputs.len()).map(|index| vec![index]).collect();
    let want = outputs(model, &mut Reference::default(), &inputs, &alone, true);
    let parts = [order[..cut].to_vec(), order[cut..].to_vec()];
    let parts: Vec<Vec<usize>> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    for mut device in devices() {
        let kernels = device.info().kernels.clone();
        let mut run = |batches: &[Vec<usize>], is_fused| {
            outputs(model, &mut *device, &inputs, batches, is_fused)
        };
        assert_eq!(run(&alone, true), want, "{kernels}, one by one");
        assert_eq!(run(&[order.to_vec()], true), want, "{kernels}, all at once");
        assert_eq!(run(&parts, true), want, "{kernels}, in two batches");
        assert_eq!(run(&parts, false), want, "{kernels}, step by step");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_encoder_answers_alike_in_every_batch((lengths, order, cut) in batches()) {
        holds(&Folder::bert().model(), &lengths, &order, cut);
    }

    #[test]
    fn a_decoder_answers_alike_in_every_batch((lengths, order, cut) in batches()) {
        holds(&decoder(), &lengths, &order, cut);
    }
}

#[test]
fn a_causal_row_does_not_see_what_follows() {
    // Row i of the hidden states of a longer sequence equals the last row of the sequence cut after i, because the last
    // row alone goes on to the output.
    let model = decoder();
    let input = common::tokens(&mut Mix::new(5), 40);
    let mut changed = input.clone();
    changed[36 * 4..].fill(0);
    let prefixes =
        |input: &[u8]| (1..=36).map(|rows| input[..rows * 4].to_vec()).collect::<Vec<_>>();
    let alone: Vec<Vec<usize>> = (0..36).map(|index| vec![index]).collect();
    for mut device in devices() {
        let mut run = |input: &[u8]| outputs(&model, &mut *device, &prefixes(input), &alone, true);
        let want = run(&input);
        assert_eq!(run(&changed), want);
        assert_ne!(want[34], want[35], "every row counts");
    }
}

#[test]
fn a_batch_that_does_not_fit_is_refused_and_names_the_input() {
    let model = Folder::bert().model();
    let mut backend = Reference::default();
    let prepared = Prepared::load(&model, &mut backend, 8).unwrap();
    let mut mix = Mix::new(1);
    let five = common::tokens(&mut mix, 5);
    let stranger = 23_u32.to_le_bytes();
    assert!(matches!(prepared.run(&mut backend, &[]), Err(ModelError::Rows { got: 0, max: 8 })));
    assert!(matches!(
        prepared.run(&mut backend, &[&five, &five]),
        Err(ModelError::Rows { got: 10, max: 8 })
    ));
    assert!(matches!(
        prepared.run(&mut backend, &[&five, &[]]),
        Err(ModelError::Input { index: 1, .. })
    ));
    assert!(matches!(
        prepared.run(&mut backend, &[&five, &five[..7]]),
        Err(ModelError::Input { index: 1, .. })
    ));
    assert!(matches!(
        prepared.run(&mut backend, &[&stranger]),
        Err(ModelError::Input { index: 0, .. })
    ));
    assert!(prepared.run(&mut backend, &[&five]).is_ok(), "a refusal leaves nothing behind");
}
