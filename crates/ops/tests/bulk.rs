//! Thousands of random cases per operator, pinned by the hash that the executable definition printed.

#![expect(clippy::unwrap_used, reason = "a vector that does not parse fails its test")]

use hyperion_ops::{
    ActivationTable, AttentionShape, NormKind, NormShape, Sampling,
    activation::activation,
    attention::{KeyValues, attention},
    norm::norm,
    quantize::{quantize, quantize_fine},
    rope::{cos_sin, turn},
    round::req,
    sample::{Past, sample},
};
use hyperion_primitives::{Mix, keccak256};
use serde_json::Value;

/// Runs `case` as often as the vectors say and compares the hash of all results, as `i64` little-endian.
fn pinned(name: &str, mut case: impl FnMut(&mut Mix, &mut Vec<i64>)) {
    let all: Value = serde_json::from_str(include_str!("vectors/ops.json")).unwrap();
    let pin = &all["bulk"][name];
    let mut mix = Mix::new(pin["seed"].as_u64().unwrap());
    let mut results = Vec::new();
    for _ in 0..pin["cases"].as_u64().unwrap() {
        case(&mut mix, &mut results);
    }
    let bytes: Vec<u8> = results.into_iter().flat_map(i64::to_le_bytes).collect();
    assert_eq!(keccak256(bytes).to_string(), pin["hash"].as_str().unwrap(), "{name}");
}

/// A row of `len` elements whose width in bits is itself drawn, from 1 to `bits`.
fn row(mix: &mut Mix, len: usize, bits: u64) -> Vec<i32> {
    let bits = 1 + word(mix, bits);
    (0..len).map(|_| mix.i32(bits)).collect()
}

fn word(mix: &mut Mix, bound: u64) -> u32 {
    u32::try_from(mix.below(bound)).unwrap()
}

fn push<T: Into<i64>>(results: &mut Vec<i64>, values: impl IntoIterator<Item = T>) {
    results.extend(values.into_iter().map(Into::into));
}

#[test]
fn requantized() {
    pinned("req", |mix, results| {
        let (acc, multiplier) = (mix.i32(30), word(mix, 65_536));
        let shift = i32::try_from(word(mix, 47)).unwrap() - 14;
        push(results, [req(acc, multiplier, shift)]);
    });
}

#[test]
fn quantized() {
    pinned("quantize", |mix, results| {
        let x = row(mix, 8, 29);
        for kmin in [-7, -4] {
            let mut codes = [0; 8];
            let scale = quantize(&x, kmin, &mut codes);
            push(results, codes);
            push(results, [i64::from(scale.mantissa), i64::from(scale.exponent)]);
        }
        let mut codes = [0; 8];
        let scale = quantize_fine(&x, 0, &mut codes);
        push(results, codes);
        push(results, [i64::from(scale.mantissa), i64::from(scale.exponent)]);
    });
}

#[test]
fn normalised() {
    pinned("norm", |mix, results| {
        let (x, gamma, beta) = (row(mix, 16, 29), row(mix, 16, 20), row(mix, 16, 20));
        for (kind, beta) in [(NormKind::Layer, Some(&beta[..])), (NormKind::Rms, None)] {
            let shape = NormShape::new(kind, word(mix, 65_536), 16).unwrap();
            let mut y = [0; 16];
            norm(shape, &gamma, beta, &x, &mut y);
            push(results, y);
        }
    });
}

#[test]
fn activated() {
    pinned("activation", |mix, results| {
        let x = row(mix, 4, 29);
        for table in [ActivationTable::Gelu, ActivationTable::GeluTanh, ActivationTable::Silu] {
            let mut y = [0; 4];
            activation(table, &x, &mut y);
            push(results, y);
        }
    });
}

#[test]
fn turned() {
    pinned("rope", |mix, results| {
        let frequency = mix.u64();
        let angle = cos_sin(frequency, word(mix, 65_536));
        let (y0, y1) = turn((mix.i32(29), mix.i32(29)), angle);
        push(results, [angle.0, angle.1]);
        push(results, [y0, y1]);
    });
}

#[test]
fn attended_across_a_block_boundary() {
    pinned("attention", |mix, results| {
        let (count, first) = (1 + word(mix, 20), 240 + word(mix, 20));
        let q = row(mix, 8, 19);
        let mut rows = || (0..count).flat_map(|_| row(mix, 8, 19)).collect::<Vec<_>>();
        let (keys, values) = (rows(), rows());
        let shape = AttentionShape::new(1, 1, 8).unwrap();
        for shape in [shape, shape.with_p15()] {
            let mut cache = KeyValues::new(shape, first);
            cache.append(&keys, &values);
            let mut context = [0; 8];
            attention(shape, &cache, first + count - 1, &q, &mut context);
            push(results, context);
        }
    });
}

#[test]
fn drawn() {
    pinned("sample", |mix, results| {
        let logits = row(mix, 50, 19);
        let temperature = 656 + word(mix, 200_000);
        let (top_k, top_p) = (word(mix, 51), 1 + word(mix, 65_536));
        let sampling = Sampling::new(temperature, top_k, top_p, 0, 0).unwrap();
        let seed: [u8; 32] = mix.u64().to_le_bytes().repeat(4).try_into().unwrap();
        push(results, [sample(sampling, &seed, word(mix, 1000), &logits, Past::default())]);
    });
}
