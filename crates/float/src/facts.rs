//! What is known of a loaded model, and its tokenizer: shared by every thread.

use std::fmt;

use hyperion_primitives::ModelId;
use serde_json::{Map, Value};

use crate::{FloatError, folder::Folder};

/// What a model gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One vector of unit length for a text.
    Embeds {
        /// Its numbers.
        width: u32,
    },
    /// Tokens that go on where the input ends.
    Generates,
}

/// What is known of a model.
pub struct Facts {
    /// Its identity; never that of an exact model.
    pub id: ModelId,
    /// `model_type` of its configuration.
    pub family: String,
    /// What it gives.
    pub kind: Kind,
    /// Token ids are below this.
    pub vocabulary: u32,
    /// Tokens that it takes and gives in all, at most.
    pub context: u32,
    /// Ids that end an answer, strictly ascending.
    pub ends: Vec<u32>,
    /// Where it runs, and in which number format: `cpu f32`.
    pub runs_on: String,
    tokenizer: tokenizers::Tokenizer,
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts")
            .field("id", &self.id)
            .field("family", &self.family)
            .field("kind", &self.kind)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl Facts {
    pub(crate) fn new(
        (id, kind, context): (ModelId, Kind, usize),
        folder: &Folder,
        (generation, tokenizer): (&Map<String, Value>, tokenizers::Tokenizer),
        runs_on: String,
    ) -> Result<Self, FloatError> {
        let vocabulary = folder.number("vocab_size").and_then(|size| u32::try_from(size).ok());
        let vocabulary = vocabulary.ok_or_else(|| folder.unsupported("vocab_size is missing"))?;
        let ends = match (kind, generation.get("eos_token_id")) {
            (Kind::Embeds { .. }, _) => Vec::new(),
            (Kind::Generates, Some(ends)) => ids(ends),
            (Kind::Generates, None) => folder.config.get("eos_token_id").map_or(Vec::new(), ids),
        };
        Ok(Self {
            id,
            family: folder.text("model_type").to_owned(),
            kind,
            vocabulary,
            context: u32::try_from(context).unwrap_or(u32::MAX),
            ends,
            runs_on,
            tokenizer,
        })
    }

    /// Token ids of a text, special ones included; one that is too long for an encoder is cut.
    ///
    /// # Errors
    ///
    /// When the tokenizer does not take the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, FloatError> {
        let encoding = self
            .tokenizer
            .encode(text, true)
            .map_err(|error| FloatError::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids, without special ones; for display.
    ///
    /// # Errors
    ///
    /// When the tokenizer does not know an id.
    pub fn decode(&self, ids: &[u32]) -> Result<String, FloatError> {
        self.tokenizer.decode(ids, true).map_err(|error| FloatError::Tokenizer(error.to_string()))
    }

    /// Whether the model can read these ids.
    ///
    /// # Errors
    ///
    /// When there are none or too many, or one is beyond the vocabulary.
    pub fn check(&self, ids: &[u32]) -> Result<(), FloatError> {
        if ids.is_empty() || ids.len() > self.context as usize {
            let text = format!("{} tokens, the model takes 1 to {}", ids.len(), self.context);
            return Err(FloatError::Input(text));
        }
        match ids.iter().find(|id| **id >= self.vocabulary) {
            None => Ok(()),
            Some(id) => {
                let text = format!("token {id} is not below the vocabulary, {}", self.vocabulary);
                Err(FloatError::Input(text))
            }
        }
    }
}

/// One id or a list of them, strictly ascending.
fn ids(value: &Value) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let mut ids: Vec<u32> = match value {
        Value::Array(values) => values.iter().filter_map(one).collect(),
        value => one(value).into_iter().collect(),
    };
    ids.sort_unstable();
    ids.dedup();
    ids
}
