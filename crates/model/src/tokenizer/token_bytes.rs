//! What every token of a tokenizer writes, as bytes.

use std::fmt;

use serde_json::Value;

use super::{Tokenizer, TokenizerError};

/// The byte string of every token id: what the token adds to a text behind another. One behind the other, the strings of an
/// answer's tokens are its text, but for a space that some decoders take off a text's beginning, and for the signs that decoders
/// write for bytes that are no UTF-8.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenBytes {
    bytes: Vec<u8>,
    /// Where each id's string ends.
    ends: Vec<usize>,
}

impl fmt::Debug for TokenBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenBytes").field("ids", &self.ends.len()).finish_non_exhaustive()
    }
}

impl TokenBytes {
    /// A table of the ids from 0.
    pub fn new(strings: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for string in strings {
            bytes.extend_from_slice(string.as_ref());
            ends.push(bytes.len());
        }
        Self { bytes, ends }
    }

    /// The bytes of an id; none of a special token, or of an id without a token.
    pub fn of(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..*end]
    }
}

/// How a tokenizer's decoder spells bytes.
enum Spelling {
    /// Every byte is a letter of GPT-2's alphabet.
    ByteLevel,
    /// Replacements, then `<0xNN>` for a byte where that is on.
    Pieces { replaced: Vec<(String, String)>, byte_tokens: bool },
}

impl Spelling {
    /// Of a decoder as `tokenizer.json` spells it; `None` for one whose tokens have no byte strings of their own.
    fn of(decoder: &Value) -> Option<Self> {
        let mut pieces = (Vec::new(), false);
        let steps = match decoder["type"].as_str()? {
            "Sequence" => decoder["decoders"].as_array()?.as_slice(),
            _ => std::slice::from_ref(decoder),
        };
        let mut is_fused = false;
        for step in steps {
            match step["type"].as_str()? {
                "ByteLevel" if steps.len() == 1 => return Some(Self::ByteLevel),
                "Replace" if !is_fused && !pieces.1 => {
                    let pattern = step["pattern"]["String"].as_str()?;
                    pieces.0.push((pattern.to_owned(), step["content"].as_str()?.to_owned()));
                }
                "Metaspace" if steps.len() == 1 => {
                    pieces.0.push((step["replacement"].as_str()?.to_owned(), " ".to_owned()));
                }
                "ByteFallback" if !is_fused => pieces.1 = true,
                "Fuse" => is_fused = true,
                // Takes a space off the whole text's beginning.
                "Strip" if is_fused && step["stop"] == 0 && step["content"] == " " => {}
                _ => return None,
            }
        }
        Some(Self::Pieces { replaced: pieces.0, byte_tokens: pieces.1 })
    }

    fn bytes(&self, token: String) -> Vec<u8> {
        match self {
            Self::ByteLevel => {
                let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
                // An added token may be spelled as it is.
                bytes.unwrap_or_else(|| token.into_bytes())
            }
            Self::Pieces { replaced, byte_tokens } => {
                let token =
                    replaced.iter().fold(token, |token, (from, to)| token.replace(from, to));
                let byte = || {
                    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
                    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
                };
                match byte().filter(|_| *byte_tokens) {
                    Some(byte) => vec![byte],
                    None => token.into_bytes(),
                }
            }
        }
    }
}

/// The byte that a letter of GPT-2's alphabet stands for: printable Latin-1 letters for themselves, those from U+0100 on for the
/// others in order (`bytes_to_unicode` in GPT-2's `encoder.py`).
fn byte_of(letter: char) -> Option<u8> {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(letter);
    if let Ok(byte) = u8::try_from(code) {
        return Some(byte).filter(|byte| prints(*byte));
    }
    let nth = usize::try_from(code.checked_sub(0x100)?).ok()?;
    (0..=u8::MAX).filter(|byte| !prints(*byte)).nth(nth)
}

impl Tokenizer {
    /// The byte string of every token.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder joins tokens in another way than one behind the other: what a token writes then depends on
    /// its neighbours.
    pub fn token_bytes(&self) -> Result<TokenBytes, TokenizerError> {
        let decoder = serde_json::to_value(self.inner.get_decoder())
            .map_err(|error| TokenizerError::Format(error.to_string()))?;
        let spelling = Spelling::of(&decoder).ok_or(TokenizerError::Joined)?;
        let special = self.inner.get_added_vocabulary();
        let ids = self.highest_id().map_or(0, |highest| highest.saturating_add(1));
        Ok(TokenBytes::new((0..ids).map(|id| {
            let token = self.inner.id_to_token(id);
            token
                .filter(|token| !special.is_special_token(token))
                .map_or_else(Vec::new, |token| spelling.bytes(token))
        })))
    }
}

#[cfg(test)]
mod tests;
