//! A BERT-family encoder in f32, pooled as its sentence-transformers files say.

use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde_json::{Map, Value};

use super::{OracleError, files};

/// How the rows of a sequence become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pooling {
    Mean,
    First,
    Last,
}

/// The float model.
pub(super) struct Encoder {
    model: BertModel,
    /// Pooling, and whether the row is then scaled to length one; without it every row is the output.
    head: Option<(Pooling, bool)>,
    vocabulary: usize,
    context: usize,
}

impl Encoder {
    /// Loads `config.json`, `model.safetensors`, and `modules.json` with the pooling folder that it names;
    /// without `modules.json` the output is every row of the last layer.
    pub(super) fn open(folder: &Path) -> Result<Self, OracleError> {
        let config = config(folder)?;
        let weights = files::bytes(&folder.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
        Ok(Self {
            model: BertModel::load(weights, &config)?,
            head: head(folder)?,
            vocabulary: config.vocab_size,
            context: config.max_position_embeddings,
        })
    }

    pub(super) fn embed(&self, ids: &[u32]) -> Result<Vec<f32>, OracleError> {
        if ids.is_empty() || ids.len() > self.context {
            return Err(OracleError::Length { len: ids.len(), max: self.context });
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            return Err(OracleError::Token { id, vocabulary: self.vocabulary });
        }
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let rows = self.model.forward(&ids, &ids.zeros_like()?, None)?.squeeze(0)?;
        let Some((pooling, unit)) = self.head else { return Ok(rows.flatten_all()?.to_vec1()?) };
        let row = match pooling {
            Pooling::Mean => rows.mean(0)?,
            Pooling::First => rows.get(0)?,
            Pooling::Last => rows.get(ids.elem_count() - 1)?,
        };
        if !unit {
            return Ok(row.to_vec1()?);
        }
        // The floor is that of torch.nn.functional.normalize.
        let length = row.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
        Ok(row.broadcast_div(&length)?.to_vec1()?)
    }
}

/// `config.json` in candle's words: it knows the tanh form of GELU under another name, and asks for settings that
/// change nothing at inference.
fn config(folder: &Path) -> Result<Config, OracleError> {
    let path = folder.join("config.json");
    let mut config: Map<String, Value> = files::json(&path)?;
    if let Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") =
        config.get("hidden_act").and_then(Value::as_str)
    {
        config.insert("hidden_act".into(), "geluapproximate".into());
    }
    for (key, value) in [
        ("hidden_dropout_prob", 0),
        ("initializer_range", 0),
        ("pad_token_id", 0),
        ("type_vocab_size", 2),
    ] {
        config.entry(key).or_insert_with(|| value.into());
    }
    serde_json::from_value(config.into()).map_err(|source| OracleError::Json { path, source })
}

/// What `modules.json` puts after the encoder.
fn head(folder: &Path) -> Result<Option<(Pooling, bool)>, OracleError> {
    let path = folder.join("modules.json");
    if !path.exists() {
        return Ok(None);
    }
    let modules: Value = files::json(&path)?;
    let mut head = None;
    for module in modules.as_array().into_iter().flatten() {
        let kind = module["type"].as_str().unwrap_or_default();
        let folder = || folder.join(module["path"].as_str().unwrap_or_default());
        match (kind.rsplit('.').next(), &mut head) {
            (Some("Transformer"), _) => {}
            (Some("Pooling"), head) => *head = Some((pooling(&folder())?, false)),
            (Some("Normalize"), Some((_, unit))) => *unit = true,
            _ => return Err(OracleError::Unsupported { path, what: format!("module `{kind}`") }),
        }
    }
    Ok(head)
}

fn pooling(folder: &Path) -> Result<Pooling, OracleError> {
    let path = folder.join("config.json");
    let modes: Value = files::json(&path)?;
    let on: Vec<&str> = modes
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, on)| name.starts_with("pooling_mode_") && on.as_bool() == Some(true))
        .map(|(name, _)| name.as_str())
        .collect();
    match on.as_slice() {
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        ["pooling_mode_cls_token"] => Ok(Pooling::First),
        ["pooling_mode_lasttoken"] => Ok(Pooling::Last),
        other => Err(OracleError::Unsupported { path, what: format!("pooling {other:?}") }),
    }
}
