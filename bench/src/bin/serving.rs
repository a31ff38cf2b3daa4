//! What the door adds to the engine: latency of one call, throughput of many.
//!
//! `serving --minilm DIR [--seconds N]` prints one JSON object:
//!
//! * `digits`: one caller, one call after the other, through gRPC over loopback and straight into the engine, in turns
//!   of a hundred so that a disturbance meets both. Claims are signed in the call and appended durably behind it.
//! * `minilm`: 64 requests in flight, kept there by callbacks inside the process and by 64 gRPC clients with a connection
//!   each, in turns. Clients and node share the machine, so the clients' own work counts against the node.
//!
//! Every answer's claim is checked against the worker's key once before anything is timed, and no request repeats, so the
//! answer memo stays out.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../stand_ins.rs"]
mod stand_ins;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use hyperion_engine::{
    Answer, Engine, EngineConfig, KernelPool, ModelInfo, Registry, Signer as _, Ticket,
};
use hyperion_model::{Model, Trust, file::Parts, import};
use hyperion_ops::{Cpu, KernelSet};
use hyperion_primitives::{Address, ClaimDigest, Mix, RequestId, U256};
use hyperion_rpc::{
    client::{Client, ClientConfig},
    r#gen::v1::{self, infer_request::Input, tensor::Body},
    serve::{Listeners, ServeConfig, Shutdown},
};
use hyperion_store::{BlockInput, Seal, Store, StoreConfig};
use hyperion_verify::{Domain, Request, sign};
use serde_json::{Value, json};
use stand_ins::{Key, RealClock, Sink, door, now};

const DOMAIN: Domain = Domain { chain_id: 31_337, verifying_contract: Address::repeat_byte(0x52) };
const IN_FLIGHT: usize = 64;
/// Tokens of a MiniLM request.
const TOKENS: u32 = 64;
/// Calls of one kind before the other kind has its turn.
const GROUP: usize = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let minilm = PathBuf::from(value("--minilm").expect("--minilm DIR"));
    let seconds: u64 =
        value("--seconds").map_or(10, |seconds| seconds.parse().expect("--seconds N"));
    // As many threads as the node takes by itself.
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 2).clamp(1, 4))
        .enable_all()
        .build()
        .expect("the system gives threads");

    let folder =
        std::env::temp_dir().join(format!("hyperion-bench-serving-{}", std::process::id()));
    let node = Node::start(&runtime, &minilm, &folder);
    let report = json!({
        "digits": digits(&node, Duration::from_secs(seconds)),
        "minilm": many(&runtime, &node, Duration::from_secs(seconds)),
        "kernels": KernelSet::best().name(),
    });
    node.shutdown.stop.cancel();
    drop(node);
    std::fs::remove_dir_all(&folder).expect("the bench's own folder");
    println!("{report}");
}

/// Latency of a call through gRPC and of the same call without it.
///
/// The caller is one thread, call and connection together, as in a program of its own: on the node's own threads it would
/// wait for them as well.
fn digits(node: &Node, time: Duration) -> Value {
    let model = node.engine.resolve("digits").expect("registered");
    let caller = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the system gives a thread");
    let mut client = caller.block_on(node.client());
    let mut inputs = Inputs::new(1, "digits", 64, u32::MAX);

    let answer =
        caller.block_on(client.inference.infer(inputs.ask())).expect("an answer").into_inner();
    check(&answer);
    let (mut grpc, mut local) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while begin.elapsed() < time {
        caller.block_on(async {
            for _ in 0..GROUP {
                let ask = inputs.ask();
                let since = Instant::now();
                client.inference.infer(ask).await.expect("an answer");
                grpc.push(since.elapsed());
            }
        });
        for _ in 0..GROUP {
            let (input, nonce) = inputs.next();
            let since = Instant::now();
            let (done, outcome) = mpsc::channel();
            let tell = move |outcome| drop(done.send(outcome));
            let _ticket = submit(&node.engine, &model, input, nonce, Box::new(tell));
            outcome.recv().expect("the engine lives").expect("an answer");
            local.push(since.elapsed());
        }
    }
    let (grpc, local) = (Latencies::of(grpc), Latencies::of(local));
    json!({
        "calls": grpc.count,
        "grpc_ms": grpc.json(),
        "in_process_ms": local.json(),
        "added_p50_ms": grpc.p50 - local.p50,
    })
}

/// Throughput with [`IN_FLIGHT`] requests in flight, inside the process and through gRPC.
fn many(runtime: &tokio::runtime::Runtime, node: &Node, time: Duration) -> Value {
    let model = node.engine.resolve("minilm").expect("registered");
    let clients: Vec<Client> = runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..IN_FLIGHT {
            clients.push(node.client().await);
        }
        clients
    });
    let mut seed = 100;
    let mut inputs = || {
        seed += 1;
        Inputs::new(seed, "minilm", TOKENS, 30_000)
    };
    let answer =
        runtime.block_on(clients[0].clone().inference.infer(inputs().ask())).expect("an answer");
    check(&answer.into_inner());

    // Engine, door, door, engine: a machine that slows down or speeds up meets both alike.
    let mut rates = [Vec::new(), Vec::new()];
    for kind in [0, 1, 1, 0] {
        let begin = Instant::now();
        let answered = if kind == 0 {
            in_process(&node.engine, &model, &mut inputs, time)
        } else {
            through_grpc(runtime, &clients, &mut inputs, time)
        };
        rates[kind].push(answered as f64 / begin.elapsed().as_secs_f64());
    }
    let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
    let (engine, grpc) = (mean(&rates[0]), mean(&rates[1]));
    json!({
        "tokens_per_request": TOKENS,
        "in_flight": IN_FLIGHT,
        "engine_requests_per_s": engine,
        "grpc_requests_per_s": grpc,
        "engine_tokens_per_s": engine * f64::from(TOKENS),
        "grpc_tokens_per_s": grpc * f64::from(TOKENS),
        "share_of_engine": grpc / engine,
    })
}

/// Keeps the engine at [`IN_FLIGHT`] requests for a while; gives how many were answered.
fn in_process(
    engine: &Engine,
    model: &ModelInfo,
    inputs: &mut impl FnMut() -> Inputs,
    time: Duration,
) -> u64 {
    let mut inputs = inputs();
    let (done, outcomes) = mpsc::channel();
    let begin = Instant::now();
    let mut put = || {
        let (input, nonce) = inputs.next();
        let done = done.clone();
        submit(engine, model, input, nonce, Box::new(move |outcome| drop(done.send(outcome))))
            .detach();
    };
    (0..IN_FLIGHT).for_each(|_| put());
    let (mut answered, mut under_way) = (0, IN_FLIGHT);
    while under_way > 0 {
        outcomes.recv().expect("the engine lives").expect("an answer");
        answered += 1;
        under_way -= 1;
        if begin.elapsed() < time {
            put();
            under_way += 1;
        }
    }
    answered
}

/// The same by one gRPC client for each.
fn through_grpc(
    runtime: &tokio::runtime::Runtime,
    clients: &[Client],
    inputs: &mut impl FnMut() -> Inputs,
    time: Duration,
) -> u64 {
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let calls: Vec<_> = clients
        .iter()
        .map(|client| {
            let (mut client, mut inputs) = (client.clone(), inputs());
            let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
            runtime.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    client.inference.infer(inputs.ask()).await.expect("an answer");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    thread::sleep(time);
    over.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        for call in calls {
            call.await.expect("a client that does not panic");
        }
    });
    answered.load(Ordering::Relaxed)
}

type OnDone = Box<dyn FnOnce(Result<Arc<Answer>, hyperion_engine::Failure>) + Send>;

fn submit(engine: &Engine, model: &ModelInfo, input: Vec<u8>, nonce: U256, done: OnDone) -> Ticket {
    let request = Request { nonce, ..Request::default() };
    let job = engine.complete(model.id, request, input.into()).expect("a good input");
    engine.submit(job, done).expect("there is room")
}

/// The claim is the worker's, and its digest is what the answer says.
fn check(answer: &v1::InferResponse) {
    let digest = hyperion_rpc::client::claim_digest(&DOMAIN, answer).expect("a claim");
    let wire = answer.claim.as_ref().expect("a claim");
    assert_eq!(wire.claim_digest, digest.0.as_slice());
    let signature: [u8; 65] = wire.signature[..].try_into().expect("65 bytes");
    let signer = sign::recover(&digest.0, &signature).expect("a signature");
    assert_eq!(signer, Key::fixed().address());
}

/// Inputs that never repeat: pixels or token ids below a bound.
struct Inputs {
    mix: Mix,
    model: &'static str,
    width: u32,
    below: u32,
}

impl Inputs {
    fn new(seed: u64, model: &'static str, width: u32, below: u32) -> Self {
        Self { mix: Mix::new(seed), model, width, below }
    }

    fn next(&mut self) -> (Vec<u8>, U256) {
        let word = |mix: &mut Mix| {
            if self.below == u32::MAX {
                mix.i32(16).to_le_bytes()
            } else {
                (mix.below(self.below.into()) as u32).to_le_bytes()
            }
        };
        let input = (0..self.width).flat_map(|_| word(&mut self.mix)).collect();
        (input, U256::from_limbs([(); 4].map(|()| self.mix.u64())))
    }

    fn ask(&mut self) -> v1::InferRequest {
        let (input, nonce) = self.next();
        let (dtype, dims) = match self.model {
            "digits" => (v1::Dtype::I32, vec![1, u64::from(self.width)]),
            _ => (v1::Dtype::U32, vec![u64::from(self.width), 1]),
        };
        let tensor = v1::Tensor {
            name: String::new(),
            dtype: dtype.into(),
            dims,
            body: Some(Body::Data(input.into())),
        };
        v1::InferRequest {
            model: self.model.to_owned(),
            input: Some(Input::Tensors(v1::TensorInput { tensors: vec![tensor] })),
            request: Some(v1::Request {
                nonce: nonce.to_be_bytes_vec().into(),
                ..v1::Request::default()
            }),
            ..v1::InferRequest::default()
        }
    }
}

struct Latencies {
    count: usize,
    p50: f64,
    p99: f64,
}

impl Latencies {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        Self { count: all.len(), p50: at(0.5), p99: at(0.99) }
    }

    fn json(&self) -> Value {
        json!({ "p50": self.p50, "p99": self.p99 })
    }
}

/// A whole node: engine, claims in a store, the door.
struct Node {
    engine: Engine,
    address: String,
    shutdown: Shutdown,
}

impl Node {
    fn start(runtime: &tokio::runtime::Runtime, minilm: &Path, folder: &Path) -> Self {
        let mut registry = Registry::new();
        let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/digits");
        registry
            .add("digits", built(&import::mlp(&digits).expect("the committed model")))
            .expect("a name");
        let minilm = import::bert(minilm, &mut |_, _| {}).expect("the MiniLM folder");
        registry.add("minilm", built(&minilm)).expect("a name");

        let threads = thread::available_parallelism().map_or(1, usize::from);
        let pool = Arc::new(KernelPool::new(threads).expect("the system gives threads"));
        let device = Box::new(Cpu::new(KernelSet::best(), pool));
        let clock = Arc::new(RealClock::start());
        let (sink, claims) = mpsc::channel();
        let engine = Engine::new(
            EngineConfig::default(),
            registry,
            vec![device],
            Arc::new(Key::fixed()),
            DOMAIN,
            Arc::clone(&clock) as _,
            Box::new(Sink(sink)),
        )
        .expect("a device in service");
        let store = Store::create(
            &StoreConfig::new(folder, DOMAIN.chain_id, "bench.example/serving"),
            Seal::default(),
            [],
        )
        .expect("an empty folder");
        let told = engine.clone();
        thread::spawn(move || append(&store, &claims, &told));

        let shutdown = Shutdown::default();
        let door = door(&engine, &clock, &shutdown);
        let any = "127.0.0.1:0".parse().expect("an address");
        let config = ServeConfig { grpc: any, http: any, ..ServeConfig::default() };
        let listeners = runtime.block_on(Listeners::bind(config)).expect("a free port");
        let address = format!("http://{}", listeners.grpc_address());
        runtime.spawn(
            async move { listeners.serve(door, axum::Router::new()).await.expect("serving") },
        );
        Self { engine, address, shutdown }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.address, &ClientConfig::default()).await.expect("the node listens")
    }
}

fn built(parts: &Parts) -> Arc<Model> {
    let mut bytes = Vec::new();
    parts.write(&mut bytes).expect("memory");
    Arc::new(Model::from_bytes(bytes, Trust::Roots).expect("what was just written"))
}

/// Group commit: whatever has been claimed while the last block was written is the next block.
fn append(store: &Store, claims: &mpsc::Receiver<Arc<Answer>>, engine: &Engine) {
    while let Ok(first) = claims.recv() {
        let block: Vec<_> = std::iter::once(first).chain(claims.try_iter().take(4095)).collect();
        let entries: Vec<_> = block.iter().map(|answer| answer.claim.entry().to_vec()).collect();
        let start = store.head().log_size;
        let input = BlockInput { diff: &[], claims: &entries, blobs: &[] };
        let prepared = store.prepare(input).expect("claims are entries");
        let time_ms = u64::try_from(now().as_millis()).expect("before the year 500 million");
        store.commit(prepared, Seal { time_ms, ..Seal::default() }).expect("the disk has room");
        let places: Vec<(RequestId, ClaimDigest, u64)> = block
            .iter()
            .zip(start..)
            .map(|(answer, index)| (answer.claim.claim.request_id, answer.digest, index))
            .collect();
        engine.logged(&places);
    }
}
