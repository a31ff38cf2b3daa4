//! Text to token ids, at the edge: the ids are what is committed, never the text.

use std::{fs, path::Path};

use hyperion_primitives::{B256, keccak256};
use tokenizers::{PostProcessor as _, TruncationDirection, TruncationParams, TruncationStrategy};

pub use self::token_bytes::TokenBytes;

mod token_bytes;

/// A tokenizer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("the tokenizer file cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The file is no tokenizer.
    #[error("not a tokenizer file: {0}")]
    Format(String),
    /// Another file than the model was made with.
    #[error("the tokenizer's hash is {got}, the model was made with {want}")]
    Hash {
        /// Hash of the file.
        got: B256,
        /// Hash in the model.
        want: B256,
    },
    /// A model that has no room for a text beside the special tokens.
    #[error(
        "the tokenizer adds {special} tokens to every text, the model takes {tokens_max} in all"
    )]
    Room {
        /// Tokens that every text gets.
        special: usize,
        /// Tokens that the model takes.
        tokens_max: u32,
    },
    /// A decoder that writes a token in another way beside others.
    #[error(
        "this tokenizer joins tokens by rules of their neighbours: a token of it has no byte string of its own"
    )]
    Joined,
    /// A text that it does not take.
    #[error("the text cannot be tokenized: {0}")]
    Text(String),
}

/// A Hugging Face tokenizer (`tokenizer.json`).
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    hash: B256,
}

impl Tokenizer {
    /// Reads a tokenizer; texts become at most `tokens_max` ids, special ones included.
    ///
    /// Padding and truncation that the file asks for are dropped: there is no padding token in a batch, and the length
    /// is the model's.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is no tokenizer, or leaves no room for a text.
    pub fn open(path: &Path, tokens_max: u32) -> Result<Self, TokenizerError> {
        Self::from_bytes(&fs::read(path)?, tokens_max)
    }

    /// As [`open`](Self::open), from the file's bytes.
    ///
    /// # Errors
    ///
    /// When they are no tokenizer, or it leaves no room for a text.
    pub fn from_bytes(bytes: &[u8], tokens_max: u32) -> Result<Self, TokenizerError> {
        let format = |error: tokenizers::Error| TokenizerError::Format(error.to_string());
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(format)?;
        inner.with_padding(None);
        let special =
            inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        // The crate subtracts the one from the other.
        if special >= tokens_max as usize {
            return Err(TokenizerError::Room { special, tokens_max });
        }
        let truncation = (tokens_max < u32::MAX).then_some(TruncationParams {
            max_length: tokens_max as usize,
            stride: 0,
            strategy: TruncationStrategy::LongestFirst,
            direction: TruncationDirection::Right,
        });
        inner.with_truncation(truncation).map_err(format)?;
        Ok(Self { inner, hash: keccak256(bytes) })
    }

    /// Reads a tokenizer that cuts nothing off: what a generator cannot hold is refused, since an answer to half a prompt is an answer
    /// to another.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is no tokenizer.
    pub fn whole(path: &Path) -> Result<Self, TokenizerError> {
        Self::from_bytes(&fs::read(path)?, u32::MAX)
    }

    /// Accepts the tokenizer for a model that was made with the same file.
    ///
    /// # Errors
    ///
    /// When it was another.
    pub fn for_model(self, tokenizer_hash: B256) -> Result<Self, TokenizerError> {
        if self.hash == tokenizer_hash {
            Ok(self)
        } else {
            Err(TokenizerError::Hash { got: self.hash, want: tokenizer_hash })
        }
    }

    /// keccak-256 of the file; part of the model's identity.
    pub const fn hash(&self) -> B256 {
        self.hash
    }

    /// The highest id that a text may get; `None` for an empty vocabulary.
    pub fn highest_id(&self) -> Option<u32> {
        self.inner.get_vocab(true).into_values().max()
    }

    /// Token ids of a text, with the special ones that the tokenizer puts around every text.
    ///
    /// # Errors
    ///
    /// When the tokenizer does not take the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.ids(text, true)
    }

    /// Token ids of a text that says all of its special tokens itself, as a chat template's does.
    ///
    /// # Errors
    ///
    /// When the tokenizer does not take the text.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.ids(text, false)
    }

    fn ids(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode(text, special);
        let encoding = encoding.map_err(|error| TokenizerError::Text(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids; special tokens have none, and bytes that are no UTF-8 are replaced.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder refuses them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, true).map_err(|error| TokenizerError::Text(error.to_string()))
    }

    /// The token that is exactly this text, if one is.
    pub fn id(&self, text: &str) -> Option<u32> {
        if let Some(id) = self.inner.token_to_id(text) {
            return Some(id);
        }
        match self.encode_bare(text).ok()?.as_slice() {
            [id] => Some(*id),
            _ => None,
        }
    }

    /// The token of an id as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}
