//! What a family is loaded from: a folder's configuration and its tensors.

use std::collections::{BTreeSet, HashMap};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::de::DeserializeOwned;

use crate::{FloatError, folder::Folder};

/// Configuration and tensors of a Hugging Face folder.
pub struct Source<'a> {
    folder: &'a Folder,
    /// What tensors are called; empty where whoever asks for one gets it.
    names: BTreeSet<String>,
    weights: VarBuilder<'static>,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl<'a> Source<'a> {
    pub(crate) fn new(
        folder: &'a Folder,
        tensors: HashMap<String, Tensor>,
        dtype: DType,
        device: &Device,
    ) -> Self {
        let names = tensors.keys().cloned().collect();
        Self { folder, names, weights: VarBuilder::from_tensors(tensors, dtype, device) }
    }

    /// Tensors that are whatever a family asks for.
    #[cfg(test)]
    pub(crate) fn of_any(folder: &'a Folder, weights: VarBuilder<'static>) -> Self {
        Self { folder, names: BTreeSet::new(), weights }
    }

    /// `config.json` as a family's own type.
    ///
    /// # Errors
    ///
    /// When a field is missing or of another type.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, FloatError> {
        self.folder.config_as()
    }

    /// A part of `config.json`, such as its `vision_config`, as a family's own type.
    ///
    /// # Errors
    ///
    /// When it is missing, or a field is.
    pub fn part<T: DeserializeOwned>(&self, key: &str) -> Result<T, FloatError> {
        self.folder.part_as(key)
    }

    /// A number of `config.json`.
    pub fn number(&self, key: &str) -> Option<usize> {
        self.folder.number(key)
    }

    /// The first of these numbers that `config.json` has.
    ///
    /// # Errors
    ///
    /// When it has none.
    pub fn want(&self, keys: &[&str]) -> Result<usize, FloatError> {
        let found = keys.iter().find_map(|key| self.number(key));
        found.ok_or_else(|| self.unsupported(format!("{} is missing", keys.join(" or "))))
    }

    /// A fraction of `config.json`.
    pub fn real(&self, key: &str) -> Option<f64> {
        self.folder.config.get(key).and_then(serde_json::Value::as_f64)
    }

    /// A string of `config.json`; empty where there is none.
    pub fn text(&self, key: &str) -> &str {
        self.folder.text(key)
    }

    /// Whether `config.json` says `true` at a key.
    pub fn says(&self, key: &str) -> bool {
        self.folder.says(key)
    }

    /// Whether its `architectures` name this class.
    pub fn is_class(&self, name: &str) -> bool {
        let classes = self.folder.config.get("architectures").and_then(|list| list.as_array());
        classes.is_some_and(|list| list.iter().any(|class| class == name))
    }

    /// Classes that an image may be in: `num_labels`, `num_classes`, or as many as `id2label` has. 0: there is no head.
    pub fn classes(&self) -> usize {
        let labels = self.folder.config.get("id2label").and_then(|labels| labels.as_object());
        let stated = self.number("num_labels").or_else(|| self.number("num_classes"));
        stated.or_else(|| labels.map(serde_json::Map::len)).unwrap_or(0)
    }

    /// Every tensor.
    pub fn weights(&self) -> VarBuilder<'static> {
        self.weights.clone()
    }

    /// The tensors below a prefix that files of a model with a head have, or every tensor where none has it.
    pub fn weights_of(&self, prefix: &str) -> VarBuilder<'static> {
        let start = format!("{prefix}.");
        let has_it = self.names.iter().any(|name| name.starts_with(&start));
        if has_it { self.weights.pp(prefix) } else { self.weights() }
    }

    /// Whether a tensor is there.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The number format.
    pub fn dtype(&self) -> DType {
        self.weights.dtype()
    }

    /// Where the model runs.
    pub fn device(&self) -> Device {
        self.weights.device().clone()
    }

    /// `config.json` asks for something that will not be done.
    pub fn unsupported(&self, what: impl Into<String>) -> FloatError {
        self.folder.unsupported(what)
    }
}
