//! What is known of a loaded model: shared by every thread.

use std::path::PathBuf;

use hyperion_primitives::ModelId;

use crate::FloatError;

/// What a model reads and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From tokens to one vector of unit length.
    Embeds {
        /// Its numbers.
        width: u32,
    },
    /// From tokens to tokens that go on where they end, or answer them.
    Generates,
    /// From rows of numbers to rows of numbers.
    Maps {
        /// Shape of a row that goes in.
        row: Vec<usize>,
        /// Numbers of a row that comes out.
        width: u32,
    },
}

/// What is known of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Its identity; never that of an exact model.
    pub id: ModelId,
    /// What its file calls its family.
    pub family: String,
    /// What it reads and gives.
    pub kind: Kind,
    /// Token ids are below this; 0 where there are none.
    pub vocabulary: u32,
    /// Rows that it takes at most: images, or tokens, which count with those of the answer.
    pub rows_max: u32,
    /// `tokenizer.json`, where there is one.
    pub tokenizer: Option<PathBuf>,
    /// What a GGUF file says itself: ids that end an answer, strictly ascending, and how a chat becomes a prompt.
    pub advice: Advice,
    /// Where it runs, and in which number format: `cpu f32`.
    pub runs_on: String,
}

/// What a GGUF file says of how its model wants to be asked; nothing for a folder, which has files of their own for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// Ids that end an answer, strictly ascending.
    pub end_ids: Vec<u32>,
    /// How a chat becomes a prompt: a Jinja template.
    pub chat_template: Option<String>,
}

impl Facts {
    /// Whether the model can read these ids.
    ///
    /// # Errors
    ///
    /// When there are none or too many, or one is beyond the vocabulary.
    pub fn check(&self, ids: &[u32]) -> Result<(), FloatError> {
        if ids.is_empty() || ids.len() > self.rows_max as usize {
            let text = format!("{} tokens, the model takes 1 to {}", ids.len(), self.rows_max);
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
