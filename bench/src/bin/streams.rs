//! Streams over gRPC: time to the first token, time between tokens, with and without shared prefixes; and what a cancelled stream leaves
//! running (line L5).
//!
//! `streams [--answers 6]` prints one JSON object. The committed text model writes 64 tokens behind a prompt of about 200, of which every
//! stream shares the first 160; client and node share the machine.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../stand_ins.rs"]
mod stand_ins;
#[path = "../writer.rs"]
mod writer;

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use hyperion_engine::{Drawing, Engine, EngineConfig, KernelPool, OnTokens, Registry};
use hyperion_model::{Model, Tokenizer};
use hyperion_ops::{Cpu, KernelSet};
use hyperion_primitives::{Address, U256};
use hyperion_rpc::{
    client::{Client, ClientConfig},
    r#gen::v1::{self, infer_request::Input, infer_stream_response::Event},
    serve::{Listeners, ServeConfig, Shutdown},
};
use hyperion_verify::{Domain, Request, Sampling};
use serde_json::{Value, json};
use stand_ins::{Key, RealClock, Sink, door};

const DOMAIN: Domain = Domain { chain_id: 31_337, verifying_contract: Address::repeat_byte(0x52) };
const SHARED: usize = 160;
const OWN: usize = 40;
const TOKENS: u32 = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == "--answers");
    let answers =
        at.and_then(|at| arguments.get(at + 1)).map_or(6, |n| n.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("the system gives threads");
    let model = writer::pydoc();
    let text = std::fs::read_to_string(writer::pydoc_folder().join("heldout.txt"));
    let tokenizer = Tokenizer::whole(&writer::pydoc_folder().join("tokenizer.json"));
    let corpus = tokenizer.expect("the model's own").encode(&text.expect("the held out text"));
    let corpus = corpus.expect("text");
    let mut table = Vec::new();
    for prefix_reuse in [true, false] {
        for streams in [1, 8, 32] {
            let node = Node::start(&runtime, &model, prefix_reuse);
            let mut row = runtime.block_on(measure(&node, &corpus, streams, answers));
            row["prefix_reuse"] = json!(prefix_reuse);
            row["rows"] = json!(node.engine.stats().models[0].rows);
            table.push(row);
            node.shutdown.stop.cancel();
        }
    }
    let cancelled = cancelled(&Node::start(&runtime, &model, true), &model, &corpus);
    println!(
        "{}",
        json!({ "table": table, "cancelled": cancelled, "kernels": KernelSet::best().name() })
    );
}

struct Node {
    engine: Engine,
    address: String,
    shutdown: Shutdown,
    _claims: mpsc::Receiver<Arc<hyperion_engine::Answer>>,
}

impl Node {
    fn start(runtime: &tokio::runtime::Runtime, model: &Arc<Model>, prefix_reuse: bool) -> Self {
        let mut registry = Registry::new();
        registry.add("model", Arc::clone(model)).expect("a name");
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let pool = Arc::new(KernelPool::new(threads).expect("the system gives threads"));
        let clock = Arc::new(RealClock::start());
        let (sink, claims) = mpsc::channel();
        let config = EngineConfig { prefix_reuse, suite: false, ..EngineConfig::default() };
        let engine = Engine::new(
            config,
            registry,
            vec![Box::new(Cpu::new(KernelSet::best(), pool))],
            Arc::new(Key::fixed()),
            DOMAIN,
            Arc::clone(&clock) as _,
            Box::new(Sink(sink)),
        )
        .expect("a device in service");
        let shutdown = Shutdown::default();
        let door = door(&engine, &clock, &shutdown);
        let any = "127.0.0.1:0".parse().expect("an address");
        let config = ServeConfig { grpc: any, http: any, ..ServeConfig::default() };
        let listeners = runtime.block_on(Listeners::bind(config)).expect("a free port");
        let address = format!("http://{}", listeners.grpc_address());
        runtime.spawn(
            async move { listeners.serve(door, axum::Router::new()).await.expect("serving") },
        );
        Self { engine, address, shutdown, _claims: claims }
    }
}

/// The prompt of one answer: a beginning that all share, and words of its own.
fn prompt(corpus: &[u32], nth: usize) -> Vec<u32> {
    let own = SHARED + nth * OWN % (corpus.len() - SHARED - OWN);
    [&corpus[..SHARED], &corpus[own..own + OWN]].concat()
}

async fn measure(node: &Node, corpus: &[u32], streams: usize, answers: usize) -> Value {
    let begin = Instant::now();
    let tasks = (0..streams).map(|stream| {
        let address = node.address.clone();
        let prompts: Vec<_> =
            (0..answers).map(|nth| prompt(corpus, stream * answers + nth)).collect();
        tokio::spawn(async move {
            let client = Client::connect(&address, &ClientConfig::default()).await;
            let mut client = client.expect("the node listens");
            let (mut first, mut between, mut tokens) = (Vec::new(), Vec::new(), 0);
            for (nth, ids) in prompts.into_iter().enumerate() {
                let request = v1::InferRequest {
                    model: "model".to_owned(),
                    input: Some(Input::Tokens(v1::TokenInput { ids })),
                    sampling: Some(v1::Sampling {
                        temperature_q16: 1 << 16,
                        tokens_max: TOKENS,
                        ..v1::Sampling::default()
                    }),
                    request: Some(v1::Request {
                        nonce: U256::from(1 + stream * 1000 + nth).to_be_bytes_vec().into(),
                        ..v1::Request::default()
                    }),
                    ..v1::InferRequest::default()
                };
                let stream = v1::InferStreamRequest { request: Some(request), resume_at: 0 };
                let since = Instant::now();
                let mut last = None;
                let events = client.inference.infer_stream(stream).await;
                let mut events = events.expect("a stream").into_inner();
                let mut told = Vec::new();
                while let Some(event) = events.message().await.expect("an event") {
                    match event.event {
                        Some(Event::Delta(delta)) => {
                            match last.replace(Instant::now()) {
                                None => first.push(since.elapsed()),
                                Some(before) => between.push(before.elapsed()),
                            }
                            told.extend(delta.tokens);
                        }
                        Some(Event::Done(done)) => assert_eq!(done.tokens, told, "told as drawn"),
                        _ => {}
                    }
                }
                tokens += told.len();
            }
            (first, between, tokens)
        })
    });
    let (mut first, mut between, mut tokens) = (Vec::new(), Vec::new(), 0);
    for task in tasks.collect::<Vec<_>>() {
        let (of_first, of_between, of_tokens) = task.await.expect("a client");
        first.extend(of_first);
        between.extend(of_between);
        tokens += of_tokens;
    }
    json!({
        "streams": streams, "answers": streams * answers, "tokens": tokens,
        "tokens_per_s": tokens as f64 / begin.elapsed().as_secs_f64(),
        "first_token_ms": spread(first), "between_tokens_ms": spread(between),
    })
}

fn spread(mut all: Vec<Duration>) -> Value {
    all.sort_unstable();
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    json!({ "p50": at(0.5), "p99": at(0.99) })
}

/// Steps that begin after a caller went away, the one under way not counted, of 50 answers; and how soon its request had ended.
fn cancelled(node: &Node, model: &Model, corpus: &[u32]) -> Value {
    let (mut most, mut slowest) = (0, Duration::ZERO);
    for nth in 0..50 {
        let sampling = Sampling {
            tokens_max: 700,
            top_p_q16: 65_536,
            temperature_q16: 1 << 16,
            ..Sampling::default()
        };
        let drawing = Drawing::new(sampling, Vec::new()).expect("in range");
        let request =
            Request { nonce: U256::from(90_000 + nth), deadline: u64::MAX, ..Request::default() };
        let input = writer::bytes(&prompt(corpus, nth)).into();
        let job =
            node.engine.complete_drawn(model.id(), request, input, drawing).expect("a prompt");
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let on_tokens: OnTokens = Arc::new(move |_, _: &[u32], _: &[_]| {
            tell.lock().expect("whole").send(()).ok();
        });
        let (done, ended) = mpsc::channel();
        let on_done = Box::new(move |outcome: Result<_, _>| {
            done.send(outcome.is_err()).ok();
        });
        let ticket = node.engine.submit_stream(job, on_tokens, on_done).expect("room");
        (0..3).for_each(|_| told.recv().expect("tokens"));
        let steps = || node.engine.stats().models[0].batches;
        let since = Instant::now();
        drop(ticket);
        assert!(ended.recv().expect("told once"), "it is cancelled");
        slowest = slowest.max(since.elapsed());
        let before = steps();
        thread::sleep(Duration::from_millis(20));
        most = most.max(steps() - before);
    }
    // The step that was under way when the ticket fell is counted when it ends.
    json!({ "answers": 50, "steps_ended_afterwards_max": most, "told_ms_max": slowest.as_secs_f64() * 1e3 })
}
