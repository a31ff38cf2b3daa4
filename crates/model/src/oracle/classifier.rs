//! A declared classifier in f32: one matrix, one bias and one curve after another.
//!
//! `graph.json` is read here once more, not through the importer, so a layer that the importer misreads shows as a
//! disagreement.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::{OracleError, files};
use crate::{
    import::{mlp, onnx},
    real::Format,
};

/// The float model.
pub(super) struct Classifier {
    width: usize,
    layers: Vec<Layer>,
}

struct Layer {
    /// `[inputs, outputs]`.
    weight: Tensor,
    bias: Option<Tensor>,
    curve: Curve,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Curve {
    #[default]
    Identity,
    Relu,
    Gelu,
    GeluTanh,
}

/// `graph.json`, as far as it says what is computed.
#[derive(Deserialize)]
struct Graph {
    input: Input,
    layers: Vec<Declared>,
}

#[derive(Deserialize)]
struct Input {
    width: usize,
}

#[derive(Deserialize)]
struct Declared {
    weight: String,
    bias: Option<String>,
    #[serde(default)]
    activation: Curve,
}

impl Classifier {
    /// Loads an ONNX file, whose graph is read as the importer reads it.
    pub(super) fn onnx(path: &Path) -> Result<Self, OracleError> {
        let lowered = onnx::layers(&files::bytes(path)?)?;
        let layer = |layer: onnx::Layer| -> Result<Layer, OracleError> {
            Ok(Layer {
                weight: tensor(&layer.weight)?.t()?.contiguous()?,
                bias: layer.bias.map(|bias| tensor(&bias)?.flatten_all()).transpose()?,
                curve: match layer.curve {
                    mlp::Curve::Identity => Curve::Identity,
                    mlp::Curve::Relu => Curve::Relu,
                    mlp::Curve::Gelu => Curve::Gelu,
                    mlp::Curve::GeluTanh => Curve::GeluTanh,
                },
            })
        };
        let width = usize::try_from(lowered.width).unwrap_or(usize::MAX);
        let layers = lowered.layers.into_iter().map(layer).collect::<Result<_, _>>()?;
        Ok(Self { width, layers })
    }

    /// Loads `graph.json` and `model.safetensors`.
    pub(super) fn open(folder: &Path) -> Result<Self, OracleError> {
        let graph: Graph = files::json(&folder.join("graph.json"))?;
        let weights = files::bytes(&folder.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
        let layer = |declared: Declared| -> Result<Layer, OracleError> {
            Ok(Layer {
                weight: weights.get_unchecked(&declared.weight)?.t()?.contiguous()?,
                bias: declared.bias.map(|bias| weights.get_unchecked(&bias)).transpose()?,
                curve: declared.activation,
            })
        };
        let layers = graph.layers.into_iter().map(layer).collect::<Result<_, _>>()?;
        Ok(Self { width: graph.input.width, layers })
    }

    pub(super) fn logits(&self, row: &[f32]) -> Result<Vec<f32>, OracleError> {
        if row.len() != self.width {
            return Err(OracleError::Width { given: row.len(), width: self.width });
        }
        let mut rows = Tensor::new(row, &Device::Cpu)?.unsqueeze(0)?;
        for layer in &self.layers {
            rows = rows.matmul(&layer.weight)?;
            if let Some(bias) = &layer.bias {
                rows = rows.broadcast_add(bias)?;
            }
            rows = match layer.curve {
                Curve::Identity => rows,
                Curve::Relu => rows.relu()?,
                Curve::Gelu => rows.gelu_erf()?,
                Curve::GeluTanh => rows.gelu()?,
            };
        }
        Ok(rows.squeeze(0)?.to_vec1()?)
    }
}

/// A constant of an ONNX file, widened to f32.
fn tensor(constant: &onnx::Constant) -> Result<Tensor, candle_core::Error> {
    let onnx::Constant::Floats { format, dims, bits } = constant else {
        candle_core::bail!("a layer's weights are integers");
    };
    let format = match format {
        Format::F32 => DType::F32,
        Format::F16 => DType::F16,
        Format::Bf16 => DType::BF16,
    };
    let dims: Vec<usize> = dims.iter().filter_map(|&dim| dim.try_into().ok()).collect();
    Tensor::from_raw_buffer(bits, format, &dims, &Device::Cpu)?.to_dtype(DType::F32)
}
