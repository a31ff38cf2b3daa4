//! The families that are known: which `config.json` names which model of candle-transformers.

mod decoder;
mod encoder;
mod image;
mod other;
pub(crate) mod quantized;
mod recurrent;
mod tower;

use crate::{FloatError, Net, Source};

pub(crate) use decoder::{prepare, tie};

/// A model of candle-transformers, and what a folder calls it.
pub struct Family {
    /// Values of `config.json`'s `model_type`, or of `architecture` in timm's folders, which have no `model_type`.
    pub names: &'static [&'static str],
    /// The module of `candle_transformers::models` that computes it.
    pub module: &'static str,
    /// Builds it.
    pub load: fn(&Source<'_>) -> Result<Net, FloatError>,
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Family")
            .field("names", &self.names)
            .field("module", &self.module)
            .finish_non_exhaustive()
    }
}

/// Every family of a folder, by what it does.
pub const FAMILIES: &[&[Family]] = &[
    decoder::FAMILIES,
    other::FAMILIES,
    recurrent::FAMILIES,
    encoder::FAMILIES,
    tower::FAMILIES,
    image::FAMILIES,
];

/// The family of a name.
pub(crate) fn named(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().copied().flatten().find(|family| family.names.contains(&name))
}

/// What to say of a name that no family has.
pub(crate) fn known() -> String {
    let names: Vec<&str> =
        FAMILIES.iter().copied().flatten().flat_map(|family| family.names).copied().collect();
    format!("is none of {}", names.join(", "))
}
