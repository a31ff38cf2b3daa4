//! Folders of float models with random weights, a Llama, a BERT and a vision transformer, as Hugging Face lays them out.

use std::{collections::BTreeMap, fs, path::Path};

use hyperion_primitives::Mix;
use serde_json::{Value, json};

const WORDS: usize = 61;
const POSITIONS: usize = 40;
const WIDTH: usize = 16;
const INNER: usize = 24;

/// A model that generates.
pub(crate) fn llama(folder: &Path) {
    let part = |name: &str| format!("model.layers.0.{name}.weight");
    let tensors = [
        ("model.embed_tokens.weight".to_owned(), vec![WORDS, WIDTH]),
        (part("self_attn.q_proj"), vec![WIDTH, WIDTH]),
        (part("self_attn.k_proj"), vec![8, WIDTH]),
        (part("self_attn.v_proj"), vec![8, WIDTH]),
        (part("self_attn.o_proj"), vec![WIDTH, WIDTH]),
        (part("mlp.gate_proj"), vec![INNER, WIDTH]),
        (part("mlp.up_proj"), vec![INNER, WIDTH]),
        (part("mlp.down_proj"), vec![WIDTH, INNER]),
        (part("input_layernorm"), vec![WIDTH]),
        (part("post_attention_layernorm"), vec![WIDTH]),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
        ("lm_head.weight".to_owned(), vec![WORDS, WIDTH]),
    ];
    let config = json!({
        "model_type": "llama", "vocab_size": WORDS, "hidden_size": WIDTH,
        "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "eos_token_id": 60,
    });
    write(folder, &config, &tensors);
    let template = "{% for message in messages %}{{ message.content }} {% endfor %}";
    let config = json!({ "chat_template": template }).to_string();
    fs::write(folder.join("tokenizer_config.json"), config).unwrap();
}

/// A model of images of 8 by 8 points in three colours, of three classes.
pub(crate) fn vit(folder: &Path) {
    let mut tensors = vec![
        ("vit.embeddings.cls_token".to_owned(), vec![1, 1, WIDTH]),
        ("vit.embeddings.position_embeddings".to_owned(), vec![1, 5, WIDTH]),
    ];
    let mut both = |name: &str, shape: Vec<usize>| {
        tensors.push((format!("{name}.bias"), vec![shape[0]]));
        tensors.push((format!("{name}.weight"), shape));
    };
    both("vit.embeddings.patch_embeddings.projection", vec![WIDTH, 3, 4, 4]);
    let layer = "vit.encoder.layer.0";
    for part in ["query", "key", "value"] {
        both(&format!("{layer}.attention.attention.{part}"), vec![WIDTH, WIDTH]);
    }
    both(&format!("{layer}.attention.output.dense"), vec![WIDTH, WIDTH]);
    both(&format!("{layer}.intermediate.dense"), vec![INNER, WIDTH]);
    both(&format!("{layer}.output.dense"), vec![WIDTH, INNER]);
    for norm in ["layernorm_before", "layernorm_after"] {
        both(&format!("{layer}.{norm}"), vec![WIDTH]);
    }
    both("vit.layernorm", vec![WIDTH]);
    both("classifier", vec![3, WIDTH]);
    let config = json!({
        "model_type": "vit", "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": INNER, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 8,
        "patch_size": 4, "num_channels": 3, "qkv_bias": true, "num_labels": 3,
    });
    write(folder, &config, &tensors);
}

/// A model that embeds.
pub(crate) fn bert(folder: &Path) {
    let mut tensors = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![WORDS, WIDTH]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![POSITIONS, WIDTH]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, WIDTH]),
    ];
    let mut both = |name: &str, shape: Vec<usize>| {
        tensors.push((format!("{name}.bias"), vec![shape[0]]));
        tensors.push((format!("{name}.weight"), shape));
    };
    both("embeddings.LayerNorm", vec![WIDTH]);
    let layer = "encoder.layer.0";
    for part in ["query", "key", "value"] {
        both(&format!("{layer}.attention.self.{part}"), vec![WIDTH, WIDTH]);
    }
    both(&format!("{layer}.attention.output.dense"), vec![WIDTH, WIDTH]);
    both(&format!("{layer}.attention.output.LayerNorm"), vec![WIDTH]);
    both(&format!("{layer}.intermediate.dense"), vec![INNER, WIDTH]);
    both(&format!("{layer}.output.dense"), vec![WIDTH, INNER]);
    both(&format!("{layer}.output.LayerNorm"), vec![WIDTH]);
    let config = json!({
        "model_type": "bert", "vocab_size": WORDS, "hidden_size": WIDTH,
        "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "type_vocab_size": 2, "initializer_range": 0.02,
        "pad_token_id": 0,
    });
    write(folder, &config, &tensors);
}

fn write(folder: &Path, config: &Value, tensors: &[(String, Vec<usize>)]) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let words: BTreeMap<String, usize> = (0..WORDS).map(|id| (format!("w{id}"), id)).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null, "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let (mut mix, mut header, mut data) = (Mix::new(7), serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        let centre = if name.contains("orm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        for _ in 0..shape.iter().product() {
            let unit = mix.i32(20) as f32 / (1 << 20) as f32;
            data.extend((centre + 0.5 * unit).to_le_bytes());
        }
        let place = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), place);
    }
    let header = Value::Object(header).to_string();
    let len = (header.len() as u64).to_le_bytes();
    fs::write(folder.join("model.safetensors"), [&len[..], header.as_bytes(), &data].concat())
        .unwrap();
}
