//! `hyperion verify`: a receipt, offline.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use hyperion_engine::{Clock as _, Drawing};
use hyperion_model::{Decoder, Limits, Model, Prepared, Replay, Tokenizer, Trust, replay};
use hyperion_ops::Backend;
use hyperion_rpc::{
    receipt_json::{Envelope, TensorData},
    writing::TextDecoder as _,
};
use hyperion_verify::{note::NoteKey, receipt};

use super::{
    Exit,
    out::{say, told},
};
use crate::{clock::MachineClock, devices, known_logs, served::embedded};

/// Why a result is not recomputed.
const ATTESTED_ONLY: &str = "a float result cannot be recomputed: the claim is attested only (tier 0), a worker's word about \
                             a model in floating point, which gives other bytes elsewhere";

/// Check a receipt offline: signature, log, output, and with --recompute the result itself.
///
/// Prints one line a check and stops at the first that fails. Exit code 0: all checks asked for hold; 1: one does not;
/// 2: the file cannot be read.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The receipt, as `hyperion infer --receipt` writes it; `-` reads standard input.
    pub(super) receipt: PathBuf,
    /// Public key of the log (`hyperion run` prints it), or a file that holds it; may be repeated. Without it the keys
    /// in `known_logs` of the configuration folder are used.
    #[arg(long, value_name = "KEY|FILE")]
    pub(super) log_key: Vec<String>,
    /// Run the model on the receipt's input and compare.
    #[arg(long)]
    pub(super) recompute: bool,
    /// The model file to recompute with; may be repeated. The digits classifier is built in.
    #[arg(long = "model", value_name = "FILE")]
    pub(super) models: Vec<PathBuf>,
    /// Threads for --recompute; 0: one per core.
    #[arg(long, default_value_t = 0)]
    pub(super) threads: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let envelope = Envelope::parse(&read(&arguments.receipt)?)?;
    let claim = &envelope.claim.claim;
    check("signature", || {
        envelope.claim.check(&envelope.domain)?;
        Ok(format!("worker {}", claim.worker))
    })?;
    check("request", || {
        envelope.check_request()?;
        Ok(if envelope.request.is_some() { "the claim answers it" } else { "not given" }.to_owned())
    })?;
    check("log", || {
        let note = envelope.receipt()?.note;
        let keys = log_keys(&arguments.log_key)?;
        let signed_by = keys.iter().find(|key| note.signatures.iter().any(|line| key.wrote(line)));
        let Some(key) = signed_by else {
            bail!(
                "nobody whose key is known signed the checkpoint of {}; pass --log-key, or keep the key with \
                 `hyperion log trust`",
                note.checkpoint.origin
            );
        };
        let trust = receipt::Trust {
            domain: envelope.domain,
            log: key.clone(),
            witnesses: Vec::new(),
            witnesses_min: 0,
        };
        let receipt = envelope.check_log(&trust)?;
        let checkpoint = &receipt.note.checkpoint;
        Ok(format!(
            "entry {} of {}, checkpoint {}",
            receipt.index, checkpoint.size, checkpoint.origin
        ))
    })?;
    check("input", || {
        envelope.check_input()?;
        Ok(if envelope.input.is_some() {
            format!("inputHash {}", claim.input_hash)
        } else {
            "not given".to_owned()
        })
    })?;
    if !claim.sampling_hash.is_zero() || envelope.sampling.is_some() {
        check("sampling", || {
            envelope.check_sampling()?;
            Ok(if envelope.sampling.is_some() {
                format!("samplingHash {}", claim.sampling_hash)
            } else {
                "not given".to_owned()
            })
        })?;
    }
    check("output", || {
        envelope.check_output()?;
        Ok(if envelope.output.is_some() {
            format!("outputHash {}", claim.output_hash)
        } else {
            "not given".to_owned()
        })
    })?;
    if envelope.claim.is_attested_only() {
        say!(
            "tier       0    attested only: {worker} says so; nobody can recompute it",
            worker = claim.worker
        )?;
    }
    if arguments.recompute {
        check("recompute", || {
            if envelope.claim.is_attested_only() {
                bail!(ATTESTED_ONLY);
            }
            recompute(&envelope, arguments)
        })?;
    }
    Ok(())
}

/// Prints a check's line; a failed one ends the program.
fn check(name: &str, run: impl FnOnce() -> Result<String>) -> Result<()> {
    match run() {
        Ok(text) => {
            say!("{name:<10} ok   {text}")?;
            Ok(())
        }
        Err(error) => {
            say!("{name:<10} FAILED  {}", told(&error))?;
            bail!(Exit::CheckFailed);
        }
    }
}

fn read(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
        return Ok(text);
    }
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// Keys given, or those known from before.
fn log_keys(given: &[String]) -> Result<Vec<NoteKey>> {
    let parse = |text: &str| -> Result<NoteKey> {
        let text = text.trim();
        text.parse().with_context(|| format!("`{text}` is no log key"))
    };
    if given.is_empty() {
        return known_logs::read();
    }
    let of = |key: &String| {
        if Path::new(key).is_file() { parse(&fs::read_to_string(key)?) } else { parse(key) }
    };
    given.iter().map(of).collect()
}

/// Runs the model anew on the receipt's input.
fn recompute(envelope: &Envelope, arguments: &Arguments) -> Result<String> {
    let claim = &envelope.claim.claim;
    let input = envelope.input.as_deref().context("the receipt holds no input")?;
    let [TensorData { data, .. }] = input else {
        bail!("the receipt holds {} inputs, want one", input.len())
    };
    let mut model = None;
    for path in &arguments.models {
        let candidate = Model::open(path, Trust::Nothing)?;
        if candidate.id() == claim.model_id {
            model = Some((Arc::new(candidate), Some(path.as_path())));
        }
    }
    let built_in = || {
        let mut all = [embedded::digits, embedded::pydoc].into_iter();
        let found = all.find_map(|one| one().ok().filter(|one| one.model.id() == claim.model_id));
        found.map(|one| (one.model, None))
    };
    let (model, path) = model.or_else(built_in).with_context(|| {
        format!("model {} is needed; pass its file with --model", claim.model_id)
    })?;
    let macs = model.manifest().macs(claim.in_tokens, claim.out_tokens);
    if macs != Some(claim.macs) {
        bail!("the run takes {} MAC, the claim says {}", macs.unwrap_or_default(), claim.macs);
    }
    let clock = MachineClock::new();
    let mut device = devices::best_cpu(arguments.threads)?;
    let start_us = clock.now_us();
    if model.manifest().generator {
        let drawing = drawing(envelope, &model, path)?;
        redraw(envelope, &drawing, &model, device.as_mut(), data)?;
    } else {
        rerun(envelope, &model, device.as_mut(), data)?;
    }
    let took_ms = (clock.now_us() - start_us) as f64 / 1000.0;
    let info = device.info();
    Ok(format!("equal, {} MAC, {took_ms:.1} ms on {} {}", claim.macs, info.name, info.kernels))
}

/// Runs an encoder or classifier anew and compares the outputs.
fn rerun(envelope: &Envelope, model: &Model, device: &mut dyn Backend, input: &[u8]) -> Result<()> {
    let claim = &envelope.claim.claim;
    let prepared = Prepared::load(model, device, claim.in_tokens.max(1))?;
    let output = prepared.run(device, &[input])?.remove(0);
    let (got, want) = (output.output_hash(), claim.output_hash);
    if got != want {
        bail!("different: the model says {got}, the claim {want}");
    }
    Ok(())
}

/// How the receipt's answer was drawn; where texts end it, with what the model's tokens write, by the tokenizer beside its file.
fn drawing(envelope: &Envelope, model: &Model, path: Option<&Path>) -> Result<Drawing> {
    let drawing = envelope.sampling.clone();
    let drawing = drawing.context("the receipt does not say how the answer was drawn")?;
    if drawing.stop_texts().is_empty() {
        return Ok(drawing);
    }
    let Some(path) = path else {
        let text = embedded::pydoc()?.text.context("the built-in model has no tokenizer")?;
        return Ok(drawing.with_token_bytes(text.token_bytes().map_err(anyhow::Error::msg)?));
    };
    let file = path.with_extension("tokenizer.json");
    let tokenizer = Tokenizer::whole(&file).and_then(|one| one.for_model(model.tokenizer_hash()));
    let tokenizer = tokenizer.with_context(|| {
        let file = file.display();
        format!("the answer has stop texts, which takes the model's tokenizer, {file}")
    })?;
    Ok(drawing.with_token_bytes(Arc::new(tokenizer.token_bytes()?)))
}

/// Draws every token of an answer anew, from one prefill of prompt and answer, and looks whether it ends where it has to.
fn redraw(
    envelope: &Envelope,
    drawing: &Drawing,
    model: &Model,
    device: &mut dyn Backend,
    input: &[u8],
) -> Result<()> {
    let claim = &envelope.claim.claim;
    let output = envelope.output.as_deref().context("the receipt holds no answer")?;
    let [TensorData { data: answer, .. }] = output else {
        bail!("the receipt holds {} outputs, want one", output.len())
    };
    let (prompt, answer) = (ids(input), ids(answer));
    if answer.is_empty() {
        bail!("the answer has no tokens");
    }
    let ended_before = (1..answer.len()).position(|tokens| drawing.ends(&answer[..tokens]));
    if let Some(position) = ended_before {
        bail!("the answer goes on after its token {position}, which ends it");
    }
    if !drawing.ends(&answer) || claim.out_tokens > drawing.tokens_max() {
        bail!("the answer has {} tokens and does not end where its settings say", claim.out_tokens);
    }
    let positions = claim.in_tokens.saturating_add(claim.out_tokens);
    let limits = Limits {
        rows_max: positions.min(CHECK_ROWS),
        outputs_max: CHECK_OUTPUTS,
        pages: positions.div_ceil(Decoder::PAGE_ROWS),
    };
    let mut decoder = Decoder::load(model, device, limits)?;
    let sampler = drawing.sampler(claim.seed, &prompt);
    match replay(&mut decoder, device, &prompt, &answer, sampler)? {
        Replay::Equal => Ok(()),
        Replay::Differs { position, got, want } => {
            bail!("different: token {position} of the answer is {got}, the model draws {want}")
        }
    }
}

/// Rows of a pass of a check, and rows of logits.
const CHECK_ROWS: u32 = 512;
const CHECK_OUTPUTS: u32 = 64;

/// The token ids of a tensor.
fn ids(data: &[u8]) -> Vec<u32> {
    data.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}
