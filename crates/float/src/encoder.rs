//! Families that turn a text into rows of numbers, and how the rows become one vector.

use std::collections::HashMap;

use candle_core::{D, DType, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, distilbert, modernbert, xlm_roberta};

use crate::{FloatError, folder::Folder};

/// `model_type` of every family that embeds.
pub const FAMILIES: &[&str] = &["bert", "distilbert", "modernbert", "roberta", "xlm-roberta"];

/// A model that sees a whole text at once.
pub(crate) trait Encoder: Send {
    /// Rows of `ids` (`[1, n]`): `[1, n, width]`.
    fn forward(&self, ids: &Tensor) -> Result<Tensor>;
}

impl Encoder for bert::BertModel {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        Self::forward(self, ids, &ids.zeros_like()?, None)
    }
}

impl Encoder for distilbert::DistilBertModel {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        // Here a mask says what is hidden.
        let (_, len) = ids.dims2()?;
        Self::forward(self, ids, &Tensor::zeros((1, 1, 1, len), DType::U8, ids.device())?)
    }
}

impl Encoder for xlm_roberta::XLMRobertaModel {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        Self::forward(self, ids, &ids.ones_like()?, &ids.zeros_like()?, None, None, None)
    }
}

impl Encoder for modernbert::ModernBert {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        Self::forward(self, ids, &ids.ones_like()?)
    }
}

/// How rows become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// Their mean.
    Mean,
    /// The first one.
    First,
}

impl Pooling {
    /// As sentence-transformers says it beside the model; the mean where nothing is said.
    pub(crate) fn of(folder: &mut Folder) -> std::result::Result<Self, FloatError> {
        let said = folder.json("1_Pooling/config.json")?;
        let says = |key: &str| said.get(key).and_then(serde_json::Value::as_bool) == Some(true);
        let other = ["max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"];
        if let Some(mode) = other.iter().find(|mode| says(&format!("pooling_mode_{mode}"))) {
            return Err(FloatError::Unsupported {
                path: folder.file("1_Pooling/config.json"),
                what: format!("pooling by {mode} is not computed"),
            });
        }
        Ok(if says("pooling_mode_cls_token") { Self::First } else { Self::Mean })
    }

    /// One vector of unit length, of rows `[1, n, width]`.
    pub(crate) fn vector(self, rows: &Tensor) -> Result<Vec<f32>> {
        let rows = rows.to_dtype(DType::F32)?.squeeze(0)?;
        let vector = match self {
            Self::Mean => rows.mean(0)?,
            Self::First => rows.get(0)?,
        };
        let length = vector.sqr()?.sum(D::Minus1)?.sqrt()?.to_scalar::<f32>()?;
        (vector / f64::from(length))?.to_vec1()
    }
}

/// Tokens of a text at most.
pub(crate) fn context(folder: &Folder) -> usize {
    let positions = folder.number("max_position_embeddings").unwrap_or(0);
    match folder.text("model_type") {
        // Positions are counted from behind the padding's id.
        "roberta" | "xlm-roberta" => {
            positions.saturating_sub(folder.number("pad_token_id").unwrap_or(0) + 1)
        }
        _ => positions,
    }
}

/// Width of its rows.
pub(crate) fn width(folder: &Folder) -> Option<usize> {
    folder.number("hidden_size").or_else(|| folder.number("dim"))
}

/// Gives tensors the names under which candle looks for them: files of a model with a head have a prefix.
pub(crate) fn rename(folder: &Folder, weights: HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let prefix = match folder.text("model_type") {
        "xlm-roberta" | "roberta" => "roberta.",
        "distilbert" => "distilbert.",
        "bert" => "bert.",
        _ => "model.",
    };
    let named = |name: String| {
        let bare = name.strip_prefix(prefix).unwrap_or(&name);
        // ModernBERT is looked for with its prefix, the others without.
        if prefix == "model." { format!("{prefix}{bare}") } else { bare.to_owned() }
    };
    weights.into_iter().map(|(name, tensor)| (named(name), tensor)).collect()
}

/// Builds the family that `config.json` names.
pub(crate) fn load(
    folder: &Folder,
    weights: VarBuilder<'_>,
) -> std::result::Result<Box<dyn Encoder>, FloatError> {
    Ok(match folder.text("model_type") {
        "bert" => Box::new(bert::BertModel::load(weights, &folder.config_as()?)?),
        "distilbert" => Box::new(distilbert::DistilBertModel::load(weights, &folder.config_as()?)?),
        "modernbert" => Box::new(modernbert::ModernBert::load(weights, &folder.config_as()?)?),
        "roberta" | "xlm-roberta" => {
            Box::new(xlm_roberta::XLMRobertaModel::new(&folder.config_as()?, weights)?)
        }
        family => return Err(folder.unsupported(format!("model_type `{family}` is not known"))),
    })
}
