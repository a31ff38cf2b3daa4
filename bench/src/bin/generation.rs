//! A decoder of a published shape on this machine's CPU: prefill, decode, many at a time, and a check of an answer (lines L3, L4).
//!
//! `generation [--tokens 256] [--threads 2]` prints one JSON object. Weights are seeded random numbers, so the text is noise and the work is
//! real. The memory-read floor is the time that the weights alone take to be read, measured on as many threads.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../writer.rs"]
mod writer;

use std::{sync::Arc, thread, time::Instant};

use hyperion_engine::KernelPool;
use hyperion_model::{Context, Decoder, Limits, Model, Outputs, Replay, Sampler, Turn, replay};
use hyperion_ops::{Backend, Cpu, KernelSet, Sampling};
use hyperion_primitives::Mix;
use serde_json::{Value, json};

const PROMPT: usize = 32;
const PREFILL: usize = 512;
const TOGETHER: usize = 16;
/// Steps that a rate is taken from.
const STEPS: usize = 24;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, otherwise: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        let value = at.and_then(|at| arguments.get(at + 1));
        value.map_or(otherwise, |value| value.parse().expect("a number"))
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (tokens, threads) = (value("--tokens", 256), value("--threads", cores));
    let shape = writer::SMALL;
    let model = writer::random(shape);
    let mut report = measure(&model, tokens, threads);
    report["shape"] = json!(shape.name);
    println!("{report}");
}

/// Seconds that so many bytes take to be read once, the best of three, on so many threads.
fn read_floor(bytes: u64, threads: usize) -> f64 {
    let words = vec![1_u64; (1 << 30) / 8];
    let read = || {
        let begin = Instant::now();
        let sum: u64 = thread::scope(|scope| {
            let parts = words.chunks(words.len().div_ceil(threads));
            let parts: Vec<_> = parts
                .map(|part| {
                    scope.spawn(move || {
                        let mut sums = [0_u64; 8];
                        for eight in part.as_chunks::<8>().0 {
                            for (sum, word) in sums.iter_mut().zip(eight) {
                                *sum = sum.wrapping_add(*word);
                            }
                        }
                        sums.iter().sum::<u64>()
                    })
                })
                .collect();
            parts.into_iter().map(|part| part.join().expect("a sum")).sum()
        });
        assert_eq!(sum, words.len() as u64);
        begin.elapsed().as_secs_f64()
    };
    let best = (0..3).map(|_| read()).fold(f64::INFINITY, f64::min);
    best * bytes as f64 / (1_u64 << 30) as f64
}

fn measure(model: &Arc<Model>, tokens: usize, threads: usize) -> Value {
    let pool = Arc::new(KernelPool::new(threads).expect("the system gives threads"));
    let mut device = Cpu::new(KernelSet::best(), pool);
    let positions = 1_024_u32;
    let limits = Limits {
        rows_max: PREFILL as u32,
        outputs_max: 64,
        pages: TOGETHER as u32 * positions / Decoder::PAGE_ROWS,
    };
    let mut decoder = Decoder::load(model, &mut device, limits).expect("memory");
    let vocabulary = u64::from(decoder.vocabulary());
    let mut mix = Mix::new(3);
    let mut text =
        |len: usize| -> Vec<u32> { (0..len).map(|_| mix.below(vocabulary) as u32).collect() };
    let prompt = text(PROMPT);

    // One answer, token by token.
    let mut context = decoder.begin();
    let mut sampler = Sampler::new(Sampling::GREEDY, [0; 32]);
    let begin = Instant::now();
    let mut logits = decoder.prefill(&mut device, &mut context, &prompt).expect("a prompt");
    let mut answer = Vec::new();
    let mut decoding = Instant::now();
    while answer.len() < tokens {
        let token = sampler.next(&logits);
        answer.push(token);
        if answer.len() == 1 {
            decoding = Instant::now();
        }
        if answer.len() < tokens {
            let next = decoder.step(&mut device, &mut [(&mut context, token)]);
            logits = next.expect("a token").remove(0);
        }
    }
    let (generate_s, decode_s) = (begin.elapsed().as_secs_f64(), decoding.elapsed().as_secs_f64());
    decoder.release(context);

    // The same answer, checked by one prefill.
    let begin = Instant::now();
    let sampler = Sampler::new(Sampling::GREEDY, [0; 32]);
    let found = replay(&mut decoder, &mut device, &prompt, &answer, sampler).expect("a text");
    let check_s = begin.elapsed().as_secs_f64();
    assert_eq!(found, Replay::Equal, "decode and prefill give the same tokens");

    let prefill = text(PREFILL);
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let mut context = decoder.begin();
        let begin = Instant::now();
        let turn = Turn { context: &mut context, tokens: &prefill, outputs: Outputs::Last };
        decoder.run(&mut device, &mut [turn]).expect("a prompt");
        best = best.min(begin.elapsed().as_secs_f64());
        decoder.release(context);
    }
    let one = together(&mut decoder, &mut device, &mut text, 1);
    let many = together(&mut decoder, &mut device, &mut text, TOGETHER);
    // What a token reads: every matrix once, the embedding's row of the table not counted.
    let embedding = u64::from(decoder.vocabulary()) * writer::SMALL.hidden as u64;
    let read_bytes = model.weights_bytes() - embedding;
    let floor_s = read_floor(read_bytes, threads);
    json!({
        "threads": threads, "kernels": KernelSet::best().name(), "weights_bytes": model.weights_bytes(),
        "prefill_tokens_per_s": PREFILL as f64 / best,
        "decode_tokens_per_s": (tokens - 1) as f64 / decode_s,
        "decode_1_tokens_per_s": one, "decode_16_tokens_per_s": many,
        "decode_16_over_1": many / one,
        "read_floor_tokens_per_s": 1.0 / floor_s, "share_of_read_floor": one * floor_s,
        "answer_tokens": tokens, "generate_s": generate_s, "check_s": check_s,
        "check_over_generate": check_s / generate_s,
    })
}

/// Tokens a second of so many answers that grow together, each behind a prompt of its own.
fn together(
    decoder: &mut Decoder,
    device: &mut dyn Backend,
    text: &mut impl FnMut(usize) -> Vec<u32>,
    answers: usize,
) -> f64 {
    let mut contexts: Vec<Context> = Vec::new();
    for _ in 0..answers {
        let mut context = decoder.begin();
        decoder.prefill(device, &mut context, &text(PROMPT)).expect("a prompt");
        contexts.push(context);
    }
    let tokens = text(STEPS);
    let mut step = |token: u32| {
        let mut turns: Vec<(&mut Context, u32)> =
            contexts.iter_mut().map(|context| (context, token)).collect();
        decoder.step(device, &mut turns).expect("a token");
    };
    step(tokens[0]);
    let begin = Instant::now();
    tokens.iter().for_each(|token| step(*token));
    let rate = (STEPS * answers) as f64 / begin.elapsed().as_secs_f64();
    contexts.into_iter().for_each(|context| decoder.release(context));
    rate
}
