//! Sources of tiny decoders, one of each family.

use std::{collections::BTreeMap, io::Cursor};

use hyperion_model::{
    Decoder, Limits, Model, Outputs, Turn,
    import::{Precision, write_with},
    real::{Format, Real},
};
use hyperion_ops::Backend;
use hyperion_primitives::Mix;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::{Folder, SourceTensor};

/// Token ids.
pub(crate) const VOCABULARY: usize = 61;
/// Positions.
pub(crate) const POSITIONS: usize = 320;
const HIDDEN: usize = 48;
const INNER: usize = 80;
const HEADS: usize = 4;
const LAYERS: usize = 2;

/// Every family, in the form that has most of its features.
pub(crate) const FAMILIES: [&str; 8] =
    ["llama2", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2"];

/// Tensors with random values.
struct Tensors {
    mix: Mix,
    tensors: BTreeMap<String, SourceTensor>,
}

impl Tensors {
    fn put(&mut self, name: &str, shape: &[usize], centre: f32, spread: f32) {
        let mix = &mut self.mix;
        let data = (0..shape.iter().product()).flat_map(|_| {
            let unit = mix.i32(20) as f32 / (1 << 20) as f32;
            (centre + spread * unit).to_le_bytes()
        });
        self.tensors.insert(name.to_owned(), (Dtype::F32, shape.to_vec(), data.collect()));
    }

    /// A matrix whose outputs are about as large as its inputs; `depth` of them go into a sum.
    fn matrix(&mut self, name: &str, shape: &[usize], depth: usize) {
        self.put(name, shape, 0.0, 1.7 / (depth as f32).sqrt());
    }

    fn scale(&mut self, name: &str, len: usize) {
        self.put(name, &[len], 1.0, 0.3);
    }
}

/// A decoder's folder.
pub(crate) fn family(name: &str) -> Folder {
    family_of(name, HIDDEN, INNER)
}

/// A decoder's folder of another width; GPT-2 has one inner width only.
pub(crate) fn family_of(name: &str, hidden: usize, inner: usize) -> Folder {
    let mut tensors = Tensors { mix: Mix::new(41), tensors: BTreeMap::new() };
    let config = match name {
        "gpt2" => gpt2(hidden, &mut tensors),
        _ => llama(name, (hidden, inner), &mut tensors),
    };
    Folder {
        config,
        modules: None,
        pooling: Value::Null,
        tokenizer: None,
        tensors: tensors.tensors,
    }
}

fn llama(name: &str, (hidden, inner): (usize, usize), tensors: &mut Tensors) -> Value {
    let kv_heads = if name == "llama2" { HEADS } else { 2 };
    let is_gemma = name.starts_with("gemma");
    let head_dim = if name == "qwen3" || is_gemma { 16 } else { hidden / HEADS };
    let is_tied = is_gemma || matches!(name, "llama3" | "qwen2");
    let (queries, keys) = (HEADS * head_dim, kv_heads * head_dim);
    tensors.put("model.embed_tokens.weight", &[VOCABULARY, hidden], 0.0, 1.0);
    for layer in 0..LAYERS {
        let part = |part: &str| format!("model.layers.{layer}.{part}");
        for (name, n, k) in [
            ("self_attn.q_proj", queries, hidden),
            ("self_attn.k_proj", keys, hidden),
            ("self_attn.v_proj", keys, hidden),
            ("self_attn.o_proj", hidden, queries),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ] {
            tensors.matrix(&part(&format!("{name}.weight")), &[n, k], k);
        }
        // Gemma's files hold what a scale has beyond one.
        let centre = if is_gemma { 0.0 } else { 1.0 };
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.put(&part(&format!("{norm}.weight")), &[hidden], centre, 0.3);
        }
        if is_gemma {
            for norm in ["pre_feedforward_layernorm", "post_feedforward_layernorm"] {
                tensors.put(&part(&format!("{norm}.weight")), &[hidden], centre, 0.3);
            }
        }
        if name == "qwen2" {
            for (name, n) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
                tensors.put(&part(&format!("self_attn.{name}.bias")), &[n], 0.0, 0.5);
            }
        }
        if name == "qwen3" || name == "gemma3" {
            for norm in ["q_norm", "k_norm"] {
                let name = part(&format!("self_attn.{norm}.weight"));
                tensors.put(&name, &[head_dim], centre, 0.3);
            }
        }
    }
    tensors.put("model.norm.weight", &[hidden], if is_gemma { 0.0 } else { 1.0 }, 0.3);
    if !is_tied {
        tensors.matrix("lm_head.weight", &[VOCABULARY, hidden], hidden / 4);
    }
    let model_type = name.trim_end_matches("2").trim_end_matches("3");
    let model_type = match name {
        "qwen2" | "qwen3" | "gemma2" => name,
        "gemma3" => "gemma3_text",
        _ => model_type,
    };
    let mut config = json!({
        "model_type": model_type, "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": kv_heads,
        "hidden_act": "silu", "max_position_embeddings": POSITIONS, "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": is_tied,
    });
    let mut set = |key: &str, value| config[key] = value;
    match name {
        "llama3" => {
            set("rope_theta", json!(500_000.0));
            set(
                "rope_scaling",
                json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
            );
        }
        "mistral" => set("sliding_window", json!(9)),
        "qwen2" => {
            set("rope_theta", json!(1_000_000.0));
            set("use_sliding_window", json!(false));
            set("sliding_window", json!(64));
            set("max_window_layers", json!(1));
        }
        "qwen3" => set("head_dim", json!(head_dim)),
        "gemma2" => {
            set("head_dim", json!(head_dim));
            set("hidden_activation", json!("gelu_pytorch_tanh"));
            set("sliding_window", json!(9));
            set("query_pre_attn_scalar", json!(24));
            set("attn_logit_softcapping", json!(2.5));
            set("final_logit_softcapping", json!(5.0));
        }
        "gemma3" => {
            set("head_dim", json!(head_dim));
            set("hidden_activation", json!("gelu_pytorch_tanh"));
            set("sliding_window", json!(9));
            set("sliding_window_pattern", json!(2));
            set("query_pre_attn_scalar", json!(16));
            set("rope_theta", json!(1_000_000.0));
            set("rope_local_base_freq", json!(10_000.0));
            set("rope_scaling", json!({"rope_type": "linear", "factor": 4.0}));
        }
        _ => {}
    }
    config
}

fn gpt2(hidden: usize, tensors: &mut Tensors) -> Value {
    tensors.put("transformer.wte.weight", &[VOCABULARY, hidden], 0.0, 1.0);
    tensors.put("transformer.wpe.weight", &[POSITIONS, hidden], 0.0, 0.2);
    let norm = |tensors: &mut Tensors, name: String| {
        tensors.scale(&format!("{name}.weight"), hidden);
        tensors.put(&format!("{name}.bias"), &[hidden], 0.0, 0.1);
    };
    for layer in 0..LAYERS {
        let part = |part: &str| format!("transformer.h.{layer}.{part}");
        for (name, k, n) in [
            ("attn.c_attn", hidden, 3 * hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden),
            ("mlp.c_proj", 4 * hidden, hidden),
        ] {
            tensors.matrix(&part(&format!("{name}.weight")), &[k, n], k);
            tensors.put(&part(&format!("{name}.bias")), &[n], 0.0, 0.1);
        }
        norm(tensors, part("ln_1"));
        norm(tensors, part("ln_2"));
    }
    norm(tensors, "transformer.ln_f".to_owned());
    json!({
        "model_type": "gpt2", "n_embd": hidden, "n_layer": LAYERS, "n_head": HEADS,
        "n_positions": POSITIONS, "n_inner": null, "vocab_size": VOCABULARY,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
    })
}

/// Token ids.
pub(crate) fn ids(mix: &mut Mix, len: usize) -> Vec<u32> {
    (0..len).map(|_| mix.below(VOCABULARY as u64) as u32).collect()
}

/// A family's model, imported with weights of this precision.
pub(crate) fn imported(name: &str, precision: Precision) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let folder = family(name).write();
    write_with(folder.path(), precision, &mut out, &mut |_, _| {}).expect("it can be imported");
    out.into_inner()
}

/// Logits after every token.
pub(crate) fn logits(model: &Model, device: &mut dyn Backend, ids: &[u32]) -> Vec<i32> {
    let limits = Limits { rows_max: 64, outputs_max: 64, pages: 4 };
    let mut decoder = Decoder::load(model, device, limits).expect("memory");
    let mut context = decoder.begin();
    let turn = Turn { context: &mut context, tokens: ids, outputs: Outputs::All };
    decoder.run(device, &mut [turn]).expect("a text that fits").remove(0)
}

/// A number of a source.
pub(crate) fn real(value: f32) -> Option<Real> {
    Format::F32.read(&value.to_le_bytes())
}
