//! Decoders of published shapes on this machine's CPU: prefill, decode, many at a time, and a check of an answer (lines L3, L4).
//!
//! `generation [--shape 1.1B|8B-quarter] [--weights 8bit|4bit|16bit] [--rounds 7] [--threads N]` measures rates; with
//! `--answer TOKENS` it generates an answer and checks it by one prefill instead. Prints one JSON object. Weights are seeded random numbers, so the text is noise and the work is real; the
//! file that they come from is kept, and `generation --gguf --shape NAME` prints where. The memory-read floor is the time that the
//! weights alone take to be read, measured on as many threads.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../writer.rs"]
mod writer;

use std::{sync::Arc, thread, time::Instant};

use hyperion_engine::KernelPool;
use hyperion_model::{Context, Decoder, Limits, Model, Replay, Sampler, import::Precision, replay};
use hyperion_ops::{Cpu, KernelSet, Sampling};
use hyperion_primitives::Mix;
use serde_json::{Value, json};

const PROMPT: usize = 32;
const PREFILL: usize = 512;
const TOGETHER: usize = 16;
/// Steps of a round.
const STEPS: usize = 12;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let text = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map(String::as_str)
    };
    let number = |name: &str| text(name).map(|value| value.parse::<usize>().expect("a number"));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = number("--threads").unwrap_or(cores);
    let wanted = text("--shape").unwrap_or(writer::SMALL.name);
    let shapes = [writer::SMALL, writer::LARGE];
    let shape = shapes.into_iter().find(|shape| shape.name == wanted).expect("a shape");
    if arguments.iter().any(|argument| argument == "--gguf") {
        println!("{}", json!({ "path": writer::gguf(shape) }));
        return;
    }
    let precisions = [Precision::EightBits, Precision::FourBits, Precision::SixteenBits];
    let wanted = text("--weights").unwrap_or(Precision::EightBits.name());
    let precision = precisions.into_iter().find(|precision| precision.name() == wanted);
    let precision = precision.expect("8bit, 4bit or 16bit");
    let report = match number("--answer") {
        Some(tokens) => check(shape, precision, tokens, threads),
        None => measure(shape, precision, number("--rounds").unwrap_or(7), threads),
    };
    println!("{report}");
}

/// Bytes that are read to see how fast memory is.
const READ_BYTES: usize = 1 << 29;

/// Seconds that a byte takes to be read, on so many threads.
fn read_byte_s(words: &[u64], threads: usize) -> f64 {
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
    begin.elapsed().as_secs_f64() / (8 * words.len()) as f64
}

/// A decoder and its device.
struct Rig {
    decoder: Decoder,
    device: Cpu,
    mix: Mix,
}

impl Rig {
    fn new(model: &Model, threads: usize) -> Self {
        let pool = Arc::new(KernelPool::new(threads).expect("the system gives threads"));
        let mut device = Cpu::new(KernelSet::best(), pool);
        let positions = 1_024_u32;
        let limits = Limits {
            rows_max: PREFILL as u32,
            outputs_max: 64,
            pages: TOGETHER as u32 * positions / Decoder::PAGE_ROWS,
        };
        let decoder = Decoder::load(model, &mut device, limits).expect("memory");
        Self { decoder, device, mix: Mix::new(3) }
    }

    fn text(&mut self, len: usize) -> Vec<u32> {
        let vocabulary = u64::from(self.decoder.vocabulary());
        (0..len).map(|_| self.mix.below(vocabulary) as u32).collect()
    }

    fn prompt(&mut self, len: usize) -> (Context, Vec<i32>) {
        let (tokens, mut context) = (self.text(len), self.decoder.begin());
        let logits = self.decoder.prefill(&mut self.device, &mut context, &tokens);
        (context, logits.expect("a prompt"))
    }

    /// Seconds of a step of sequences that grow together.
    fn steps(&mut self, contexts: &mut [Context], steps: usize) -> f64 {
        let tokens = self.text(steps);
        let begin = Instant::now();
        for token in tokens {
            let mut turns: Vec<_> = contexts.iter_mut().map(|context| (context, token)).collect();
            self.decoder.step(&mut self.device, &mut turns).expect("a token");
        }
        begin.elapsed().as_secs_f64() / steps as f64
    }

    /// Seconds of an answer to a prompt, and of checking it by one prefill.
    fn answer(&mut self, tokens: usize) -> (f64, f64) {
        let prompt = self.text(PROMPT);
        let mut context = self.decoder.begin();
        let mut sampler = Sampler::new(Sampling::GREEDY, [0; 32], &[]);
        let begin = Instant::now();
        let mut logits =
            self.decoder.prefill(&mut self.device, &mut context, &prompt).expect("a prompt");
        let mut answer = vec![sampler.next(&logits)];
        while answer.len() < tokens {
            let last = answer[answer.len() - 1];
            let next = self.decoder.step(&mut self.device, &mut [(&mut context, last)]);
            logits = next.expect("a token").remove(0);
            answer.push(sampler.next(&logits));
        }
        let generate_s = begin.elapsed().as_secs_f64();
        self.decoder.release(context);
        let begin = Instant::now();
        let sampler = Sampler::new(Sampling::GREEDY, [0; 32], &[]);
        let found = replay(&mut self.decoder, &mut self.device, &prompt, &answer, sampler);
        let check_s = begin.elapsed().as_secs_f64();
        assert_eq!(found.expect("a text"), Replay::Equal, "decode and prefill give the same");
        (generate_s, check_s)
    }
}

/// Everything in turns, round by round, so that whatever slows the machine meets all of it; the median of the rounds.
fn measure(shape: writer::Shape, precision: Precision, rounds: usize, threads: usize) -> Value {
    let model = writer::random(shape, precision);
    let mut rig = Rig::new(&model, threads);
    // What a token reads: every matrix once; of the embedding one row.
    let code_bytes = if precision == Precision::SixteenBits { 2 } else { 1 };
    let embedding = u64::from(rig.decoder.vocabulary()) * shape.hidden as u64 * code_bytes;
    let token_bytes = model.weights_bytes() - embedding;
    let (weights_bytes, words) = (model.weights_bytes(), vec![1_u64; READ_BYTES / 8]);
    drop(model);
    let mut one = vec![rig.prompt(PROMPT).0];
    let mut many: Vec<Context> = (0..TOGETHER).map(|_| rig.prompt(PROMPT).0).collect();
    let mut figures: [Vec<f64>; 6] = Default::default();
    for _ in 0..rounds {
        let floor_s = read_byte_s(&words, threads) * token_bytes as f64;
        let one_s = rig.steps(&mut one, STEPS);
        let many_s = rig.steps(&mut many, STEPS / 4);
        let begin = Instant::now();
        let (context, _) = rig.prompt(PREFILL);
        let prefill_s = begin.elapsed().as_secs_f64();
        rig.decoder.release(context);
        let floor_s = floor_s.min(read_byte_s(&words, threads) * token_bytes as f64);
        let together = TOGETHER as f64;
        let round = [
            PREFILL as f64 / prefill_s,
            1.0 / one_s,
            together / many_s,
            together * one_s / many_s,
            1.0 / floor_s,
            floor_s / one_s,
        ];
        figures.iter_mut().zip(round).for_each(|(all, figure)| all.push(figure));
    }
    let [prefill, one, many, many_over_one, floor, share] = figures.map(median);
    json!({
        "shape": shape.name, "weights": precision.name(), "threads": threads, "kernels": KernelSet::best().name(),
        "weights_bytes": weights_bytes, "token_bytes": token_bytes, "rounds": rounds,
        "prefill_tokens_per_s": prefill, "decode_1_tokens_per_s": one,
        "decode_16_tokens_per_s": many, "decode_16_over_1": many_over_one,
        "read_floor_tokens_per_s": floor, "share_of_read_floor": share,
    })
}

/// What an answer costs, and what its check does.
fn check(shape: writer::Shape, precision: Precision, tokens: usize, threads: usize) -> Value {
    let mut rig = Rig::new(&writer::random(shape, precision), threads);
    let (generate_s, check_s) = rig.answer(tokens);
    json!({
        "shape": shape.name, "weights": precision.name(), "threads": threads, "kernels": KernelSet::best().name(),
        "answer_tokens": tokens, "generate_s": generate_s, "check_s": check_s,
        "check_over_generate": check_s / generate_s,
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
