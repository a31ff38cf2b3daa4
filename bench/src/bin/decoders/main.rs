//! How much accuracy the integers cost a decoder: exact models with weights of 8 and of 16 bits beside candle f32, after every
//! token (line L2).
//!
//! `decoders [--tokens N] [--only NAME] [--text FILE --lm DIR]`: for each supported family a model of random weights with
//! the outliers that trained ones have (`sources.rs`), on N random tokens (4,096 unless stated); and where there is a trained
//! model in DIR, that one on the text in FILE. Prints one JSON object.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

mod sources;

use std::{error::Error, fs, io::Cursor, path::Path, sync::Arc, time::Instant};

use hyperion_model::{
    Decoder, Limits, Model, Outputs, Tokenizer, Trust, Turn,
    import::{Precision, write_with},
    oracle::{Oracle, argmax, cosine},
};
use hyperion_ops::{Backend, Cpu, KernelSet, Serial};
use hyperion_primitives::Mix;
use serde_json::{Map, Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rows of logits that are computed together.
const ROWS: u32 = 64;
/// Weights that a model is measured with.
const PRECISIONS: [Precision; 2] = [Precision::EightBits, Precision::SixteenBits];
/// Tokens of one piece of a trained model's text.
const WINDOW: usize = 512;
/// Ends of the ranges of positions that are told apart.
const RANGES: [usize; 3] = [128, 1_024, 65_536];

struct Options {
    tokens: usize,
    only: Option<String>,
    text: Option<String>,
    lm: Option<String>,
}

fn main() -> Result<()> {
    let options = options()?;
    let kernels = KernelSet::best();
    let mut backend = Cpu::new(kernels, Arc::new(Serial));
    let mut families = Map::new();
    for family in sources::FAMILIES {
        if options.only.as_ref().is_some_and(|only| only != family) {
            continue;
        }
        let folder = std::env::temp_dir().join(format!("hyperion-{family}-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let outcome = sources::write(family, &folder).and_then(|()| {
            let mut mix = Mix::new(7);
            let mut ids: Vec<u32> =
                (0..options.tokens).map(|_| mix.below(sources::VOCABULARY) as u32).collect();
            ids[0] = sources::BEGIN;
            measure(&folder, &mut backend, &[&ids])
        });
        fs::remove_dir_all(&folder)?;
        let figures = outcome?;
        println!("{family}: {figures}");
        families.insert(family.to_owned(), figures);
    }
    let trained = match (&options.lm, &options.text) {
        (Some(lm), Some(text)) => trained(Path::new(lm), Path::new(text), &options, &mut backend)?,
        _ => Value::Null,
    };
    println!("{}", json!({"kernels": kernels.name(), "families": families, "trained": trained}));
    Ok(())
}

fn options() -> Result<Options> {
    let mut options = Options { tokens: 4_096, only: None, text: None, lm: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("`{flag}` needs a value"))?;
        match flag.as_str() {
            "--tokens" => options.tokens = value.parse()?,
            "--only" => options.only = Some(value),
            "--text" => options.text = Some(value),
            "--lm" => options.lm = Some(value),
            _ => return Err(format!("`{flag}` is not known").into()),
        }
    }
    Ok(options)
}

fn trained(lm: &Path, text: &Path, options: &Options, backend: &mut Cpu) -> Result<Value> {
    let tokenizer = Tokenizer::open(&lm.join("tokenizer.json"), 65_536)?;
    let mut ids = Vec::new();
    for line in fs::read_to_string(text)?.lines().filter(|line| !line.trim().is_empty()) {
        ids.extend(tokenizer.encode(line)?);
    }
    ids.truncate(options.tokens);
    let pieces: Vec<&[u32]> = ids.chunks(WINDOW).filter(|piece| piece.len() > 1).collect();
    let figures = measure(lm, backend, &pieces)?;
    println!("trained: {figures}");
    Ok(figures)
}

/// Sums over positions.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    positions: usize,
    equal: usize,
    cosine: f64,
}

impl Sums {
    fn figures(&self) -> Value {
        let positions = self.positions as f64;
        json!({
            "positions": self.positions,
            "cosine": self.cosine / positions,
            "agreement": self.equal as f64 / positions,
        })
    }
}

/// An exact model, and how near it is to float.
struct Exact {
    precision: Precision,
    model: Model,
    decoder: Decoder,
    ranges: [Sums; RANGES.len()],
    surprise: f64,
    seconds: f64,
}

impl Exact {
    fn load(folder: &Path, precision: Precision, longest: u32, backend: &mut Cpu) -> Result<Self> {
        let mut file = Cursor::new(Vec::new());
        write_with(folder, precision, &mut file, &mut |_, _| {})?;
        let model = Model::from_bytes(file.into_inner(), Trust::Roots)?;
        let pages = longest.div_ceil(Decoder::PAGE_ROWS);
        let limits = Limits { rows_max: ROWS, outputs_max: ROWS, pages };
        let decoder = Decoder::load(&model, backend, limits)?;
        let ranges = [Sums::default(); RANGES.len()];
        Ok(Self { precision, model, decoder, ranges, surprise: 0.0, seconds: 0.0 })
    }

    /// Compares a piece of text with what float says of it.
    fn compare(&mut self, backend: &mut Cpu, ids: &[u32], float: &[Vec<f32>]) -> Result<()> {
        let start = Instant::now();
        let exact = logits(&mut self.decoder, backend, ids)?;
        self.seconds += start.elapsed().as_secs_f64();
        let rows = exact.chunks_exact(self.decoder.vocabulary() as usize).zip(float);
        for (at, (exact, float)) in rows.enumerate() {
            let exact: Vec<f32> = exact.iter().map(|logit| *logit as f32 / 65_536.0).collect();
            let range = RANGES.iter().position(|end| at < *end).expect("the last has no end");
            let sums = &mut self.ranges[range];
            sums.positions += 1;
            sums.equal += usize::from(argmax(&exact) == argmax(float));
            sums.cosine += cosine(&exact, float);
            if let Some(next) = ids.get(at + 1) {
                self.surprise += surprise_of(&exact, *next);
            }
        }
        Ok(())
    }

    fn figures(&self, predicted: usize) -> Value {
        let all = self.ranges.iter().fold(Sums::default(), |all, range| Sums {
            positions: all.positions + range.positions,
            equal: all.equal + range.equal,
            cosine: all.cosine + range.cosine,
        });
        let by_range: Map<String, Value> = RANGES
            .iter()
            .zip(&self.ranges)
            .filter(|(_, sums)| sums.positions > 0)
            .map(|(end, sums)| (format!("before {end}"), sums.figures()))
            .collect();
        let mut figures = all.figures();
        figures["model_id"] = json!(self.model.id().to_string());
        figures["by_position"] = json!(by_range);
        figures["perplexity"] = json!((self.surprise / predicted as f64).exp());
        figures["seconds"] = json!(self.seconds);
        figures
    }
}

/// Runs pieces of text through the exact models of a folder and through candle.
fn measure(folder: &Path, backend: &mut Cpu, pieces: &[&[u32]]) -> Result<Value> {
    let oracle = Oracle::open(folder)?;
    let longest = pieces.iter().map(|piece| piece.len()).max().ok_or("no text")? as u32;
    let load = |precision| Exact::load(folder, precision, longest, backend);
    let mut exact: Vec<Exact> = PRECISIONS.into_iter().map(load).collect::<Result<_>>()?;
    let (mut gaps, mut surprise, mut predicted) = (Vec::new(), 0.0, 0_usize);
    let mut seconds = 0.0;
    for ids in pieces {
        let start = Instant::now();
        let float = oracle.next_logits(ids)?;
        seconds += start.elapsed().as_secs_f64();
        exact.iter_mut().try_for_each(|exact| exact.compare(backend, ids, &float))?;
        gaps.extend(float.iter().map(|logits| gap(logits)));
        for (logits, next) in float.iter().zip(&ids[1..]) {
            predicted += 1;
            surprise += surprise_of(logits, *next);
        }
    }
    gaps.sort_by(f64::total_cmp);
    let mut figures = json!({
        // How sure float is: a model that is always sure would agree whatever the integers cost.
        "median_gap_in_deviations": gaps[gaps.len() / 2],
        "perplexity_float": (surprise / predicted as f64).exp(),
        "seconds_float": seconds,
    });
    for exact in exact {
        figures[exact.precision.name()] = exact.figures(predicted);
        exact.decoder.unload(backend);
    }
    backend.reset();
    Ok(figures)
}

fn logits(decoder: &mut Decoder, backend: &mut dyn Backend, ids: &[u32]) -> Result<Vec<i32>> {
    let mut context = decoder.begin();
    let mut logits = Vec::new();
    for tokens in ids.chunks(ROWS as usize) {
        let turn = Turn { context: &mut context, tokens, outputs: Outputs::All };
        logits.extend(decoder.run(backend, &mut [turn])?.remove(0));
    }
    decoder.release(context);
    Ok(logits)
}

/// `-ln` of the softmax's share of one token.
fn surprise_of(logits: &[f32], token: u32) -> f64 {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - top).exp()).sum();
    sum.ln() + top - f64::from(logits[token as usize])
}

/// From the second largest logit to the largest, in standard deviations of all.
fn gap(logits: &[f32]) -> f64 {
    let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    let (mut sum, mut squares) = (0.0, 0.0);
    for logit in logits.iter().map(|logit| f64::from(*logit)) {
        sum += logit;
        squares += logit * logit;
        if logit > first {
            (first, second) = (logit, first);
        } else if logit > second {
            second = logit;
        }
    }
    let count = logits.len() as f64;
    (first - second) / (squares / count - (sum / count).powi(2)).sqrt()
}
