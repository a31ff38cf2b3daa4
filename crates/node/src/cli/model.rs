//! `hyperion model`: import, list and check model files, and score texts with them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use hyperion_model::{
    Model, Prepared, Tensor, Tokenizer, Trust,
    import::{self, Precision, generation::Generation},
    oracle,
};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Exit, out::say};
use crate::devices;

/// Import, list and check model files, and score texts with them.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Turn a published model into an exact one: the same file and id on every machine.
    ///
    /// SOURCE is a Hugging Face folder (config.json, safetensors, tokenizer.json) of an encoder of the BERT family or of a
    /// decoder (Llama, Mistral, Qwen2, Qwen3, Gemma 2 and 3, GPT-2), a .gguf file of a decoder, a folder with graph.json and
    /// safetensors, or an .onnx classifier.
    ///
    /// A decoder is read and written tensor by tensor, so it may be larger than memory. Interrupted, the same command goes
    /// on from there as long as the source is untouched; what was made so far is beside OUT, in .hyp.partial files.
    Import {
        /// What to import.
        source: PathBuf,
        /// File to write, `.hyp`; the tokenizer goes beside it.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Bits of a decoder's weights. With 4bit decoding reads about half the bytes, and answers are less like the source's; with
        /// 16bit it is the other way round.
        #[arg(long, default_value = "8bit")]
        weights: Weights,
    },
    /// Print what model files hold: id, program, sizes, work.
    List {
        /// Files, or folders of them.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Compare an exact model with its float source on inputs of your own.
    ///
    /// For a text model, one text a line; for a classifier, one row a line: label, then values, comma separated. Decoders
    /// are compared by the logits after every token.
    Check {
        /// The model file.
        model: PathBuf,
        /// The folder it was imported from.
        #[arg(long, value_name = "DIR")]
        source: PathBuf,
        /// File with the inputs.
        #[arg(long, value_name = "FILE")]
        inputs: PathBuf,
        /// Values of a classifier's rows are divided by this.
        #[arg(long, default_value_t = 1.0)]
        divide_by: f32,
        /// Least cosine (text) or share of equal answers (classifier) for which the exit code is 0.
        #[arg(long, default_value_t = 0.995)]
        at_least: f64,
    },
    /// Measure how surprised a decoder is by a text, alone or beside its float source.
    Perplexity {
        /// The model file.
        model: PathBuf,
        /// The text.
        text: PathBuf,
        /// The tokenizer that the model was imported with; by default the one beside the model file.
        #[arg(long, value_name = "FILE")]
        tokenizer: Option<PathBuf>,
        /// The folder that it was imported from: compare with the float model.
        #[arg(long, value_name = "DIR")]
        source: Option<PathBuf>,
        /// Tokens that are scored together, each such piece from its own beginning.
        #[arg(long, default_value_t = 512)]
        window: u32,
    },
}

/// Bits of a decoder's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Weights {
    /// One code a byte.
    #[value(name = "8bit")]
    Eight,
    /// Two codes a byte.
    #[value(name = "4bit")]
    Four,
    /// Two codes of a byte each, and inputs as fine: closer to the source, and slower.
    #[value(name = "16bit")]
    Sixteen,
}

impl From<Weights> for Precision {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::Eight => Self::EightBits,
            Weights::Four => Self::FourBits,
            Weights::Sixteen => Self::SixteenBits,
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Import { source, out, weights } => import_model(source, out, (*weights).into()),
        Command::List { paths } => list(paths),
        Command::Check { model, source, inputs, divide_by, at_least } => {
            let model = Model::open(model, Trust::Nothing)?;
            let oracle = oracle::Oracle::open(source)?;
            let text = fs::read_to_string(inputs)
                .with_context(|| format!("reading {}", inputs.display()))?;
            if oracle.is_decoder() {
                check_decoder(&model, &oracle, source, inputs, *at_least)
            } else if model.program().vocabulary().is_some() {
                check_texts(&model, &oracle, source, &text, *at_least)
            } else {
                check_rows(&model, &oracle, &text, *divide_by, *at_least)
            }
        }
        Command::Perplexity { model, text, tokenizer, source, window } => {
            let tokenizer =
                tokenizer.clone().unwrap_or_else(|| model.with_extension("tokenizer.json"));
            perplexity(model, text, &tokenizer, source.as_deref(), *window)
        }
    }
}

/// Imports a source into a file; on a terminal with a progress bar.
///
/// # Errors
///
/// When the source is refused, or the file cannot be written; a file that is there stays until the new one is whole. A large
/// import that is interrupted goes on where it was when it is asked for again.
pub(crate) fn import_model(source: &Path, out: &Path, precision: Precision) -> Result<()> {
    let bar = bar("importing");
    let partial = out.with_extension("hyp.partial");
    let made = import::to_file(source, precision, &partial, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let id = made.with_context(|| {
        let again = "; what was made so far is kept, and the same command goes on from there";
        let hint = if partial.exists() { again } else { "" };
        format!("importing {}{hint}", source.display())
    })?;
    let folder = if source.is_dir() { source } else { source.parent().unwrap_or(source) };
    if source.is_dir() || source.extension().is_some_and(|kind| kind == "gguf") {
        let from = folder.join("tokenizer.json");
        if from.is_file() {
            let beside = out.with_extension("tokenizer.json");
            fs::copy(&from, &beside).with_context(|| format!("writing {}", beside.display()))?;
        }
        if Model::open(&partial, Trust::Roots)?.manifest().generator {
            let beside = out.with_extension("generation.json");
            let advice = Generation::of(folder)?.to_json();
            fs::write(&beside, advice).with_context(|| format!("writing {}", beside.display()))?;
        }
    }
    fs::rename(&partial, out).with_context(|| format!("writing {}", out.display()))?;
    say!("{id}  {}", out.display())?;
    Ok(())
}

/// A progress bar, on a terminal.
fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(1);
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len}");
    bar.set_style(style.expect("a template that parses"));
    bar.set_message(what);
    bar
}

fn list(paths: &[PathBuf]) -> Result<()> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries =
                fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
            let found = entries.filter_map(|entry| Some(entry.ok()?.path()));
            files.extend(
                found.filter(|path| path.extension().is_some_and(|extension| extension == "hyp")),
            );
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    for path in files {
        let model = Model::open(&path, Trust::Nothing)
            .with_context(|| format!("file {}", path.display()))?;
        let manifest = model.manifest();
        say!("{}", path.display())?;
        say!("  model    {}", model.id())?;
        say!("  program  {}  {} operators", manifest.program_id, model.program().nodes().len())?;
        say!(
            "  weights  {} bytes   run {} bytes at {} rows",
            model.weights_bytes(),
            manifest.peak_bytes,
            manifest.rows_max
        )?;
        say!(
            "  work     {} + {} a row + {} a pair  MAC",
            manifest.macs.base,
            manifest.macs.per_row,
            manifest.macs.per_pair
        )?;
        if !model.tokenizer_hash().is_zero() {
            say!("  text     tokenizer {}", model.tokenizer_hash())?;
        }
    }
    Ok(())
}

/// Runs inputs one by one on the best device.
struct Runner {
    device: Box<dyn hyperion_ops::Backend>,
    prepared: Prepared,
}

impl Runner {
    fn new(model: &Model) -> Result<Self> {
        let mut device = devices::best_cpu(0)?;
        let prepared = Prepared::load(model, device.as_mut(), model.program().context())?;
        Ok(Self { device, prepared })
    }

    fn run(&mut self, input: &[u8]) -> Result<Tensor> {
        Ok(self.prepared.run(self.device.as_mut(), &[input])?.remove(0))
    }
}

fn check_texts(
    model: &Model,
    oracle: &oracle::Oracle,
    source: &Path,
    text: &str,
    at_least: f64,
) -> Result<()> {
    let tokenizer = Tokenizer::open(&source.join("tokenizer.json"), model.program().context())?;
    let tokenizer = tokenizer.for_model(model.tokenizer_hash())?;
    let mut runner = Runner::new(model)?;
    let (mut least, mut sum, mut count) = (1.0_f64, 0.0, 0_u32);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let ids = tokenizer.encode(line)?;
        let input: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let exact: Vec<f32> =
            runner.run(&input)?.elements().iter().map(|e| *e as f32 / 32_768.0).collect();
        let cosine = oracle::cosine(&exact, &oracle.embed(&ids)?);
        least = least.min(cosine);
        sum += cosine;
        count += 1;
        say!("{cosine:.5}  {:4} tokens  {}", ids.len(), line.chars().take(60).collect::<String>())?;
    }
    if count == 0 {
        bail!("there are no texts to compare");
    }
    say!("cosine least {least:.5}, mean {:.5}, {count} texts", sum / f64::from(count))?;
    verdict(least, at_least)
}

fn check_decoder(
    model: &Model,
    oracle: &oracle::Oracle,
    source: &Path,
    inputs: &Path,
    at_least: f64,
) -> Result<()> {
    let tokenizer = Tokenizer::open(&source.join("tokenizer.json"), model.program().context())?;
    let tokenizer = tokenizer.for_model(model.tokenizer_hash())?;
    let inputs = oracle::read_inputs(inputs, model, Some(&tokenizer))?;
    let mut device = devices::best_cpu(0)?;
    let report = oracle::check(model, oracle, device.as_mut(), &inputs, &mut |_| {})?;
    for agreement in &report.agreements {
        say!("{agreement}")?;
    }
    say!("{report}")?;
    verdict(report.min(), at_least)
}

fn perplexity(
    model: &Path,
    text: &Path,
    tokenizer: &Path,
    source: Option<&Path>,
    window: u32,
) -> Result<()> {
    let model = Model::open(model, Trust::Nothing)?;
    let oracle = source.map(oracle::Oracle::open).transpose()?;
    // A text is as long as it is; what is cut is cut into windows.
    let tokenizer = Tokenizer::open(tokenizer, u32::MAX)
        .with_context(|| format!("reading {}", tokenizer.display()))?;
    let tokenizer = tokenizer.for_model(model.tokenizer_hash())?;
    let text = fs::read_to_string(text).with_context(|| format!("reading {}", text.display()))?;
    let ids = tokenizer.encode(&text)?;
    let bar = bar("scoring");
    bar.set_length(ids.len() as u64);
    let mut device = devices::best_cpu(0)?;
    let scored =
        oracle::perplexity(&model, oracle.as_ref(), device.as_mut(), (&ids, window), &mut |done| {
            bar.set_position(done as u64);
        });
    bar.finish_and_clear();
    say!("{}", scored?)?;
    Ok(())
}

fn check_rows(
    model: &Model,
    oracle: &oracle::Oracle,
    text: &str,
    divide_by: f32,
    at_least: f64,
) -> Result<()> {
    let mut runner = Runner::new(model)?;
    let (mut equal, mut count) = (0_u32, 0_u32);
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = || format!("line {}: want a label and numbers, comma separated", index + 1);
        let values: Vec<f32> = line
            .split(',')
            .skip(1)
            .map(|value| Ok(value.trim().parse::<f32>()? / divide_by))
            .collect::<Result<_>>()
            .with_context(bad)?;
        let input: Vec<u8> = values
            .iter()
            .flat_map(|value| ((value * 65_536.0).round() as i32).to_le_bytes())
            .collect();
        let exact: Vec<f32> = runner.run(&input)?.elements().iter().map(|e| *e as f32).collect();
        equal += u32::from(oracle::argmax(&exact) == oracle::argmax(&oracle.logits(&values)?));
        count += 1;
    }
    if count == 0 {
        bail!("there are no rows to compare");
    }
    let share = f64::from(equal) / f64::from(count);
    say!("same answer on {equal} of {count} rows")?;
    verdict(share, at_least)
}

fn verdict(figure: f64, at_least: f64) -> Result<()> {
    if figure < at_least {
        say!("below {at_least}")?;
        bail!(Exit::CheckFailed);
    }
    Ok(())
}
