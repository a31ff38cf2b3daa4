//! The page on numerics says what the program does: every line of its `vectors` blocks is computed anew.

#![expect(clippy::unwrap_used, reason = "a line that does not parse fails its test")]

use hyperion_ops::{
    ActivationTable, AttentionShape, Cap, GemmShape, LinearShape, LinearWeights, NormKind,
    NormShape, PoolMode, RowScale, Sampling,
    activation::activation,
    add::add,
    argmax::argmax,
    attention::{KeyValues, attention},
    cache::{PageShape, append},
    conformance::Stem,
    constant::rope_frequency,
    embed::embed,
    gate::gate,
    gemm::gemm,
    linear::linear,
    logprob::logprobs,
    nibbles::nibbles,
    norm::norm,
    pool::{pool, pool_unit},
    position::position,
    quantize::{quantize, quantize_fine, split},
    repetition::repeated,
    requantize::{Channels, requantize},
    rope::{cos_sin, turn},
    round::{fit, inv_root, isqrt32, req, rshr, wide},
    rows::rows,
    sample::{Past, sample},
    softcap::softcap,
    table::{Table, exp2_neg, tables_root},
};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../../docs/exact-inference.md");

/// The lines of the `vectors` blocks, each with the first word of the heading it stands under.
fn vectors() -> Vec<(&'static str, &'static str)> {
    let (mut heading, mut inside) = ("", false);
    let mut lines = Vec::new();
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title.split_whitespace().next().unwrap();
        } else if line == "```vectors" || inside && line == "```" {
            inside = !inside;
        } else if inside {
            lines.push((heading, line));
        }
    }
    lines
}

#[test]
fn every_vector_of_the_page_is_what_the_program_computes() {
    let mut wrong = Vec::new();
    for (_, line) in vectors() {
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

#[test]
fn every_stem_has_a_heading_with_vectors() {
    let lines = vectors();
    for stem in Stem::ALL.map(Stem::name).iter().filter(|stem| !stem.starts_with("program_")) {
        assert!(lines.iter().any(|(heading, _)| heading == stem), "no vectors under `## {stem}`");
    }
}

/// Calls what a line names; the results as a list.
fn compute(name: &str, arguments: &Value) -> Value {
    let arg = |i: usize| &arguments[i];
    match name {
        "rshr" => json!([rshr(read(arg(0)), read(arg(1)))]),
        "req" => json!([req(read(arg(0)), read(arg(1)), read(arg(2)))]),
        "fit" => json!(fit(read(arg(0)), read(arg(1)))),
        "wide" => json!([wide(read(arg(0)), read(arg(1)), read(arg(2)))]),
        "isqrt32" => json!([isqrt32(read(arg(0)))]),
        "inv_root" => json!(inv_root(read(arg(0)))),
        "exp2_neg" => json!([exp2_neg(read(arg(0)), read(arg(1)))]),
        "tables_root" => json!([tables_root().to_string()]),
        "table_root" => {
            let table = Table::ALL.into_iter().find(|table| table.name() == arg(0));
            json!([table.unwrap().root().to_string()])
        }
        "quantize" => {
            let x: Vec<i32> = read(arg(0));
            let mut codes = vec![0; x.len()];
            let scale = quantize(&x, read(arg(1)), &mut codes);
            json!([codes, scale.mantissa, scale.exponent])
        }
        "quantize_fine" => {
            let x: Vec<i32> = read(arg(0));
            let mut codes = vec![0; x.len()];
            let scale = quantize_fine(&x, read(arg(1)), &mut codes);
            json!([codes, scale.mantissa, scale.exponent])
        }
        "split" => json!(split(read(arg(0)))),
        "gemm" => {
            let shape = GemmShape::new(read(arg(0)), read(arg(1)), read(arg(2))).unwrap();
            let mut out = vec![0; shape.rows * shape.cols];
            gemm(shape, &read::<Vec<i8>>(arg(3)), &read::<Vec<i8>>(arg(4)), &mut out);
            json!([out])
        }
        "requantize" => {
            let scale = RowScale { mantissa: read(arg(0)), exponent: read(arg(1)) };
            let acc: Vec<i32> = read(arg(2));
            let channels = Channels {
                mantissas: &read::<Vec<u8>>(arg(3)),
                exponents: &read::<Vec<i8>>(arg(4)),
                bias: Some(&read::<Vec<i32>>(arg(5))),
            };
            row(acc.len(), |out| requantize(scale, &channels, &acc, out))
        }
        "linear" => linear_row(arguments, false),
        "linear_a15" => linear_row(arguments, true),
        "embed" => {
            let codes: Vec<i16> = read(arg(0));
            row(codes.len(), |out| embed(&codes, read(arg(1)), read(arg(2)), out))
        }
        "position" => {
            let (codes, x): (Vec<i16>, Vec<i32>) = (read(arg(0)), read(arg(3)));
            row(codes.len(), |out| position(&codes, read(arg(1)), read(arg(2)), &x, out))
        }
        "layer_norm" => {
            let (x, gamma): (Vec<i32>, Vec<i32>) = (read(arg(0)), read(arg(1)));
            let beta: Vec<i32> = read(arg(2));
            let width = u32::try_from(x.len()).unwrap();
            let shape = NormShape::new(NormKind::Layer, read(arg(3)), width).unwrap();
            row(x.len(), |out| norm(shape, &gamma, Some(&beta), &x, out))
        }
        "rms_norm" => {
            let (x, gamma): (Vec<i32>, Vec<i32>) = (read(arg(0)), read(arg(1)));
            let width = u32::try_from(x.len()).unwrap();
            let shape = NormShape::new(NormKind::Rms, read(arg(2)), width).unwrap();
            row(x.len(), |out| norm(shape, &gamma, None, &x, out))
        }
        "rope_frequency" => {
            json!([rope_frequency((read(arg(0)), 1), read(arg(1)), read(arg(2))).unwrap()])
        }
        "cos_sin" => json!(cos_sin(read(arg(0)), read(arg(1)))),
        "turn" => json!([turn(read(arg(0)), read(arg(1)))]),
        "attention_p7" => attended(arguments, false),
        "attention_p15" => attended(arguments, true),
        "activation" => {
            let table = match arg(0).as_str().unwrap() {
                "relu" => ActivationTable::Relu,
                "gelu" => ActivationTable::Gelu,
                "gelu_tanh" => ActivationTable::GeluTanh,
                "silu" => ActivationTable::Silu,
                other => panic!("no table `{other}`"),
            };
            let x: Vec<i32> = read(arg(1));
            row(x.len(), |out| activation(table, &x, out))
        }
        "nibbles" => {
            let (halves, scale): (Vec<u8>, u8) = (read(arg(0)), read(arg(1)));
            let mut codes = vec![0; 32];
            nibbles(&halves, &[scale], &mut codes);
            json!([codes])
        }
        "softcap" => {
            let (cap, x): (u32, Vec<i32>) = (read(arg(0)), read(arg(1)));
            row(x.len(), |out| softcap(Cap::new(cap).unwrap(), &x, out))
        }
        "capped_scores" => {
            let (cap, t): (u32, Vec<i32>) = (read(arg(0)), read(arg(1)));
            let cap = Cap::new(cap).unwrap();
            json!([t.into_iter().map(|t| cap.apply_score(t)).collect::<Vec<_>>()])
        }
        "gate" => {
            let (g, u): (Vec<i32>, Vec<i32>) = (read(arg(0)), read(arg(1)));
            row(g.len(), |out| gate(&g, &u, out))
        }
        "add" => {
            let (lhs, rhs): (Vec<i32>, Vec<i32>) = (read(arg(0)), read(arg(1)));
            row(lhs.len(), |out| add(&lhs, &rhs, out))
        }
        "rows" => {
            let (chosen, width, x): (Vec<u32>, usize, Vec<i32>) =
                (read(arg(0)), read(arg(1)), read(arg(2)));
            row(chosen.len() * width, |out| rows(&chosen, width, &x, out))
        }
        "pool" => {
            let x: Vec<Vec<i32>> = read(arg(1));
            row(x[0].len(), |out| pool(mode(arg(0)), &x.concat(), out))
        }
        "pool_unit" => {
            let x: Vec<Vec<i32>> = read(arg(1));
            let mut out = vec![0; x[0].len()];
            pool_unit(mode(arg(0)), &x.concat(), &mut out);
            json!([out])
        }
        "cache" => {
            let (k, v): (Vec<i32>, Vec<i32>) = (read(arg(0)), read(arg(1)));
            let head_dim = u32::try_from(k.len()).unwrap();
            let shape = AttentionShape::new(1, 1, head_dim).unwrap().with_causal(0);
            let page = PageShape::new(shape, 1).unwrap();
            let mut bytes = vec![0xff; usize::try_from(page.bytes()).unwrap()];
            append(page, &mut bytes, &[0], 0, &k, &v);
            json!([bytes])
        }
        "argmax" => json!([argmax(&read::<Vec<i32>>(arg(0)))]),
        "sample" => {
            let sampling = Sampling::new(read(arg(1)), read(arg(2)), read(arg(3)), 0, 0).unwrap();
            let sampling = sampling.min_p(read(arg(5))).unwrap();
            let seed = core::array::from_fn(|i| u8::try_from(i).unwrap());
            let logits: Vec<i32> = read(arg(0));
            json!([sample(sampling, &seed, read(arg(4)), &logits, Past::default())])
        }
        "logprob" => {
            let logits: Vec<i32> = read(arg(0));
            row(logits.len(), |out| {
                for (out, token) in out.iter_mut().zip(0..) {
                    *out = logprobs(&logits, token, 0).own_q16;
                }
            })
        }
        "repetition" => {
            let logits: Vec<i32> = read(arg(0));
            row(logits.len(), |out| {
                for (out, logit) in out.iter_mut().zip(&logits) {
                    *out = repeated(*logit, read(arg(1)));
                }
            })
        }
        other => panic!("the page has a vector of `{other}`, which this test does not know"),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

/// A row of results that `fill` writes.
fn row(len: usize, fill: impl FnOnce(&mut [i32])) -> Value {
    let mut out = vec![0; len];
    fill(&mut out);
    json!([out])
}

fn linear_row(arguments: &Value, a15: bool) -> Value {
    let x: Vec<i32> = read(&arguments[0]);
    let weights: Vec<Vec<i8>> = read(&arguments[1]);
    let size = |len: usize| u32::try_from(len).unwrap();
    let mut shape = LinearShape::new(size(x.len()), size(weights.len())).unwrap().with_bias();
    shape.a15 = a15;
    let pad = |mut codes: Vec<i8>| {
        codes.resize(shape.depth() as usize, 0);
        codes
    };
    let codes: Vec<i8> = weights.into_iter().flat_map(pad).collect();
    let channels = Channels {
        mantissas: &read::<Vec<u8>>(&arguments[2]),
        exponents: &read::<Vec<i8>>(&arguments[3]),
        bias: Some(&read::<Vec<i32>>(&arguments[4])),
    };
    let weights = LinearWeights { codes: &codes, channels, smooth: None };
    row(shape.n as usize, |out| linear(shape, &weights, &x, out))
}

fn attended(arguments: &Value, p15: bool) -> Value {
    let q: Vec<i32> = read(&arguments[0]);
    let (keys, values): (Vec<Vec<i32>>, Vec<Vec<i32>>) = (read(&arguments[1]), read(&arguments[2]));
    let mut shape = AttentionShape::new(1, 1, u32::try_from(q.len()).unwrap()).unwrap();
    shape.p15 = p15;
    let mut cache = KeyValues::new(shape, 0);
    cache.append(&keys.concat(), &values.concat());
    row(q.len(), |out| attention(shape, &cache, 0, &q, out))
}

fn mode(name: &Value) -> PoolMode {
    match name.as_str().unwrap() {
        "mean" => PoolMode::Mean,
        "first" => PoolMode::First,
        "last" => PoolMode::Last,
        other => panic!("no mode `{other}`"),
    }
}
