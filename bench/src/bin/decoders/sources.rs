//! Sources of random decoders that have the outliers of trained ones.
//!
//! - From the first layer on a few channels of the residual are some 20 times the rest at every token; the scales of the norms and
//!   the columns of the matrices that read them are smaller, as trained models make them (Dettmers et al. 2022,
//!   arXiv:2208.07339).
//! - Two channels are thousands at the first token, written there by one unit of an early feed-forward layer that answers
//!   to that token (Sun et al. 2024, arXiv:2402.17762). Families that norm what they add cannot, and have none.
//! - Two pairs of columns of each key head are many times the rest, as rotary models have them.
//! - What a sub-layer adds is a part of what is there, and float is about as sure as a trained model is: a head of its own answers
//!   each token with a planted successor, mixed with noise; where the head is the embedding, tokens come in families.

use std::{collections::BTreeMap, fs, path::Path};

use hyperion_primitives::Mix;
use serde_json::{Value, json};

use super::Result;

/// Token ids.
pub(super) const VOCABULARY: u64 = 4_096;
/// The first token of a text.
pub(super) const BEGIN: u32 = 1;
/// Every family.
pub(super) const FAMILIES: [&str; 8] =
    ["llama2", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2"];

const HIDDEN: usize = 768;
const INNER: usize = 2_048;
const HEAD_DIM: usize = 64;
const HEADS: usize = HIDDEN / HEAD_DIM;
const LAYERS: usize = 4;
const CONTEXT: usize = 8_192;

/// Channels that are large at every token, and by how much.
const LARGE: [usize; 6] = [17, 138, 301, 420, 555, 700];
const LARGE_BY: f32 = 20.0;
/// Channels that are massive at the first token.
const MASSIVE: [usize; 2] = [77, 611];
/// The feed-forward layer that makes them so, and its unit.
const MASSIVE_LAYER: usize = 1;
const MASSIVE_UNIT: usize = 1_000;
/// What sub-layers add, beside an embedding of deviation one.
const ADDED: f32 = 0.3;
/// Share of the planted successor in a row of the head.
const PLANTED: f32 = 0.19;
/// Norms of a layer of Gemma.
const NORMS: [&str; 4] = [
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
];
/// Tokens of a family, and the share of an embedding that is a token's own.
const KIN: usize = 16;
const OWN: f32 = 0.15;

struct Weights {
    mix: Mix,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Weights {
    /// About normal, of deviation one.
    fn normal(&mut self) -> f32 {
        let sum: i32 = (0..4).map(|_| self.mix.i32(20)).sum();
        sum as f32 / (1 << 20) as f32 * 0.866
    }

    fn put(&mut self, name: String, shape: &[usize], data: Vec<f32>) {
        self.tensors.insert(name, (shape.to_vec(), data));
    }

    fn random(&mut self, len: usize, spread: f32) -> Vec<f32> {
        (0..len).map(|_| spread * self.normal()).collect()
    }

    /// Outputs by inputs; `reads` says that its inputs are a norm of the residual.
    fn matrix(&mut self, rows: usize, depth: usize, gain: f32, reads: bool) -> Vec<f32> {
        let mut data = self.random(rows * depth, gain / (depth as f32).sqrt());
        if reads {
            for row in data.chunks_mut(depth) {
                LARGE.iter().for_each(|channel| row[*channel] *= 3.0 / LARGE_BY.sqrt());
            }
        }
        data
    }

    /// A norm's scale: smaller where the residual is large.
    fn scale(&mut self, gain: f32) -> Vec<f32> {
        let mut scale: Vec<f32> = (0..HIDDEN).map(|_| gain * (1.0 + 0.2 * self.normal())).collect();
        LARGE.iter().for_each(|channel| scale[*channel] /= LARGE_BY.sqrt());
        scale
    }
}

/// Writes a family's folder.
pub(super) fn write(family: &str, folder: &Path) -> Result<()> {
    let mut weights = Weights { mix: Mix::new(41), tensors: BTreeMap::new() };
    let config = match family {
        "gpt2" => gpt2(&mut weights),
        _ => llama(family, &mut weights),
    };
    fs::write(folder.join("config.json"), config.to_string())?;
    fs::write(folder.join("model.safetensors"), safetensors(&weights.tensors))?;
    Ok(())
}

/// `in_families`: tokens of a family differ little.
fn embedding(weights: &mut Weights, in_families: bool) -> Vec<f32> {
    let mut words = weights.random(VOCABULARY as usize * HIDDEN, 1.0);
    if in_families {
        for family in words.chunks_mut(KIN * HIDDEN) {
            let shared = weights.random(HIDDEN, (1.0 - OWN * OWN).sqrt());
            for row in family.chunks_mut(HIDDEN) {
                row.iter_mut().zip(&shared).for_each(|(own, shared)| *own = OWN * *own + shared);
            }
        }
    }
    words
}

/// Makes the outputs of a matrix large in [`LARGE`] channels; `depth` inputs each.
fn enlarge(matrix: &mut [f32], depth: usize) {
    for channel in LARGE {
        let row = &mut matrix[channel * depth..][..depth];
        row.iter_mut().for_each(|weight| *weight *= LARGE_BY / ADDED);
    }
}

/// Rows that answer each token with the next id, at [`PLANTED`] beside noise.
fn head(weights: &mut Weights, words: &[f32]) -> Vec<f32> {
    let rows = VOCABULARY as usize;
    let mut head = Vec::with_capacity(rows * HIDDEN);
    for row in 0..rows {
        let asked = &words[(row + rows - 1) % rows * HIDDEN..][..HIDDEN];
        for word in asked {
            let noise = weights.normal();
            head.push((PLANTED * word + (1.0 - PLANTED * PLANTED).sqrt() * noise) * 0.1);
        }
    }
    head
}

/// Makes one unit of a feed-forward layer answer to the first token alone, and write [`MASSIVE`]. `into` are the matrices
/// whose products are the unit's value, outputs by inputs.
fn massive(words: &[f32], into: &mut [&mut Vec<f32>], down: &mut [f32], size: f32) {
    let word = &words[BEGIN as usize * HIDDEN..][..HIDDEN];
    for matrix in into {
        let row = &mut matrix[MASSIVE_UNIT * HIDDEN..][..HIDDEN];
        for (channel, (weight, word)) in row.iter_mut().zip(word).enumerate() {
            *weight = if LARGE.contains(&channel) { 0.0 } else { word * 0.06 };
        }
    }
    let inner = down.len() / HIDDEN;
    for row in down.chunks_mut(inner) {
        row[MASSIVE_UNIT] = 0.0;
    }
    for (channel, sign) in MASSIVE.into_iter().zip([1.0, -0.7]) {
        down[channel * inner + MASSIVE_UNIT] = sign * size;
    }
}

fn llama(family: &str, weights: &mut Weights) -> Value {
    let kv_heads = if family == "llama2" { HEADS } else { HEADS / 3 };
    let is_gemma = family.starts_with("gemma");
    let is_tied = is_gemma || matches!(family, "llama3" | "qwen2");
    let (queries, keys) = (HEADS * HEAD_DIM, kv_heads * HEAD_DIM);
    let mut words = embedding(weights, is_tied);
    for layer in 0..LAYERS {
        let part = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let q = weights.matrix(queries, HIDDEN, 1.0, true);
        let mut k = weights.matrix(keys, HIDDEN, 1.0, true);
        for (row, weights) in k.chunks_mut(HIDDEN).enumerate() {
            if [5, 37, 11, 43].contains(&(row % HEAD_DIM)) {
                weights.iter_mut().for_each(|weight| *weight *= 5.0);
            }
        }
        let v = weights.matrix(keys, HIDDEN, 1.0, true);
        let o = weights.matrix(HIDDEN, queries, 2.0 * ADDED, false);
        let mut gate = weights.matrix(INNER, HIDDEN, 1.0, true);
        let mut up = weights.matrix(INNER, HIDDEN, 1.0, true);
        let mut down = weights.matrix(HIDDEN, INNER, 2.0 * ADDED, false);
        if layer == 0 && !is_gemma {
            enlarge(&mut down, INNER);
        }
        if layer == MASSIVE_LAYER && !is_gemma {
            massive(&words, &mut [&mut gate, &mut up], &mut down, 3.0);
        }
        for (name, rows, depth, data) in [
            ("self_attn.q_proj", queries, HIDDEN, q),
            ("self_attn.k_proj", keys, HIDDEN, k),
            ("self_attn.v_proj", keys, HIDDEN, v),
            ("self_attn.o_proj", HIDDEN, queries, o),
            ("mlp.gate_proj", INNER, HIDDEN, gate),
            ("mlp.up_proj", INNER, HIDDEN, up),
            ("mlp.down_proj", HIDDEN, INNER, down),
        ] {
            weights.put(part(name), &[rows, depth], data);
        }
        if is_gemma {
            for norm in NORMS {
                let is_added = norm.starts_with("post");
                let mut scale = weights.scale(if is_added { ADDED } else { 1.5 });
                for channel in LARGE {
                    let is_large = norm == "post_feedforward_layernorm" && layer == 0;
                    scale[channel] *=
                        if is_large { LARGE_BY * LARGE_BY.sqrt() / ADDED } else { 1.0 };
                }
                scale.iter_mut().for_each(|scale| *scale -= 1.0);
                weights.put(part(norm), &[HIDDEN], scale);
            }
        } else {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                let scale = weights.scale(1.5);
                weights.put(part(norm), &[HIDDEN], scale);
            }
        }
        if family == "qwen2" {
            for (name, rows) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
                let mut bias = weights.random(rows, 0.5);
                if name == "k_proj" {
                    // Qwen2's keys have biases of hundreds in a few columns.
                    bias.iter_mut().step_by(HEAD_DIM).for_each(|bias| *bias = 60.0);
                }
                weights.put(format!("model.layers.{layer}.self_attn.{name}.bias"), &[rows], bias);
            }
        }
        if matches!(family, "qwen3" | "gemma3") {
            let centre = if is_gemma { 0.0 } else { 1.0 };
            for norm in ["self_attn.q_norm", "self_attn.k_norm"] {
                let scale = (0..HEAD_DIM).map(|_| centre + 0.3 * weights.normal()).collect();
                weights.put(part(norm), &[HEAD_DIM], scale);
            }
        }
    }
    let mut scale = weights.scale(1.0);
    if is_gemma {
        scale.iter_mut().for_each(|scale| *scale -= 1.0);
        // Its embeddings are multiplied by the root of their width.
        words.iter_mut().for_each(|word| *word /= (HIDDEN as f32).sqrt());
    }
    weights.put("model.norm.weight".to_owned(), &[HIDDEN], scale);
    if !is_tied {
        let head = head(weights, &words);
        weights.put("lm_head.weight".to_owned(), &[VOCABULARY as usize, HIDDEN], head);
    }
    weights.put("model.embed_tokens.weight".to_owned(), &[VOCABULARY as usize, HIDDEN], words);
    let model_type = match family {
        "llama2" | "llama3" => "llama",
        "gemma3" => "gemma3_text",
        other => other,
    };
    let mut config = json!({
        "model_type": model_type, "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": kv_heads,
        "head_dim": HEAD_DIM, "hidden_act": "silu", "max_position_embeddings": CONTEXT,
        "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "tie_word_embeddings": is_tied,
    });
    if is_gemma {
        config["hidden_activation"] = json!("gelu_pytorch_tanh");
        config["query_pre_attn_scalar"] = json!(HEAD_DIM);
        config["sliding_window"] = json!(1_024);
        config["sliding_window_pattern"] = json!(2);
        config["rope_local_base_freq"] = json!(10_000.0);
    }
    if family == "gemma2" {
        config["attn_logit_softcapping"] = json!(50.0);
        config["final_logit_softcapping"] = json!(30.0);
    }
    if family == "llama3" {
        config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 1_024});
    }
    config
}

fn gpt2(weights: &mut Weights) -> Value {
    let words = embedding(weights, true);
    let inner = 4 * HIDDEN;
    for layer in 0..LAYERS {
        let name = |part: &str, kind: &str| format!("transformer.h.{layer}.{part}.{kind}");
        let qkv = weights.matrix(3 * HIDDEN, HIDDEN, 1.0, true);
        let out = weights.matrix(HIDDEN, HIDDEN, 2.0 * ADDED, false);
        let mut up = weights.matrix(inner, HIDDEN, 1.0, true);
        let mut down = weights.matrix(HIDDEN, inner, 2.0 * ADDED, false);
        if layer == 0 {
            enlarge(&mut down, inner);
        }
        if layer == MASSIVE_LAYER {
            massive(&words, &mut [&mut up], &mut down, 40.0);
        }
        for (part, rows, depth, data) in [
            ("attn.c_attn", 3 * HIDDEN, HIDDEN, qkv),
            ("attn.c_proj", HIDDEN, HIDDEN, out),
            ("mlp.c_fc", inner, HIDDEN, up),
            ("mlp.c_proj", HIDDEN, inner, down),
        ] {
            // Held inputs by outputs.
            let held =
                (0..depth).flat_map(|i| data.iter().skip(i).step_by(depth).copied()).collect();
            weights.put(name(part, "weight"), &[depth, rows], held);
            let bias = weights.random(rows, 0.1);
            weights.put(name(part, "bias"), &[rows], bias);
        }
        for norm in ["ln_1", "ln_2"] {
            let (scale, bias) = (weights.scale(1.5), weights.random(HIDDEN, 0.1));
            weights.put(name(norm, "weight"), &[HIDDEN], scale);
            weights.put(name(norm, "bias"), &[HIDDEN], bias);
        }
    }
    let (scale, bias) = (weights.scale(1.0), weights.random(HIDDEN, 0.1));
    weights.put("transformer.ln_f.weight".to_owned(), &[HIDDEN], scale);
    weights.put("transformer.ln_f.bias".to_owned(), &[HIDDEN], bias);
    weights.put("transformer.wte.weight".to_owned(), &[VOCABULARY as usize, HIDDEN], words);
    let positions = weights.random(CONTEXT * HIDDEN, 0.2);
    weights.put("transformer.wpe.weight".to_owned(), &[CONTEXT, HIDDEN], positions);
    json!({
        "model_type": "gpt2", "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS,
        "n_positions": CONTEXT, "n_inner": null, "vocab_size": VOCABULARY,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
    })
}

/// The file format: a header's length, the header in JSON, the numbers.
fn safetensors(tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, (shape, data)) in tensors {
        let start = end;
        end += 4 * data.len();
        header.insert(
            name.clone(),
            json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    for (_, data) in tensors.values() {
        bytes.extend(data.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}
