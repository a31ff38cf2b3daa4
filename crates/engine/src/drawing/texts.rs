//! Texts that end an answer, wherever in a token they end.

use std::sync::Arc;

use hyperion_model::TokenBytes;
use hyperion_primitives::B256;
use hyperion_verify::claim::{RequestError, text_stop_hash};

/// Texts, and what tokens write.
#[derive(Clone, Debug, Default)]
pub(super) struct StopTexts {
    /// Ascending by their bytes.
    texts: Vec<String>,
    /// Needed where there are texts; told by whoever has the model's tokenizer.
    pub(super) token_bytes: Option<Arc<TokenBytes>>,
}

/// The table follows from the model, and is no part of what was asked.
impl PartialEq for StopTexts {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for StopTexts {}

impl StopTexts {
    /// Texts in any order, and their hash.
    pub(super) fn new(mut texts: Vec<String>) -> Result<(Self, B256), RequestError> {
        texts.sort_unstable();
        texts.dedup();
        let hash = text_stop_hash(&texts)?;
        Ok((Self { texts, token_bytes: None }, hash))
    }

    pub(super) fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether texts are waited for that cannot be seen.
    pub(super) const fn are_blind(&self) -> bool {
        !self.texts.is_empty() && self.token_bytes.is_none()
    }

    /// Whether the last token of an answer completes a text; the tokens before completed none.
    pub(super) fn completed(&self, answer: &[u32]) -> bool {
        let (Some(table), Some(last)) = (&self.token_bytes, answer.last()) else { return false };
        let longest = self.texts.iter().map(String::len).max().unwrap_or(0);
        let tail = tail(table, answer, table.of(*last).len() + longest.saturating_sub(1));
        self.texts.iter().any(|text| tail.windows(text.len()).any(|part| part == text.as_bytes()))
    }

    /// Bytes at the end of an answer that may begin a text, which no token has completed.
    pub(super) fn begun(&self, answer: &[u32]) -> usize {
        let Some(table) = &self.token_bytes else { return 0 };
        let longest = self.texts.iter().map(String::len).max().unwrap_or(0);
        let tail = tail(table, answer, longest.saturating_sub(1));
        let begins = |from: &usize| {
            let part = &tail[*from..];
            self.texts
                .iter()
                .any(|text| text.len() > part.len() && text.as_bytes().starts_with(part))
        };
        (0..tail.len()).find(begins).map_or(0, |from| tail.len() - from)
    }
}

/// The last bytes of an answer, `wanted` where it has as many.
fn tail(table: &TokenBytes, answer: &[u32], wanted: usize) -> Vec<u8> {
    let mut reversed = Vec::with_capacity(wanted);
    let bytes = answer.iter().rev().flat_map(|token| table.of(*token).iter().rev());
    reversed.extend(bytes.take(wanted));
    reversed.reverse();
    reversed
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [&str; 7] = ["", "a", "ab", "b", "\u{e9}x", "aab", "c"];

    fn stops(texts: &[&str]) -> StopTexts {
        let (mut stops, _) =
            StopTexts::new(texts.iter().map(|text| (*text).to_owned()).collect()).unwrap();
        stops.token_bytes = Some(Arc::new(TokenBytes::new(WORDS)));
        stops
    }

    #[test]
    fn the_tail_says_what_the_whole_text_says() {
        let mut mix = hyperion_primitives::Mix::new(9);
        let mut ended = 0;
        for texts in [&["b"][..], &["aba", "\u{e9}"], &["abab", "aaaa", "xc"], &["aabaabaab"]] {
            let stops = stops(texts);
            for _ in 0..300 {
                let (mut answer, mut whole) = (Vec::new(), String::new());
                for _ in 0..30 {
                    let token = mix.below(8) as u32;
                    answer.push(token);
                    whole += WORDS.get(token as usize).unwrap_or(&"");
                    let contains = texts.iter().any(|text| whole.contains(text));
                    assert_eq!(stops.completed(&answer), contains, "{whole:?} for {texts:?}");
                    if contains {
                        ended += 1;
                        break;
                    }
                    let begun = (0..=whole.len())
                        .rev()
                        .filter(|length| texts.iter().any(|text| text.len() > *length))
                        .find(|length| {
                            let part = &whole.as_bytes()[whole.len() - length..];
                            texts.iter().any(|text| text.as_bytes().starts_with(part))
                        });
                    assert_eq!(Some(stops.begun(&answer)), begun, "{whole:?} for {texts:?}");
                }
            }
        }
        assert!(ended > 300, "{ended} answers ended in a text");
    }
}
