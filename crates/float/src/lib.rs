//! Models in floating point: what runs on candle-transformers, for whoever needs a model outside the exact set.
//!
//! Nothing here is exact. The same model and input may give other bytes on another device, with another library, or
//! in another run, so no result can be recomputed and compared; claims about them are *attested only*, tier 0
//! (`docs/float.md`). No crate that verifies or executes depends on this one.
//!
//! Start with [`FloatModel::open`]: a Hugging Face folder or a GGUF file becomes [`Facts`], what is known of the model, and
//! the part that runs, which belongs to one thread. A model that is not known here is a [`Family`] of one function, which
//! makes a [`Net`] of candle's own.
#![forbid(unsafe_code)]

mod context;
mod device;
mod error;
mod facts;
mod family;
mod folder;
mod model;
mod net;
mod open;
mod pooling;
mod source;
#[cfg(test)]
mod tiny;

pub use device::Options;
pub use error::FloatError;
pub use facts::{Advice, Facts, Kind};
pub use family::{
    FAMILIES, Family,
    quantized::{LoadQuantized, QUANTIZED, Quantized},
};
pub use model::{Ending, FloatModel, Generated, Generation};
pub use net::{Function, Generate, Net};
pub use source::Source;

/// What computes, by name and version; part of every model's identity.
pub const ENGINE: &str = "candle-transformers 0.11.1";
