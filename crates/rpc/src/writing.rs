//! Answers of generators for people: token ids back into text, settings into draws, chats into prompts.

use std::{fmt, sync::Arc};

use hyperion_engine::{Drawing, Logprobs, ModelInfo, PENALISED_TOKENS_MAX, TokenBytes};
use hyperion_verify::Sampling;
use serde_json::Value;

use crate::{
    door::Face,
    r#gen::v1,
    status::{Code, Error},
};

/// What a model that generates needs at the edge. Token ids are what is claimed; the tokenizer that they belong to is in the model's
/// identity, chat template and advice are not.
pub trait TextDecoder: Send + Sync + 'static {
    /// The text of token ids; special tokens have none.
    ///
    /// # Errors
    ///
    /// When an id is none of the tokenizer's; the sentence is shown to the caller.
    fn decode(&self, ids: &[u32]) -> Result<String, String>;

    /// The token whose text is exactly this, if there is one.
    fn id(&self, text: &str) -> Option<u32>;

    /// What every token writes, by which stop texts end an answer.
    ///
    /// # Errors
    ///
    /// When the tokenizer's tokens have no byte strings of their own.
    fn token_bytes(&self) -> Result<Arc<TokenBytes>, String>;

    /// The prompt that a chat is, by the model's own template. `messages` are objects with `role`, `content` and what else the
    /// caller gave; `tools` is a list of the caller's, in the form of OpenAI's interface.
    ///
    /// # Errors
    ///
    /// When the model has no template, or the template refuses the messages or knows no tools.
    fn chat(&self, messages: &[Value], tools: Option<&Value>) -> Result<Vec<u32>, String>;
}

/// How a generator's answers are written, and the advice of whoever made the model.
#[derive(Clone)]
pub struct Writing {
    /// Text and chats.
    pub decoder: Arc<dyn TextDecoder>,
    /// Ids that end an answer where a request names none.
    pub end_ids: Vec<u32>,
    /// Settings for callers of surfaces that leave them to the model: OpenAI's. `tokens_max` and `stop_hash` are not read.
    pub sampling: Sampling,
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing")
            .field("end_ids", &self.end_ids)
            .field("sampling", &self.sampling)
            .finish_non_exhaustive()
    }
}

/// Draws of a request: what it leaves out is greedy, up to the model's limit, and ends where the model's answers end.
pub(crate) fn drawing(
    model: &ModelInfo,
    face: &Face,
    asked: Option<v1::Sampling>,
    in_tokens: u32,
) -> Result<Drawing, Error> {
    let asked = asked.unwrap_or_default();
    let penalised = (asked.frequency_q16, asked.presence_q16) != (0, 0);
    let longest = match asked.repetition_q16 {
        0 | 65_536 if penalised => PENALISED_TOKENS_MAX,
        0 | 65_536 => u32::MAX,
        // A prompt that is too long by itself is refused by the engine, which names the limit.
        _ => PENALISED_TOKENS_MAX.saturating_sub(in_tokens).max(1),
    };
    let room = model.rows_max.saturating_sub(in_tokens).saturating_add(1);
    let own = || face.writing.as_ref().map_or_else(Vec::new, |writing| writing.end_ids.clone());
    let stop_tokens = if asked.stop_tokens.is_empty() { own() } else { asked.stop_tokens.clone() };
    let texts = !asked.stop_texts.is_empty();
    let drawing = of_wire(v1::Sampling {
        top_p_q16: if asked.top_p_q16 == 0 { 65_536 } else { asked.top_p_q16 },
        tokens_max: if asked.tokens_max == 0 { room.min(longest) } else { asked.tokens_max },
        stop_tokens,
        ..asked
    })?;
    if !texts {
        return Ok(drawing);
    }
    let refuse = |why: String| Error::at(Code::UnsupportedParameter, "sampling.stop_texts", why);
    let writing = face.writing.as_ref();
    let writing = writing.ok_or_else(|| refuse("this model's tokens have no text".to_owned()))?;
    Ok(drawing.with_token_bytes(writing.decoder.token_bytes().map_err(refuse)?))
}

/// Draws for the wire, every field filled.
pub(crate) fn wire_sampling(drawing: &Drawing) -> v1::Sampling {
    let sampling = drawing.sampling();
    v1::Sampling {
        temperature_q16: sampling.temperature_q16,
        top_k: sampling.top_k,
        top_p_q16: sampling.top_p_q16,
        frequency_q16: sampling.frequency_q16,
        presence_q16: sampling.presence_q16,
        tokens_max: sampling.tokens_max,
        stop_tokens: drawing.stop_ids().to_vec(),
        min_p_q16: sampling.min_p_q16,
        repetition_q16: sampling.repetition_q16,
        stop_texts: drawing.stop_texts().to_vec(),
    }
}

/// Draws of the wire, every field as it stands.
pub(crate) fn of_wire(wire: v1::Sampling) -> Result<Drawing, Error> {
    let sampling = Sampling {
        temperature_q16: wire.temperature_q16,
        top_k: wire.top_k,
        top_p_q16: wire.top_p_q16,
        frequency_q16: wire.frequency_q16,
        presence_q16: wire.presence_q16,
        tokens_max: wire.tokens_max,
        min_p_q16: wire.min_p_q16,
        repetition_q16: wire.repetition_q16,
        ..Sampling::default()
    };
    Ok(Drawing::new(sampling, wire.stop_tokens)?.with_stop_texts(wire.stop_texts)?)
}

/// A whole answer, as people read it.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) tokens: Vec<u32>,
    /// Without the id that ended it, or the stop text and what follows.
    pub(crate) text: String,
    /// `stop` or `length`.
    pub(crate) finish_reason: &'static str,
}

/// The token ids of an output `[tokens, 1]`.
pub(crate) fn tokens(output: &[u8]) -> Vec<u32> {
    output.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

impl Written {
    /// Reads an answer's tokens.
    pub(crate) fn new(face: &Face, drawing: &Drawing, output: &[u8]) -> Result<Self, Error> {
        let tokens = tokens(output);
        let in_text = drawing.ends_in_text(&tokens);
        let by_id = is_stop(drawing, tokens.last());
        let text = if drawing.stop_texts().is_empty() {
            let shown = &tokens[..tokens.len() - usize::from(by_id)];
            match &face.writing {
                Some(writing) => decode(&*writing.decoder, shown)?,
                None => String::new(),
            }
        } else {
            // The very text that a stream would have told.
            let mut deltas = Deltas::new(face, drawing.clone(), 0);
            let told = deltas.push(0, &tokens)?.map(|delta| delta.text).unwrap_or_default();
            told + &deltas.rest()?
        };
        Ok(Self { text, finish_reason: if by_id || in_text { "stop" } else { "length" }, tokens })
    }
}

fn is_stop(drawing: &Drawing, token: Option<&u32>) -> bool {
    token.is_some_and(|token| drawing.stop_ids().binary_search(token).is_ok())
}

fn decode(decoder: &dyn TextDecoder, ids: &[u32]) -> Result<String, Error> {
    decoder.decode(ids).map_err(|why| Error::new(Code::Internal, why))
}

/// Part of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) position: u32,
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    /// How likely each token was, where that was asked for.
    pub(crate) logprobs: Vec<Logprobs>,
}

impl Delta {
    /// Takes what is known of its tokens from what is known of the answer's from its beginning.
    pub(crate) fn tell(&mut self, logprobs: &[Logprobs]) {
        let from = self.position as usize;
        self.logprobs = logprobs.get(from..from + self.tokens.len()).unwrap_or_default().to_vec();
    }
}

/// Turns tokens into text as they come. A piece of text goes out once no later token can change it: bytes of a code point that is
/// not whole wait, and so does text that may be the beginning of a stop text.
pub(crate) struct Deltas {
    decoder: Option<Arc<dyn TextDecoder>>,
    drawing: Drawing,
    ids: Vec<u32>,
    /// Ids before this one are written, up to a few that give the next their context.
    context: usize,
    written: usize,
    /// Written text that may begin a stop text.
    held: String,
    resume_at: u32,
}

impl Deltas {
    /// Of an answer from its beginning; what comes before `resume_at` is not sent again.
    pub(crate) fn new(face: &Face, drawing: Drawing, resume_at: u32) -> Self {
        let decoder = face.writing.as_ref().map(|writing| Arc::clone(&writing.decoder));
        let (ids, held) = (Vec::new(), String::new());
        Self { decoder, drawing, ids, context: 0, written: 0, held, resume_at }
    }

    /// Takes tokens in from `position` on; those that came before are passed over. `None` where nothing of them is to be sent.
    pub(crate) fn push(&mut self, position: u32, tokens: &[u32]) -> Result<Option<Delta>, Error> {
        let known = self.ids.len().saturating_sub(position as usize);
        let Some(new) = tokens.get(known..).filter(|new| !new.is_empty()) else { return Ok(None) };
        let (resume_at, known) = (self.resume_at as usize, self.ids.len());
        let (sent_before, new) = new.split_at(resume_at.saturating_sub(known).min(new.len()));
        if !sent_before.is_empty() {
            self.take(sent_before)?;
        }
        if new.is_empty() {
            return Ok(None);
        }
        let position = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        let text = self.take(new)?;
        Ok(Some(Delta { position, tokens: new.to_vec(), text, logprobs: Vec::new() }))
    }

    /// Takes ids in, and gives the text that can go out.
    fn take(&mut self, new: &[u32]) -> Result<String, Error> {
        if self.drawing.stop_texts().is_empty() {
            self.ids.extend(new);
            return self.text();
        }
        let mut all = String::new();
        for id in new {
            self.ids.push(*id);
            if self.drawing.ends_in_text(&self.ids) {
                let (rest, _) = self.unsent()?;
                self.written = self.shown();
                self.held += &rest;
                // What was sent before begins no stop text. Where none is found the decoder has taken a space off the
                // beginning of the answer: it is what the answer began with.
                let stops = self.drawing.stop_texts().iter();
                let end = stops.filter_map(|text| self.held.find(text.as_str())).min().unwrap_or(0);
                all += &self.held[..end];
                self.held.clear();
            } else {
                let text = self.text()?;
                self.held += &text;
                let kept = self.drawing.begun_text(&self.ids[..self.written]);
                let mut end = self.held.len().saturating_sub(kept);
                while !self.held.is_char_boundary(end) {
                    end -= 1;
                }
                all.extend(self.held.drain(..end));
            }
        }
        Ok(all)
    }

    /// The text that came with the newest ids.
    fn text(&mut self) -> Result<String, Error> {
        let (new, may_change) = self.unsent()?;
        if new.is_empty() || may_change {
            return Ok(String::new());
        }
        (self.context, self.written) = (self.written, self.shown());
        Ok(new)
    }

    /// Text that waited for the rest of a code point, or of a stop text, which never came.
    pub(crate) fn rest(&mut self) -> Result<String, Error> {
        let (new, _) = self.unsent()?;
        self.written = self.shown();
        Ok(std::mem::take(&mut self.held) + &new)
    }

    /// Ids that have text: all but an end id that ended the answer.
    fn shown(&self) -> usize {
        if self.drawing.ends_in_text(&self.ids) {
            return self.ids.len();
        }
        self.ids.len() - usize::from(is_stop(&self.drawing, self.ids.last()))
    }

    /// Text of the ids that are not written, and whether later ids may change it.
    fn unsent(&self) -> Result<(String, bool), Error> {
        let Some(decoder) = &self.decoder else { return Ok((String::new(), false)) };
        let ids = &self.ids[..self.shown()];
        // A token's text may depend on the one before it (a space between words), so both are decoded with it.
        let before = decode(&**decoder, &ids[self.context..self.written.min(ids.len())])?;
        let all = decode(&**decoder, &ids[self.context..])?;
        let may_change = all.ends_with('\u{fffd}') && ids.len() == self.ids.len();
        Ok((all.get(before.len()..).unwrap_or_default().to_owned(), may_change))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids are bytes.
    struct Bytes;

    impl TextDecoder for Bytes {
        fn decode(&self, ids: &[u32]) -> Result<String, String> {
            let bytes: Vec<u8> = ids.iter().map(|id| *id as u8).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }

        fn id(&self, _: &str) -> Option<u32> {
            None
        }

        fn token_bytes(&self) -> Result<Arc<TokenBytes>, String> {
            Ok(Arc::new(TokenBytes::new((0..=u8::MAX).map(|byte| [byte]))))
        }

        fn chat(&self, _: &[Value], _: Option<&Value>) -> Result<Vec<u32>, String> {
            Err("no template".to_owned())
        }
    }

    fn deltas(resume_at: u32) -> Deltas {
        let sampling = Sampling { tokens_max: 99, top_p_q16: 65_536, ..Sampling::default() };
        let drawing = Drawing::new(sampling, vec![0]).unwrap();
        let writing =
            Writing { decoder: Arc::new(Bytes), end_ids: vec![0], sampling: Sampling::default() };
        Deltas::new(&Face { writing: Some(writing), ..Face::default() }, drawing, resume_at)
    }

    #[test]
    fn code_points_come_whole_and_the_end_has_no_text() {
        let text = "aé漢z";
        let mut ids: Vec<u32> = text.bytes().map(u32::from).collect();
        ids.push(0);
        for size in 1..ids.len() {
            let mut deltas = deltas(0);
            let mut all = String::new();
            for (nth, piece) in ids.chunks(size).enumerate() {
                let delta = deltas.push((nth * size) as u32, piece).unwrap().unwrap();
                assert_eq!((delta.position as usize, &delta.tokens[..]), (nth * size, piece));
                all += &delta.text;
            }
            assert_eq!(all, text, "in pieces of {size}");
            assert_eq!(deltas.rest().unwrap(), "");
        }
    }

    #[test]
    fn no_part_of_a_stop_text_is_sent() {
        let stopping = |texts: &[&str], resume_at| {
            let mut deltas = deltas(resume_at);
            let texts = texts.iter().map(|text| (*text).to_owned()).collect();
            let drawing = deltas.drawing.with_stop_texts(texts).unwrap();
            deltas.drawing = drawing.with_token_bytes(Bytes.token_bytes().unwrap());
            deltas
        };
        for (text, texts, want, rest) in [
            ("one\n\nUser:", &["\n\nUser:", "never"][..], "one", ""),
            ("ababc", &["abc"], "ab", ""),
            ("aaab", &["b", "aab"], "a", ""),
            ("aé漢", &["é漢"], "a", ""),
            ("aéxè", &["éé", "è"], "aéx", ""),
            ("say ab", &["abc"], "say ", "ab"),
            ("ab\0", &["abc"], "", "ab"),
        ] {
            let ids: Vec<u32> = text.bytes().map(u32::from).collect();
            for size in 1..=ids.len() {
                let mut deltas = stopping(texts, 0);
                let mut all = String::new();
                for (nth, piece) in ids.chunks(size).enumerate() {
                    all += &deltas.push((nth * size) as u32, piece).unwrap().unwrap().text;
                    assert!(want.starts_with(&all), "{all:?} of {text:?} in pieces of {size}");
                }
                all += &deltas.rest().unwrap();
                assert_eq!(all, format!("{want}{rest}"), "{text:?} in pieces of {size}");
            }
        }
        // What was held when the stream broke off comes with the first token after.
        let mut deltas = stopping(&["abc"], 2);
        assert_eq!(deltas.push(0, &[97, 98]).unwrap(), None);
        assert_eq!(deltas.push(2, &[100]).unwrap().unwrap().text, "abd");
    }

    #[test]
    fn what_was_sent_before_is_not_sent_again() {
        let mut deltas = deltas(3);
        assert_eq!(deltas.push(0, &[97, 98]).unwrap(), None);
        let delta = deltas.push(2, &[99, 100, 101]).unwrap().unwrap();
        let want = Delta {
            position: 3,
            tokens: vec![100, 101],
            text: "de".to_owned(),
            logprobs: Vec::new(),
        };
        assert_eq!(delta, want);
        // A whole answer that comes after its pieces.
        let delta = deltas.push(0, &[97, 98, 99, 100, 101, 102]).unwrap().unwrap();
        assert_eq!((delta.position, &delta.tokens[..], &delta.text[..]), (5, &[102][..], "f"));
        assert_eq!(deltas.push(0, &[97]).unwrap(), None);
    }

    #[test]
    fn half_a_code_point_at_the_end_is_said_to_be_broken() {
        let mut deltas = deltas(0);
        deltas.push(0, &[97, 0xc3]).unwrap();
        assert_eq!(deltas.rest().unwrap(), "a\u{fffd}");
    }
}
