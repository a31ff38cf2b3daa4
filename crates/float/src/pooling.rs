//! How the rows of an encoder become one vector.

use candle_core::{D, DType, Result, Tensor};

use crate::{FloatError, folder::Folder};

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

    /// One vector of unit length, of rows `[1, n, width]` or of the one row `[1, width]`.
    pub(crate) fn vector(self, rows: &Tensor) -> Result<Vec<f32>> {
        let rows = rows.to_dtype(DType::F32)?;
        let rows = if rows.rank() == 3 { rows.squeeze(0)? } else { rows };
        let vector = match self {
            Self::Mean => rows.mean(0)?,
            Self::First => rows.get(0)?,
        };
        let length = vector.sqr()?.sum(D::Minus1)?.sqrt()?.to_scalar::<f32>()?;
        (vector / f64::from(length))?.to_vec1()
    }
}
