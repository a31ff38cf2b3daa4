//! Text over the Open Inference Protocol: whole, part by part, and refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{
    Node, Setup,
    device::{Hold, Stopping},
    reason, start, start_with, until,
};
use hyperion_rpc::r#gen::{
    inference::{
        InferParameter, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
        ModelStreamInferResponse,
        grpc_inference_service_client::GrpcInferenceServiceClient,
        infer_parameter::ParameterChoice::{
            self, BoolParam, DoubleParam, Int64Param, StringParam, Uint64Param,
        },
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
    v1,
};
use tonic::{Code, transport::Channel};

type Client = GrpcInferenceServiceClient<Channel>;

async fn connect(node: &Node) -> Client {
    GrpcInferenceServiceClient::new(node.channel().await)
}

fn input(name: &str, datatype: &str) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: vec![1],
        ..InferInputTensor::default()
    }
}

/// `text`, and whether the answer is to come part by part.
fn ask(text: &str, streaming: bool, parameters: &[(&str, ParameterChoice)]) -> ModelInferRequest {
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    let parameter = |(name, choice): &(&str, ParameterChoice)| {
        ((*name).to_owned(), InferParameter { parameter_choice: Some(choice.clone()) })
    };
    ModelInferRequest {
        model_name: "writer".into(),
        inputs: vec![input("text_input", "BYTES"), input("streaming", "BOOL")],
        raw_input_contents: vec![
            [&length, text.as_bytes()].concat().into(),
            vec![u8::from(streaming)].into(),
        ],
        parameters: parameters.iter().map(parameter).collect(),
        ..ModelInferRequest::default()
    }
}

/// Twelve tokens at temperature 2, from a seed.
fn warm() -> Vec<(&'static str, ParameterChoice)> {
    vec![
        ("temperature", DoubleParam(2.0)),
        ("max_tokens", Int64Param(12)),
        ("seed", Int64Param(-7)),
    ]
}

/// Raw contents by the outputs' names; of a BYTES output what its one element holds.
fn outputs(answer: &ModelInferResponse) -> BTreeMap<String, Vec<u8>> {
    let pairs = answer.outputs.iter().zip(&answer.raw_output_contents);
    let read = |(output, raw): (&_, &bytes::Bytes)| {
        let output: &hyperion_rpc::r#gen::inference::model_infer_response::InferOutputTensor =
            output;
        let held = if output.datatype == "BYTES" {
            assert_eq!(output.shape, [1]);
            let (length, element) = raw.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_le_bytes(*length) as usize, element.len());
            element.to_vec()
        } else {
            assert_eq!((output.datatype.as_str(), output.shape[1]), ("UINT32", 1));
            assert_eq!(output.shape[0] as usize * 4, raw.len());
            raw.to_vec()
        };
        (output.name.clone(), held)
    };
    pairs.map(read).collect()
}

fn parameter(answer: &ModelInferResponse, name: &str) -> ParameterChoice {
    answer.parameters[name].parameter_choice.clone().unwrap()
}

fn words(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Every answer of a stream, until it ends.
async fn stream(node: &Node, asked: Vec<ModelInferRequest>) -> Vec<ModelStreamInferResponse> {
    let mut client = connect(node).await;
    let stream = client.model_stream_infer(tokio_stream::iter(asked)).await.unwrap();
    let (mut stream, mut answers) = (stream.into_inner(), Vec::new());
    while let Some(answer) = stream.message().await.unwrap() {
        answers.push(answer);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_the_one_that_our_own_protocol_gives() {
    let node = start().await;
    let mut client = connect(&node).await;
    for (parameters, sampling, entropy) in [
        (
            vec![("max_tokens", Int64Param(9))],
            v1::Sampling { tokens_max: 9, ..Default::default() },
            0,
        ),
        (
            warm(),
            v1::Sampling { temperature_q16: 2 << 16, tokens_max: 12, ..Default::default() },
            -7_i128,
        ),
        (
            [
                warm(),
                vec![
                    ("top_k", Uint64Param(9)),
                    // Clients that know no floating point parameters.
                    ("top_p", StringParam("0.9".into())),
                    ("min_p", DoubleParam(0.05)),
                    ("frequency_penalty", DoubleParam(-0.5)),
                    ("presence_penalty", Int64Param(1)),
                    ("repetition_penalty", DoubleParam(1.25)),
                    ("stop", StringParam("ZZ".into())),
                ],
            ]
            .concat(),
            v1::Sampling {
                temperature_q16: 2 << 16,
                top_k: 9,
                top_p_q16: 58_982,
                min_p_q16: 3_277,
                frequency_q16: -32_768,
                presence_q16: 65_536,
                repetition_q16: 81_920,
                tokens_max: 12,
                stop_texts: vec!["ZZ".into()],
                ..Default::default()
            },
            -7,
        ),
    ] {
        let theirs =
            client.model_infer(ask("HELLO", false, &parameters)).await.unwrap().into_inner();
        let mut request = v1::Request::default();
        if entropy != 0 {
            let mut extended = [0xff; 32];
            extended[16..].copy_from_slice(&entropy.to_be_bytes());
            request = v1::Request { seed_mode: 1, ..request };
            request.entropy = extended.to_vec().into();
        }
        let asked = v1::InferRequest {
            model: "writer".into(),
            input: Some(v1::infer_request::Input::Text("HELLO".into())),
            sampling: Some(sampling),
            request: Some(v1::Request { nonce: vec![3; 32].into(), ..request }),
            ..Default::default()
        };
        let ours = node.client().await.inference.infer(asked).await.unwrap().into_inner();
        let claim = ours.claim.unwrap().claim.unwrap();
        // Another nonce, so another request and another seed: only what is drawn greedily is equal.
        let found = outputs(&theirs);
        let hash = format!("0x{}", hex::encode(&claim.output_hash));
        if entropy == 0 {
            assert_eq!(parameter(&theirs, "output_hash"), StringParam(hash));
            assert_eq!(found["tokens"], words(&ours.tokens));
            assert_eq!(found["text_output"], ours.text.as_bytes());
            assert_eq!(found["finish_reason"], ours.finish_reason.as_bytes());
        }
        let StringParam(entropy) = parameter(&theirs, "entropy") else { panic!("a text") };
        assert_eq!(entropy, format!("0x{}", hex::encode(ours.request.unwrap().entropy)));
        let StringParam(spelled) = parameter(&theirs, "sampling") else { panic!("a text") };
        let spelled: serde_json::Value = serde_json::from_str(&spelled).unwrap();
        let drawn = ours.sampling.unwrap();
        assert_eq!(spelled["temperatureQ16"], drawn.temperature_q16);
        assert_eq!(
            (&spelled["topK"], &spelled["topPQ16"]),
            (&drawn.top_k.into(), &drawn.top_p_q16.into())
        );
        assert_eq!(spelled["frequencyQ16"], drawn.frequency_q16);
        assert_eq!(spelled["presenceQ16"], drawn.presence_q16);
        assert_eq!(spelled["tokensMax"], drawn.tokens_max);
        assert_eq!(spelled["minPQ16"].as_u64().unwrap_or(0), u64::from(drawn.min_p_q16));
        assert_eq!(parameter(&theirs, "out_tokens"), Int64Param(found["tokens"].len() as i64 / 4));
        assert_eq!(parameter(&theirs, "in_tokens"), Int64Param(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_the_answer_and_the_last_has_the_claim() {
    let node = start().await;
    // So warm that the end is as likely as any other token: the answer is of some length.
    let drawn = [
        ("temperature", Int64Param(100)),
        ("max_tokens", Int64Param(12)),
        ("seed", Int64Param(-7)),
        ("nonce", StringParam(format!("0x{}", "09".repeat(32)))),
        ("deadline_s", Int64Param(4_000_000_000)),
    ];
    let asked = vec![
        ModelInferRequest { id: "a".into(), ..ask("HELLO", true, &drawn) },
        ModelInferRequest {
            id: "b".into(),
            ..ask("HELLO", true, &[("max_tokens", Int64Param(0))])
        },
        ModelInferRequest { id: "c".into(), ..ask("HELLO", false, &drawn) },
    ];
    let answers = stream(&node, asked).await;
    let of = |id: &str| {
        let of =
            |answer: &&ModelStreamInferResponse| answer.infer_response.as_ref().unwrap().id == id;
        answers.iter().filter(of).cloned().collect::<Vec<_>>()
    };
    let (parts, failed, whole) = (of("a"), of("b"), of("c"));
    assert_eq!((failed.len(), whole.len()), (1, 1), "{answers:?}");
    assert_eq!(parts.len() + 2, answers.len());
    assert!(failed[0].error_message.contains("max_tokens"), "{failed:?}");

    let whole = whole[0].infer_response.as_ref().unwrap();
    let (mut text, mut tokens) = (Vec::new(), Vec::new());
    for (nth, part) in parts.iter().enumerate() {
        let part = part.infer_response.as_ref().unwrap();
        let found = outputs(part);
        let is_last = nth + 1 == parts.len();
        assert_eq!(parameter(part, "triton_final_response"), BoolParam(is_last));
        assert_eq!(found["finish_reason"].is_empty(), !is_last);
        assert_eq!(part.parameters.contains_key("claim_digest"), is_last);
        text.extend(&found["text_output"]);
        tokens.extend(&found["tokens"]);
    }
    let (found, last) = (outputs(whole), parts.last().unwrap().infer_response.as_ref().unwrap());
    assert_eq!((&text, &tokens), (&found["text_output"], &found["tokens"]));
    assert!(parts.len() > 2, "an answer of {} tokens came at once", tokens.len() / 4);
    assert_eq!(outputs(last)["finish_reason"], found["finish_reason"]);
    // The same nonce is the same request, and so it has the same claim.
    assert_eq!(parameter(last, "claim_digest"), parameter(whole, "claim_digest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_says_what_it_reads_and_gives_and_gives_what_is_asked_for() {
    let node = start().await;
    let mut client = connect(&node).await;
    let asked = ModelMetadataRequest { name: "writer".into(), ..Default::default() };
    let metadata = client.model_metadata(asked).await.unwrap().into_inner();
    let inputs: Vec<_> = metadata.inputs.iter().map(|t| (&*t.name, &*t.datatype)).collect();
    assert_eq!(inputs, [("text_input", "BYTES"), ("streaming", "BOOL")]);
    let outputs: Vec<_> =
        metadata.outputs.iter().map(|t| (&*t.name, &*t.datatype, &t.shape[..])).collect();
    let want = [
        ("text_output", "BYTES", &[1][..]),
        ("finish_reason", "BYTES", &[1]),
        ("tokens", "UINT32", &[-1, 1]),
    ];
    assert_eq!(outputs, want);

    let named = |name: &str| InferRequestedOutputTensor { name: name.into(), ..Default::default() };
    let asked = ModelInferRequest {
        outputs: vec![named("finish_reason"), named("text_output")],
        ..ask("A", false, &[])
    };
    let answer = client.model_infer(asked).await.unwrap().into_inner();
    let names: Vec<_> = answer.outputs.iter().map(|output| &*output.name).collect();
    assert_eq!(names, ["finish_reason", "text_output"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_drawn_or_sent_in_parts_is_refused_by_name() {
    let node = start().await;
    let mut client = connect(&node).await;
    let with = |name, choice| ask("A", false, &[(name, choice)]);
    let flagged = |datatype: &str, raw: &[u8]| {
        let mut asked = ask("A", false, &[]);
        asked.inputs[1].datatype = datatype.into();
        asked.raw_input_contents[1] = raw.to_vec().into();
        asked
    };
    let output = InferRequestedOutputTensor { name: "logits".into(), ..Default::default() };
    for (asked, want, word) in [
        (ask("A", true, &[]), "bad_field", "ModelStreamInfer"),
        (flagged("INT32", &[1]), "bad_field", "one BOOL"),
        (flagged("BOOL", &[2]), "bad_field", "one BOOL"),
        (flagged("BOOL", &[]), "bad_field", "one BOOL"),
        (with("temperature", StringParam("hot".into())), "sampling_invalid", "temperature"),
        (with("temperature", DoubleParam(f64::NAN)), "sampling_invalid", "temperature"),
        (with("temperature", DoubleParam(1e300)), "sampling_invalid", "temperature"),
        (with("temperature", DoubleParam(-1.0)), "bad_field", "temperature"),
        (with("temperature", DoubleParam(200.0)), "sampling_invalid", "temperature"),
        (with("top_p", DoubleParam(0.0)), "sampling_invalid", "top_p"),
        (with("top_k", Int64Param(-1)), "sampling_invalid", "top_k"),
        (with("max_tokens", Int64Param(0)), "sampling_invalid", "max_tokens"),
        (with("max_tokens", Int64Param(65)), "input_too_large", "64"),
        (with("max_tokens", Uint64Param(1 << 32)), "sampling_invalid", "max_tokens"),
        (with("seed", StringParam("7".into())), "sampling_invalid", "seed"),
        (with("seed", Uint64Param(1 << 63)), "sampling_invalid", "seed"),
        (with("stop", StringParam(String::new())), "bad_field", "stop"),
        (with("stop", BoolParam(true)), "sampling_invalid", "stop"),
        (
            ModelInferRequest { outputs: vec![output], ..ask("A", false, &[]) },
            "bad_field",
            "`text_output`",
        ),
    ] {
        let status = client.model_infer(asked.clone()).await.expect_err(word);
        assert_eq!(status.code(), Code::InvalidArgument, "{asked:?}: {status}");
        assert_eq!(reason(&status).0, want, "{asked:?}: {status}");
        assert!(status.message().contains(word), "{asked:?}: {status}");
    }
    client.model_infer(ask("A", false, &[])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_hears_ends_its_answer() {
    let gate = Hold::default();
    let setup = Setup { devices: vec![Box::new(Stopping::new(&gate))], ..Setup::default() };
    let node = start_with(setup).await;
    gate.close();
    let mut client = connect(&node).await;
    let asked = tokio_stream::iter([ask("HELLO", true, &warm())]);
    let events = client.model_stream_infer(asked).await.unwrap();
    until("the device has the answer", || gate.is_waiting()).await;
    drop((events, client));
    until("the answer is taken back", || node.engine.stats().cancelled == 1).await;
    gate.open();
    // The place is free, and the next answer comes.
    let mut client = connect(&node).await;
    client.model_infer(ask("A", false, &warm())).await.unwrap();
}
