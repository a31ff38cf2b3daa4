//! The page on models says what the program does: every line of its `vectors` blocks is computed anew.

#![expect(clippy::unwrap_used, reason = "a line that does not parse fails its test")]

use hyperion_model::{
    Program,
    program::Codes,
    quantized::{Matrix, fixed, quantize},
    real::{Format, Real},
};
use hyperion_ops::constant::attention_multiplier;
use hyperion_primitives::w8r;
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../../docs/model-format.md");

/// The lines of the `vectors` blocks.
fn vectors() -> Vec<&'static str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in PAGE.lines() {
        if line == "```vectors" || inside && line == "```" {
            inside = !inside;
        } else if inside {
            lines.push(line);
        }
    }
    lines
}

#[test]
fn every_vector_of_the_page_is_what_the_program_computes() {
    let lines = vectors();
    assert!(lines.len() >= 13, "{} lines were found", lines.len());
    let mut wrong = Vec::new();
    for line in lines {
        let (call, result) = line.split_once(" = ").unwrap();
        let (name, arguments) = call.strip_suffix(')').unwrap().split_once('(').unwrap();
        let arguments: Value = serde_json::from_str(&format!("[{arguments}]")).unwrap();
        let want: Value = serde_json::from_str(&format!("[{result}]")).unwrap();
        let got = compute(name, &arguments);
        if got != want {
            wrong.push(format!("{call} = {got}, the page says {result}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Calls what a line names; the results as a list.
fn compute(name: &str, arguments: &Value) -> Value {
    let number = |i: usize| u32::try_from(arguments[i].as_u64().unwrap()).unwrap();
    match name {
        "program_id" => {
            let bytes = hex::decode(arguments[0].as_str().unwrap()).unwrap();
            let program = Program::decode(&bytes).unwrap();
            assert_eq!(program.encode(), bytes, "one encoding");
            json!([program.id().to_string()])
        }
        "weights_f32" => weights(Format::F32, &arguments[0], None, None),
        "weights_f16" => weights(Format::F16, &arguments[0], None, None),
        "weights_scaled" => {
            let columns: Vec<u32> = serde_json::from_value(arguments[2].clone()).unwrap();
            weights(Format::F32, &json!([arguments[0]]), Some(number(1)), Some(&columns))
        }
        "fixed_f32" => {
            json!(fixed([real(Format::F32, &arguments[0])], number(1), i32::MAX).unwrap())
        }
        "attention_multiplier" => json!([attention_multiplier(number(0)).unwrap()]),
        _ => panic!("the page names `{name}`, which this test does not know"),
    }
}

/// A number from the hexadecimal text of its bits.
fn real(format: Format, bits: &Value) -> Option<Real> {
    let bits = u32::from_str_radix(bits.as_str().unwrap().strip_prefix("0x").unwrap(), 16).unwrap();
    format.read(&bits.to_le_bytes())
}

/// `[codes, B, kw]` of each row.
fn weights(format: Format, rows: &Value, row_q30: Option<u32>, columns: Option<&[u32]>) -> Value {
    let rows = rows.as_array().unwrap();
    let columns_len = rows[0].as_array().unwrap().len();
    let multiplier = row_q30.map(|multiplier| move |_: usize| multiplier);
    let matrix = Matrix {
        rows: rows.len(),
        columns: columns_len,
        value: &|row, column| real(format, &rows[row][column]),
        row_q30: multiplier.as_ref().map(|of| of as &dyn Fn(usize) -> u32),
        column_q14: columns,
    };
    let quantized = quantize(&matrix, Codes::W8r).unwrap();
    let lines = quantized.codes.chunks_exact(w8r::GROUP_BYTES).zip(&quantized.mantissas);
    let lines = lines.zip(&quantized.exponents).map(|((bytes, mantissa), exponent)| {
        let mut codes = [0; w8r::GROUP_BYTES];
        w8r::decode(bytes, &mut codes).unwrap();
        json!([codes[..columns_len], mantissa, exponent])
    });
    Value::Array(lines.collect())
}
