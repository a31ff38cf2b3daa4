//! The vectors that the executable definition printed, number for number.
//!
//! Entries about program bytes, model files and weight conversion are read by the tests of `model`.

#![expect(clippy::unwrap_used, reason = "a vector that does not parse fails its test")]

use hyperion_ops::{
    ActivationTable, AttentionShape, LinearShape, LinearWeights, NormKind, NormShape, PoolMode,
    RowScale, Sampling,
    activation::activation,
    argmax::argmax,
    attention::{Attended, KeyValues, attend, attention},
    constant::{attention_multiplier, rope_frequency, rope_llama3},
    embed::embed,
    gate::gate,
    gemm::dot,
    linear::linear,
    norm::norm,
    pool::{pool, pool_unit},
    quantize::{quantize, quantize_fine, split},
    requantize::Channels,
    rope::{cos_sin, turn},
    round::{inv_root, isqrt32, req, rshr, wide},
    sample::{LOG2E_Q24, Past, draw, penalised, sample},
    table::{EXP2, GELU, GELU_TANH, SILU, SIN, TABLES_ROOT, Table, exp2_neg, tables_root},
};
use hyperion_primitives::{Dtype, Mix, keccak256, limits::SAT, tensor_root, w8r};
use serde_json::Value;

fn vectors(key: &str) -> Value {
    let text = include_str!("vectors/ops.json");
    let mut all: Value = serde_json::from_str(text).unwrap();
    let entry = all[key].take();
    assert!(!entry.is_null(), "no vectors under `{key}`");
    entry
}

fn cases(key: &str) -> Vec<Value> {
    let Value::Array(cases) = vectors(key) else { panic!("`{key}` is a list") };
    assert!(!cases.is_empty());
    cases
}

/// A number, or a list of numbers, in the type that the callee takes.
fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn numbers_and_rounding() {
    assert_eq!(read::<u16>(&vectors("opset")), 1);
    assert_eq!(read::<i32>(&vectors("sat")), SAT);
    assert_eq!(read::<u64>(&vectors("log2e_q24")), LOG2E_Q24);
    for case in cases("rshr") {
        let (x, s, want): (i64, i32, i64) = read(&case);
        assert_eq!(rshr(x, s), want, "rshr({x}, {s})");
    }
    for case in cases("wide") {
        let (acc, m, s, want): (i32, u32, u32, i64) = read(&case);
        assert_eq!(wide(acc, m, s), want, "wide({acc}, {m}, {s})");
    }
    for case in cases("req") {
        let (acc, m, s, want): (i32, u32, i32, i32) = read(&case);
        assert_eq!(req(acc, m, s), want, "req({acc}, {m}, {s})");
    }
    for case in cases("isqrt32") {
        let (v, want): (u32, u32) = read(&case);
        assert_eq!(isqrt32(v), want, "isqrt32({v})");
    }
    for case in cases("inv_root") {
        let (v, reciprocal, k): (u64, u32, i32) = read(&case);
        assert_eq!(inv_root(v), (reciprocal, k), "inv_root({v})");
    }
}

#[test]
fn tables_and_their_root() {
    let want = vectors("tables");
    for (name, table, entries) in [
        ("EXP2", Table::Exp2, EXP2.to_vec()),
        ("GELU", Table::Gelu, GELU.map(u32::from).to_vec()),
        ("GELU_TANH", Table::GeluTanh, GELU_TANH.map(u32::from).to_vec()),
        ("SILU", Table::Silu, SILU.map(u32::from).to_vec()),
        ("SIN", Table::Sin, SIN.map(u32::from).to_vec()),
    ] {
        let want = &want[name];
        assert_eq!(read::<u8>(&want["id"]), table.id());
        assert_eq!(read::<String>(&want["dtype"]), table.dtype().name());
        assert_eq!(read::<usize>(&want["len"]), entries.len());
        assert_eq!(read::<Vec<u32>>(&want["head"]), entries[..4]);
        assert_eq!(read::<u32>(&want["mid"]), entries[entries.len() / 2]);
        assert_eq!(read::<u32>(&want["last"]), entries[entries.len() - 1]);
        assert_eq!(read::<u64>(&want["sum"]), entries.iter().map(|e| u64::from(*e)).sum::<u64>());
        assert_eq!(read::<String>(&want["root"]), table.root().to_string(), "{name}");
    }
    assert_eq!(read::<String>(&vectors("tables_root")), TABLES_ROOT.to_string());
    assert_eq!(tables_root(), TABLES_ROOT);
    for case in cases("exp2_neg") {
        let (d, whole, dropped): (u32, u32, u32) = read(&case);
        assert_eq!((exp2_neg(d, 0), exp2_neg(d, 5)), (whole, dropped), "exp2_neg({d})");
    }
}

#[test]
fn quantized_rows() {
    for case in cases("quantize") {
        let x: Vec<i32> = read(&case["x"]);
        let want = RowScale { mantissa: read(&case["A"]), exponent: read(&case["k"]) };
        let (codes, scale): (Vec<i16>, _) = if case["bits"] == 8 {
            let mut codes = vec![0; x.len()];
            let scale = quantize(&x, read(&case["kmin"]), &mut codes);
            (codes.into_iter().map(i16::from).collect(), scale)
        } else {
            let mut codes = vec![0; x.len()];
            let scale = quantize_fine(&x, read(&case["kmin"]), &mut codes);
            (codes, scale)
        };
        assert_eq!((codes, scale), (read(&case["codes"]), want), "{case}");
    }
    for case in cases("split") {
        let (code, hi, lo): (i16, i8, i8) = read(&case);
        assert_eq!(split(code), (hi, lo), "split({code})");
    }
}

#[test]
fn a_linear_layer_plain_fine_and_smoothed() {
    let rows = vectors("weights_f32")["rows"].take();
    let rows: Vec<Value> = read(&rows);
    let codes: Vec<i8> = rows
        .iter()
        .flat_map(|row| {
            let mut codes: Vec<i8> = read(&row["codes"]);
            codes.resize(32, 0);
            codes
        })
        .collect();
    let mantissas: Vec<u8> = rows.iter().map(|row| read(&row["B"])).collect();
    let exponents: Vec<i8> = rows.iter().map(|row| read(&row["kw"])).collect();
    let case = vectors("linear");
    let (x, bias): (Vec<i32>, Vec<i32>) = (read(&case["x"]), read(&case["bias"]));
    let smooth: Vec<u16> = read(&case["smooth"]);
    let shape = LinearShape::new(4, 3).unwrap().with_bias();
    for (want, shape, smooth) in [
        ("y", shape, None),
        ("y_a15", shape.with_a15(), None),
        ("y_smooth", shape.with_smooth(), Some(&smooth[..])),
    ] {
        let channels = Channels { mantissas: &mantissas, exponents: &exponents, bias: Some(&bias) };
        let mut y = [0; 3];
        linear(shape, &LinearWeights { codes: &codes, channels, smooth }, &x, &mut y);
        assert_eq!(y, *read::<Vec<i32>>(&case[want]), "{want}");
    }
}

#[test]
fn embedded_rows() {
    for case in cases("embed") {
        let (codes, mantissa, exponent, want): (Vec<i16>, u8, i8, Vec<i32>) = read(&case);
        let mut row = vec![0; codes.len()];
        embed(&codes, mantissa, exponent, &mut row);
        assert_eq!(row, want, "{case}");
    }
}

#[test]
fn normalised_rows() {
    for case in cases("norm") {
        let x: Vec<i32> = read(&case["x"]);
        let (gamma, beta): (Vec<i32>, Vec<i32>) = (read(&case["gamma"]), read(&case["beta"]));
        let eps_q32 = read(&case["eps_q32"]);
        for (name, kind, beta) in
            [("layer", NormKind::Layer, Some(&beta[..])), ("rms", NormKind::Rms, None)]
        {
            let shape = NormShape::new(kind, eps_q32, 8).unwrap();
            let mut y = [0; 8];
            norm(shape, &gamma, beta, &x, &mut y);
            assert_eq!(y, *read::<Vec<i32>>(&case[name]), "{name} of {x:?}");
        }
    }
}

#[test]
fn element_by_element() {
    let points = vectors("activation");
    for (name, table) in [
        ("RELU", ActivationTable::Relu),
        ("GELU", ActivationTable::Gelu),
        ("GELU_TANH", ActivationTable::GeluTanh),
        ("SILU", ActivationTable::Silu),
    ] {
        for (x, want) in read::<Vec<(i32, i32)>>(&points[name]) {
            let mut y = [0];
            activation(table, &[x], &mut y);
            assert_eq!(y, [want], "{name}({x})");
        }
    }
    for case in cases("gate") {
        let (g, u, want): (i32, i32, i32) = read(&case);
        let mut y = [0];
        gate(&[g], &[u], &mut y);
        assert_eq!(y, [want], "gate({g}, {u})");
    }
}

#[test]
fn rotary_positions() {
    for case in cases("rope_freq") {
        let (theta, rot, j, want): (u64, u32, u32, u64) = read(&case);
        assert_eq!(rope_frequency((theta, 1), rot, j), Some(want), "{case}");
    }
    for case in cases("rope_llama3") {
        let (j, frequency, want): (u32, u64, u64) = read(&case);
        assert_eq!(rope_frequency((500_000, 1), 128, j), Some(frequency));
        assert_eq!(rope_llama3(frequency, 8, 1, 4, 8192), Some(want), "{case}");
    }
    for case in cases("rope") {
        let frequency =
            rope_frequency((read(&case["theta"]), 1), read(&case["rot"]), read(&case["j"]));
        let angle = cos_sin(frequency.unwrap(), read(&case["pos"]));
        assert_eq!(angle, read(&case["cos_sin"]), "{case}");
        assert_eq!(turn(read(&case["x"]), angle), read::<(i32, i32)>(&case["y"]), "{case}");
    }
    for case in cases("attention_multiplier") {
        let (scale, want): (u32, u64) = read(&case);
        assert_eq!(attention_multiplier(scale), Some(want), "{case}");
    }
}

#[test]
fn attention_with_every_value_on_the_way() {
    let case = vectors("attention");
    let q: Vec<i32> = read(&case["q"]);
    let keys: Vec<Vec<i32>> = read(&case["keys"]);
    let values: Vec<Vec<i32>> = read(&case["values"]);
    let causal = AttentionShape::new(1, 1, 4).unwrap().with_causal(0);
    let mut cache = KeyValues::new(causal, 0);
    cache.append(&keys.concat(), &values.concat());
    for step in read::<Vec<Value>>(&case["causal"]) {
        let visible: u32 = read(&step["visible"]);
        for (name, shape) in [("p7", causal), ("p15", causal.with_p15())] {
            let want = &step[name];
            let got = attend(shape, &cache, 0, 0..visible, &q);
            let name = format!("{name}, {visible} visible");
            same_attention(&got, want, &name);
            let mut row = [0; 4];
            attention(shape, &cache, visible - 1, &q, &mut row);
            assert_eq!(row, *got.context, "{name}");
        }
    }
}

fn same_attention(got: &Attended, want: &Value, name: &str) {
    assert_eq!(got.scores, read::<Vec<i32>>(&want["t"]), "t: {name}");
    assert_eq!(got.exponentials, read::<Vec<u32>>(&want["e"]), "e: {name}");
    assert_eq!(got.sum, read::<u64>(&want["Z"]), "Z: {name}");
    assert_eq!(got.inverse, read::<u32>(&want["G"]), "G: {name}");
    let blocks: Vec<Value> = read(&want["blocks"]);
    assert_eq!(got.blocks.len(), blocks.len(), "{name}");
    for (got, want) in got.blocks.iter().zip(&blocks) {
        assert_eq!(got.weights, read::<Vec<i32>>(&want["w"]), "w: {name}");
        assert_eq!(got.codes, read::<Vec<i16>>(&want["p"]), "P: {name}");
        let scale = RowScale { mantissa: read(&want["Ap"]), exponent: read(&want["kp"]) };
        assert_eq!(got.scale, scale, "Ap, kp: {name}");
        assert_eq!(got.exponent_max, read::<i8>(&want["kmax"]), "kmax: {name}");
        assert_eq!(got.multiplier, read::<u32>(&want["M"]), "M: {name}");
        assert_eq!(got.shift, read::<i32>(&want["s"]), "s: {name}");
    }
    assert_eq!(got.context, read::<Vec<i32>>(&want["ctx"]), "ctx: {name}");
}

#[test]
fn the_largest_and_the_mean() {
    for case in cases("argmax") {
        let (x, want): (Vec<i32>, u32) = read(&case);
        assert_eq!(argmax(&x), want, "{x:?}");
    }
    let case = vectors("pool");
    let rows: Vec<Vec<i32>> = read(&case["rows"]);
    let (mut mean, mut unit) = ([0; 4], [0; 4]);
    pool(PoolMode::Mean, &rows.concat(), &mut mean);
    pool_unit(PoolMode::Mean, &rows.concat(), &mut unit);
    assert_eq!(mean, *read::<Vec<i32>>(&case["mean"]));
    assert_eq!(unit, *read::<Vec<i16>>(&case["unit_q15"]));
}

#[test]
fn drawn_tokens_with_every_value_on_the_way() {
    for case in cases("sample") {
        let (args, want) = (&case["args"], &case["out"]);
        let number = |key: &str, default: i64| args.get(key).map_or(default, read::<i64>);
        let unsigned = |key: &str, default| u32::try_from(number(key, default)).unwrap();
        let signed = |key: &str| i32::try_from(number(key, 0)).unwrap();
        let sampling = Sampling::new(
            unsigned("temp_q16", 65_536),
            unsigned("top_k", 0),
            unsigned("top_p_q16", 65_536),
            signed("freq_q16"),
            signed("pres_q16"),
        )
        .unwrap();
        let logits: Vec<i32> = read(&case["logits"]);
        let counts: Vec<u32> = args.get("counts").map_or_else(Vec::new, read);
        let past = Past { counts: &counts, seen: &[] };
        let seed = hex::decode(read::<String>(&case["seed"]).trim_start_matches("0x")).unwrap();
        let seed: [u8; 32] = seed.try_into().unwrap();
        let position = unsigned("pos", 0);
        let token: u32 = read(&want["token"]);
        assert_eq!(sample(sampling, &seed, position, &logits, past), token, "{args}");
        if sampling.temperature_q16 > 0 {
            let logits = penalised(sampling, &logits, past);
            let got = draw(sampling, &seed, position, &logits);
            assert_eq!(got.tau, read::<u64>(&want["tau"]), "{args}");
            assert_eq!(got.distances, read::<Vec<u32>>(&want["d"]), "{args}");
            assert_eq!(got.weights, read::<Vec<u32>>(&want["w"]), "{args}");
            assert_eq!(got.kept, read::<Vec<u32>>(&want["kept"]), "{args}");
            assert_eq!(got.total, read::<u64>(&want["total"]), "{args}");
            assert_eq!(got.point, read::<u64>(&want["u"]), "{args}");
        }
    }
}

#[test]
fn hashes_roots_and_committed_weights() {
    for case in cases("keccak256") {
        let text: String = read(&case["in"]);
        assert_eq!(keccak256(text).to_string(), read::<String>(&case["out"]));
    }
    let [small, large] = &cases("ct1")[..] else { panic!("two tensors") };
    let bytes: Vec<u8> =
        read::<Vec<i32>>(&small["values"]).into_iter().flat_map(i32::to_le_bytes).collect();
    let mut mix = Mix::new(2);
    let codes: Vec<u8> =
        (0..3072).map(|_| i8::try_from(mix.i32(7).max(-127)).unwrap().cast_unsigned()).collect();
    for (case, dtype, data) in [(small, Dtype::I32, bytes), (large, Dtype::I8, codes)] {
        let root = tensor_root(dtype, &read::<Vec<u64>>(&case["dims"]), &data).unwrap();
        assert_eq!(root.to_string(), read::<String>(&case["root"]));
    }
    let case = vectors("w8r");
    let (mut codes, x): (Vec<i8>, Vec<i8>) = (read(&case["codes"]), read(&case["x"]));
    assert_eq!(dot(&x, &codes), read::<i32>(&case["dot"]));
    assert_eq!(case["dot"], case["swar_dot"], "the arbiter's form of the product");
    codes.resize(64, 0);
    let mut committed = [0; 64];
    w8r::encode(&codes, &mut committed);
    assert_eq!(format!("0x{}", hex::encode(committed)), read::<String>(&case["bytes"]));
}
