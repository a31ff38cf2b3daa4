//! Models in floating point: served, signed, logged, and refused by whoever asks for more than a worker's word.
#![cfg(feature = "candle-float")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Stdio,
    sync::{Arc, mpsc},
    time::Duration,
};

use alloy_primitives::{B256, TxKind, U256, hex};
use alloy_sol_types::{SolCall as _, SolError as _};
use common::{Home, same_shape, text, tiny, tx};
use hyperion_engine::{Answer, Drawing};
use hyperion_node::{
    config::{FloatModelConfig, NodeConfig},
    served::embedded,
    wire::{Node, domain},
};
use hyperion_precompile::address::{CLAIMS, INFERENCE};
use hyperion_primitives::{Dtype, input_hash, tensor_root};
use hyperion_rpc::{
    client::{self, Client, ClientConfig},
    float::FloatJob,
    r#gen::v1,
};
use hyperion_verify::{
    Request, Sampling,
    abi::{
        IClaims::{lookupCall, outputCall},
        IInference::inferCall,
        InferenceErrors::{ModelNotFound, TierNotReached},
    },
    receipt::check_request,
    state::{ClaimWord, StatePath},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

fn home() -> Home {
    let home = Home::new();
    tiny::llama(&home.file("llama"));
    tiny::bert(&home.file("bert"));
    tiny::vit(&home.file("vit"));
    let config = "[[float_models]]\nalias = \"chat\"\npath = \"llama\"\n\
                  [[float_models]]\nalias = \"similar\"\npath = \"bert\"\n\
                  [[float_models]]\nalias = \"seen\"\npath = \"vit\"\n";
    fs::write(home.file("node.toml"), config).unwrap();
    home
}

fn ask(model: &str, text: &str) -> v1::InferRequest {
    v1::InferRequest {
        model: model.to_owned(),
        input: Some(v1::infer_request::Input::Text(text.to_owned())),
        wait_for: v1::WaitFor::Logged.into(),
        ..v1::InferRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_answers_signs_and_logs_and_says_that_it_is_attested_only() {
    let home = home();
    let node = home.node(&["--dev", "--config", "node.toml"]);
    let said: Vec<_> = node.banner.iter().filter(|line| line.starts_with("float ")).collect();
    assert!(said[0].starts_with("float chat  0x"), "{said:?}");
    assert!(said[0].ends_with("  llama  cpu f32  attested only"), "{said:?}");
    let mut client = Client::connect(&node.grpc_url(), &ClientConfig::default()).await.unwrap();
    let listed = client.inference.list_models(v1::ListModelsRequest::default()).await.unwrap();
    let listed = listed.into_inner().models;
    let seen: Vec<_> =
        listed.iter().map(|model| (model.alias.as_str(), model.program_id.len())).collect();
    assert_eq!(seen, [("digits", 32), ("pydoc", 32), ("chat", 0), ("similar", 0), ("seen", 0)]);

    let spec = hyperion_node::config::ChainSpec::default();
    let request = v1::InferRequest {
        sampling: Some(v1::Sampling {
            temperature_q16: 1 << 16,
            tokens_max: 5,
            ..v1::Sampling::default()
        }),
        request: Some(v1::Request { nonce: vec![9; 32].into(), ..v1::Request::default() }),
        ..ask("chat", "w3 w14 w15")
    };
    let told = client.inference.infer(request).await.unwrap().into_inner();
    assert_eq!(told.input_tokens, [3, 14, 15]);
    assert!(!told.tokens.is_empty() && told.tokens.len() <= 5 && !told.text.is_empty());
    assert!(["stop", "length"].contains(&told.finish_reason.as_str()));
    assert_eq!((told.reached, told.replayed), (0, false));
    let envelope = client::envelope(domain(&spec), told.clone(), None).unwrap();
    envelope.claim.check(&envelope.domain).unwrap();
    envelope.check_request().unwrap();
    envelope.check_sampling().unwrap();
    envelope.check_output().unwrap();
    assert!(envelope.claim.is_attested_only());
    let claim = &envelope.claim.claim;
    assert_eq!((claim.tier, claim.macs, claim.in_tokens), (0, 0, 3));
    assert_eq!(claim.out_tokens as usize, told.tokens.len());

    // The request as it was filled in, once more: the same answer, not another one.
    let again = v1::InferRequest {
        sampling: Some(v1::Sampling {
            temperature_q16: 1 << 16,
            tokens_max: 5,
            ..v1::Sampling::default()
        }),
        request: told.request.clone(),
        ..ask("chat", "w3 w14 w15")
    };
    let replayed = client.inference.infer(again).await.unwrap().into_inner();
    assert_eq!((replayed.tokens, replayed.replayed), (told.tokens, true));
    let found = client
        .inference
        .get_claim(v1::GetClaimRequest {
            key: Some(v1::get_claim_request::Key::RequestId(claim.request_id.0.to_vec().into())),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((found.state(), found.reached), (v1::RequestState::Logged, 0));

    let refused = |request| {
        let mut client = client.clone();
        async move { client.inference.infer(request).await.unwrap_err().message().to_owned() }
    };
    let tier = |tier| v1::Request { tier, ..v1::Request::default() };
    let said = refused(v1::InferRequest { request: Some(tier(1)), ..ask("chat", "w3") }).await;
    assert!(said.contains("attested only"), "{said}");
    let said = refused(ask("chat", "")).await;
    assert!(said.contains("at least one token"), "{said}");
    let long = vec!["w1"; 41].join(" ");
    assert!(refused(ask("chat", &long)).await.contains("41 tokens"));
    let ids = v1::infer_request::Input::Tokens(v1::TokenInput { ids: vec![61] });
    let said = refused(v1::InferRequest { input: Some(ids), ..ask("chat", "") }).await;
    assert!(said.contains("61 is not below"), "{said}");
    let drawn = Some(v1::Sampling { top_k: 1, ..v1::Sampling::default() });
    let said = refused(v1::InferRequest { sampling: drawn, ..ask("similar", "w3") }).await;
    assert!(said.contains("draws nothing"), "{said}");
    for (drawn, field) in [
        (v1::Sampling { min_p_q16: 1, ..v1::Sampling::default() }, "min_p_q16"),
        (v1::Sampling { repetition_q16: 70_000, ..v1::Sampling::default() }, "repetition_q16"),
        (v1::Sampling { stop_texts: vec!["ab".into()], ..v1::Sampling::default() }, "stop_texts"),
    ] {
        let request = v1::InferRequest { sampling: Some(drawn), ..ask("chat", "w3") };
        let said = refused(request).await;
        assert!(said.contains("floating point"), "{field}: {said}");
    }
    let quote = v1::QuoteRequest { model: "chat".to_owned(), ..v1::QuoteRequest::default() };
    let said = client.inference.quote(quote).await.unwrap_err();
    assert!(said.message().contains("floating point"), "{said}");
    // A node that ends waits for open connections; a thread of its own closes this one while the test goes on.
    drop(client);

    let asked = home.ok(&[
        "infer",
        "similar",
        "--text",
        "w3 w4",
        "--receipt",
        "r.json",
        "--node",
        &node.grpc_url(),
    ]);
    same_shape(
        &asked,
        &[
            "output   i16[1,16]",
            "claim    0x…  macs 0  worker 0x…",
            "log      entry …",
            "tier     attested only: a worker's word, which nobody can recompute",
        ],
    );
    assert!(node.terminate().success());
    let checked = home.ok(&["verify", "r.json"]);
    assert!(checked.contains("tier       0    attested only"), "{checked}");
    let recomputed = home.run(&["verify", "r.json", "--recompute"]);
    assert_eq!(recomputed.status.code(), Some(1));
    let said = text(&recomputed.stdout);
    assert!(said.contains("recompute  FAILED  a float result cannot be recomputed"), "{said}");
}

/// Every piece of a stream, the text of its deltas, and the answer that ends it.
async fn streamed(
    client: &mut Client,
    request: v1::InferRequest,
) -> (usize, String, v1::InferResponse) {
    use v1::infer_stream_response::Event;
    let stream = v1::InferStreamRequest { request: Some(request), resume_at: 0 };
    let mut events = client.inference.infer_stream(stream).await.unwrap().into_inner();
    let (mut tokens, mut text) = (0, String::new());
    loop {
        match events.message().await.unwrap().unwrap().event.unwrap() {
            Event::Accepted(accepted) => assert_eq!(accepted.request_id.len(), 32),
            Event::Delta(delta) => {
                assert_eq!(delta.position as usize, tokens);
                tokens += delta.tokens.len();
                text += std::str::from_utf8(&delta.text).unwrap();
            }
            Event::Done(done) => return (tokens, text, done),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_answer_streams_and_a_stream_that_is_left_frees_the_model() {
    let home = home();
    let node = home.node(&["--dev", "--config", "node.toml"]);
    let mut client = Client::connect(&node.grpc_url(), &ClientConfig::default()).await.unwrap();
    let (tokens, text, done) = streamed(&mut client, ask("chat", "w3 w14 w15")).await;
    assert_eq!((tokens, done.reached), (done.tokens.len(), 0));
    assert_eq!((text, done.claim.unwrap().claim.unwrap().tier), (done.text, 0));
    assert!(done.receipt.is_some());

    let turns = vec![v1::ChatTurn { role: "user".to_owned(), content: "w3 w14".to_owned() }];
    let chat = Some(v1::infer_request::Input::Chat(v1::ChatInput { turns }));
    let (.., told) =
        streamed(&mut client, v1::InferRequest { input: chat, ..ask("chat", "") }).await;
    assert_eq!(told.input_tokens, [3, 14]);
    let (tokens, _, vector) = streamed(&mut client, ask("similar", "w3")).await;
    assert_eq!((tokens, vector.outputs[0].dims.as_slice()), (0, &[1, 16][..]));

    // Images: two rows of numbers for two rows of numbers, whichever stand beside them.
    let image = |seed: i32| (0..192).map(move |at| (at * seed % 61) << 10);
    let pixels = |images: Vec<i32>| v1::Tensor {
        dtype: Dtype::I32.code().into(),
        dims: vec![images.len() as u64 / 192, 192],
        body: Some(v1::tensor::Body::Data(
            images.iter().flat_map(|code| code.to_le_bytes()).collect::<Vec<_>>().into(),
        )),
        ..v1::Tensor::default()
    };
    let seen = |tensor| {
        let tensors =
            Some(v1::infer_request::Input::Tensors(v1::TensorInput { tensors: vec![tensor] }));
        v1::InferRequest { input: tensors, ..ask("seen", "") }
    };
    let mut look = async |images: Vec<i32>| {
        let told = client.inference.infer(seen(pixels(images))).await.unwrap().into_inner();
        let output = told.outputs[0].clone();
        let Some(v1::tensor::Body::Data(data)) = output.body else { panic!("no data") };
        (output.name, output.dtype, output.dims, data.to_vec())
    };
    let (name, dtype, dims, both) = look(image(7).chain(image(11)).collect()).await;
    assert_eq!((name.as_str(), dtype, dims), ("logits", i32::from(Dtype::I32.code()), vec![2, 3]));
    let (.., first) = look(image(7).collect()).await;
    assert_eq!(first.len(), 12);
    assert_ne!(first, both[12..]);
    let refused = client.inference.infer(seen(pixels(vec![0; 192 * 33]))).await.unwrap_err();
    assert!(refused.message().contains("33"), "{refused}");
    let refused = client.inference.infer(ask("seen", "w3")).await.unwrap_err();
    assert!(refused.message().contains("i32[rows, 192], not text"), "{refused}");

    // Left after its first piece; the next caller does not wait for the rest of it.
    let long = v1::InferStreamRequest { request: Some(ask("chat", "w3")), resume_at: 0 };
    let mut left = client.inference.infer_stream(long).await.unwrap().into_inner();
    left.message().await.unwrap();
    drop(left);
    client.inference.infer(ask("chat", "w4")).await.unwrap();
    drop(client);
    assert!(node.terminate().success());
}

/// Status and body of an HTTP call.
fn http(node: &common::Node, method: &str, path: &str, body: &Value) -> (String, String) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = TcpStream::connect(node.http()).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn json_of(node: &common::Node, method: &str, path: &str, body: &Value) -> Value {
    let (status, answer) = http(node, method, path, body);
    assert!(status.contains("200"), "{status}: {answer}");
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn openai_clients_are_answered_and_told_that_it_is_attested_only() {
    let home = home();
    let node = home.node(&["--dev", "--config", "node.toml"]);
    let models = json_of(&node, "GET", "/v1/models", &Value::Null);
    let of = |alias: &str| {
        let all = models["data"].as_array().unwrap();
        all.iter().find(|model| model["id"] == alias).unwrap()["hyperion"].clone()
    };
    assert_eq!(
        (&of("chat")["attestedOnly"], &of("digits")["attestedOnly"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(
        (&of("seen")["inputs"][0]["dims"], &of("seen")["tier"]),
        (&json!([-1, 192]), &json!(0))
    );

    let asked = json!({"model": "chat", "prompt": "w3 w14 w15", "max_tokens": 4, "temperature": 1, "seed": 7});
    let told = json_of(&node, "POST", "/v1/completions", &asked);
    let verification = &told["verification"];
    assert_eq!(verification["attested_only"], true);
    assert_eq!((&verification["tier"], &verification["reached"]), (&json!(0), &json!(0)));
    assert_eq!(told["usage"]["prompt_tokens"], 3);
    assert_eq!(verification["sampling"]["temperatureQ16"], 65_536);
    let again = json_of(&node, "POST", "/v1/completions", &asked);
    assert_ne!(again["id"], told["id"], "another nonce is another request");

    let chat = json!({"model": "chat", "messages": [{"role": "user", "content": "w3 w14"}], "max_tokens": 6});
    let told = json_of(&node, "POST", "/v1/chat/completions", &chat);
    let text = told["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(!text.is_empty() && told["verification"]["attested_only"] == json!(true));
    let mut streaming = chat;
    streaming["stream"] = true.into();
    let (_, events) = http(&node, "POST", "/v1/chat/completions", &streaming);
    let mut said = String::new();
    let mut attested = 0;
    for line in events.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        said += event["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        attested += u32::from(event["verification"]["attested_only"] == json!(true));
    }
    assert_eq!((said, attested), (text, 1), "{events}");
    assert!(events.contains("data: [DONE]"));

    let embedded =
        json_of(&node, "POST", "/v1/embeddings", &json!({"model": "similar", "input": "w3 w4"}));
    assert_eq!(embedded["data"][0]["embedding"].as_array().unwrap().len(), 16);
    assert_eq!(embedded["verification"]["tier"], 0);
    let mut tiered = asked;
    tiered["verification"] = json!({"tier": 1});
    let (status, refused) = http(&node, "POST", "/v1/completions", &tiered);
    assert!(!status.contains("200") && refused.contains("attested only"), "{status} {refused}");

    let mut talk = home.hyperion(&["chat", "chat", "--tokens", "5", "--node", &node.grpc_url()]);
    let mut talk = talk.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    talk.stdin.take().unwrap().write_all(b"w3 w14\n").unwrap();
    let said = text_of(&talk.wait_with_output().unwrap());
    assert!(said.contains("attested only]"), "{said}");
    assert!(node.terminate().success());
}

fn text_of(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_model_that_is_not_there_or_a_name_that_is_taken_keeps_the_node_from_starting() {
    let home = home();
    let refused = |config: &str| {
        fs::write(home.file("bad.toml"), config).unwrap();
        let output = home.run(&["run", "--dev", "--config", "bad.toml"]);
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    let said = refused("[[float_models]]\nalias = \"chat\"\npath = \"nowhere\"\n");
    assert!(said.contains("float model chat") && said.contains("config.json"), "{said}");
    let said = refused("[[float_models]]\nalias = \"digits\"\npath = \"llama\"\n");
    assert!(said.contains("alias `digits`"), "{said}");
    let said = refused("[[float_models]]\nalias = \"chat\"\npath = \"llama\"\ndevice = \"tpu\"\n");
    assert!(said.contains("float device `tpu`"), "{said}");
    assert!(refused("[[float_models]]\nalias = \"a\"\npats = \"llama\"\n").contains("pats"));
}

/// Runs a model of a node in this process, and returns once the claim is in the log.
fn answered(node: &Node) -> Arc<Answer> {
    let float = node.float().unwrap();
    let model = float.models()[0].clone();
    let bytes: Vec<u8> = [3_u32, 14, 15].iter().flat_map(|id| id.to_le_bytes()).collect();
    let root = tensor_root(Dtype::U32, &[3, 1], &bytes).unwrap();
    let sampling = Sampling { top_p_q16: 1 << 16, tokens_max: 4, ..Sampling::default() };
    let drawing = Drawing::new(sampling, vec![60]).unwrap();
    let request = Request {
        model_id: model.id,
        input_hash: input_hash(&[root]),
        sampling_hash: drawing.sampling().hash(),
        deadline: u64::MAX,
        nonce: U256::from(1),
        ..Request::default()
    };
    let (id, gone) = (request.id(&node.engine.domain()), CancellationToken::new());
    let draw = Some((drawing, B256::ZERO));
    let (model, input) = (model.id, bytes.into());
    let job = FloatJob { model, id, request, input, rows: 3, draw, on_tokens: None, gone };
    let (told, answer) = mpsc::channel();
    float.submit(job, Box::new(move |outcome| told.send(outcome).unwrap()));
    let answer = answer.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
    let path = StatePath::claim(&answer.digest);
    let mut news = node.ledger.store().snapshot();
    while news.pin().unwrap().get(&path).is_none() {
        std::thread::park_timeout(Duration::from_millis(20));
        news = node.ledger.store().snapshot();
    }
    let word = ClaimWord::from_word(&news.pin().unwrap().get(&path).unwrap()).unwrap();
    assert_eq!((word.reached(), word.disproved), (0, false));
    answer
}

/// Code of a contract that hands its calldata on to CLAIMS and what comes back to its caller.
fn forwarder() -> Vec<u8> {
    let init = hex!("602d8060095f395ff3");
    let (before, after) = (hex!("365f5f375f5f365f73"), hex!("5afa3d5f5f3e6029573d5ffd5b3d5ff3"));
    [&init[..], &before, CLAIMS.as_slice(), &after].concat()
}

#[test]
fn a_contract_that_asks_for_a_tier_refuses_the_claim_and_no_block_runs_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("llama");
    tiny::llama(&model);
    let one = FloatModelConfig { alias: "chat".to_owned(), path: model, ..Default::default() };
    let config =
        NodeConfig { float_models: vec![one], ..NodeConfig::dev(folder.path().join("node")) };
    let served = [embedded::digits().unwrap()];
    let node = Node::start(&config, &served, |error| panic!("{error}")).unwrap();
    let answer = answered(&node);
    let claim = &answer.claim.claim;
    answer.claim.check(&node.engine.domain()).unwrap();
    check_request(claim, &answer.request, &node.engine.domain(), None).unwrap();

    let deployed = tx::mined(&node, tx::signed(0, 1_000_000, TxKind::Create, 0, forwarder()));
    let contract = deployed.outcome.result().unwrap().created_address().unwrap();
    let mut nonce = 0;
    let mut call = |to, data: Vec<u8>| {
        nonce += 1;
        let mined = tx::mined(&node, tx::signed(nonce, 1_000_000, TxKind::Call(to), 0, data));
        let result = mined.outcome.result().unwrap();
        (result.is_success(), result.output().unwrap().to_vec())
    };
    let (request, model) = (claim.request_id.0, claim.model_id.0);
    let output = |min_tier| {
        outputCall { requestId: request, modelId: model, minTier: min_tier }.abi_encode()
    };
    for want in 1..=5 {
        let refused = TierNotReached { got: 0, want }.abi_encode();
        assert_eq!(call(contract, output(want)), (false, refused), "tier {want}");
    }
    assert_eq!(call(contract, output(0)), (true, claim.output_hash.to_vec()));
    let (found, data) = call(contract, lookupCall { requestId: request }.abi_encode());
    let looked_up = lookupCall::abi_decode_returns(&data).unwrap();
    assert_eq!((found, looked_up.reached, looked_up.claim.tier), (true, 0, 0));

    let infer = inferCall {
        modelId: model,
        input: vec![3, 0, 0, 0].into(),
        sampling: Default::default(),
        seed: B256::ZERO,
    };
    let unknown = ModelNotFound { modelId: model }.abi_encode();
    assert_eq!(call(INFERENCE, infer.abi_encode()), (false, unknown));
    node.stop().unwrap();
}
