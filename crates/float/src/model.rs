//! A loaded model: the part that runs.

use std::{fmt, path::Path, sync::Arc};

use candle_core::{D, DType, Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};

use crate::{Facts, Family, FloatError, Net, Options, family, open, pooling::Pooling};

/// A loaded model; it belongs to the thread that runs it.
pub struct FloatModel {
    facts: Arc<Facts>,
    device: Device,
    dtype: DType,
    net: Net,
    pooling: Pooling,
}

/// How an answer is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// 0: the largest logit.
    pub temperature: f64,
    /// Tokens kept by rank; 0: all.
    pub top_k: usize,
    /// Share of the weight kept, from 0 to 1; 1: all.
    pub top_p: f64,
    /// Taken off a logit per earlier occurrence of its token in the answer.
    pub frequency: f32,
    /// Taken off a logit once its token has occurred in the answer.
    pub presence: f32,
    /// The answer ends after this many tokens at the latest; 1 or more.
    pub tokens_max: u32,
    /// Ids that end it, included in it.
    pub ends: Vec<u32>,
    /// What the draws begin from.
    pub seed: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With one of its end ids.
    Stop,
    /// At its length, or where the context was full.
    Length,
    /// Whoever asked has gone.
    Cut,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Its ids.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub ending: Ending,
}

impl fmt::Debug for FloatModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FloatModel").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl FloatModel {
    /// Loads a Hugging Face folder (`config.json` and every `.safetensors` file) or a `.gguf` file, with the
    /// `tokenizer.json` that lies there, if one does, and what `1_Pooling/config.json` says.
    ///
    /// # Errors
    ///
    /// When a file is missing or damaged, the family is not known, the configuration asks for something that candle
    /// leaves out, or the device is not here.
    pub fn open(path: &Path, options: &Options) -> Result<Self, FloatError> {
        let is_gguf = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
        if is_gguf {
            return open::gguf(path, options);
        }
        let named = |name: &str| family::named(name).ok_or_else(family::known);
        open::folder(path, options, named)
    }

    /// As [`open`](Self::open), of a folder that the families here do not know: `family` builds it.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_as(path: &Path, options: &Options, family: &Family) -> Result<Self, FloatError> {
        open::folder(path, options, |_| Ok(family))
    }

    #[allow(clippy::missing_const_for_fn, reason = "a device with CUDA has a destructor")]
    pub(crate) fn new(
        facts: Arc<Facts>,
        (device, dtype): (Device, DType),
        net: Net,
        pooling: Pooling,
    ) -> Self {
        Self { facts, device, dtype, net, pooling }
    }

    /// What is known of it; for every thread.
    pub fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts)
    }

    /// The vector of a text of unit length, in Q15: 32,768 is 1.
    ///
    /// # Errors
    ///
    /// When the model does something else, the ids do not fit it, a number is none, or candle fails.
    pub fn embed(&mut self, ids: &[u32]) -> Result<Vec<i16>, FloatError> {
        let Net::Embeds { rows, .. } = &mut self.net else {
            return Err(FloatError::Input("the model embeds no text".to_owned()));
        };
        self.facts.check(ids)?;
        let ids = Tensor::new(ids, &self.device)?.unsqueeze(0)?;
        let vector = self.pooling.vector(&rows(&ids)?)?;
        vector.into_iter().map(q15).collect()
    }

    /// The rows that come of `rows`, both in Q16: 65,536 is 1, and what does not fit is the nearest that does.
    ///
    /// # Errors
    ///
    /// When the model does something else, there are no rows or too many or not whole ones, a number is none, or candle
    /// fails.
    pub fn map(&mut self, rows: &[i32]) -> Result<Vec<i32>, FloatError> {
        let Net::Maps { map, row } = &mut self.net else {
            return Err(FloatError::Input("the model reads no rows of numbers".to_owned()));
        };
        let width: usize = row.iter().product();
        let count = rows.len() / width.max(1);
        if count == 0 || count > self.facts.rows_max as usize || count * width != rows.len() {
            let most = self.facts.rows_max;
            let text = format!("{} numbers, want 1 to {most} rows of {width}", rows.len());
            return Err(FloatError::Input(text));
        }
        let shape = [&[1], &row[..]].concat();
        let mut out = Vec::new();
        // One at a time, so that no row depends on what stands beside it.
        for codes in rows.chunks(width) {
            let real: Vec<f32> = codes.iter().map(|code| *code as f32 / 65_536.0).collect();
            let real = Tensor::from_vec(real, shape.clone(), &self.device)?.to_dtype(self.dtype)?;
            let row = map(&real)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            out.extend(row.into_iter().map(q16).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(out)
    }

    /// What the model says behind `prompt`. `goes_on` hears each token; as soon as it says no, the answer is cut.
    ///
    /// # Errors
    ///
    /// When the model does something else, the prompt does not fit it, no token is asked for, a setting is out of range, or candle fails.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        how: &Generation,
        goes_on: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Generated, FloatError> {
        let Net::Generates(net) = &mut self.net else {
            return Err(FloatError::Input("the model generates no text".to_owned()));
        };
        self.facts.check(prompt)?;
        if how.tokens_max == 0 {
            return Err(FloatError::Input("an answer has one token at least".to_owned()));
        }
        // The last token of an answer is not read again.
        let room = self.facts.rows_max as usize - prompt.len() + 1;
        let most = (how.tokens_max as usize).min(room);
        let mut draws = LogitsProcessor::from_sampling(how.seed, sampling(how)?);
        let mut tokens: Vec<u32> = Vec::new();
        let mut next = prompt.to_vec();
        let mut past = 0;
        net.clear();
        let ending = loop {
            let ids = Tensor::new(&next[..], &self.device)?.unsqueeze(0)?;
            let logits = net.next(&ids, past)?;
            past += next.len();
            let token = draws.sample(&penalized(&logits, &self.facts, &tokens, how)?)?;
            tokens.push(token);
            if how.ends.contains(&token) {
                break Ending::Stop;
            }
            if !goes_on(token) {
                break Ending::Cut;
            }
            if tokens.len() == most {
                break Ending::Length;
            }
            next = vec![token];
        };
        // Keys and values of the sequence are let go at once, not when the next one comes.
        net.clear();
        Ok(Generated { tokens, ending })
    }
}

/// The last position's logits on the CPU, less what the answer's own tokens take off.
fn penalized(
    logits: &Tensor,
    facts: &Facts,
    tokens: &[u32],
    how: &Generation,
) -> Result<Tensor, FloatError> {
    let (row, vocabulary) = (logits.dim(D::Minus1)?, facts.vocabulary as usize);
    if row < vocabulary {
        return Err(FloatError::Input(format!("{row} logits for {vocabulary} tokens")));
    }
    // A vocabulary that was padded has more logits than tokens.
    let last = logits.elem_count() - row;
    let logits = logits.flatten_all()?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    let mut values = logits.narrow(0, last, vocabulary)?.to_vec1::<f32>()?;
    if values.iter().any(|value| value.is_nan()) {
        return Err(FloatError::Input("the model gave a logit that is no number".to_owned()));
    }
    for (at, token) in tokens.iter().enumerate() {
        if let Some(value) = values.get_mut(*token as usize) {
            *value -= how.frequency;
            if !tokens[..at].contains(token) {
                *value -= how.presence;
            }
        }
    }
    Ok(Tensor::new(values, &Device::Cpu)?)
}

fn sampling(how: &Generation) -> Result<Sampling, FloatError> {
    let Generation { temperature, top_k, top_p, .. } = *how;
    if !(temperature >= 0.0 && temperature.is_finite() && (0.0..=1.0).contains(&top_p)) {
        let text = format!("temperature {temperature}, top_p {top_p}: out of range");
        return Err(FloatError::Input(text));
    }
    Ok(match (temperature, top_k, top_p) {
        (0.0, ..) => Sampling::ArgMax,
        (_, 0, 1.0) => Sampling::All { temperature },
        (_, k, 1.0) => Sampling::TopK { k, temperature },
        (_, 0, p) => Sampling::TopP { p, temperature },
        (_, k, p) => Sampling::TopKThenTopP { k, p, temperature },
    })
}

/// The nearest number in Q15.
fn q15(value: f32) -> Result<i16, FloatError> {
    if value.is_nan() {
        return Err(FloatError::Input("the model gave a vector without a direction".to_owned()));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the bounds are those of the type")]
    let code = (value * 32_768.0).round().clamp(-32_767.0, 32_767.0) as i16;
    Ok(code)
}

/// The nearest number in Q16.
fn q16(value: f32) -> Result<i32, FloatError> {
    if value.is_nan() {
        return Err(FloatError::Input("the model gave a number that is none".to_owned()));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, which is what is wanted"
    )]
    let code = (f64::from(value) * 65_536.0).round() as i32;
    Ok(code)
}
