//! The models that an engine serves, by id and by alias.

use std::{collections::BTreeMap, sync::Arc};

use hyperion_model::Model;
use hyperion_primitives::ModelId;

use crate::EngineError;

/// Place of a model in its registry.
pub(crate) type ModelIndex = usize;

/// Models by id and by alias; filled before the engine starts.
#[derive(Clone, Default)]
pub struct Registry {
    models: Vec<Arc<Model>>,
    by_id: BTreeMap<ModelId, ModelIndex>,
    by_alias: BTreeMap<String, ModelIndex>,
    /// Per generator, the model that drafts for it.
    drafts: BTreeMap<ModelIndex, ModelIndex>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.by_alias.iter().map(|(alias, at)| (alias, self.models[*at].id())))
            .finish()
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a model under an alias. A model may have several.
    ///
    /// # Errors
    ///
    /// When the alias names another model, is empty, or could be taken for a model id.
    pub fn add(&mut self, alias: &str, model: Arc<Model>) -> Result<(), EngineError> {
        if alias.is_empty() || alias.starts_with("0x") {
            return Err(EngineError::Alias(alias.to_owned()));
        }
        let id = model.id();
        if let Some(taken) = self.by_alias.get(alias)
            && self.models[*taken].id() != id
        {
            return Err(EngineError::AliasTaken {
                alias: alias.to_owned(),
                model: self.models[*taken].id(),
            });
        }
        let next = self.models.len();
        let index = *self.by_id.entry(id).or_insert(next);
        if index == next {
            self.models.push(model);
        }
        self.by_alias.insert(alias.to_owned(), index);
        Ok(())
    }

    /// Has the model named `draft` propose tokens to the one named `alias`; both are added. It changes how fast answers
    /// come and nothing else.
    ///
    /// # Errors
    ///
    /// When one of them is not there or generates nothing, or their tokens differ.
    pub fn set_draft(&mut self, alias: &str, draft: &str) -> Result<(), EngineError> {
        let refuse = |why: &str| {
            Err(EngineError::Draft {
                alias: alias.to_owned(),
                draft: draft.to_owned(),
                why: why.to_owned(),
            })
        };
        let (Some(large), Some(small)) = (self.find(alias), self.find(draft)) else {
            return refuse("one of them is not there");
        };
        let (a, b) = (self.models[large].manifest(), self.models[small].manifest());
        if large == small || !a.generator || !b.generator {
            return refuse("it takes two models that generate tokens");
        }
        let tokenizers = (self.models[large].tokenizer_hash(), self.models[small].tokenizer_hash());
        if a.vocabulary != b.vocabulary || tokenizers.0 != tokenizers.1 {
            return refuse("their tokens are not the same");
        }
        self.drafts.insert(large, small);
        Ok(())
    }

    /// The model that drafts for the one at `index`.
    pub(crate) fn draft(&self, index: ModelIndex) -> Option<&Arc<Model>> {
        self.drafts.get(&index).map(|draft| &self.models[*draft])
    }

    /// The models, in the order added.
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// Aliases of the model at `index`, in alphabetical order.
    pub(crate) fn aliases(&self, index: ModelIndex) -> Vec<String> {
        let named = self.by_alias.iter().filter(|(_, at)| **at == index);
        named.map(|(alias, _)| alias.clone()).collect()
    }

    /// Place of a model by id.
    pub(crate) fn index(&self, id: ModelId) -> Option<ModelIndex> {
        self.by_id.get(&id).copied()
    }

    /// Place of a model by alias, or by `0x` and 64 hex digits.
    pub(crate) fn find(&self, name: &str) -> Option<ModelIndex> {
        match name.strip_prefix("0x") {
            Some(_) => self.index(name.parse().ok()?),
            None => self.by_alias.get(name).copied(),
        }
    }
}

/// A model as the engine serves it.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Its names, in alphabetical order.
    pub aliases: Vec<String>,
    /// Program, tokenizer and weights together.
    pub id: ModelId,
    /// The model: program, manifest, hashes.
    pub model: Arc<Model>,
    /// Rows of one request at most.
    pub rows_max: u32,
    /// Bytes of a device that its weights and buffers take.
    pub memory_bytes: u64,
    /// Whether requests are taken.
    pub ready: Result<(), Unready>,
}

/// Why a model takes no requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// Its planned memory fits no device.
    #[error(
        "the model needs {needed_bytes} bytes, the roomiest device has {largest_bytes} left for it"
    )]
    NoMemory {
        /// Weights and buffers.
        needed_bytes: u64,
        /// The most that any device had left.
        largest_bytes: u64,
    },
    /// Every device that holds it is out of service.
    #[error("no device that holds the model is in service")]
    NoDevice,
    /// The engine is shutting down.
    #[error("the engine is draining")]
    Draining,
}
