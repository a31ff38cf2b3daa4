//! Weights of four bits: how they are made, what a file of them may hold, what they cost in likeness.

mod common;

use std::{io::Cursor, sync::Arc};

use common::decoders::{FAMILIES, ids, imported, logits, real};
use hyperion_model::{
    Model, Trust,
    import::{Precision, write_with},
    program::{Codes, Op},
    quantized::{Matrix, quantize, quantize_narrow},
};
use hyperion_ops::{
    Cpu, KernelSet, Reference, Serial,
    nibbles::{are_valid, nibbles},
};
use hyperion_primitives::Mix;

fn narrow(name: &str) -> Vec<u8> {
    imported(name, Precision::FourBits)
}

#[test]
fn codes_are_near_the_weights_and_valid() {
    let mut mix = Mix::new(97);
    for columns in [32, 40, 96] {
        // A row with one massive weight, a row of zeros, and ordinary ones.
        let weights: Vec<f32> = (0..5 * columns)
            .map(|at| match at / columns {
                0 if at == 7 => 3.0,
                1 => 0.0,
                _ => mix.i32(20) as f32 / (1 << 24) as f32,
            })
            .collect();
        let value = |row: usize, column: usize| real(weights[row * columns + column]);
        let matrix = Matrix::new(5, columns, &value);
        let got = quantize_narrow(&matrix).unwrap();
        assert!(are_valid(&got.halves, &got.groups));
        let depth = columns.next_multiple_of(32);
        let mut codes = vec![0; 5 * depth];
        nibbles(&got.halves, &got.groups, &mut codes);
        // The step of a group is a seventh of its largest weight, rounded up to whole steps of the row.
        for (row, codes) in codes.chunks(depth).enumerate() {
            let step = f32::from(got.mantissas[row]) / (got.exponents[row] as f32).exp2();
            for (group, codes) in codes.chunks(32).enumerate() {
                let scale = f32::from(got.groups[row * depth / 32 + group]) * step;
                for (at, code) in codes.iter().enumerate() {
                    let column = group * 32 + at;
                    let weight =
                        if column < columns { weights[row * columns + column] } else { 0.0 };
                    let off = (f32::from(*code) * step - weight).abs();
                    // Of a scale that is less than the least that holds all, the largest weights are cut.
                    assert!(off <= 4.0 * scale, "row {row} column {column}: {off} of {scale}");
                    assert!(column < columns || *code == 0);
                }
            }
        }
    }
}

#[test]
fn what_four_bits_hold_exactly_they_hold_exactly() {
    // Multiples of 17, of 5 and of 1 in groups of their own: the best scales are those, and the codes are what eight bits have.
    let value = |_: usize, column: usize| {
        let scale = [17, 5, 1][column / 32];
        real((scale * ((column % 15) as i32 - 7)) as f32)
    };
    let matrix = Matrix::new(1, 96, &value);
    let got = quantize_narrow(&matrix).unwrap();
    let step = f64::from(got.mantissas[0]) / f64::from(got.exponents[0]).exp2();
    let mut codes = vec![0; 96];
    nibbles(&got.halves, &got.groups, &mut codes);
    for (column, code) in codes.iter().enumerate() {
        let want = f64::from([17, 5, 1][column / 32] * ((column % 15) as i32 - 7));
        let off = (f64::from(*code) * step - want).abs();
        assert!(off < 1.0, "{column}: {code} of {step}, want {want}");
    }
    assert!(quantize(&matrix, Codes::W8r).is_ok());
}

#[test]
fn every_kernel_set_computes_what_the_definition_computes() {
    let mut mix = Mix::new(101);
    let text = ids(&mut mix, 60);
    for name in FAMILIES {
        let model = Model::from_bytes(narrow(name), Trust::Nothing).unwrap();
        let narrowed = |op: &Op| matches!(op, Op::Linear(shape) if shape.w4);
        assert!(model.program().nodes().iter().any(|node| narrowed(&node.op)), "{name}");
        assert_eq!(model.program().operator_set(), 2, "{name}");
        let want = logits(&model, &mut Reference::default(), &text);
        for kernels in KernelSet::available() {
            let got = logits(&model, &mut Cpu::new(kernels, Arc::new(Serial)), &text);
            assert!(got == want, "{name} with {}", kernels.name());
        }
    }
}

#[test]
fn a_file_with_a_half_or_a_scale_that_is_none_is_refused() {
    let bytes = narrow("llama2");
    let model = Model::from_bytes(bytes.clone(), Trust::Nothing).unwrap();
    let place = |slot: u16| {
        let at = model.records().iter().find(|record| record.op == 2 && record.slot == slot);
        usize::try_from(at.unwrap().offset).unwrap()
    };
    for (slot, value, want) in [(0, 0x80, "a half of 0"), (5, 0, "scale"), (5, 18, "scale")] {
        let mut bent = bytes.clone();
        bent[place(slot)] = value;
        let error = Model::from_bytes(bent, Trust::Roots).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn what_is_no_decoder_has_none() {
    let mut out = Cursor::new(Vec::new());
    let folder = common::Folder::bert().write();
    let error = write_with(folder.path(), Precision::FourBits, &mut out, &mut |_, _| {});
    assert!(error.unwrap_err().to_string().contains("decoders can have them"));
}
