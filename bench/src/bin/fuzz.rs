//! What decoders do with bytes that nobody meant well: they must not panic, nor take two encodings of one value.
//!
//! `fuzz [--seconds S] [--seed N] [--minilm DIR]` feeds each target for S seconds (300 when nothing is said), two targets
//! at a time, and prints one JSON object. A target is a group of decoders that take turns:
//!
//! * `claim`, `receipt`, `proof`: every decoder of `hyperion_verify::hostile`.
//! * `calldata`: `precompile::plan`; what is not refused must be the one ABI encoding of its arguments.
//! * `model file`: the digits model's file. What is accepted without trust is another model, or the same bytes; what is
//!   accepted with trusted roots is run.
//! * `tokenizer input`: texts through a small tokenizer, and through MiniLM's where its folder is. One text gives one
//!   sequence of ids, of a bounded length.
//!
//! Inputs follow from the seed. The first few that a decoder fails on are printed on stderr, in hex.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../facts.rs"]
mod facts;
#[path = "../mutate.rs"]
#[expect(dead_code, reason = "a bench that makes up words asks for them")]
mod mutate;

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use alloy_sol_types::SolInterface;
use facts::{Facts, SEVEN};
use hyperion_executor::{
    precompile::{
        Call, Plan, Precompile,
        abi::{IClaims::IClaimsCalls, IInference::IInferenceCalls, IVerify::IVerifyCalls},
        plan,
    },
    revm::primitives::U256,
};
use hyperion_model::{Model, Prepared, Tokenizer, Trust};
use hyperion_ops::Reference;
use hyperion_verify::hostile;
use mutate::Mutator;
use serde_json::{Value, json};

/// Targets that are fed at the same time.
const THREADS: usize = 2;
/// Failures of a target whose inputs are printed.
const SHOWN: u64 = 3;
/// Ids that a text becomes at most.
const TOKENS_MAX: u32 = 256;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str, default: u64| {
        value(name).map_or(default, |given| given.parse().expect("a number after the option"))
    };
    let (seconds, seed) = (number("--seconds", 300), number("--seed", 1));
    let minilm = value("--minilm").map_or_else(fixtures, PathBuf::from);
    let targets = Mutex::new(VecDeque::from(targets(&minilm)));
    let found = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(target) = next(&targets) {
                    let counts = target.feed(Duration::from_secs(seconds), seed);
                    eprintln!("{}: {counts}", target.name);
                    found.lock().expect("no target unwinds").insert(target.name, counts);
                }
            });
        }
    });
    let found = found.into_inner().expect("no target unwinds");
    println!("{}", json!({ "seed": seed, "targets": found }));
}

fn next(targets: &Mutex<VecDeque<Target>>) -> Option<Target> {
    targets.lock().expect("no target unwinds").pop_front()
}

/// Where `cargo xtask fixtures` puts MiniLM.
fn fixtures() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let cache = std::env::var_os("HYPERION_FIXTURES")
        .map_or_else(|| home().join(".cache/hyperion"), PathBuf::from);
    cache.join("minilm")
}

/// What a decoder did with an input.
enum Outcome {
    Refused,
    /// It took the bytes, and they are the only ones that say this.
    Accepted,
    /// It took the bytes, and others say the same.
    SecondEncoding,
}

/// Decodes bytes, which may be anything.
type Decode = Box<dyn Fn(&[u8]) -> Outcome + Send>;

/// One decoder, with what mutations start from.
struct Decoder {
    name: &'static str,
    corpus: Vec<Vec<u8>>,
    decode: Decode,
}

/// Decoders that take turns.
struct Target {
    name: &'static str,
    decoders: Vec<Decoder>,
}

impl Target {
    /// Feeds every decoder in turn until the time is over.
    fn feed(&self, time: Duration, seed: u64) -> Value {
        let mut mutator = Mutator::new(seed);
        let (mut runs, mut accepted, mut panics, mut second) = (0_u64, 0_u64, 0_u64, 0_u64);
        for decoder in &self.decoders {
            for bytes in &decoder.corpus {
                let outcome = (decoder.decode)(bytes);
                assert!(matches!(outcome, Outcome::Accepted), "{}: its own corpus", decoder.name);
            }
        }
        let begin = Instant::now();
        while begin.elapsed() < time {
            for decoder in &self.decoders {
                let bytes = mutator.next(&decoder.corpus);
                let outcome = catch_unwind(AssertUnwindSafe(|| (decoder.decode)(&bytes)));
                runs += 1;
                match outcome {
                    Ok(Outcome::Refused) => {}
                    Ok(Outcome::Accepted) => accepted += 1,
                    Ok(Outcome::SecondEncoding) => {
                        second += 1;
                        show(decoder, "a second encoding", second, &bytes);
                    }
                    Err(_) => {
                        panics += 1;
                        show(decoder, "a panic", panics, &bytes);
                    }
                }
            }
        }
        json!({
            "seconds": begin.elapsed().as_secs_f64(),
            "panics": panics,
            "second_encodings": second,
            "runs": runs,
            "accepted": accepted,
            "decoders": self.decoders.iter().map(|decoder| decoder.name).collect::<Vec<_>>(),
        })
    }
}

fn show(decoder: &Decoder, what: &str, count: u64, bytes: &[u8]) {
    if count <= SHOWN {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{}: {what}: {hex}", decoder.name);
    }
}

fn targets(minilm: &std::path::Path) -> Vec<Target> {
    let mut targets = groups();
    let facts = Arc::new(Facts::new());
    let calldata = Precompile::ALL
        .into_iter()
        // The step of a dispute is decided nowhere yet, so there is nothing to decode.
        .filter(|precompile| *precompile != Precompile::Arbitrate)
        .map(|precompile| calldata(&facts, precompile));
    targets.push(Target { name: "calldata", decoders: calldata.collect() });
    targets.push(Target { name: "model file", decoders: model_files() });
    targets.push(Target { name: "tokenizer input", decoders: tokenizers(minilm) });
    targets
}

/// The decoders of `hyperion_verify`, by what they belong to.
fn groups() -> Vec<Target> {
    let mut groups: [Target; 3] =
        ["claim", "receipt", "proof"].map(|name| Target { name, decoders: Vec::new() });
    for target in hostile::TARGETS {
        let group = match target.name {
            "claim entry" | "commit entry" | "commit record" | "diff chunk" => 0,
            "receipt" | "signed note" | "checkpoint" | "note key" => 1,
            _ => 2,
        };
        groups[group].decoders.push(Decoder {
            name: target.name,
            corpus: (target.corpus)(),
            decode: Box::new(move |bytes| match (target.recode)(bytes) {
                None => Outcome::Refused,
                Some(again) if again == bytes => Outcome::Accepted,
                Some(_) => Outcome::SecondEncoding,
            }),
        });
    }
    groups.into()
}

fn calldata(facts: &Arc<Facts>, precompile: Precompile) -> Decoder {
    let (facts, rules) = (Arc::clone(facts), Facts::rules());
    let mut corpus = facts.good(precompile);
    let decode = move |bytes: &[u8]| {
        let call = Call { precompile, input: bytes, gas_limit: u64::MAX, value: U256::ZERO };
        match plan(&*facts, &rules, &call) {
            Plan::Refuse { .. } | Plan::OutOfGas => return Outcome::Refused,
            Plan::Done { .. } | Plan::Infer { .. } => {}
        }
        let again = match precompile {
            Precompile::Inference => again::<IInferenceCalls>(bytes),
            Precompile::Claims => again::<IClaimsCalls>(bytes),
            Precompile::Verify | Precompile::Arbitrate => again::<IVerifyCalls>(bytes),
        };
        if again.as_deref() == Some(bytes) { Outcome::Accepted } else { Outcome::SecondEncoding }
    };
    // A function that is not served yet decodes nothing.
    corpus.retain(|bytes| matches!(decode(bytes), Outcome::Accepted));
    Decoder { name: precompile.name(), corpus, decode: Box::new(decode) }
}

/// A call decoded and encoded by the library that contracts' callers use.
fn again<Calls: SolInterface>(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(Calls::abi_decode_validate(bytes).ok()?.abi_encode())
}

/// The file of the digits model, and its first part alone: nine tenths of the bytes are weights, in which the root finds
/// every change, so that edits anywhere would seldom meet a header.
fn model_files() -> Vec<Decoder> {
    let file = facts::digits();
    let id = Model::from_bytes(file.clone(), Trust::Nothing).expect("just written").id();
    let place: [u8; 8] = file[40..48].try_into().expect("eight bytes");
    let data = usize::try_from(u64::from_be_bytes(place)).expect("a place in the file");
    let (front, tensors) = (file[..data].to_vec(), file[data..].to_vec());
    let untrusted = {
        let file = file.clone();
        move |bytes: &[u8]| match Model::from_bytes(bytes.to_vec(), Trust::Nothing) {
            Err(_) => Outcome::Refused,
            Ok(model) if model.id() == id && bytes != file => Outcome::SecondEncoding,
            Ok(_) => Outcome::Accepted,
        }
    };
    let whole = untrusted.clone();
    let header = {
        let tensors = tensors.clone();
        move |bytes: &[u8]| untrusted(&[bytes, &tensors].concat())
    };
    let trusted = move |bytes: &[u8]| {
        let Ok(model) = Model::from_bytes([bytes, &tensors].concat(), Trust::Roots) else {
            return Outcome::Refused;
        };
        let mut device = Reference::default();
        if let Ok(prepared) = Prepared::load(&model, &mut device, 4) {
            // Whether it fits or is refused is the model's business; that it ends is ours.
            drop(prepared.run(&mut device, &[SEVEN]));
        }
        Outcome::Accepted
    };
    vec![
        Decoder { name: "file", corpus: vec![file], decode: Box::new(whole) },
        Decoder { name: "header", corpus: vec![front.clone()], decode: Box::new(header) },
        Decoder { name: "trusted header", corpus: vec![front], decode: Box::new(trusted) },
    ]
}

fn tokenizers(minilm: &std::path::Path) -> Vec<Decoder> {
    let small = Tokenizer::from_bytes(small().to_string().as_bytes(), TOKENS_MAX);
    let mut tokenizers = vec![("small", small.expect("a tokenizer"))];
    match Tokenizer::open(&minilm.join("tokenizer.json"), TOKENS_MAX) {
        Ok(tokenizer) => tokenizers.push(("MiniLM", tokenizer)),
        Err(error) => eprintln!("without MiniLM's tokenizer: {error}"),
    }
    let one = |(name, tokenizer): (&'static str, Tokenizer)| {
        let decode = move |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let Ok(ids) = tokenizer.encode(&text) else { return Outcome::Refused };
            let same = tokenizer.encode(&text).is_ok_and(|again| again == ids);
            if same && ids.len() <= TOKENS_MAX as usize {
                Outcome::Accepted
            } else {
                Outcome::SecondEncoding
            }
        };
        Decoder { name, corpus: texts(), decode: Box::new(decode) }
    };
    tokenizers.into_iter().map(one).collect()
}

/// Texts in several scripts, with what tokenizers stumble over.
fn texts() -> Vec<Vec<u8>> {
    let texts = [
        "The quick brown fox jumps over the lazy dog.",
        "Größe, naïve, İstanbul, ﬁ, Ω ≠ Ω",
        "東京は夜の七時 \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} e\u{301}\u{323}",
        "\u{202e}שלום\u{202c} مرحبا\u{0} \u{ad}\u{feff}\r\n\t",
        "[CLS] [SEP] [MASK] [UNK] ##a ####",
        "",
    ];
    let long = ["a".repeat(3_000), "\u{301}".repeat(500), "word ".repeat(600)];
    texts.into_iter().map(str::to_owned).chain(long).map(String::into_bytes).collect()
}

/// A WordPiece tokenizer of the letters of two alphabets.
fn small() -> Value {
    let letters = ('a'..='z').chain('α'..='ω');
    let words = letters.flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned);
    let added = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let vocabulary: serde_json::Map<String, Value> =
        special.into_iter().chain(words).zip(0..).map(|(word, id)| (word, json!(id))).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added(2, "[CLS]"), added(3, "[SEP]")],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2] },
        "decoder": null,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    })
}
