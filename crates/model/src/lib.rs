//! A model from its source to its output: import, file, program, plan, forward pass.
//!
//! Start with [`program`] (what a model does, one operator a line), [`Prepared`] (how it runs on a device) and [`Decoder`] (how
//! a generator runs, piece by piece).
//! [`import`] makes model files out of Hugging Face folders, declared graphs and ONNX, in exact integers and the same
//! to the bit everywhere; [`Model`] reads them. The feature `float` adds the oracle that accuracy is measured against;
//! it is the only place here that knows floats, and nothing it computes ever reaches a claim.
#![forbid(unsafe_code)]

mod cost;
mod decoder;
mod error;
pub mod file;
mod forward;
pub mod import;
mod loaded;
mod model;
#[cfg(feature = "float")]
pub mod oracle;
mod plan;
pub mod program;
pub mod quantized;
pub mod real;
mod sampler;
mod slots;
mod tensor;
mod tokenizer;

pub use decoder::{Context, Decoder, Limits, Outputs, Replay, Turn, replay};
pub use error::{ModelError, TurnError};
pub use forward::Prepared;
pub use hyperion_verify::InputError;
pub use model::{Model, Trust};
pub use plan::Plan;
pub use program::Program;
pub use sampler::Sampler;
pub use tensor::Tensor;
pub use tokenizer::{TokenBytes, Tokenizer, TokenizerError};
