//! A loaded model: the part that runs.

use std::{fmt, path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::generation::{LogitsProcessor, Sampling};
use tokenizers::{PostProcessor as _, TruncationParams};

use crate::{
    Facts, FloatError, Kind, Options,
    decoder::{self, Decoder},
    encoder::{self, Encoder, Pooling},
    folder::Folder,
};

/// A model of a Hugging Face folder; it belongs to the thread that runs it.
pub struct FloatModel {
    facts: Arc<Facts>,
    device: Device,
    net: Net,
}

enum Net {
    Decoder(Box<dyn Decoder>),
    Encoder(Box<dyn Encoder>, Pooling),
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
    /// Loads `config.json`, `tokenizer.json`, every `.safetensors` file, and what `generation_config.json` and
    /// `1_Pooling/config.json` say, if they are there.
    ///
    /// # Errors
    ///
    /// When a file is missing or damaged, the family is not known, the configuration asks for something that candle
    /// leaves out, or the device is not here.
    pub fn open(path: &Path, options: &Options) -> Result<Self, FloatError> {
        let mut folder = Folder::open(path)?;
        let device = options.device()?;
        let dtype = options.dtype(&device, folder.text("torch_dtype"))?;
        if folder.has("quantization_config") {
            return Err(folder.unsupported("quantized weights are not read"));
        }
        let family = folder.text("model_type").to_owned();
        let is_decoder = decoder::FAMILIES.contains(&family.as_str());
        if !is_decoder && !encoder::FAMILIES.contains(&family.as_str()) {
            let known = [decoder::FAMILIES, encoder::FAMILIES].concat().join(", ");
            return Err(folder.unsupported(format!("model_type `{family}` is none of {known}")));
        }
        let generation = folder.json("generation_config.json")?;
        let pooling = Pooling::of(&mut folder)?;
        let tokenizer = folder.read("tokenizer.json")?;
        let mut tensors = folder.weights(dtype, &device)?;
        let id = folder.identity(&device, dtype);

        let (net, kind, context);
        if is_decoder {
            decoder::prepare(&mut folder)?;
            decoder::tie(&mut folder, &mut tensors);
            let weights = VarBuilder::from_tensors(tensors, dtype, &device);
            net = Net::Decoder(decoder::load(&folder, weights, dtype, &device)?);
            kind = Kind::Generates;
            context = decoder::context(&folder);
        } else {
            let tensors = encoder::rename(&folder, tensors);
            let weights = VarBuilder::from_tensors(tensors, dtype, &device);
            net = Net::Encoder(encoder::load(&folder, weights)?, pooling);
            let width = encoder::width(&folder).and_then(|width| u32::try_from(width).ok());
            let missing = || folder.unsupported("hidden_size is missing");
            kind = Kind::Embeds { width: width.ok_or_else(missing)? };
            context = encoder::context(&folder);
        }
        let tokenizer = read_tokenizer(&tokenizer, context, !is_decoder)?;
        let runs_on = format!("{} {}", options.device, dtype.as_str());
        let facts = Facts::new((id, kind, context), &folder, (&generation, tokenizer), runs_on)?;
        Ok(Self { facts: Arc::new(facts), device, net })
    }

    /// What is known of it; for every thread.
    pub fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts)
    }

    /// The vector of a text of unit length, in Q15: 32,768 is 1.
    ///
    /// # Errors
    ///
    /// When the model generates, the ids do not fit it, a number is none, or candle fails.
    pub fn embed(&self, ids: &[u32]) -> Result<Vec<i16>, FloatError> {
        let Net::Encoder(net, pooling) = &self.net else {
            return Err(FloatError::Input("the model generates text and embeds none".to_owned()));
        };
        self.facts.check(ids)?;
        let ids = Tensor::new(ids, &self.device)?.unsqueeze(0)?;
        let vector = pooling.vector(&net.forward(&ids)?)?;
        vector.into_iter().map(q15).collect()
    }

    /// What the model says behind `prompt`. `goes_on` hears each token; as soon as it says no, the answer is cut.
    ///
    /// # Errors
    ///
    /// When the model embeds, the prompt does not fit it, no token is asked for, a setting is out of range, or candle fails.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        how: &Generation,
        goes_on: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Generated, FloatError> {
        let Net::Decoder(net) = &mut self.net else {
            return Err(FloatError::Input("the model embeds text and generates none".to_owned()));
        };
        self.facts.check(prompt)?;
        if how.tokens_max == 0 {
            return Err(FloatError::Input("an answer has one token at least".to_owned()));
        }
        // The last token of an answer is not read again.
        let room = self.facts.context as usize - prompt.len() + 1;
        let most = (how.tokens_max as usize).min(room);
        let mut draws = LogitsProcessor::from_sampling(how.seed, sampling(how)?);
        let mut tokens: Vec<u32> = Vec::new();
        let mut next = prompt.to_vec();
        let mut past = 0;
        net.clear();
        let ending = loop {
            let ids = Tensor::new(&next[..], &self.device)?.unsqueeze(0)?;
            let logits = net.forward(&ids, past)?;
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
    let logits = logits.flatten_all()?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    let vocabulary = facts.vocabulary as usize;
    let last = logits.elem_count().checked_sub(vocabulary).ok_or_else(|| {
        FloatError::Input(format!("{} logits for {vocabulary} tokens", logits.elem_count()))
    })?;
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

/// The tokenizer without padding; one of an encoder cuts what is too long.
fn read_tokenizer(
    bytes: &[u8],
    context: usize,
    cuts: bool,
) -> Result<tokenizers::Tokenizer, FloatError> {
    let failed = |error: tokenizers::Error| FloatError::Tokenizer(error.to_string());
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(failed)?;
    tokenizer.with_padding(None);
    let special = tokenizer.get_post_processor().map_or(0, |by| by.added_tokens(false));
    // The crate subtracts the one from the other.
    if special >= context {
        let text = format!("it adds {special} tokens to a text, the model takes {context} in all");
        return Err(FloatError::Tokenizer(text));
    }
    let truncation =
        cuts.then(|| TruncationParams { max_length: context, ..TruncationParams::default() });
    tokenizer.with_truncation(truncation).map_err(failed)?;
    Ok(tokenizer)
}
