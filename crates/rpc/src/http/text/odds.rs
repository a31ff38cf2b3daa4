//! Log probabilities in OpenAI's two shapes.
//!
//! There is one entry per token of the claim, the one that ended the answer among them. A token's text is what it adds behind
//! another, so a word keeps the space before it; where that is part of a code point its bytes are not known here, and `null`.

use std::sync::Arc;

use hyperion_engine::Logprobs;
use serde_json::{Map, Value, json};

use super::Shape;
use crate::writing::TextDecoder;

/// What is told beside the tokens of an answer.
pub(super) struct Odds {
    pub(super) shape: Shape,
    /// Likeliest tokens that are told beside each.
    pub(super) alternatives: usize,
    pub(super) decoder: Arc<dyn TextDecoder>,
}

impl Odds {
    /// `logprobs` of tokens that begin `offset` characters into the answer's text; moves it behind them.
    pub(super) fn of(&self, tokens: &[u32], logprobs: &[Logprobs], offset: &mut usize) -> Value {
        let pairs = tokens.iter().zip(logprobs);
        match self.shape {
            Shape::Completion => self.lists(pairs, offset),
            Shape::Chat => {
                let content: Vec<Value> = pairs
                    .map(|(token, told)| {
                        let mut entry = self.entry(*token, told.own_q16);
                        let top = told.top_q16.iter().take(self.alternatives);
                        entry["top_logprobs"] =
                            top.map(|(token, q16)| self.entry(*token, *q16)).collect();
                        entry
                    })
                    .collect();
                json!({"content": content, "refusal": null})
            }
        }
    }

    fn entry(&self, token: u32, q16: i32) -> Value {
        let text = self.text(token);
        let bytes = (!text.contains(BROKEN)).then_some(text.as_bytes());
        json!({"token": text, "logprob": real(q16), "bytes": bytes})
    }

    /// The four lists of completions.
    fn lists<'a>(
        &self,
        pairs: impl Iterator<Item = (&'a u32, &'a Logprobs)>,
        offset: &mut usize,
    ) -> Value {
        let (mut texts, mut own, mut top, mut offsets) = (vec![], vec![], vec![], vec![]);
        for (token, told) in pairs {
            let text = self.text(*token);
            let mut likeliest = Map::new();
            // Of tokens with one text the likeliest is told; the token itself is there in any case.
            let others = told.top_q16.iter().take(self.alternatives).copied();
            for (other, q16) in others.chain([(*token, told.own_q16)]) {
                likeliest.entry(self.text(other)).or_insert_with(|| json!(real(q16)));
            }
            offsets.push(*offset);
            *offset += text.chars().count();
            texts.push(text);
            own.push(real(told.own_q16));
            top.push(likeliest);
        }
        let top = (self.alternatives > 0).then_some(top);
        json!({"tokens": texts, "token_logprobs": own, "top_logprobs": top, "text_offset": offsets})
    }

    /// What a token adds behind another: decoded alone, a word of some tokenizers loses the space before it.
    fn text(&self, token: u32) -> String {
        let decode = |ids: &[u32]| self.decoder.decode(ids).unwrap_or_default();
        let (once, twice) = (decode(&[token]), decode(&[token, token]));
        match twice.strip_prefix(once.as_str()) {
            Some(second) if !second.contains(BROKEN) => second.to_owned(),
            _ => once,
        }
    }
}

/// What a decoder writes for bytes that are no whole code point.
const BROKEN: char = '\u{fffd}';

/// A log probability as JSON has it; exact, as Q16 fits a double.
fn real(q16: i32) -> f64 {
    f64::from(q16) / 65_536.0
}
