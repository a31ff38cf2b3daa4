//! A decoder in f32: candle-transformers for the Llama family, the layers of [`gpt2`](super::gpt2) for GPT-2 and of
//! [`gemma`](super::gemma) for Gemma.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, IndexOp as _, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{OracleError, files, gemma::Gemma, gpt2::Gpt2};

/// The float model.
pub(super) struct Decoder {
    model: Kind,
    vocabulary: usize,
    context: usize,
}

enum Kind {
    Llama(llama::Llama, llama::Config),
    /// With the positions that a row sees, where they are not all.
    Mistral(mistral::Model, Option<usize>),
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    Gpt2(Gpt2),
    Gemma(Gemma),
}

impl Decoder {
    /// Whether a folder's `config.json` is that of a decoder which this module knows.
    pub(super) fn is_here(folder: &Path) -> Result<bool, OracleError> {
        let config: Map<String, Value> = files::json(&folder.join("config.json"))?;
        let family = config.get("model_type").and_then(Value::as_str);
        let families = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2"];
        Ok(family.is_some_and(|family| families.contains(&family)))
    }

    /// Loads `config.json` and every `.safetensors` file.
    pub(super) fn open(folder: &Path) -> Result<Self, OracleError> {
        let path = folder.join("config.json");
        let unsupported =
            |what: &str| OracleError::Unsupported { path: path.clone(), what: what.to_owned() };
        let mut config: Map<String, Value> = files::json(&path)?;
        let mut tensors = weights(folder)?;
        let family =
            config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_tied = config.get("tie_word_embeddings").and_then(Value::as_bool);
        let is_tied = is_tied.unwrap_or(family == "gpt2" || family.starts_with("gemma"));
        if is_tied {
            // Candle takes the head from where it stands, if it stands anywhere.
            tensors.remove("lm_head.weight");
        }
        if let (true, "mistral", Some(embedding)) =
            (is_tied, family.as_str(), tensors.get("model.embed_tokens.weight"))
        {
            tensors.insert("lm_head.weight".to_owned(), embedding.clone());
        }
        complete(&mut config);
        let size = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
        let (vocabulary, context) =
            (size("vocab_size"), size("max_position_embeddings").max(size("n_positions")));
        let has_bias = config.get("attention_bias").and_then(Value::as_bool) == Some(true);
        let heads = size("num_attention_heads").max(1);
        let is_plain = size("head_dim") == size("hidden_size") / heads;
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let parsed = |config| OracleError::Json { path: path.clone(), source: config };
        let model = match family.as_str() {
            "llama" if has_bias || !is_plain => {
                return Err(unsupported(
                    "a llama with biases, or with heads that do not fill its width,",
                ));
            }
            "llama" => {
                let config: llama::LlamaConfig = read(&config).map_err(parsed)?;
                let config = config.into_config(false);
                Kind::Llama(llama::Llama::load(weights, &config)?, config)
            }
            "mistral" => {
                let config: mistral::Config = read(&config).map_err(parsed)?;
                Kind::Mistral(mistral::Model::new(&config, weights)?, config.sliding_window)
            }
            "qwen2" | "qwen3"
                if config.get("use_sliding_window").and_then(Value::as_bool) == Some(true) =>
            {
                return Err(unsupported("a sliding window"));
            }
            "qwen2" => {
                let config = read(&config).map_err(parsed)?;
                Kind::Qwen2(qwen2::ModelForCausalLM::new(&config, weights)?)
            }
            "qwen3" => {
                let config = read(&config).map_err(parsed)?;
                Kind::Qwen3(qwen3::ModelForCausalLM::new(&config, weights)?)
            }
            "gpt2" => Kind::Gpt2(Gpt2::load(&config, &weights)?),
            "gemma2" | "gemma3_text" => Kind::Gemma(Gemma::load(&config, &weights)?),
            _ => return Err(unsupported(&format!("model_type `{family}`"))),
        };
        Ok(Self { model, vocabulary, context })
    }

    /// Logits after each token.
    pub(super) fn logits(&self, ids: &[u32]) -> Result<Vec<Vec<f32>>, OracleError> {
        if ids.is_empty() || ids.len() > self.context {
            return Err(OracleError::Length { len: ids.len(), max: self.context });
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            return Err(OracleError::Token { id, vocabulary: self.vocabulary });
        }
        let row = |logits: &Tensor| Ok::<_, OracleError>(logits.flatten_all()?.to_vec1()?);
        let tokens =
            |range: std::ops::Range<usize>| Tensor::new(&ids[range], &Device::Cpu)?.unsqueeze(0);
        let each = 0..ids.len();
        match &self.model {
            Kind::Llama(model, config) => {
                let mut cache = llama::Cache::new(true, DType::F32, config, &Device::Cpu)?;
                each.map(|at| row(&model.forward(&tokens(at..at + 1)?, at, &mut cache)?)).collect()
            }
            Kind::Mistral(model, window) if window.is_none_or(|window| ids.len() <= window) => {
                let mut model = model.clone();
                model.clear_kv_cache();
                each.map(|at| row(&model.forward(&tokens(at..at + 1)?, at)?)).collect()
            }
            Kind::Mistral(model, _) => {
                // A window is kept within one call only.
                let prefix = |at| {
                    let mut model = model.clone();
                    model.clear_kv_cache();
                    row(&model.forward(&tokens(0..at + 1)?, 0)?)
                };
                each.map(prefix).collect()
            }
            Kind::Qwen2(model) => {
                let mut model = model.clone();
                model.clear_kv_cache();
                each.map(|at| row(&model.forward(&tokens(at..at + 1)?, at)?)).collect()
            }
            Kind::Qwen3(model) => {
                let mut model = model.clone();
                model.clear_kv_cache();
                each.map(|at| row(&model.forward(&tokens(at..at + 1)?, at)?)).collect()
            }
            Kind::Gpt2(model) => {
                let logits = model.forward(ids)?;
                each.map(|at| row(&logits.i(at)?)).collect()
            }
            Kind::Gemma(model) => {
                let logits = model.forward(ids)?;
                each.map(|at| row(&logits.i(at)?)).collect()
            }
        }
    }
}

fn read<T: DeserializeOwned>(config: &Map<String, Value>) -> Result<T, serde_json::Error> {
    serde_json::from_value(Value::Object(config.clone()))
}

/// Every tensor of a folder.
fn weights(folder: &Path) -> Result<HashMap<String, Tensor>, OracleError> {
    let failed = |source| OracleError::Read { path: folder.into(), source };
    let mut tensors = HashMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            tensors.extend(candle_core::safetensors::load(path, &Device::Cpu)?);
        }
    }
    Ok(tensors)
}

/// `config.json` in candle's words: it asks for keys that have defaults, and counts a window without the row itself.
fn complete(config: &mut Map<String, Value>) {
    if let Some(Value::Object(rope)) = config.get("rope_parameters").cloned() {
        if let Some(theta) = rope.get("rope_theta") {
            config.insert("rope_theta".into(), theta.clone());
        }
        config.insert("rope_scaling".into(), Value::Object(rope));
    }
    let kind = config.get("rope_scaling").and_then(|rope| rope.get("rope_type"));
    if kind.and_then(Value::as_str) == Some("default") {
        config.remove("rope_scaling");
    }
    let size = |config: &Map<String, Value>, key: &str| config.get(key).and_then(Value::as_u64);
    let heads = size(config, "num_attention_heads").unwrap_or(1).max(1);
    let width = size(config, "hidden_size").unwrap_or(0) / heads;
    let defaults = [
        ("num_key_value_heads", json!(heads)),
        ("rope_theta", json!(10_000.0)),
        ("head_dim", json!(width)),
        ("hidden_act", json!("silu")),
        ("attention_bias", json!(false)),
        ("max_window_layers", json!(0)),
        ("tie_word_embeddings", json!(false)),
        ("use_sliding_window", json!(false)),
    ];
    for (key, value) in defaults {
        let entry = config.entry(key).or_insert(Value::Null);
        if entry.is_null() {
            *entry = value;
        }
    }
    match config.get("model_type").and_then(Value::as_str) {
        // There it stands whether it is used or not.
        Some("qwen2") => {
            config.insert("sliding_window".into(), json!(1_u32 << 20));
        }
        Some("mistral") => {
            if let Some(window) = size(config, "sliding_window").filter(|window| *window > 0) {
                config.insert("sliding_window".into(), json!(window - 1));
            }
        }
        _ => {}
    }
}
