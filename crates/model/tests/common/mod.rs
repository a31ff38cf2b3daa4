//! Sources and models of a few thousand weights, made on the spot.

#![allow(dead_code, reason = "each test file uses its share")]
#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

pub(crate) mod decoders;

use std::{collections::BTreeMap, fs, path::Path};

use hyperion_model::{Model, Trust, import::import};
use hyperion_primitives::Mix;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Token ids of the tiny encoder.
pub(crate) const VOCABULARY: usize = 23;
/// Its width.
pub(crate) const HIDDEN: usize = 24;
/// Its widest row.
pub(crate) const INNER: usize = 40;
/// Width of the encoder whose rows are divided.
pub(crate) const WIDE: usize = 288;
/// Its widest row.
pub(crate) const WIDE_INNER: usize = 320;
/// Its positions.
pub(crate) const POSITIONS: usize = 48;
/// Its layers.
pub(crate) const LAYERS: usize = 2;

/// A source tensor: type, shape, little-endian bytes.
pub(crate) type SourceTensor = (Dtype, Vec<usize>, Vec<u8>);

/// A Hugging Face folder that a test may bend before it is written.
#[derive(Clone)]
pub(crate) struct Folder {
    pub(crate) config: Value,
    pub(crate) modules: Option<Value>,
    pub(crate) pooling: Value,
    pub(crate) tokenizer: Option<String>,
    pub(crate) tensors: BTreeMap<String, SourceTensor>,
}

impl Folder {
    /// A BERT encoder with random weights and a unit-length mean as output.
    pub(crate) fn bert() -> Self {
        Self::bert_of(HIDDEN, INNER)
    }

    /// As [`bert`](Self::bert), wide enough for its rows to be divided, and with a few massive channels.
    pub(crate) fn wide_bert() -> Self {
        let mut folder = Self::bert_of(WIDE, WIDE_INNER);
        for (name, (_, _, data)) in &mut folder.tensors {
            if name.ends_with("LayerNorm.bias") {
                for (channel, beta) in [(3, 8.0_f32), (90, -12.0), (WIDE - 1, 10.0)] {
                    data[4 * channel..][..4].copy_from_slice(&beta.to_le_bytes());
                }
            }
        }
        folder
    }

    fn bert_of(hidden: usize, inner: usize) -> Self {
        fn norm(put: &mut impl FnMut(&str, &[usize], f32, f32), name: &str, hidden: usize) {
            put(&format!("{name}.weight"), &[hidden], 1.0, 0.2);
            put(&format!("{name}.bias"), &[hidden], 0.0, 0.1);
        }
        let mut mix = Mix::new(7);
        let mut tensors = BTreeMap::new();
        let mut put = |name: &str, shape: &[usize], centre: f32, spread: f32| {
            let data = (0..shape.iter().product()).flat_map(|_| {
                let unit = mix.i32(20) as f32 / (1 << 20) as f32;
                (centre + spread * unit).to_le_bytes()
            });
            tensors.insert(name.to_owned(), (Dtype::F32, shape.to_vec(), data.collect()));
        };
        put("embeddings.word_embeddings.weight", &[VOCABULARY, hidden], 0.0, 0.3);
        put("embeddings.position_embeddings.weight", &[POSITIONS, hidden], 0.0, 0.1);
        put("embeddings.token_type_embeddings.weight", &[2, hidden], 0.0, 0.1);
        norm(&mut put, "embeddings.LayerNorm", hidden);
        for layer in 0..LAYERS {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            for (part, n, k) in [
                ("attention.self.query", hidden, hidden),
                ("attention.self.key", hidden, hidden),
                ("attention.self.value", hidden, hidden),
                ("attention.output.dense", hidden, hidden),
                ("intermediate.dense", inner, hidden),
                ("output.dense", hidden, inner),
            ] {
                put(&format!("{}.weight", name(part)), &[n, k], 0.0, 2.0 / (k as f32).sqrt());
                put(&format!("{}.bias", name(part)), &[n], 0.0, 0.1);
            }
            norm(&mut put, &name("attention.output.LayerNorm"), hidden);
            norm(&mut put, &name("output.LayerNorm"), hidden);
        }
        Self {
            config: json!({
                "model_type": "bert", "hidden_size": hidden, "num_hidden_layers": LAYERS,
                "num_attention_heads": 3, "intermediate_size": inner, "hidden_act": "gelu",
                "layer_norm_eps": 1e-12, "vocab_size": VOCABULARY,
                "max_position_embeddings": POSITIONS, "position_embedding_type": "absolute",
            }),
            modules: Some(json!([
                {"type": "sentence_transformers.models.Transformer", "path": ""},
                {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
                {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
            ])),
            pooling: json!({"pooling_mode_mean_tokens": true}),
            tokenizer: None,
            tensors,
        }
    }

    /// Writes the folder's files.
    pub(crate) fn write(&self) -> TempDir {
        let folder = TempDir::new().unwrap();
        let put = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
        put("config.json", self.config.to_string());
        if let Some(modules) = &self.modules {
            put("modules.json", modules.to_string());
            fs::create_dir(folder.path().join("1_Pooling")).unwrap();
            put("1_Pooling/config.json", self.pooling.to_string());
        }
        if let Some(tokenizer) = &self.tokenizer {
            put("tokenizer.json", tokenizer.clone());
        }
        fs::write(folder.path().join("model.safetensors"), safetensors(&self.tensors)).unwrap();
        folder
    }

    /// Bytes of the imported model's file, or what the import says against it.
    pub(crate) fn import(&self) -> Result<Vec<u8>, String> {
        import_bytes(self.write().path())
    }

    /// The imported model.
    pub(crate) fn model(&self) -> Model {
        Model::from_bytes(self.import().unwrap(), Trust::Nothing).unwrap()
    }
}

/// Bytes of a `.safetensors` file.
pub(crate) fn safetensors(tensors: &BTreeMap<String, SourceTensor>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// Bytes of the model file of a source, or what the import says against it.
pub(crate) fn import_bytes(source: &Path) -> Result<Vec<u8>, String> {
    let parts = import(source, &mut |_, _| {}).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    parts.write(&mut bytes).unwrap();
    Ok(bytes)
}

/// A sequence of token ids, as the input tensor's bytes.
pub(crate) fn tokens(mix: &mut Mix, len: usize) -> Vec<u8> {
    (0..len).flat_map(|_| (mix.below(VOCABULARY as u64) as u32).to_le_bytes()).collect()
}
