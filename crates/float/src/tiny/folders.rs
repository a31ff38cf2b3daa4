//! Folders of tiny models as Hugging Face lays them out.

use std::{collections::BTreeMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use hyperion_primitives::Mix;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{FloatError, FloatModel, Generation, Options, Source, family, folder::Folder};

pub(super) const WORDS: u32 = 61;
pub(super) const POSITIONS: u32 = 40;
pub(super) const PROMPT: [u32; 5] = [3, 14, 15, 9, 26];

/// The tensors of a family, under the names and in the shapes that candle asks for.
fn weights(folder: &Folder, seed: u64) -> VarMap {
    let map = VarMap::new();
    let builder = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let known = family::named(folder.family()).unwrap();
    (known.load)(&Source::of_any(folder, builder)).unwrap();
    // Candle's own first values come from a generator that cannot be seeded.
    // Its heads add up what the one before gave.
    let variance = if folder.family().starts_with("efficientvit") { 2.0 } else { 0.5 };
    let mut mix = Mix::new(seed);
    let vars: BTreeMap<_, _> = map.data().lock().unwrap().clone().into_iter().collect();
    for (name, var) in vars {
        let dims = var.dims().to_vec();
        let (centre, spread) = match dims.len() {
            1 if name.ends_with("running_var") => (variance, 0.1),
            // Rows are scaled by their norm.
            1 if name.ends_with("weight") => (1.0, 0.2),
            1 => (0.0, 0.1),
            3.. => (0.0, 1.7 / (dims[1..].iter().product::<usize>() as f32).sqrt()),
            _ if name.contains("embed") => (0.0, 1.0),
            _ => (0.0, 1.7 / (dims[dims.len() - 1] as f32).sqrt()),
        };
        let unit = |mix: &mut Mix| mix.i32(20) as f32 / (1 << 20) as f32;
        let data = (0..var.elem_count()).map(|_| centre + spread * unit(&mut mix)).collect();
        var.set(&Tensor::from_vec::<_, f32>(data, dims, &Device::Cpu).unwrap()).unwrap();
    }
    map
}

/// A tokenizer that knows `w0` to `w60`.
pub(super) fn tokenizer() -> Value {
    let words: BTreeMap<String, u32> = (0..WORDS).map(|id| (format!("w{id}"), id)).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null, "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    })
}

pub(super) fn config(family: &str) -> Value {
    let mut config = json!({
        "model_type": family, "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-5, "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "torch_dtype": "float32",
    });
    let more = match family {
        "bert" | "roberta" | "xlm-roberta" => json!({
            "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
            "type_vocab_size": 2, "initializer_range": 0.02, "pad_token_id": 1,
            "position_embedding_type": "absolute",
        }),
        "distilbert" => json!({
            "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "activation": "gelu",
            "initializer_range": 0.02, "pad_token_id": 0,
        }),
        "modernbert" => json!({
            "pad_token_id": 0, "global_attn_every_n_layers": 2, "global_rope_theta": 160_000.0,
            "local_attention": 8, "local_rope_theta": 10000.0,
        }),
        "gemma" | "gemma2" | "gemma3_text" => json!({
            "head_dim": 8, "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 8, "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0, "rope_local_base_freq": 10000.0,
            "sliding_window": 16, "sliding_window_pattern": 2,
            "num_key_value_heads": if family == "gemma3_text" { 1 } else { 2 },
        }),
        "glm4" => json!({
            "head_dim": 8, "partial_rotary_factor": 0.5, "attention_bias": true,
        }),
        "helium" => json!({
            "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2, "mlp_bias": false,
            "tie_word_embeddings": false,
        }),
        "mixtral" => {
            json!({"num_experts_per_tok": 2, "num_local_experts": 4, "use_flash_attn": false})
        }
        "phi" => json!({
            "hidden_act": "gelu_new", "partial_rotary_factor": 0.5, "qk_layernorm": false,
            "tie_word_embeddings": false,
        }),
        "qwen2_moe" => json!({
            "num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1, "norm_topk_prob": true,
        }),
        "falcon" => json!({
            "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "use_cache": true,
            "bos_token_id": 1, "eos_token_id": 2, "hidden_dropout": 0.0, "attention_dropout": 0.0,
            "alibi": false, "new_decoder_architecture": false, "multi_query": true,
            "parallel_attn": true, "bias": false,
        }),
        "based" => json!({
            "n_embd": 32, "n_inner": 64, "n_layer": 2, "n_head": 4, "layer_norm_epsilon": 1e-5,
            "alt_mixer_layers": [0], "alt_mixer_2_layers": [1],
            "alt_mixer": {"num_heads": 4, "feature_dim": 4, "feature_map": {"input_dim": 4}},
            "alt_mixer_2": {"num_heads": 4, "window_size": 32},
        }),
        "gpt_bigcode" => json!({
            "n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS,
            "layer_norm_epsilon": 1e-5, "multi_query": true,
        }),
        "chatglm" | "codegeex4" | "glm4_chat" => json!({
            "num_layers": 2, "padded_vocab_size": 64, "hidden_size": 32, "ffn_hidden_size": 48,
            "kv_channels": 8, "seq_length": POSITIONS, "layernorm_epsilon": 1e-5, "rmsnorm": true,
            "apply_residual_connection_post_layernorm": false, "post_layer_norm": true,
            "add_bias_linear": false, "add_qkv_bias": true, "bias_dropout_fusion": true,
            "multi_query_attention": true, "multi_query_group_num": 2,
            "apply_query_key_layer_scaling": true, "attention_softmax_in_fp32": true,
            "fp32_residual_connection": false,
        }),
        "deepseek_v2" => json!({
            "moe_intermediate_size": 16, "n_shared_experts": 1, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "first_k_dense_replace": 1, "attention_bias": false,
            "num_key_value_heads": 4, "qk_rope_head_dim": 4, "kv_lora_rank": 8, "v_head_dim": 8,
            "qk_nope_head_dim": 8, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
        }),
        "gemma4_text" => json!({
            "head_dim": 8, "global_head_dim": 8, "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"],
            "final_logit_softcapping": 30.0, "num_key_value_heads": 1,
        }),
        "granitemoehybrid" => {
            json!({"layer_types": ["attention", "attention"], "shared_intermediate_size": 48})
        }
        "lfm2" => json!({
            "norm_eps": 1e-5, "conv_L_cache": 3, "layer_types": ["conv", "full_attention"],
            "block_multiple_of": 16, "tie_embedding": true,
        }),
        "mamba" => json!({"d_model": 32, "n_layer": 2, "pad_vocab_size_multiple": 8}),
        "mamba2" => json!({"state_size": 16, "head_dim": 16, "pad_vocab_size_multiple": 8}),
        "mixformer-sequential" => json!({
            "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS, "rotary_dim": 4,
            "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": false, "pad_vocab_size_multiple": 8,
        }),
        "recurrent_gemma" => json!({
            "head_dim": 8, "num_key_value_heads": 1, "attention_window_size": 64, "conv1d_width": 4, "logits_soft_cap": 30.0,
            "hidden_activation": "gelu_pytorch_tanh", "partial_rotary_factor": 0.5,
            "block_types": ["recurrent", "attention"], "lru_width": 32,
        }),
        "rwkv5" | "rwkv6" => json!({
            "hidden_size": 128, "attention_hidden_size": 128, "head_size": 64, "num_attention_heads": 64,
            "layer_norm_epsilon": 1e-5, "rescale_every": 6, "intermediate_size": 64,
        }),
        "stablelm" => json!({"partial_rotary_factor": 0.5, "num_key_value_heads": 4}),
        "marian" => json!({
            "encoder_layers": 2, "encoder_ffn_dim": 48, "encoder_attention_heads": 4,
            "decoder_layers": 2, "decoder_ffn_dim": 48, "decoder_attention_heads": 4,
            "use_cache": true, "is_encoder_decoder": true, "activation_function": "swish",
            "d_model": 32, "decoder_start_token_id": 60, "scale_embedding": true,
            "pad_token_id": 60, "eos_token_id": 0, "forced_eos_token_id": 0,
            "share_encoder_decoder_embeddings": true,
        }),
        "t5" => json!({
            "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
            "relative_attention_num_buckets": 8, "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6,
            "initializer_factor": 1.0, "feed_forward_proj": "relu", "is_encoder_decoder": true,
            "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
        }),
        "jina_bert" => json!({
            "hidden_act": "gelu", "type_vocab_size": 2, "initializer_range": 0.02,
            "pad_token_id": 0, "position_embedding_type": "alibi",
        }),
        "nomic_bert" => json!({
            "n_embd": 32, "n_head": 4, "n_layer": 2, "n_inner": 48, "n_positions": POSITIONS,
            "type_vocab_size": 2,
        }),
        "deberta-v2" => json!({
            "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
            "type_vocab_size": 0, "initializer_range": 0.02, "relative_attention": true,
            "max_relative_positions": -1, "position_buckets": 16, "pad_token_id": 0,
            "position_biased_input": false, "pos_att_type": "p2c|c2p", "norm_rel_ebd": "layer_norm",
            "share_att_key": true,
        }),
        "clip_text_model" => json!({"hidden_act": "quick_gelu"}),
        "siglip_text_model" => json!({"hidden_act": "gelu_pytorch_tanh"}),
        "qwen3" => json!({"head_dim": 16}),
        "qwen3_moe" => json!({
            "head_dim": 16, "num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 16,
            "decoder_sparse_step": 1, "norm_topk_prob": true,
        }),
        "starcoder2" => json!({"norm_epsilon": 1e-5, "use_bias": true, "hidden_act": "gelu"}),
        _ => json!({}),
    };
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

pub(super) fn write(folder: &Path, name: &str, json: &Value) {
    fs::write(folder.join(name), json.to_string()).unwrap();
}

/// A folder with a changed configuration; weights of another seed are other weights.
pub(super) fn changed(family: &str, seed: u64, change: impl FnOnce(&mut Value)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(family);
    change(&mut config);
    write(folder.path(), "config.json", &config);
    write(folder.path(), "tokenizer.json", &tokenizer());
    let mut read = Folder::open(folder.path()).unwrap();
    family::prepare(&mut read).unwrap();
    if !["t5", "mt5"].contains(&read.family()) {
        read.config.entry("tie_word_embeddings").or_insert(false.into());
    }
    weights(&read, seed).save(folder.path().join("model.safetensors")).unwrap();
    folder
}

pub(super) fn folder(family: &str) -> TempDir {
    changed(family, 5, |_| {})
}

pub(super) fn open(folder: &TempDir) -> Result<FloatModel, FloatError> {
    FloatModel::open(folder.path(), &Options::default())
}

pub(super) fn greedy(tokens_max: u32) -> Generation {
    Generation {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        frequency: 0.0,
        presence: 0.0,
        tokens_max,
        ends: Vec::new(),
        seed: 0,
    }
}
