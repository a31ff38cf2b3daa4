//! Answers under random schedules, each compared with one prefill (line L1).
//!
//! `schedules [--tokens 100000] [--wgpu-tokens 100000] [--wgpu 0]` prints one JSON object: tokens generated and tokens that differ, per
//! device. A schedule draws how many answers run at once, how prompts are cut, how much cache there is, whether texts that begin alike
//! share it, and whether a draft model proposes; prompts, lengths, temperatures and end ids are drawn too. Then every answer is drawn
//! anew from one prefill of prompt and answer on the CPU, alone; a different token is a different bit of some logit.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../stand_ins.rs"]
mod stand_ins;
#[path = "../writer.rs"]
mod writer;

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc::channel},
    thread,
    time::Instant,
};

use hyperion_backend_wgpu::Wgpu;
use hyperion_engine::{Drawing, Engine, EngineConfig, KernelPool, Registry};
use hyperion_model::{Decoder, Limits, Model, Replay, Tokenizer, replay};
use hyperion_ops::{Backend, Cpu, KernelSet};
use hyperion_primitives::{Address, B256, Mix, U256};
use hyperion_verify::{Domain, Request, Sampling};
use serde_json::{Value, json};
use stand_ins::{Key, RealClock, Sink};

const DOMAIN: Domain = Domain { chain_id: 31_337, verifying_contract: Address::repeat_byte(0x52) };
/// Answers of a schedule.
const ANSWERS: usize = 48;
/// Tokens of prompt and answer at most.
const LONGEST: u32 = 320;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, otherwise: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        let value = at.and_then(|at| arguments.get(at + 1));
        value.map_or(otherwise, |value| value.parse().expect("a number"))
    };
    let model = writer::pydoc();
    let text = std::fs::read_to_string(writer::pydoc_folder().join("heldout.txt"));
    let tokenizer = Tokenizer::whole(&writer::pydoc_folder().join("tokenizer.json"));
    let corpus = tokenizer.expect("the model's own").encode(&text.expect("the held out text"));
    let corpus = corpus.expect("text");

    let mut devices = serde_json::Map::new();
    let cpu = measure(&model, &corpus, value("--tokens", 100_000), &|| vec![cpu(), cpu()]);
    devices.insert(format!("cpu {}", KernelSet::best().name()), cpu);
    let (wanted, index) = (value("--wgpu-tokens", 100_000), value("--wgpu", 0) as usize);
    if wanted > 0 {
        let gpu = || -> Vec<Box<dyn Backend>> {
            vec![Box::new(Wgpu::open(index, 4 << 30).expect("an adapter"))]
        };
        let name = gpu()[0].info().name.clone();
        devices.insert(format!("wgpu {name}"), measure(&model, &corpus, wanted, &gpu));
    }
    println!("{}", json!({ "devices": devices }));
}

fn cpu() -> Box<dyn Backend> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let pool = KernelPool::new(threads).expect("the system gives threads");
    Box::new(Cpu::new(KernelSet::best(), Arc::new(pool)))
}

struct Asked {
    prompt: Vec<u32>,
    drawing: Drawing,
    seed: B256,
}

/// Schedules until so many tokens have been generated.
fn measure(
    model: &Arc<Model>,
    corpus: &[u32],
    wanted: u64,
    devices: &dyn Fn() -> Vec<Box<dyn Backend>>,
) -> Value {
    // One that is often right, and one that hardly ever is.
    let drafting = [writer::altered(1_000), writer::altered(3)];
    let mut checker = cpu();
    let pages = LONGEST.div_ceil(Decoder::PAGE_ROWS);
    let limits = Limits { rows_max: LONGEST, outputs_max: LONGEST, pages };
    let mut alone = Decoder::load(model, checker.as_mut(), limits).expect("memory");
    let (mut tokens, mut different, mut schedules) = (0, 0, 0);
    let (mut proposed, mut accepted, mut rows) = (0, 0, 0);
    let mut used: BTreeMap<&str, u64> = BTreeMap::new();
    let begin = Instant::now();
    while tokens < wanted {
        let mut mix = Mix::new(schedules);
        schedules += 1;
        let (drafts, shares) = (mix.below(2) == 0, mix.below(2) == 0);
        *used.entry(if drafts { "with a draft" } else { "without a draft" }).or_default() += 1;
        *used.entry(if shares { "prefixes shared" } else { "prefixes not shared" }).or_default() +=
            1;
        let page_bytes = Decoder::page_bytes(model.program());
        let longest = u64::from(model.program().context().div_ceil(Decoder::PAGE_ROWS));
        let config = EngineConfig {
            answers_max: if drafts { 1 + mix.below(4) as u32 } else { 1 + mix.below(32) as u32 },
            step_rows_max: 32 + mix.below(480) as u32,
            prompt_rows_max: 1 + mix.below(128) as u32,
            cache_bytes_max: page_bytes * (longest + mix.below(3 * longest)),
            prefix_reuse: shares,
            draft_tokens: 1 + mix.below(6) as u32,
            memo_bytes_max: 0,
            suite: false,
            ..EngineConfig::default()
        };
        let mut registry = Registry::new();
        registry.add("model", Arc::clone(model)).expect("a name");
        if drafts {
            let draft = &drafting[mix.below(2) as usize];
            registry.add("draft", Arc::clone(draft)).expect("a name");
            registry.set_draft("model", "draft").expect("the same tokens");
        }
        let (sink, _claims) = channel();
        let engine = Engine::new(
            config,
            registry,
            devices(),
            Arc::new(Key::fixed()),
            DOMAIN,
            Arc::new(RealClock::start()),
            Box::new(Sink(sink)),
        )
        .expect("a device in service");
        for (asked, answer) in schedule(&engine, model, corpus, &mut mix) {
            let sampler = asked.drawing.sampler(asked.seed, &asked.prompt);
            let found = replay(&mut alone, checker.as_mut(), &asked.prompt, &answer, sampler);
            different += u64::from(found.expect("a text that fits") != Replay::Equal);
            tokens += answer.len() as u64;
        }
        let stats = &engine.stats().models[0];
        (proposed, accepted) = (proposed + stats.proposed, accepted + stats.accepted);
        rows += stats.rows;
    }
    json!({
        "tokens": tokens, "answers_that_differ": different, "schedules": schedules, "of_them": used,
        "rows": rows, "proposed": proposed, "accepted": accepted,
        "seconds": begin.elapsed().as_secs_f64(),
    })
}

/// One schedule's answers.
fn schedule(
    engine: &Engine,
    model: &Model,
    corpus: &[u32],
    mix: &mut Mix,
) -> Vec<(Asked, Vec<u32>)> {
    let (tell, told) = channel();
    let mut asked = Vec::new();
    let mut tickets = Vec::new();
    let common = mix.below(corpus.len() as u64 - 400) as usize;
    for nth in 0..ANSWERS {
        let start =
            if mix.below(2) == 0 { common } else { mix.below(corpus.len() as u64 - 400) as usize };
        let prompt = corpus[start..start + 1 + mix.below(180) as usize].to_vec();
        let longest = LONGEST - prompt.len() as u32;
        let sampling = Sampling {
            temperature_q16: [0, 45_875, 1 << 16, 2 << 16][mix.below(4) as usize],
            top_k: [0, 0, 40][mix.below(3) as usize],
            top_p_q16: [65_536, 62_259][mix.below(2) as usize],
            frequency_q16: [0, 0, 1 << 14][mix.below(3) as usize],
            min_p_q16: [0, 0, 3_277][mix.below(3) as usize],
            repetition_q16: [0, 0, 78_643][mix.below(3) as usize],
            tokens_max: 1 + mix.below(u64::from(longest.min(140))) as u32,
            ..Sampling::default()
        };
        let drawing = Drawing::new(sampling, vec![1]).expect("in range");
        let request = Request {
            nonce: U256::from(nth),
            deadline: u64::MAX,
            entropy: if sampling.temperature_q16 == 0 {
                B256::ZERO
            } else {
                B256::from(U256::from(mix.u64()))
            },
            ..Request::default()
        };
        let input = writer::bytes(&prompt).into();
        let job = engine.complete_drawn(model.id(), request, input, drawing.clone());
        let job = job.expect("a prompt that fits");
        asked.push(Some(Asked { prompt, drawing, seed: job.seed() }));
        let tell = tell.clone();
        let done = Box::new(move |outcome| drop(tell.send((nth, outcome))));
        tickets.push(engine.submit(job, done).expect("room"));
    }
    let mut answers = Vec::new();
    for _ in 0..ANSWERS {
        let (nth, outcome) = told.recv().expect("every answer comes");
        let answer: Arc<hyperion_engine::Answer> = outcome.expect("an answer");
        let asked = asked[nth].take().expect("it comes once");
        answers.push((asked, writer::ids(&answer.output.data)));
    }
    answers
}
