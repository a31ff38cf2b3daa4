//! Multi-layer perceptrons: safetensors with a declared graph.
//!
//! `graph.json` names the layers in order:
//! ```json
//! {"input": {"name": "pixels", "width": 64},
//!  "layers": [{"weight": "layers.0.weight", "bias": "layers.0.bias", "activation": "relu"}],
//!  "output": {"name": "logits"}}
//! ```
//! A weight is `[outputs, inputs]`; `bias` may be absent; `activation` is `identity` (or absent), `relu`, `gelu` or
//! `gelu_tanh`. Inputs are rows in Q16: a real number times 65,536.

use std::{fs, path::Path};

use hyperion_ops::ActivationTable;
use hyperion_primitives::B256;
use serde::Deserialize;

use super::{
    Builder, ImportError,
    builder::Values,
    source::{Source, Tensors as _},
};
use crate::{
    file::Parts,
    program::{Input, Op},
    quantized::Matrix,
    real::Real,
};

/// Rows of one request at most.
const ROWS_MAX: u32 = 1024;
/// Layers at most; a graph with more is a mistake.
pub(super) const LAYERS_MAX: usize = 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Graph {
    input: GraphInput,
    layers: Vec<GraphLayer>,
    #[expect(dead_code, reason = "a name for people; the file keeps no names")]
    output: GraphOutput,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GraphInput {
    #[expect(dead_code, reason = "a name for people; the file keeps no names")]
    name: String,
    width: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GraphOutput {
    #[expect(dead_code, reason = "a name for people; the file keeps no names")]
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GraphLayer {
    weight: String,
    bias: Option<String>,
    #[serde(default)]
    activation: Curve,
}

/// What follows a linear layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Curve {
    #[default]
    Identity,
    Relu,
    Gelu,
    GeluTanh,
}

/// One layer of a chain, whatever it was read from.
pub(crate) struct ChainLayer<'a> {
    /// What the source calls it.
    pub(crate) name: &'a str,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// The weight from an input (column) to an output (row).
    pub(crate) weight: &'a dyn Fn(usize, usize) -> Option<Real>,
    pub(crate) bias: Option<Values<'a>>,
    pub(crate) curve: Curve,
}

/// A chain of layers under construction; the one way from linear layers to a program.
pub(crate) struct Chain {
    builder: Builder,
    value: u32,
}

impl Chain {
    /// A chain that reads rows of this width.
    pub(crate) const fn new(width: u32) -> Self {
        Self { builder: Builder::new(Input::Rows(width), ROWS_MAX), value: 0 }
    }

    /// Appends a layer.
    pub(crate) fn layer(&mut self, layer: &ChainLayer<'_>) -> Result<(), ImportError> {
        let matrix = Matrix::new(layer.outputs, layer.inputs, layer.weight);
        self.value = self.builder.linear(layer.name, &matrix, layer.bias, self.value)?;
        let table = match layer.curve {
            Curve::Identity => return Ok(()),
            Curve::Relu => ActivationTable::Relu,
            Curve::Gelu => ActivationTable::Gelu,
            Curve::GeluTanh => ActivationTable::GeluTanh,
        };
        self.value = self.builder.push(Op::Activation(table), &[self.value]);
        Ok(())
    }

    /// The model; with `class` its output is the index of the largest logit.
    pub(crate) fn finish(mut self, class: bool) -> Result<Parts, ImportError> {
        if class {
            self.builder.push(Op::Argmax, &[self.value]);
        }
        self.builder.finish(B256::ZERO)
    }
}

/// Imports a folder with `graph.json` and safetensors.
///
/// # Errors
///
/// When a file cannot be read, the graph is none, or a tensor is missing, of another shape or not finite.
pub fn mlp(folder: &Path) -> Result<Parts, ImportError> {
    let path = folder.join("graph.json");
    let text =
        fs::read_to_string(&path).map_err(|cause| ImportError::Io { path: path.clone(), cause })?;
    let format = |what: String| ImportError::Format { path: path.clone(), what };
    let graph: Graph = serde_json::from_str(&text).map_err(|error| format(error.to_string()))?;
    if graph.layers.is_empty() || graph.layers.len() > LAYERS_MAX {
        return Err(format(format!("{} layers, want 1 to {LAYERS_MAX}", graph.layers.len())));
    }
    let source = Source::open(folder)?;
    let mut chain = Chain::new(graph.input.width);
    let mut inputs = graph.input.width as usize;
    for layer in &graph.layers {
        let shape = source.shape(&layer.weight);
        let outputs = shape.and_then(|shape| shape.first().copied()).unwrap_or(0);
        let weight = source.get(&layer.weight, &[outputs, inputs])?;
        let bias = layer.bias.as_ref().map(|name| source.get(name, &[outputs])).transpose()?;
        let at = |row: usize, column: usize| weight.value(row * inputs + column);
        let bias_at = bias.as_ref().map(|bias| |index: usize| bias.value(index));
        chain.layer(&ChainLayer {
            name: &layer.weight,
            outputs,
            inputs,
            weight: &at,
            bias: bias_at.as_ref().map(|bias| bias as Values<'_>),
            curve: layer.activation,
        })?;
        inputs = outputs;
    }
    chain.finish(false)
}
