//! Requests that nobody should send, through the real door over loopback.
//!
//! `abuse` starts the door on the digits model and sends, to every method of `hyperion.v1`, of the Open Inference Protocol
//! and of HTTP, bytes that are no message, messages that are too long, empty or not UTF-8, wrong types, shapes and
//! models, and JSON that is none. What each must be told is looked up in `docs/errors.md`. After every one of them a good
//! request goes the same way and must be answered.
//!
//! Prints one JSON object: `cases`, those told something else (`wrong_status`), and good requests that were refused
//! (`good_refused`). Each failure is told on stderr.
#![expect(clippy::disallowed_methods, reason = "a real door has real deadlines")]

#[path = "../../../crates/rpc/tests/common/ledger.rs"]
#[expect(dead_code, reason = "disputes and proofs are for tests")]
#[allow(clippy::unwrap_used, reason = "written for tests")]
mod ledger;
#[path = "../../../crates/rpc/tests/common/raw.rs"]
mod raw;
#[path = "../stand_ins.rs"]
mod stand_ins;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use hyperion_engine::{Answer, Engine, EngineConfig, Registry};
use hyperion_model::{Model, Trust, import};
use hyperion_ops::Reference;
use hyperion_primitives::Address;
use hyperion_rpc::{
    auth::Gate,
    door::{Door, Face, Parts},
    r#gen::{
        inference::{
            self as oip, InferTensorContents, ModelInferRequest,
            model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
        },
        v1::{self, infer_request::Input, tensor::Body},
    },
    limits::Limits,
    serve::{Listeners, ServeConfig, Shutdown},
};
use hyperion_verify::Domain;
use ledger::Ledger;
use prost::Message;
use serde_json::{Value, json};
use stand_ins::{Key, Nothing, RealClock, Sink};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

const DOMAIN: Domain = Domain { chain_id: 31_337, verifying_contract: Address::repeat_byte(0x52) };
/// An image of a seven, as the model reads it.
const SEVEN: &[u8] = include_bytes!("../../../fixtures/digits/seven.i32");
/// Longest message that the door takes; the log's own service takes 4 MiB.
const MESSAGE_MAX: usize = 1 << 20;
/// Longest HTTP body.
const BODY_MAX: usize = 64 << 10;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the system gives two threads");
    let report = runtime.block_on(async {
        let node = Node::start().await;
        let table = error_table();
        let (mut cases, mut wrong, mut refused) = (0_u64, 0_u64, 0_u64);
        for case in all() {
            cases += 1;
            let got = node.send(&case.ask).await;
            if let Err(why) = case.want.compare(&got, &table) {
                wrong += 1;
                eprintln!("{}: {why}", case.name);
            }
            let good = node.send(&case.ask.good()).await;
            if !matches!(good, Got::Answer) {
                refused += 1;
                eprintln!("after {}: the good request: {good:?}", case.name);
            }
        }
        node.shutdown.stop.cancel();
        json!({ "cases": cases, "wrong_status": wrong, "good_refused": refused })
    });
    println!("{report}");
}

/// What is sent.
#[derive(Debug)]
enum Ask {
    /// Messages of one call, encoded or not.
    Grpc { path: String, messages: Vec<Vec<u8>> },
    /// Method and path, the body, and how long the request says it is.
    Http { method: &'static str, path: String, body: Vec<u8>, length: usize },
}

const INFER: &str = "hyperion.v1.InferenceService/Infer";
const MODEL_INFER: &str = "inference.GRPCInferenceService/ModelInfer";
const MODEL_STREAM: &str = "inference.GRPCInferenceService/ModelStreamInfer";

impl Ask {
    fn grpc(path: &str, message: &impl Message) -> Self {
        Self::Grpc { path: path.to_owned(), messages: vec![message.encode_to_vec()] }
    }

    fn bytes(path: &str, message: Vec<u8>) -> Self {
        Self::Grpc { path: path.to_owned(), messages: vec![message] }
    }

    fn http(method: &'static str, path: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self::Http { method, path: path.to_owned(), length: body.len(), body }
    }

    /// A good request on the same surface.
    fn good(&self) -> Self {
        match self {
            Self::Grpc { path, .. } if path == MODEL_STREAM => {
                Self::grpc(MODEL_STREAM, &model_infer(|_| {}))
            }
            Self::Grpc { path, .. } if path.starts_with("inference.") => {
                Self::grpc(MODEL_INFER, &model_infer(|_| {}))
            }
            Self::Grpc { .. } => Self::grpc(INFER, &infer(|_| {})),
            Self::Http { .. } => {
                Self::http("POST", "/v1/quote", r#"{"model":"digits","inputBytes":"256"}"#)
            }
        }
    }
}

/// What came back.
#[derive(Debug)]
enum Got {
    Answer,
    /// Status and code of the error table; none where the status is plain.
    Grpc(Code, String),
    /// An error inside a stream that goes on.
    InBand(String),
    Http(u16, String),
    Nothing(#[expect(dead_code, reason = "told on stderr")] String),
}

/// What must come back.
#[derive(Clone, Copy, Debug)]
enum Want {
    /// A row of the error table.
    Row(&'static str),
    /// A gRPC status without a row: decided before this program sees a message.
    Plain(Code),
    /// An HTTP status without a row.
    PlainHttp(u16),
}

impl Want {
    fn compare(self, got: &Got, table: &BTreeMap<&str, (String, u16)>) -> Result<(), String> {
        let holds = match (self, got) {
            (Self::Row(row), Got::Grpc(code, reason)) => {
                // `InvalidArgument` here is `INVALID_ARGUMENT` there.
                let name = format!("{code:?}").to_lowercase();
                row == reason && table[row].0.replace('_', "").to_lowercase() == name
            }
            (Self::Row(row), Got::InBand(reason)) => row == reason,
            (Self::Row(row), Got::Http(status, reason)) => row == reason && table[row].1 == *status,
            (Self::Plain(want), Got::Grpc(code, reason)) => want == *code && reason.is_empty(),
            (Self::PlainHttp(want), Got::Http(status, _)) => want == *status,
            _ => false,
        };
        if holds { Ok(()) } else { Err(format!("want {self:?}, got {got:?}")) }
    }
}

/// gRPC and HTTP status of every code, as the document says.
fn error_table() -> BTreeMap<&'static str, (String, u16)> {
    let rows = include_str!("../../../docs/errors.md").lines().filter(|l| l.starts_with("| `"));
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`'), (cells[3].to_owned(), cells[4].parse().expect("a status")))
    };
    rows.map(row).collect()
}

/// One bad request.
struct Case {
    name: String,
    ask: Ask,
    want: Want,
}

fn all() -> Vec<Case> {
    [no_messages(), ours(), open_inference(), http()].into_iter().flatten().collect()
}

/// Methods, and whether the first field of what they are asked is text.
const METHODS: [(&str, bool); 24] = [
    (INFER, true),
    ("hyperion.v1.InferenceService/InferStream", false),
    ("hyperion.v1.InferenceService/Quote", true),
    ("hyperion.v1.InferenceService/ListModels", false),
    ("hyperion.v1.InferenceService/GetClaim", false),
    ("hyperion.v1.InferenceService/GetReceipt", false),
    ("hyperion.v1.InferenceService/PutBlob", false),
    ("hyperion.v1.InferenceService/GetBlob", false),
    ("hyperion.v1.LogService/GetCheckpoint", false),
    ("hyperion.v1.LogService/GetInclusionProof", false),
    ("hyperion.v1.LogService/GetConsistencyProof", false),
    ("hyperion.v1.LogService/GetLeaves", false),
    ("hyperion.v1.LogService/WatchCheckpoints", false),
    ("inference.GRPCInferenceService/ServerLive", false),
    ("inference.GRPCInferenceService/ServerReady", false),
    ("inference.GRPCInferenceService/ModelReady", true),
    ("inference.GRPCInferenceService/ServerMetadata", false),
    ("inference.GRPCInferenceService/ModelMetadata", true),
    (MODEL_INFER, true),
    (MODEL_STREAM, true),
    ("inference.GRPCInferenceService/ModelStatistics", true),
    ("inference.GRPCInferenceService/RepositoryIndex", true),
    ("inference.GRPCInferenceService/RepositoryModelLoad", true),
    ("inference.GRPCInferenceService/RepositoryModelUnload", true),
];

/// Bytes that are no message, to every method; and methods that do not exist.
fn no_messages() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut put = |name: String, path: &str, bytes: Vec<u8>, want| {
        cases.push(Case { name, ask: Ask::bytes(path, bytes), want: Want::Plain(want) });
    };
    for (path, text) in METHODS {
        let forms: [(&str, &[u8]); 4] = [
            ("a field cut short", &[0x0a, 0x05, b'd']),
            ("a varint without end", &[0xff; 12]),
            ("wire type 7", &[0x0f]),
            ("a length beyond the message", &[0x7a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ];
        for (name, bytes) in forms {
            put(format!("{path}: {name}"), path, bytes.to_vec(), Code::Internal);
        }
        if text {
            let bytes = vec![0x0a, 0x02, 0xff, 0xfe];
            put(format!("{path}: a name that is not UTF-8"), path, bytes, Code::Internal);
        }
        put(format!("{path}: too long"), path, vec![0; (4 << 20) + 1], Code::OutOfRange);
    }
    for path in [
        "hyperion.v1.InferenceService/Nothing",
        "hyperion.v1.AuditService/Recompute",
        "nobody.Service/Infer",
    ] {
        put(path.to_owned(), path, Vec::new(), Code::Unimplemented);
    }
    // Workers are listed by their keys, and this node lists none.
    let path = "hyperion.v1.WorkerService/Attach";
    let (name, ask) = (path.to_owned(), Ask::bytes(path, Vec::new()));
    cases.push(Case { name, ask, want: Want::Row("forbidden") });
    cases
}

fn tensor(dtype: i32, dims: &[u64], data: Vec<u8>) -> v1::Tensor {
    v1::Tensor {
        name: String::new(),
        dtype,
        dims: dims.to_vec(),
        body: Some(Body::Data(data.into())),
    }
}

/// The good request with something changed.
fn infer(change: impl FnOnce(&mut v1::InferRequest)) -> v1::InferRequest {
    let tensor = tensor(v1::Dtype::I32.into(), &[1, 64], SEVEN.to_vec());
    let mut request = v1::InferRequest {
        model: "digits".to_owned(),
        input: Some(Input::Tensors(v1::TensorInput { tensors: vec![tensor] })),
        ..v1::InferRequest::default()
    };
    change(&mut request);
    request
}

fn with_tensors(tensors: Vec<v1::Tensor>) -> v1::InferRequest {
    infer(|request| request.input = Some(Input::Tensors(v1::TensorInput { tensors })))
}

fn with_terms(change: impl FnOnce(&mut v1::Request)) -> v1::InferRequest {
    infer(|request| change(request.request.insert(v1::Request::default())))
}

/// Well-formed messages of `hyperion.v1` that say something wrong.
fn ours() -> Vec<Case> {
    let i32s = i32::from(v1::Dtype::I32);
    let seven = || SEVEN.to_vec();
    let beyond = (1_u32 << 30).to_le_bytes().repeat(64);
    let infers = [
        ("nothing at all", v1::InferRequest::default(), "model_not_found"),
        ("no such model", infer(|r| r.model = "nobody".into()), "model_not_found"),
        ("a long name", infer(|r| r.model = "m".repeat(129)), "bad_field"),
        ("half an id", infer(|r| r.model = "0x12".into()), "model_not_found"),
        ("no input", infer(|r| r.input = None), "bad_field"),
        ("no tensor", with_tensors(Vec::new()), "input_shape"),
        ("two tensors", with_tensors(vec![tensor(i32s, &[1, 64], seven()); 2]), "input_shape"),
        ("65 tensors", with_tensors(vec![tensor(i32s, &[1, 64], seven()); 65]), "input_too_large"),
        ("no bytes", with_tensors(vec![tensor(i32s, &[1, 64], Vec::new())]), "bad_field"),
        ("a byte short", with_tensors(vec![tensor(i32s, &[1, 64], vec![0; 255])]), "bad_field"),
        ("a byte long", with_tensors(vec![tensor(i32s, &[1, 64], vec![0; 257])]), "bad_field"),
        ("no type", with_tensors(vec![tensor(0, &[1, 64], seven())]), "bad_field"),
        ("type 99", with_tensors(vec![tensor(99, &[1, 64], seven())]), "bad_field"),
        ("type -1", with_tensors(vec![tensor(-1, &[1, 64], seven())]), "bad_field"),
        (
            "another type",
            with_tensors(vec![tensor(v1::Dtype::U32.into(), &[1, 64], seven())]),
            "bad_field",
        ),
        ("no dimension", with_tensors(vec![tensor(i32s, &[], seven())]), "input_shape"),
        ("one dimension", with_tensors(vec![tensor(i32s, &[64], seven())]), "input_shape"),
        ("nine dimensions", with_tensors(vec![tensor(i32s, &[1; 9], seven())]), "input_too_large"),
        ("another width", with_tensors(vec![tensor(i32s, &[2, 32], seven())]), "input_shape"),
        ("2^64 - 1 rows", with_tensors(vec![tensor(i32s, &[u64::MAX, 64], seven())]), "bad_field"),
        (
            "513 rows",
            with_tensors(vec![tensor(i32s, &[513, 64], vec![0; 513 * 256])]),
            "input_too_large",
        ),
        ("beyond the range", with_tensors(vec![tensor(i32s, &[1, 64], beyond)]), "input_range"),
        ("text", infer(|r| r.input = Some(Input::Text("7".into()))), "bad_field"),
        (
            "tokens",
            infer(|r| r.input = Some(Input::Tokens(v1::TokenInput { ids: vec![1] }))),
            "bad_field",
        ),
        (
            "chat",
            infer(|r| r.input = Some(Input::Chat(v1::ChatInput::default()))),
            "unsupported_parameter",
        ),
        (
            "sampling",
            infer(|r| r.sampling = Some(v1::Sampling { top_k: 1, ..v1::Sampling::default() })),
            "sampling_invalid",
        ),
        ("wait for 9", infer(|r| r.wait_for = 9), "bad_field"),
        ("a short requester", with_terms(|r| r.requester = vec![1; 19].into()), "bad_field"),
        ("a long nonce", with_terms(|r| r.nonce = vec![1; 33].into()), "bad_field"),
        ("another input", with_terms(|r| r.input_hash = vec![1; 32].into()), "bad_field"),
        ("tier 2", with_terms(|r| r.tier = 2), "unsupported_parameter"),
        ("tier 257", with_terms(|r| r.tier = 257), "bad_field"),
        ("a fee in words", with_terms(|r| r.fee_max = "much".into()), "bad_field"),
        ("a deadline in the past", with_terms(|r| r.deadline_s = 1), "deadline"),
        ("nobody signed", with_terms(|r| r.requester = vec![1; 20].into()), "signature_invalid"),
        ("a short signature", infer(|r| r.request_signature = vec![27; 64].into()), "bad_field"),
    ];
    let mut cases = Vec::new();
    let mut put = |name: String, ask, want| cases.push(Case { name, ask, want: Want::Row(want) });
    let service = |method: &str| format!("hyperion.v1.InferenceService/{method}");
    for (name, request, want) in infers {
        put(format!("Infer: {name}"), Ask::grpc(INFER, &request), want);
        let request = v1::InferStreamRequest { request: Some(request), resume_at: 0 };
        put(format!("InferStream: {name}"), Ask::grpc(&service("InferStream"), &request), want);
    }
    let nothing = v1::InferStreamRequest::default();
    put(
        "InferStream: no request".into(),
        Ask::grpc(&service("InferStream"), &nothing),
        "bad_field",
    );

    let quote = |model: &str, input_bytes, tier| v1::QuoteRequest {
        model: model.to_owned(),
        input_bytes,
        tier,
        tokens_max: 0,
    };
    for (name, request, want) in [
        ("nothing at all", quote("", 0, 0), "model_not_found"),
        ("no such model", quote("nobody", 256, 0), "model_not_found"),
        ("no whole row", quote("digits", 255, 0), "input_shape"),
        ("no row", quote("digits", 0, 0), "input_shape"),
        ("2^64 - 1 bytes", quote("digits", u64::MAX, 0), "input_shape"),
        ("tier 4", quote("digits", 256, 4), "unsupported_parameter"),
    ] {
        put(format!("Quote: {name}"), Ask::grpc(&service("Quote"), &request), want);
    }
    let token =
        v1::ListModelsRequest { page_token: "\u{0}nowhere".repeat(99), page_size: u32::MAX };
    put(
        "ListModels: a token of nobody".into(),
        Ask::grpc(&service("ListModels"), &token),
        "bad_field",
    );

    use v1::get_claim_request::Key;
    let claim = |key| v1::GetClaimRequest { key };
    for (name, request, want) in [
        ("no key", claim(None), "bad_field"),
        ("a short digest", claim(Some(Key::ClaimDigest(vec![1; 31].into()))), "bad_field"),
        ("an unknown claim", claim(Some(Key::ClaimDigest(vec![1; 32].into()))), "claim_not_found"),
        ("an empty request id", claim(Some(Key::RequestId(Vec::new().into()))), "bad_field"),
        ("an unknown request", claim(Some(Key::RequestId(vec![1; 32].into()))), "claim_not_found"),
    ] {
        put(format!("GetClaim: {name}"), Ask::grpc(&service("GetClaim"), &request), want);
    }
    for (name, digest, want) in [
        ("nothing at all", 0, "bad_field"),
        ("a long digest", 33, "bad_field"),
        ("an unknown claim", 32, "claim_not_found"),
    ] {
        let request = v1::GetReceiptRequest { claim_digest: vec![1; digest].into(), size: 0 };
        put(format!("GetReceipt: {name}"), Ask::grpc(&service("GetReceipt"), &request), want);
    }
    let blob = |dtype, dims: &[u64], chunk: usize| v1::PutBlobRequest {
        dtype,
        dims: dims.to_vec(),
        chunk: vec![0; chunk].into(),
    };
    for (name, request, want) in [
        ("nothing at all", blob(0, &[], 0), "bad_field"),
        ("type 99", blob(99, &[1], 4), "bad_field"),
        ("no dimension", blob(i32s, &[], 4), "bad_field"),
        ("dimension 0", blob(i32s, &[0], 0), "bad_field"),
        ("a byte short", blob(i32s, &[1], 3), "bad_field"),
        ("a byte long", blob(i32s, &[1], 5), "bad_field"),
        ("more than a blob", blob(i32s, &[1 << 40], 4), "input_too_large"),
        ("more than there is", blob(i32s, &[u64::MAX, u64::MAX], 4), "bad_field"),
    ] {
        put(format!("PutBlob: {name}"), Ask::grpc(&service("PutBlob"), &request), want);
    }
    let none = Ask::Grpc { path: service("PutBlob"), messages: Vec::new() };
    put("PutBlob: no message".into(), none, "bad_field");
    for (name, root) in [("no root", 0), ("a short root", 31), ("an unknown root", 32)] {
        let request = v1::GetBlobRequest { root: vec![1; root].into(), offset: 0 };
        put(format!("GetBlob: {name}"), Ask::grpc(&service("GetBlob"), &request), "bad_field");
    }
    log(&mut put);
    cases
}

fn log(put: &mut impl FnMut(String, Ask, &'static str)) {
    use v1::get_inclusion_proof_request::Leaf;
    let service = |method: &str| format!("hyperion.v1.LogService/{method}");
    let proof = |leaf, size| v1::GetInclusionProofRequest { leaf, size };
    let far = 1 << 40;
    for (name, request, want) in [
        ("nothing at all", proof(None, 0), "bad_field"),
        ("a short hash", proof(Some(Leaf::LeafHash(vec![1; 31].into())), 0), "bad_field"),
        (
            "an unknown claim",
            proof(Some(Leaf::ClaimDigest(vec![1; 32].into())), 0),
            "claim_not_found",
        ),
        ("an index beyond the size", proof(Some(Leaf::Index(9)), 2), "bad_field"),
        ("a size of no checkpoint", proof(Some(Leaf::Index(0)), far), "checkpoint_unknown"),
    ] {
        let ask = Ask::grpc(&service("GetInclusionProof"), &request);
        put(format!("GetInclusionProof: {name}"), ask, want);
    }
    for (name, old_size, new_size, want) in [
        ("nothing at all", 0, 0, "bad_field"),
        ("backwards", 3, 2, "bad_field"),
        ("beyond the log", 1, far, "checkpoint_unknown"),
    ] {
        let request = v1::GetConsistencyProofRequest { old_size, new_size };
        let ask = Ask::grpc(&service("GetConsistencyProof"), &request);
        put(format!("GetConsistencyProof: {name}"), ask, want);
    }
    for (name, start, count, want) in [
        ("nothing at all", 0, 0, "bad_field"),
        ("257 leaves", 0, 257, "bad_field"),
        ("beyond the log", far, 1, "checkpoint_unknown"),
        ("beyond all logs", u64::MAX, 256, "checkpoint_unknown"),
    ] {
        let request = v1::GetLeavesRequest { start, count };
        put(format!("GetLeaves: {name}"), Ask::grpc(&service("GetLeaves"), &request), want);
    }
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

/// The good request with something changed.
fn model_infer(change: impl FnOnce(&mut ModelInferRequest)) -> ModelInferRequest {
    let mut request = ModelInferRequest {
        model_name: "digits".to_owned(),
        inputs: vec![input("pixels", "INT32", &[1, 64])],
        raw_input_contents: vec![SEVEN.to_vec().into()],
        ..ModelInferRequest::default()
    };
    change(&mut request);
    request
}

/// Well-formed messages of the Open Inference Protocol that say something wrong.
fn open_inference() -> Vec<Case> {
    let shaped = |name: &str, datatype: &str, shape: &[i64]| {
        model_infer(|r| r.inputs = vec![input(name, datatype, shape)])
    };
    let raw = |data: Vec<u8>| model_infer(|r| r.raw_input_contents = vec![data.into()]);
    let floats = InferInputTensor {
        contents: Some(InferTensorContents {
            fp32_contents: vec![0.5; 64],
            ..InferTensorContents::default()
        }),
        ..input("pixels", "INT32", &[1, 64])
    };
    let label = InferRequestedOutputTensor { name: "label".to_owned(), ..Default::default() };
    let infers = [
        ("nothing at all", ModelInferRequest::default(), "model_not_found"),
        ("no such model", model_infer(|r| r.model_name = "nobody".into()), "model_not_found"),
        ("another version", model_infer(|r| r.model_version = "1".into()), "model_not_found"),
        ("FP32", shaped("pixels", "FP32", &[1, 64]), "bad_field"),
        ("UINT32", shaped("pixels", "UINT32", &[1, 64]), "bad_field"),
        ("BYTES", shaped("pixels", "BYTES", &[1, 64]), "bad_field"),
        ("no type", shaped("pixels", "", &[1, 64]), "bad_field"),
        ("another input", shaped("image", "INT32", &[1, 64]), "bad_field"),
        ("dimension 0", shaped("pixels", "INT32", &[0, 64]), "bad_field"),
        ("dimension -1", shaped("pixels", "INT32", &[-1, 64]), "bad_field"),
        ("one dimension", shaped("pixels", "INT32", &[64]), "input_shape"),
        ("nine dimensions", shaped("pixels", "INT32", &[1; 9]), "input_too_large"),
        ("another width", shaped("pixels", "INT32", &[2, 32]), "input_shape"),
        ("no bytes", raw(Vec::new()), "bad_field"),
        ("a byte short", raw(vec![0; 255]), "bad_field"),
        ("a tensor too long", raw(vec![0; 512 << 10]), "input_too_large"),
        ("no contents", model_infer(|r| r.raw_input_contents.clear()), "bad_field"),
        ("contents of nobody", model_infer(|r| r.inputs.clear()), "bad_field"),
        (
            "floats in an INT32",
            model_infer(|r| (r.inputs, r.raw_input_contents) = (vec![floats], Vec::new())),
            "bad_field",
        ),
        ("another output", model_infer(|r| r.outputs = vec![label]), "bad_field"),
    ];
    let mut cases = Vec::new();
    let mut put = |name: String, ask, want| cases.push(Case { name, ask, want: Want::Row(want) });
    for (name, request, want) in infers {
        put(format!("ModelInfer: {name}"), Ask::grpc(MODEL_INFER, &request), want);
        put(format!("ModelStreamInfer: {name}"), Ask::grpc(MODEL_STREAM, &request), want);
    }
    let service = |method: &str| format!("inference.GRPCInferenceService/{method}");
    for name in ["", "nobody"] {
        let (name, version) = (name.to_owned(), String::new());
        let asked = oip::ModelMetadataRequest { name: name.clone(), version: version.clone() };
        let ask = Ask::grpc(&service("ModelMetadata"), &asked);
        put(format!("ModelMetadata: `{name}`"), ask, "model_not_found");
    }
    let nobody = oip::ModelStatisticsRequest { name: "nobody".into(), version: String::new() };
    let ask = Ask::grpc(&service("ModelStatistics"), &nobody);
    put("ModelStatistics: `nobody`".into(), ask, "model_not_found");
    // Whoever names no key has no say over models.
    for method in ["RepositoryModelLoad", "RepositoryModelUnload"] {
        put(method.to_owned(), Ask::bytes(&service(method), Vec::new()), "forbidden");
    }
    cases
}

/// Requests to the HTTP door.
fn http() -> Vec<Case> {
    let unknown = format!("0x{}", "11".repeat(32));
    let upper = format!("0x{}", "AB".repeat(32));
    let mut cases = Vec::new();
    let mut put = |name: String, ask, want| cases.push(Case { name, ask, want });
    for path in ["/v1/quote", "/v1/embeddings"] {
        let bodies: [(&str, Vec<u8>, &str); 8] = [
            ("nothing", Vec::new(), "bad_field"),
            ("half an object", b"{".to_vec(), "bad_field"),
            ("no object", b"[]".to_vec(), "bad_field"),
            ("no UTF-8", b"{\"model\":\"\xff\xfe\"}".to_vec(), "bad_field"),
            ("a field of nobody", br#"{"model":"digits","bytes":1}"#.to_vec(), "bad_field"),
            ("a number for a name", br#"{"model":7}"#.to_vec(), "bad_field"),
            ("10,000 brackets", b"[".repeat(10_000), "bad_field"),
            ("a long body", vec![b' '; BODY_MAX + 1], "input_too_large"),
        ];
        for (name, body, want) in bodies {
            put(format!("{path}: {name}"), Ask::http("POST", path, body), Want::Row(want));
        }
        // The body ends before the length that was promised.
        let (path, body) = (path.to_owned(), b"{\"model\":".to_vec());
        let name = format!("{path}: a body cut short");
        put(name, Ask::Http { method: "POST", path, body, length: 100 }, Want::Row("bad_field"));
    }
    for (name, body, want) in [
        ("no such model", r#"{"model":"nobody","inputBytes":"256"}"#, "model_not_found"),
        ("no whole row", r#"{"model":"digits","inputBytes":"255"}"#, "input_shape"),
        ("a number for a string", r#"{"model":"digits","inputBytes":256}"#, "bad_field"),
        ("2^64 bytes", r#"{"model":"digits","inputBytes":"18446744073709551616"}"#, "bad_field"),
        ("a sign", r#"{"model":"digits","inputBytes":"+256"}"#, "bad_field"),
        ("tier 4", r#"{"model":"digits","inputBytes":"256","tier":4}"#, "unsupported_parameter"),
    ] {
        put(format!("/v1/quote: {name}"), Ask::http("POST", "/v1/quote", body), Want::Row(want));
    }
    for (name, body, want) in [
        ("no such model", r#"{"model":"nobody","input":"a"}"#, "model_not_found"),
        ("a model of images", r#"{"model":"digits","input":"a"}"#, "bad_field"),
        ("two inputs", r#"{"model":"digits","input":["a","b"]}"#, "bad_field"),
        ("no input", r#"{"model":"digits"}"#, "bad_field"),
    ] {
        let ask = Ask::http("POST", "/v1/embeddings", body);
        put(format!("/v1/embeddings: {name}"), ask, Want::Row(want));
    }
    for (path, want) in [
        (format!("/v1/claims/{unknown}"), "claim_not_found"),
        (format!("/v1/claims/{upper}"), "bad_field"),
        ("/v1/claims/0x11".to_owned(), "bad_field"),
        ("/v1/claims/%ff%fe".to_owned(), "bad_field"),
        (format!("/v1/receipts/{unknown}"), "claim_not_found"),
        ("/v1/receipts/7".to_owned(), "bad_field"),
        ("/v1/receipts/%ff%fe".to_owned(), "bad_field"),
        ("/log/tile/0/999".to_owned(), "checkpoint_unknown"),
        ("/log/tile/9/000".to_owned(), "bad_field"),
        ("/log/tile/0/%ff%fe".to_owned(), "bad_field"),
    ] {
        put(path.clone(), Ask::http("GET", &path, ""), Want::Row(want));
    }
    for (method, path, want) in [
        ("GET", "/nowhere", 404),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/quote", 405),
        ("POST", "/livez", 405),
        ("POST", "/readyz", 405),
        ("POST", "/log/checkpoint", 405),
    ] {
        put(format!("{method} {path}"), Ask::http(method, path, ""), Want::PlainHttp(want));
    }
    cases
}

/// A running door.
struct Node {
    channel: Channel,
    http: SocketAddr,
    shutdown: Shutdown,
}

impl Node {
    async fn start() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/digits");
        let mut bytes = Vec::new();
        import::mlp(&folder).expect("the committed model").write(&mut bytes).expect("memory");
        let digits = Arc::new(Model::from_bytes(bytes, Trust::Roots).expect("just written"));
        let face = Face { input: "pixels".into(), output: "logits".into(), ..Face::default() };
        let faces = BTreeMap::from([(digits.id(), face)]);
        let mut registry = Registry::new();
        registry.add("digits", digits).expect("a name");
        let (sink, claims) = mpsc::channel::<Arc<Answer>>();
        let clock = Arc::new(RealClock::start());
        let told = Arc::clone(&clock);
        let engine = tokio::task::spawn_blocking(move || {
            let device = Box::new(Reference::new(1 << 30));
            let (config, signer) = (EngineConfig::default(), Arc::new(Key::fixed()));
            Engine::new(config, registry, vec![device], signer, DOMAIN, told, Box::new(Sink(sink)))
        });
        let engine = engine.await.expect("no panic").expect("a device in service");
        let ledger = Arc::new(Ledger::new());
        {
            let (engine, ledger) = (engine.clone(), Arc::clone(&ledger));
            thread::spawn(move || {
                while let Ok(answer) = claims.recv() {
                    ledger.log(&engine, &[answer]);
                }
            });
        }
        let shutdown = Shutdown::default();
        let door = Door::new(Parts {
            float: None,
            engine,
            log: ledger,
            faces,
            prices: Arc::new(Nothing),
            gate: Gate::open(Arc::clone(&clock) as _),
            workers: Default::default(),
            limits: Limits {
                message_bytes_max: MESSAGE_MAX,
                tensor_bytes_max: 128 << 10,
                body_bytes_max: BODY_MAX,
                ..Limits::default()
            },
            clock,
            readiness: Arc::new(Nothing),
            observer: Arc::new(Nothing),
            shutdown: shutdown.clone(),
        });
        let any = "127.0.0.1:0".parse().expect("an address");
        let config = ServeConfig { grpc: any, http: any, ..ServeConfig::default() };
        let listeners = Listeners::bind(config).await.expect("a free port");
        let (grpc, http) = (listeners.grpc_address(), listeners.http_address());
        tokio::spawn(async move {
            listeners.serve(door, axum::Router::new()).await.expect("serving");
        });
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{grpc}"));
        let channel = endpoint.expect("an address").connect().await.expect("the door listens");
        Self { channel, http, shutdown }
    }

    async fn send(&self, ask: &Ask) -> Got {
        let got = async {
            match ask {
                Ask::Grpc { path, messages } => self.grpc(path, messages.clone()).await,
                Ask::Http { method, path, body, length } => {
                    self.http(method, path, body, *length).await
                }
            }
        };
        let late = || Got::Nothing("no answer in time".to_owned());
        tokio::time::timeout(PATIENCE, got).await.unwrap_or_else(|_| late())
    }

    /// On the wire every call is a stream of messages, so that one form does for all.
    async fn grpc(&self, path: &str, messages: Vec<Vec<u8>>) -> Got {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        if let Err(error) = client.ready().await {
            return Got::Nothing(error.to_string());
        }
        let uri = format!("/{path}").parse().expect("a path");
        let request = tonic::Request::new(tokio_stream::iter(messages));
        let told = |status: Status| {
            let details = status.get_error_details();
            let reason = details.error_info().map(|info| info.reason.clone());
            Got::Grpc(status.code(), reason.unwrap_or_default())
        };
        let mut answers = match client.streaming(request, uri, raw::RawCodec).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return told(status),
        };
        loop {
            match answers.message().await {
                Ok(None) => return Got::Answer,
                Ok(Some(answer)) if path == MODEL_STREAM => {
                    let answer = oip::ModelStreamInferResponse::decode(&answer[..]);
                    let error = answer.expect("an answer of the protocol").error_message;
                    if let Some((reason, _)) = error.split_once(": ") {
                        return Got::InBand(reason.to_owned());
                    }
                }
                Ok(Some(_)) => {}
                Err(status) => return told(status),
            }
        }
    }

    async fn http(&self, method: &str, path: &str, body: &[u8], length: usize) -> Got {
        let exchange = async {
            let mut socket = tokio::net::TcpStream::connect(self.http).await?;
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
            );
            socket.write_all(&[head.as_bytes(), body].concat()).await?;
            if length > body.len() {
                socket.shutdown().await?;
            }
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = match exchange.await {
            Ok(answer) => answer,
            Err(error) => return Got::Nothing(error.to_string()),
        };
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            return Got::Nothing(answer);
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        match (status, body["error"]["code"].as_str()) {
            (Some(200), None) => Got::Answer,
            (Some(status), code) => Got::Http(status, code.unwrap_or_default().to_owned()),
            (None, _) => Got::Nothing(head.to_owned()),
        }
    }
}
