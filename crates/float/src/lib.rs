//! Models in floating point: what runs on candle-transformers, for whoever needs a model outside the exact set.
//!
//! Nothing here is exact. The same model and input may give other bytes on another device, with another library, or
//! in another run, so no result can be recomputed and compared; claims about them are *attested only*, tier 0
//! (`docs/float.md`). No crate that verifies or executes depends on this one.
//!
//! Start with [`FloatModel::open`]: a Hugging Face folder becomes [`Facts`], what is known of the model and how text
//! becomes ids, and the part that runs, which belongs to one thread.
#![forbid(unsafe_code)]

mod decoder;
mod device;
mod encoder;
mod error;
mod facts;
mod folder;
mod model;
#[cfg(test)]
mod tiny;

pub use decoder::FAMILIES as DECODERS;
pub use device::Options;
pub use encoder::FAMILIES as ENCODERS;
pub use error::FloatError;
pub use facts::{Facts, Kind};
pub use model::{Ending, FloatModel, Generated, Generation};

/// What computes, by name and version; part of every model's identity.
pub const ENGINE: &str = "candle-transformers 0.11.1";
