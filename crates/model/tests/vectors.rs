//! The design's vectors for weights, programs and files: text, Python and Rust agree.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use std::sync::Arc;

use hyperion_model::{
    Model, Program, Trust,
    file::{Parts, TensorPart},
    program::Codes,
    quantized::{Matrix, quantize},
    real::{Format, Real},
};
use hyperion_primitives::{B256, keccak256};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/model.json")).unwrap()
}

fn bits(value: &Value) -> u32 {
    u32::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

fn real(format: Format, value: &Value) -> Option<Real> {
    format.read(&bits(value).to_le_bytes())
}

fn numbers(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect()
}

fn check_rows(
    name: &str,
    rows: &[Vec<Option<Real>>],
    row_q30: u32,
    column_q14: Option<&[u32]>,
    want: &[Value],
) {
    let columns = rows[0].len();
    let value = |row: usize, column: usize| rows[row][column];
    let multiplier = |_: usize| row_q30;
    let matrix =
        Matrix { rows: rows.len(), columns, value: &value, row_q30: Some(&multiplier), column_q14 };
    let got = quantize(&matrix, Codes::W8r).unwrap();
    for (row, want) in want.iter().enumerate() {
        let mut codes = vec![0; 32];
        hyperion_primitives::w8r::decode(&got.codes[32 * row..32 * row + 32], &mut codes).unwrap();
        let codes: Vec<i64> = codes[..columns].iter().map(|code| i64::from(*code)).collect();
        assert_eq!(codes, numbers(&want["codes"]), "{name}, row {row}");
        assert_eq!(i64::from(got.mantissas[row]), want["B"].as_i64().unwrap(), "{name}, row {row}");
        assert_eq!(
            i64::from(got.exponents[row]),
            want["kw"].as_i64().unwrap(),
            "{name}, row {row}"
        );
    }
}

#[test]
fn weights_are_quantized_as_the_vectors_say() {
    let all = vectors();
    let reals = |format, row: &Value| {
        row.as_array().unwrap().iter().map(|v| real(format, v)).collect::<Vec<_>>()
    };
    let v = &all["weights_f32"];
    let rows: Vec<_> =
        v["bits"].as_array().unwrap().iter().map(|row| reals(Format::F32, row)).collect();
    check_rows("f32", &rows, 1 << 30, None, v["rows"].as_array().unwrap());
    let v = &all["weights_f16"];
    let want = std::slice::from_ref(&v["row"]);
    check_rows("f16", &[reals(Format::F16, &v["bits"])], 1 << 30, None, want);
    let v = &all["weights_scaled"];
    let columns: Vec<u32> =
        numbers(&v["col_q14"]).iter().map(|c| u32::try_from(*c).unwrap()).collect();
    let row = u32::try_from(v["row_q30"].as_u64().unwrap()).unwrap();
    let want = std::slice::from_ref(&v["row"]);
    check_rows("scaled", &[reals(Format::F32, &v["bits"])], row, Some(&columns), want);
}

#[test]
fn constants_are_rounded_as_the_vectors_say() {
    for case in vectors()["fixed_f32"].as_array().unwrap() {
        let fraction = u32::try_from(case[1].as_u64().unwrap()).unwrap();
        let got = real(Format::F32, &case[0]).unwrap().fixed(fraction, i32::MAX);
        assert_eq!(got.map(i64::from), case[2].as_i64(), "{case}");
    }
}

#[test]
fn a_value_that_is_not_finite_is_none_and_zero_has_no_sign() {
    let cases = [
        ("infinity", Format::F32, 0x7f80_0000_u32),
        ("no number", Format::F32, 0x7fc0_0000),
        ("half infinity", Format::F16, 0xfc00),
        ("brain infinity", Format::Bf16, 0x7f80),
    ];
    for (name, format, bits) in cases {
        assert_eq!(format.read(&bits.to_le_bytes()), None, "{name}");
    }
    let minus_zero = Format::F32.read(&0x8000_0000_u32.to_le_bytes()).unwrap();
    assert!(!minus_zero.is_negative && minus_zero.mantissa == 0);
    // The smallest denormal is 2^-149.
    let denormal = Format::F32.read(&1_u32.to_le_bytes()).unwrap();
    assert_eq!((denormal.mantissa, denormal.exponent), (1, -149));
}

/// The five-op model of the vectors: embed, RMS norm, linear, last row, argmax.
fn tiny() -> Parts {
    let all = vectors();
    let bytes =
        hex::decode(all["program"]["bytes"].as_str().unwrap().trim_start_matches("0x")).unwrap();
    let part = |op, slot, data: Vec<u8>| TensorPart { op, slot, data: Arc::from(data) };
    let tensors = vec![
        part(0, 0, vec![0; 512]),
        part(0, 1, vec![128; 8]),
        part(0, 2, vec![26; 8]),
        part(1, 0, 16_384_i32.to_le_bytes().repeat(32)),
        part(2, 0, vec![128; 256]),
        part(2, 1, vec![128; 8]),
        part(2, 2, vec![18; 8]),
        part(2, 3, vec![0; 32]),
    ];
    Parts { program: Program::decode(&bytes).unwrap(), tokenizer_hash: B256::ZERO, tensors }
}

#[test]
fn the_tiny_model_has_the_program_the_file_and_the_identity_of_the_vectors() {
    let all = vectors();
    let (program, file) = (&all["program"], &all["model_file"]);
    let parts = tiny();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    assert_eq!(format!("0x{}", hex::encode(parts.program.encode())), text(&program["bytes"]));
    assert_eq!(parts.program.id().to_string(), text(&program["program_id"]));

    let mut bytes = Vec::new();
    let id = parts.write(&mut bytes).unwrap();
    assert_eq!(id.to_string(), text(&program["model_id"]));
    assert_eq!(bytes.len() as u64, file["bytes"].as_u64().unwrap());
    assert_eq!(format!("0x{}", hex::encode(&bytes[..128])), text(&file["header"]));
    assert_eq!(format!("0x{}", hex::encode(&bytes[256..384])), text(&file["record_0"]));
    assert_eq!(keccak256(&bytes).to_string(), text(&file["keccak256"]));

    let model = Model::from_bytes(bytes, Trust::Nothing).unwrap();
    assert_eq!(model.id(), id);
    for (record, want) in model.records().iter().zip(program["tensors"].as_array().unwrap()) {
        assert_eq!(record.root.to_string(), text(&want[2]), "tensor {}.{}", record.op, record.slot);
    }
}
