//! What nobody should give an importer or a generator, and what comes of it (line L6).
//!
//! `model_abuse` prints one JSON object: cases, refusals without a word of what is wrong, cases that were taken, and panics. Each case is the
//! committed text model with one thing bent, or a request to it that cannot be answered.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../stand_ins.rs"]
mod stand_ins;
#[path = "../writer.rs"]
mod writer;

use std::{
    fs,
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use hyperion_engine::{Drawing, Engine, EngineConfig, Registry};
use hyperion_model::import;
use hyperion_ops::{Cpu, KernelSet, Serial};
use hyperion_primitives::Address;
use hyperion_verify::{Domain, Request, Sampling};
use serde_json::{Value, json};
use stand_ins::{Key, RealClock, Sink};

/// What came of a case: refused with a sentence, or not.
type Outcome = Result<String, String>;

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut cases: Vec<(String, Box<dyn Fn() -> Outcome>)> = Vec::new();
    for (name, key, value) in configs() {
        let name = format!("config: {name}");
        cases.push((
            name,
            Box::new(move || {
                imported(|folder| {
                    let path = folder.join("config.json");
                    let text = fs::read_to_string(&path).expect("the folder");
                    let mut config: Value = serde_json::from_str(&text).expect("the committed one");
                    config[key] = value.clone();
                    fs::write(path, config.to_string()).expect("the disk has room");
                })
            }),
        ));
    }
    for (name, bend) in files() {
        cases.push((format!("files: {name}"), Box::new(move || imported(bend))));
    }
    let engine = engine();
    for (name, ask) in requests() {
        let engine = engine.clone();
        cases.push((format!("request: {name}"), Box::new(move || ask(&engine))));
    }

    let (mut taken, mut mute, mut panics) = (Vec::new(), Vec::new(), Vec::new());
    let mut said = serde_json::Map::new();
    for (name, case) in &cases {
        match catch_unwind(AssertUnwindSafe(case)) {
            Ok(Ok(what)) => taken.push(format!("{name}: {what}")),
            Ok(Err(why)) if why.len() < 10 => mute.push(name),
            Ok(Err(why)) => {
                // Where the folder was is nobody's business.
                let why = why.replace(&folder().display().to_string(), "FOLDER");
                said.insert(name.clone(), why.into());
            }
            Err(_) => panics.push(name),
        }
    }
    println!(
        "{}",
        json!({ "cases": cases.len(), "taken": taken, "mute": mute, "panics": panics, "said": said })
    );
}

/// A bent copy of the committed folder, imported.
fn imported(bend: impl Fn(&Path)) -> Outcome {
    let folder = folder();
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a temporary folder");
    for name in ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"] {
        fs::copy(writer::pydoc_folder().join(name), folder.join(name))
            .expect("the committed model");
    }
    bend(&folder);
    let mut file = Cursor::new(Vec::new());
    let outcome = import::write(&folder, &mut file, &mut |_, _| {});
    let outcome = outcome.map_err(|error| error.to_string()).and_then(|id| {
        import::generation::Generation::of(&folder).map_err(|error| error.to_string())?;
        Ok(id.to_string())
    });
    fs::remove_dir_all(&folder).expect("the bench's own folder");
    outcome
}

fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("hyperion-bench-abuse-{}", std::process::id()))
}

fn configs() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("no hidden units", "hidden_size", json!(0)),
        ("more hidden units than anybody has", "hidden_size", json!(u64::MAX)),
        ("a negative width", "hidden_size", json!(-256)),
        ("a width that is text", "hidden_size", json!("wide")),
        ("a billion layers", "num_hidden_layers", json!(1_000_000_000)),
        ("no layers", "num_hidden_layers", json!(0)),
        ("no heads", "num_attention_heads", json!(0)),
        ("heads that do not divide", "num_key_value_heads", json!(3)),
        ("more key heads than heads", "num_key_value_heads", json!(8)),
        ("an odd head", "head_dim", json!(63)),
        ("a vast head", "head_dim", json!(1 << 30)),
        ("another vocabulary than the weights", "vocab_size", json!(2_047)),
        ("a vocabulary beyond every limit", "vocab_size", json!(1_u64 << 40)),
        ("no context", "max_position_embeddings", json!(0)),
        ("a context beyond every limit", "max_position_embeddings", json!(1_u64 << 40)),
        ("an epsilon of 1", "rms_norm_eps", json!(1.0)),
        ("a negative epsilon", "rms_norm_eps", json!(-1e-5)),
        ("a rotation of base 0", "rope_theta", json!(0.0)),
        (
            "a rotation that nobody knows",
            "rope_scaling",
            json!({"rope_type": "helix", "factor": 2.0}),
        ),
        ("an activation that nobody knows", "hidden_act", json!("cosine")),
        ("an architecture that nobody knows", "model_type", json!("oracle")),
        ("weights that are not tied but missing", "tie_word_embeddings", json!(false)),
        ("end ids that are text", "eos_token_id", json!("end")),
    ]
}

type Bend = fn(&Path);

fn weights(folder: &Path, change: impl FnOnce(&mut Vec<u8>, usize)) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).expect("the folder");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    change(&mut bytes, 8 + header);
    fs::write(path, bytes).expect("the disk has room");
}

fn files() -> Vec<(&'static str, Bend)> {
    vec![
        ("weights that are cut off", |folder| {
            weights(folder, |bytes, _| bytes.truncate(bytes.len() / 2));
        }),
        ("weights that are cut off in the header", |folder| {
            weights(folder, |bytes, data| bytes.truncate(data / 2));
        }),
        ("no weights", |folder| fs::write(folder.join("model.safetensors"), []).expect("room")),
        ("weights that are not there", |folder| {
            fs::remove_file(folder.join("model.safetensors")).expect("there");
        }),
        ("a header longer than the file", |folder| {
            weights(folder, |bytes, _| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
        }),
        ("a header that is no JSON", |folder| weights(folder, |bytes, _| bytes[8] = b'!')),
        // 0x7fc0 is not a number, 0x7f80 infinity, in the little-endian bytes of bfloat16.
        ("a weight that is no number", |folder| {
            weights(folder, |bytes, data| {
                bytes[data + 100..data + 102].copy_from_slice(&[0xc0, 0x7f])
            });
        }),
        ("a weight that is infinite", |folder| {
            weights(folder, |bytes, data| {
                bytes[data + 100..data + 102].copy_from_slice(&[0x80, 0x7f])
            });
        }),
        ("an index of shards that are not there", |folder| {
            fs::remove_file(folder.join("model.safetensors")).expect("there");
            let index =
                json!({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}});
            let path = folder.join("model.safetensors.index.json");
            fs::write(path, index.to_string()).expect("room");
        }),
        ("an index that climbs out of its folder", |folder| {
            fs::remove_file(folder.join("model.safetensors")).expect("there");
            let index = json!({"weight_map": {"model.norm.weight": "../../etc/passwd"}});
            let path = folder.join("model.safetensors.index.json");
            fs::write(path, index.to_string()).expect("room");
        }),
        ("no configuration", |folder| fs::remove_file(folder.join("config.json")).expect("there")),
        ("a configuration that is no JSON", |folder| {
            fs::write(folder.join("config.json"), "{").expect("room");
        }),
        ("a temperature out of range", |folder| {
            let text = r#"{"do_sample": true, "temperature": 1e9}"#;
            fs::write(folder.join("generation_config.json"), text).expect("room");
        }),
        ("a tokenizer that is none", |folder| {
            fs::write(folder.join("tokenizer.json"), "{}").expect("room");
        }),
        ("a tokenizer of another vocabulary", |folder| {
            let path = folder.join("tokenizer.json");
            let text = fs::read_to_string(&path).expect("there");
            let mut tokenizer: Value = serde_json::from_str(&text).expect("the committed one");
            let vocabulary = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
            vocabulary.insert("beyond".to_owned(), json!(5_000));
            fs::write(path, tokenizer.to_string()).expect("room");
        }),
    ]
}

fn engine() -> Engine {
    let mut registry = Registry::new();
    registry.add("model", writer::pydoc()).expect("a name");
    let (sink, claims) = mpsc::channel();
    std::mem::forget(claims);
    Engine::new(
        EngineConfig { suite: false, ..EngineConfig::default() },
        registry,
        vec![Box::new(Cpu::new(KernelSet::best(), Arc::new(Serial)))],
        Arc::new(Key::fixed()),
        Domain { chain_id: 31_337, verifying_contract: Address::repeat_byte(0x52) },
        Arc::new(RealClock::start()),
        Box::new(Sink(sink)),
    )
    .expect("a device in service")
}

type Ask = fn(&Engine) -> Outcome;

fn draw(engine: &Engine, prompt: &[u32], sampling: Sampling, stops: Vec<u32>) -> Outcome {
    let model = engine.resolve("model").expect("registered").id;
    let drawing = Drawing::new(sampling, stops).map_err(|why| why.to_string())?;
    let input = writer::bytes(prompt).into();
    let job = engine.complete_drawn(model, Request::default(), input, drawing);
    job.map(|job| job.id().to_string()).map_err(|why| why.to_string())
}

fn greedy(tokens_max: u32) -> Sampling {
    Sampling { tokens_max, top_p_q16: 65_536, ..Sampling::default() }
}

fn requests() -> Vec<(&'static str, Ask)> {
    vec![
        ("a prompt longer than the context", |engine| {
            draw(engine, &[5; 1_025], greedy(1), Vec::new())
        }),
        ("a prompt and an answer longer than the context", |engine| {
            draw(engine, &[5; 1_000], greedy(26), Vec::new())
        }),
        ("no prompt", |engine| draw(engine, &[], greedy(1), Vec::new())),
        ("a token that the model has not", |engine| draw(engine, &[2_048], greedy(1), Vec::new())),
        ("an answer of no tokens", |engine| draw(engine, &[5], greedy(0), Vec::new())),
        ("an answer of all tokens there could be", |engine| {
            draw(engine, &[5], greedy(u32::MAX), Vec::new())
        }),
        ("a temperature below the least", |engine| {
            draw(engine, &[5], Sampling { temperature_q16: 1, ..greedy(1) }, Vec::new())
        }),
        ("a temperature above the most", |engine| {
            draw(engine, &[5], Sampling { temperature_q16: u32::MAX, ..greedy(1) }, Vec::new())
        }),
        ("a share of nothing", |engine| {
            draw(engine, &[5], Sampling { top_p_q16: 0, ..greedy(1) }, Vec::new())
        }),
        ("a share of more than all", |engine| {
            draw(engine, &[5], Sampling { top_p_q16: 65_537, ..greedy(1) }, Vec::new())
        }),
        ("a penalty of minus everything", |engine| {
            draw(engine, &[5], Sampling { frequency_q16: i32::MIN, ..greedy(1) }, Vec::new())
        }),
        ("a penalty of everything", |engine| {
            draw(engine, &[5], Sampling { presence_q16: i32::MAX, ..greedy(1) }, Vec::new())
        }),
        ("an end id that the model has not", |engine| draw(engine, &[5], greedy(1), vec![9_999])),
        ("more end ids than may be", |engine| draw(engine, &[5], greedy(1), (0..300).collect())),
    ]
}
