//! How an answer that is generated is drawn, and where it ends.

use std::sync::Arc;

use hyperion_model::{Sampler, TokenBytes};
use hyperion_primitives::B256;
pub use hyperion_verify::claim::PENALISED_TOKENS_MAX;
use hyperion_verify::{Manifest, Sampling, claim::stop_hash};

use self::texts::StopTexts;
use crate::Invalid;

mod texts;

/// How a generator draws an answer, and the ids and texts that end it; the whole of what the sampling hash covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawing {
    sampling: Sampling,
    stop_ids: Vec<u32>,
    stop_texts: StopTexts,
}

impl Drawing {
    /// Takes settings and end ids; `sampling.stop_hash` is filled from the ids, which are sorted and made unique. No
    /// text ends the answer ([`with_stop_texts`](Self::with_stop_texts)).
    ///
    /// # Errors
    ///
    /// When a number is outside its range, or there are too many end ids.
    pub fn new(mut sampling: Sampling, mut stop_ids: Vec<u32>) -> Result<Self, Invalid> {
        let invalid = |why: String| Err(Invalid::Drawing(why));
        stop_ids.sort_unstable();
        stop_ids.dedup();
        sampling.stop_hash = match stop_hash(&stop_ids) {
            Ok(hash) => hash,
            Err(error) => return invalid(error.to_string()),
        };
        sampling.text_stop_hash = B256::ZERO;
        sampling.repetition_q16 = sampling.repetition();
        let Some(draw) = sampling.draw() else {
            return invalid(
                "want a temperature of 0, or above 0.01 and at most 100, top_p above 0 and at most 1, min_p of 0 to 1, penalties of \
                 at most 32 in magnitude, and a repetition penalty of 1/8 to 8"
                    .to_owned(),
            );
        };
        if sampling.tokens_max == 0 {
            return invalid("tokens_max is 0: an answer has a token at least".to_owned());
        }
        if (draw.counts() || draw.sees()) && sampling.tokens_max > PENALISED_TOKENS_MAX {
            return invalid(format!(
                "tokens_max is {}: with penalties an answer has {PENALISED_TOKENS_MAX} tokens at most",
                sampling.tokens_max
            ));
        }
        Ok(Self { sampling, stop_ids, stop_texts: StopTexts::default() })
    }

    /// The same, ended by texts beside the ids; they are sorted and made unique. Whether an answer has ended can be said once
    /// [`token_bytes`](Self::with_token_bytes) are known.
    ///
    /// # Errors
    ///
    /// When there are too many, or one is empty or too long.
    pub fn with_stop_texts(mut self, texts: Vec<String>) -> Result<Self, Invalid> {
        (self.stop_texts, self.sampling.text_stop_hash) =
            StopTexts::new(texts).map_err(|error| Invalid::Drawing(error.to_string()))?;
        Ok(self)
    }

    /// The same, with what the model's tokens write, by which texts end an answer.
    #[must_use]
    pub fn with_token_bytes(mut self, table: Arc<TokenBytes>) -> Self {
        self.stop_texts.token_bytes = Some(table);
        self
    }

    /// The settings; their hash is the request's sampling hash.
    pub const fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Ids that end an answer, ascending.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Texts that end an answer, ascending by their bytes.
    pub fn stop_texts(&self) -> &[String] {
        self.stop_texts.texts()
    }

    /// Whether every draw takes the largest logit, which needs no seed.
    pub const fn is_greedy(&self) -> bool {
        self.sampling.temperature_q16 == 0
    }

    /// Tokens of an answer at most.
    pub const fn tokens_max(&self) -> u32 {
        self.sampling.tokens_max
    }

    /// Whether an answer is complete with its last token; it was not with those before.
    pub fn ends(&self, answer: &[u32]) -> bool {
        let is_stop = |last: &u32| self.stop_ids.binary_search(last).is_ok();
        answer.len() >= self.sampling.tokens_max as usize
            || answer.last().is_some_and(is_stop)
            || self.ends_in_text(answer)
    }

    /// Whether the last token of an answer completes a stop text; those before completed none.
    pub fn ends_in_text(&self, answer: &[u32]) -> bool {
        self.stop_texts.completed(answer)
    }

    /// Bytes at the end of an answer that may be the beginning of a stop text; no stop text is in it.
    pub fn begun_text(&self, answer: &[u32]) -> usize {
        self.stop_texts.begun(answer)
    }

    /// Draws of an answer to a prompt under a seed; nothing is drawn yet.
    ///
    /// # Panics
    ///
    /// Never: [`new`](Self::new) checked the ranges.
    pub fn sampler(&self, seed: B256, prompt: &[u32]) -> Sampler {
        Sampler::new(self.sampling.draw().expect("checked when it was made"), seed.0, prompt)
    }

    /// Accepts it for a model and a prompt of so many tokens.
    pub(crate) fn check(&self, manifest: &Manifest, in_tokens: u32) -> Result<(), Invalid> {
        if let Some(id) = self.stop_ids.last().filter(|id| **id >= manifest.vocabulary) {
            let vocabulary = manifest.vocabulary;
            return Err(Invalid::Drawing(format!(
                "end id {id} is outside a vocabulary of {vocabulary}"
            )));
        }
        if self.stop_texts.are_blind() {
            let why = "stop texts, and nobody says what the model's tokens write".to_owned();
            return Err(Invalid::Drawing(why));
        }
        let both = u64::from(in_tokens) + u64::from(self.tokens_max());
        let sees = self.sampling.repetition() != 65_536;
        if sees && both > u64::from(PENALISED_TOKENS_MAX) {
            return Err(Invalid::Drawing(format!(
                "a prompt of {in_tokens} tokens and an answer of {}: with a repetition penalty, the request's or the model's own, \
                 both have {PENALISED_TOKENS_MAX} at most; a penalty of 1 is none",
                self.tokens_max()
            )));
        }
        if manifest.rows(in_tokens, self.tokens_max()).is_none() {
            return Err(Invalid::Context {
                in_tokens,
                tokens_max: self.tokens_max(),
                rows_max: manifest.rows_max,
            });
        }
        Ok(())
    }
}
