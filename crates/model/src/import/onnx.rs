//! Classifiers from ONNX files.
//!
//! An ONNX graph that is a chain of linear layers and curves becomes the same declared graph that a
//! safetensors folder brings, so the same weights give the same program and the same `modelId` from either
//! file. What the graph says beside that chain is dropped where it cannot change an answer's order, and
//! refused, with the node's name, everywhere else:
//!
//! | ONNX | here |
//! |---|---|
//! | `Gemm` (alpha = beta = 1, A not transposed), `MatMul`, `MatMul` + `Add` | a linear layer |
//! | `Relu`; `Gelu`; GELU spelled with `Erf`, in any order of its factors | the layer's activation |
//! | `Identity`, `Cast` between float types, `Dropout`, `Flatten`, `Reshape` that keep rows | nothing |
//! | `Softmax`, `LogSoftmax` of the logits | nothing: the output is the logits |
//! | `ArgMax` of the logits | the operator `argmax` |
//! | `Constant`, `Transpose` of a constant | folded |
//!
//! Weights may be f32, f16 or bf16, in `raw_data` or in typed fields; they stay bits all the way. Start with
//! `lower`.

mod attribute;
mod constant;
mod lower;
mod proto;

use std::{fs, path::Path};

use prost::Message;

use super::{
    ImportError,
    builder::Values,
    mlp::{Chain, ChainLayer},
};
use crate::file::Parts;

pub(crate) use self::lower::Lowered;
#[cfg(feature = "float")]
pub(crate) use self::{constant::Constant, lower::Layer};

/// What a refused node is told to be instead.
const SUPPORTED: &str = "Gemm, MatMul with Add, Relu, Gelu (also spelled with Erf), Identity, Cast, Dropout, Flatten, \
                         Reshape, Constant, Transpose of constants, and Softmax, LogSoftmax, ArgMax at the end";

/// The oldest operator set whose `Add` and `Gemm` broadcast by shape, as they are read here.
const OPSET_MIN: i64 = 7;

/// Why an ONNX file is not imported.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The bytes are not the protobuf message that they should be.
    #[error("not an ONNX file: {0}")]
    Bytes(#[from] prost::DecodeError),
    /// The file asks for something that no node of a classifier needs.
    #[error("the model: {0}")]
    Model(String),
    /// The graph as a whole is not a chain of layers.
    #[error("the graph: {0}")]
    Graph(String),
    /// A constant is malformed or of an element type that is not supported.
    #[error("initialiser `{name}`: {reason}")]
    Tensor {
        /// Its name in the file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A node that the chain cannot hold.
    #[error("node `{name}` ({op}): {reason}; supported are {SUPPORTED}")]
    Node {
        /// Operator type.
        op: String,
        /// Its name, or `#` and its index where it has none.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Imports a classifier from an ONNX file.
///
/// # Errors
///
/// When the file cannot be read or is not ONNX, the graph is not a chain of the layers listed above, or a weight
/// is not finite or too large.
pub fn onnx(path: &Path) -> Result<Parts, ImportError> {
    let bytes =
        fs::read(path).map_err(|cause| ImportError::Io { path: path.to_path_buf(), cause })?;
    from_bytes(&bytes)
}

/// As [`onnx`], from the file's bytes.
///
/// # Errors
///
/// As [`onnx`], less the reading.
pub fn from_bytes(bytes: &[u8]) -> Result<Parts, ImportError> {
    let lowered = layers(bytes)?;
    let width = u32::try_from(lowered.width).map_err(|_| {
        OnnxError::Graph(format!("its input has rows of {} elements", lowered.width))
    })?;
    let mut chain = Chain::new(width);
    for layer in &lowered.layers {
        let [outputs, inputs] = layer.weight.matrix().expect("lowering takes matrices only");
        let weight = |row: usize, column: usize| layer.weight.value(row * inputs + column);
        let bias = layer.bias.as_ref().map(|bias| |index: usize| bias.value(index));
        chain.layer(&ChainLayer {
            name: &layer.name,
            outputs,
            inputs,
            weight: &weight,
            bias: bias.as_ref().map(|bias| bias as Values<'_>),
            curve: layer.curve,
        })?;
    }
    chain.finish(lowered.class)
}

/// Decodes a file and reads its graph as a chain of layers.
pub(crate) fn layers(bytes: &[u8]) -> Result<Lowered, OnnxError> {
    let model = proto::Model::decode(bytes)?;
    if !model.functions.is_empty() || !model.training.is_empty() {
        let reason = "functions and training graphs are not supported; export for inference";
        return Err(OnnxError::Model(reason.into()));
    }
    let opset =
        model.opsets.iter().find(|opset| opset.domain.is_empty() || opset.domain == "ai.onnx");
    match opset.map(|opset| opset.version) {
        Some(version) if version >= OPSET_MIN => {}
        Some(version) => {
            return Err(OnnxError::Model(format!(
                "operator set {version} is older than {OPSET_MIN}"
            )));
        }
        None => return Err(OnnxError::Model("it names no operator set of ONNX".into())),
    }
    lower::lower(&model.graph.ok_or_else(|| OnnxError::Model("it has no graph".into()))?)
}

#[cfg(test)]
mod tests;
