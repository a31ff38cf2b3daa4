//! Weights of sixteen bits: how they are made, and that two steps and their sum are what one step would be.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::{io::Cursor, sync::Arc};

use common::decoders::{FAMILIES, ids, imported, logits, real};
use hyperion_model::{
    Model, Trust,
    import::{Precision, write_with},
    program::{Codes, Op},
    quantized::{Matrix, Quantized, quantize, quantize_planes},
};
use hyperion_ops::{Cpu, KernelSet, Reference, Serial};
use hyperion_primitives::{Mix, w8r};

fn model(name: &str, precision: Precision) -> Model {
    Model::from_bytes(imported(name, precision), Trust::Nothing).unwrap()
}

/// Numbers that codes stand for, padding included.
fn numbers(of: &Quantized, depth: usize) -> Vec<f64> {
    let mut codes = vec![0; of.codes.len()];
    w8r::decode(&of.codes, &mut codes).unwrap();
    let step = |row: usize| f64::from(of.mantissas[row]) / f64::from(of.exponents[row]).exp2();
    codes.iter().enumerate().map(|(at, code)| f64::from(*code) * step(at / depth)).collect()
}

#[test]
fn two_codes_are_the_weight_to_a_256th_of_a_step() {
    let mut mix = Mix::new(97);
    for columns in [32, 40, 96] {
        // A row with one massive weight, a row of zeros, one of tiny weights, and ordinary ones.
        let weights: Vec<f32> = (0..6 * columns)
            .map(|at| match at / columns {
                0 if at == 7 => 3.0,
                1 => 0.0,
                2 => mix.i32(20) as f32 / (1_u64 << 40) as f32,
                _ => mix.i32(20) as f32 / (1 << 24) as f32,
            })
            .collect();
        let value = |row: usize, column: usize| real(weights[row * columns + column]);
        let matrix = Matrix::new(6, columns, &value);
        let [coarse, fine] = quantize_planes(&matrix).unwrap();
        let depth = columns.next_multiple_of(32);
        let (high, low) = (numbers(&coarse, depth), numbers(&fine, depth));
        let eight = numbers(&quantize(&matrix, Codes::W8r).unwrap(), depth);
        let mut off = [0.0; 2];
        for row in 0..6 {
            let step = f64::from(coarse.mantissas[row]) / f64::from(coarse.exponents[row]).exp2();
            assert_eq!(fine.exponents[row], coarse.exponents[row] + 7);
            for column in 0..depth {
                let at = row * depth + column;
                let inside = column < columns;
                let weight = if inside { f64::from(weights[row * columns + column]) } else { 0.0 };
                assert!((high[at] + low[at] - weight).abs() <= step / 256.0, "row {row}, {column}");
                assert!(low[at].abs() <= step / 2.0 && (inside || high[at] == 0.0));
                off[0] += (high[at] + low[at] - weight).powi(2);
                off[1] += (eight[at] - weight).powi(2);
            }
        }
        assert!(off[0] * 1_000.0 < off[1], "{off:?}");
    }
    let infinite = |_: usize, _: usize| None;
    assert!(quantize_planes(&Matrix::new(1, 1, &infinite)).is_err());
}

#[test]
fn every_kernel_set_computes_what_the_definition_computes() {
    let mut mix = Mix::new(101);
    let text = ids(&mut mix, 60);
    for name in FAMILIES {
        let model = model(name, Precision::SixteenBits);
        let is_linear = |op: &Op| matches!(op, Op::Linear(shape) if shape.a15);
        let steps = |model: &Model| {
            model.program().nodes().iter().filter(|node| is_linear(&node.op)).count()
        };
        let all = model.program().nodes().iter();
        assert_eq!(
            all.filter(|node| matches!(node.op, Op::Linear(_))).count(),
            steps(&model),
            "{name}: every linear step has inputs of 15 bits"
        );
        let want = logits(&model, &mut Reference::default(), &text);
        for kernels in KernelSet::available() {
            let got = logits(&model, &mut Cpu::new(kernels, Arc::new(Serial)), &text);
            assert!(got == want, "{name} with {}", kernels.name());
        }
        // Near the model of eight bits, and another: the head of a tied one is made of the embedding anew.
        let eight =
            logits(&self::model(name, Precision::EightBits), &mut Reference::default(), &text);
        let [off, size] = eight.iter().zip(&want).fold([0.0; 2], |[off, size], (eight, wide)| {
            let (eight, wide) = (f64::from(*eight), f64::from(*wide));
            [off + (eight - wide).powi(2), size + wide.powi(2)]
        });
        assert!(off > 0.0 && off < size / 100.0, "{name}: {off} of {size}");
    }
}

#[test]
fn what_is_no_decoder_has_none() {
    let mut out = Cursor::new(Vec::new());
    let folder = common::Folder::bert().write();
    let error = write_with(folder.path(), Precision::SixteenBits, &mut out, &mut |_, _| {});
    assert!(error.unwrap_err().to_string().contains("16bit"));
}
