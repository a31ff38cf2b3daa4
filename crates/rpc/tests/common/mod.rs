//! A whole node's door in this process: a real engine on the digits classifier, a log in memory, real sockets.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub(crate) mod device;
pub(crate) mod ledger;
mod models;
pub(crate) mod raw;
pub(crate) mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, UNIX_EPOCH},
};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use hyperion_engine::{
    Answer, ClaimSink, Clock, Engine, EngineConfig, ModelInfo, Pushback, Registry, SignError,
    Signer,
};
use hyperion_ops::Backend;
use hyperion_primitives::{Address, B256, ModelId};
use hyperion_rpc::{
    auth::Gate,
    client::{Client, ClientConfig},
    door::{Door, Face, Observer, Parts, Prices, TextEncoder},
    r#gen::v1,
    health::Readiness,
    limits::Limits,
    log::LogView,
    serve::{Listeners, ServeConfig, Shutdown},
    writing::{TextDecoder, Writing},
};
use hyperion_verify::{Domain, Sampling, sign};
use ledger::Ledger;
pub(crate) use models::{digits, letters, writer};
use serde_json::Value;
use tonic_types::StatusExt as _;

/// Where test claims are signed for.
pub(crate) const DOMAIN: Domain =
    Domain { chain_id: 31337, verifying_contract: Address::repeat_byte(0x52) };

/// The machine's clock.
#[derive(Debug, Default)]
pub(crate) struct RealClock {
    start: OnceLock<tokio::time::Instant>,
}

impl Clock for RealClock {
    fn now_us(&self) -> u64 {
        let start = self.start.get_or_init(tokio::time::Instant::now);
        u64::try_from(start.elapsed().as_micros()).unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "a real server has real deadlines")]
    fn unix_s(&self) -> u64 {
        std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }
}

pub(crate) struct TestSigner(pub(crate) sign::SigningKey);

impl Signer for TestSigner {
    fn address(&self) -> Address {
        sign::address(&self.0)
    }

    fn sign(&self, digest: B256) -> Result<[u8; 65], SignError> {
        Ok(sign::sign(&self.0, &digest))
    }
}

/// A key whose secret scalar repeats `byte`.
pub(crate) fn key(byte: u8) -> sign::SigningKey {
    sign::SigningKey::from_slice(&[byte; 32]).unwrap()
}

struct Sink(mpsc::Sender<Arc<Answer>>);

impl ClaimSink for Sink {
    fn offer(&self, answer: Arc<Answer>) -> Result<(), Pushback> {
        self.0.send(answer).map_err(|_| Pushback::Draining)
    }
}

/// "Tokenizes" each letter as its number, for a model whose vocabulary is small.
pub(crate) struct Letters;

impl TextEncoder for Letters {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        if text.contains('\u{fffd}') {
            return Err("the text holds a replacement character".to_owned());
        }
        Ok(text.bytes().map(|byte| u32::from(byte) % 16).collect())
    }
}

/// The token that ends the writer's answers.
pub(crate) const END: u32 = 5;

/// Writes each token as a letter from `?` on, and the end as nothing. A chat is its messages, one after another.
pub(crate) struct Signs;

impl TextEncoder for Signs {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        Ok(text.bytes().map(|byte| u32::from(byte.wrapping_sub(63) % 64)).collect())
    }
}

impl TextDecoder for Signs {
    fn decode(&self, ids: &[u32]) -> Result<String, String> {
        let shown = ids.iter().filter(|id| **id != END);
        Ok(shown.map(|id| char::from(63 + u8::try_from(*id).unwrap())).collect())
    }

    fn id(&self, text: &str) -> Option<u32> {
        match self.encode(text).unwrap().as_slice() {
            [id] => Some(*id),
            _ => None,
        }
    }

    fn token_bytes(&self) -> Result<Arc<hyperion_engine::TokenBytes>, String> {
        let signs = (0..64).map(|id| self.decode(&[id]).unwrap());
        Ok(Arc::new(hyperion_engine::TokenBytes::new(signs)))
    }

    fn chat(&self, messages: &[Value], tools: Option<&Value>) -> Result<Vec<u32>, String> {
        if tools.is_some() {
            return Err("this model's chat template knows no tools".to_owned());
        }
        let contents = messages.iter().filter_map(|message| message["content"].as_str());
        self.encode(&contents.collect::<Vec<_>>().concat())
    }
}

/// Gas is the length of the input; above a kilobyte there is none.
struct TestPrices;

impl Prices for TestPrices {
    fn gas(&self, _: &ModelInfo, input_bytes: u64, _: u32) -> Option<u64> {
        (input_bytes <= 1024).then_some(input_bytes)
    }
}

/// Remembers what was answered.
#[derive(Default)]
pub(crate) struct Seen(pub(crate) Mutex<Vec<(&'static str, String, &'static str)>>);

impl Observer for Seen {
    fn answered(&self, surface: &'static str, model: &str, code: &'static str, _: Duration) {
        self.0.lock().unwrap().push((surface, model.to_owned(), code));
    }
}

/// Says whatever it was told.
#[derive(Default)]
pub(crate) struct Word(pub(crate) Mutex<Option<String>>);

impl Readiness for Word {
    fn ready(&self) -> Result<(), String> {
        self.0.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

/// What a test may choose.
pub(crate) struct Setup {
    pub(crate) engine: EngineConfig,
    pub(crate) limits: Limits,
    pub(crate) gate: fn(Arc<dyn Clock>) -> Gate,
    pub(crate) serve: ServeConfig,
    pub(crate) devices: Vec<Box<dyn Backend>>,
    /// Workers that may attach.
    pub(crate) workers: Vec<Address>,
    /// Whether claims are logged as they come; else by [`Node::log_claims`].
    pub(crate) log_at_once: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            engine: EngineConfig::default(),
            limits: Limits::default(),
            gate: Gate::open,
            serve: ServeConfig {
                grpc: any,
                http: any,
                grace: Duration::from_secs(5),
                ..ServeConfig::default()
            },
            devices: vec![Box::new(hyperion_ops::Reference::new(1 << 30))],
            workers: Vec::new(),
            log_at_once: true,
        }
    }
}

/// A running door.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) door: Arc<Door>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) word: Arc<Word>,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) served: tokio::task::JoinHandle<()>,
    claims: Option<mpsc::Receiver<Arc<Answer>>>,
}

/// A door with defaults.
pub(crate) async fn start() -> Node {
    start_with(Setup::default()).await
}

/// A door as `setup` says.
pub(crate) async fn start_with(setup: Setup) -> Node {
    let clock: Arc<dyn Clock> = Arc::new(RealClock::default());
    let mut registry = Registry::new();
    registry.add("digits", digits()).unwrap();
    registry.add("letters", letters()).unwrap();
    registry.add("writer", writer()).unwrap();
    let (sink, claims) = mpsc::channel();
    let workers: BTreeSet<Address> = setup.workers.into_iter().collect();
    let config = EngineConfig { workers_max: workers.len(), ..setup.engine };
    let devices = setup.devices;
    let engine_clock = Arc::clone(&clock);
    let engine = tokio::task::spawn_blocking(move || {
        let signer = Arc::new(TestSigner(key(7)));
        Engine::new(config, registry, devices, signer, DOMAIN, engine_clock, Box::new(Sink(sink)))
    });
    let engine = engine.await.unwrap().unwrap();

    let ledger = Arc::new(Ledger::new());
    let claims = if setup.log_at_once {
        let (engine, ledger) = (engine.clone(), Arc::clone(&ledger));
        std::thread::spawn(move || {
            while let Ok(answer) = claims.recv() {
                ledger.log(&engine, &[answer]);
            }
        });
        None
    } else {
        Some(claims)
    };

    let (seen, word, shutdown) =
        (Arc::new(Seen::default()), Arc::new(Word::default()), Shutdown::default());
    let log: Arc<dyn LogView> = Arc::clone(&ledger) as _;
    let door = Door::new(Parts {
        engine: engine.clone(),
        log,
        faces: faces(),
        float: None,
        prices: Arc::new(TestPrices),
        gate: (setup.gate)(Arc::clone(&clock)),
        workers,
        limits: setup.limits,
        clock,
        readiness: Arc::clone(&word) as _,
        observer: Arc::clone(&seen) as _,
        shutdown: shutdown.clone(),
    });
    let listeners = Listeners::bind(setup.serve).await.unwrap();
    let (grpc, http) = (listeners.grpc_address(), listeners.http_address());
    let serving = listeners.serve(Arc::clone(&door), axum::Router::new());
    let served = tokio::spawn(async move { serving.await.unwrap() });
    Node { engine, ledger, door, seen, word, grpc, http, shutdown, served, claims }
}

impl Node {
    /// A client without a key.
    pub(crate) async fn client(&self) -> Client {
        self.client_with(&ClientConfig::default()).await
    }

    /// A client with a key or a certificate.
    pub(crate) async fn client_with(&self, config: &ClientConfig) -> Client {
        let scheme = if config.ca_pem.is_some() { "https" } else { "http" };
        let address = format!("{scheme}://localhost:{}", self.grpc.port());
        Client::connect(&address, config).await.unwrap()
    }

    /// A plain channel, for clients of other packages.
    pub(crate) async fn channel(&self) -> tonic::transport::Channel {
        let address = format!("http://{}", self.grpc);
        tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap()
    }

    /// A transport that knows no deadlines: what a call is told at its end comes from the node alone. tonic's own
    /// client would stop waiting by itself, at the very moment at which the node answers.
    pub(crate) fn untimed(&self) -> (Untimed, axum::http::Uri) {
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        (client, format!("http://{}", self.grpc).parse().unwrap())
    }

    /// Logs what has been claimed so far.
    pub(crate) fn log_claims(&self) {
        let claims = self.claims.as_ref().expect("set up with log_at_once = false");
        let answers: Vec<_> = claims.try_iter().collect();
        self.ledger.log(&self.engine, &answers);
    }

    /// Whom a holder of receipts of this node trusts.
    pub(crate) fn trust(&self) -> hyperion_verify::Trust {
        hyperion_verify::Trust {
            domain: DOMAIN,
            log: ledger::log_key(),
            witnesses: Vec::new(),
            witnesses_min: 0,
        }
    }

    pub(crate) fn model(&self, alias: &str) -> ModelInfo {
        self.engine.resolve(alias).unwrap()
    }

    /// An HTTP GET or POST over a plain socket: status, headers in lower case, body.
    pub(crate) async fn http(&self, method: &str, path: &str, body: &str) -> (u16, String, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut socket = tokio::net::TcpStream::connect(self.http).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.stop.cancel();
    }
}

fn faces() -> BTreeMap<ModelId, Face> {
    let digits = Face { input: "pixels".into(), output: "logits".into(), ..Face::default() };
    let letters = Face {
        input: "tokens".into(),
        output: "embedding".into(),
        text: Some(Arc::new(Letters)),
        ..Face::default()
    };
    let writer = Face {
        input: "tokens".into(),
        output: "tokens".into(),
        text: Some(Arc::new(Signs)),
        writing: Some(Writing {
            decoder: Arc::new(Signs),
            end_ids: vec![END],
            sampling: Sampling { top_p_q16: 65_536, ..Sampling::default() },
        }),
        ..Face::default()
    };
    BTreeMap::from([
        (self::digits().id(), digits),
        (self::letters().id(), letters),
        (self::writer().id(), writer),
    ])
}

/// One image of a seven, as the digits model reads it.
pub(crate) fn seven() -> Vec<u8> {
    std::fs::read("../../fixtures/digits/seven.i32").unwrap()
}

/// A request about one image.
pub(crate) fn ask_digits(data: Vec<u8>) -> v1::InferRequest {
    v1::InferRequest {
        model: "digits".into(),
        input: Some(tensors(v1::Dtype::I32, &[1, 64], data)),
        ..v1::InferRequest::default()
    }
}

/// One inline tensor as the input of a request.
pub(crate) fn tensors(dtype: v1::Dtype, dims: &[u64], data: Vec<u8>) -> v1::infer_request::Input {
    let tensor = v1::Tensor {
        name: String::new(),
        dtype: dtype.into(),
        dims: dims.to_vec(),
        body: Some(v1::tensor::Body::Data(data.into())),
    };
    v1::infer_request::Input::Tensors(v1::TensorInput { tensors: vec![tensor] })
}

/// Code of the error table in a status, and the field it names.
pub(crate) fn reason(status: &tonic::Status) -> (String, String) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    let field = details
        .bad_request()
        .and_then(|bad| bad.field_violations.first())
        .map(|violation| violation.field.clone())
        .unwrap_or_default();
    (reason, field)
}

/// A client of [`Node::untimed`].
pub(crate) type Untimed = hyper_util::client::legacy::Client<HttpConnector, tonic::body::Body>;

/// Waits for something that happens on another thread.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(outcome.is_ok(), "never happened: {what}");
}

/// Numbers that differ from call to call, so that no two requests are answered from the memo.
pub(crate) fn image(pixel: u32) -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let salt = u32::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap();
    (0..64_u32).flat_map(|i| ((pixel + i * salt) % 65_536).to_le_bytes()).collect()
}
