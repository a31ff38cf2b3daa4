//! The Open Inference Protocol: what unmodified clients send, and what they get.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{ask_digits, image, reason, seven, start};
use hyperion_rpc::r#gen::inference::{
    self as oip, InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};
use tonic::{Code, transport::Channel};

type Client = GrpcInferenceServiceClient<Channel>;

async fn connect(node: &common::Node) -> Client {
    GrpcInferenceServiceClient::new(node.channel().await)
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}

fn raw(data: Vec<u8>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "digits".into(),
        inputs: vec![input("pixels", "INT32", &[1, 64])],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

fn text(bytes: &[u8], datatype: &str, shape: &[i64]) -> ModelInferRequest {
    let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
    ModelInferRequest {
        model_name: "letters".into(),
        inputs: vec![input("text_input", datatype, shape)],
        raw_input_contents: vec![[&length, bytes].concat().into()],
        ..Default::default()
    }
}

fn with(name: &str, choice: ParameterChoice) -> ModelInferRequest {
    let parameter = InferParameter { parameter_choice: Some(choice) };
    ModelInferRequest {
        parameters: BTreeMap::from([(name.to_owned(), parameter)]),
        ..raw(image(1))
    }
}

fn string(answer: &ModelInferResponse, name: &str) -> String {
    match &answer.parameters[name].parameter_choice {
        Some(ParameterChoice::StringParam(value)) => value.clone(),
        other => panic!("{name}: {other:?}"),
    }
}

fn int(answer: &ModelInferResponse, name: &str) -> i64 {
    match &answer.parameters[name].parameter_choice {
        Some(ParameterChoice::Int64Param(value)) => *value,
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_and_typed_contents_and_our_own_protocol_are_one_input() {
    let node = start().await;
    let mut client = connect(&node).await;
    let from_raw = client.model_infer(raw(seven())).await.unwrap().into_inner();
    let values =
        seven().chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect();
    let contents = InferTensorContents { int_contents: values, ..Default::default() };
    let typed = ModelInferRequest {
        inputs: vec![InferInputTensor {
            contents: Some(contents),
            ..input("pixels", "INT32", &[1, 64])
        }],
        raw_input_contents: Vec::new(),
        id: "mine".into(),
        ..raw(Vec::new())
    };
    let from_typed = client.model_infer(typed).await.unwrap().into_inner();
    let ours = node.client().await.inference.infer(ask_digits(seven())).await.unwrap().into_inner();
    let output_hash = hex::encode(&ours.claim.unwrap().claim.unwrap().output_hash);

    for answer in [&from_raw, &from_typed] {
        assert_eq!(string(answer, "output_hash"), format!("0x{output_hash}"));
        assert_eq!(string(answer, "model_id"), node.model("digits").id.to_string());
        assert_eq!(
            string(answer, "receipt_url"),
            format!("/v1/receipts/{}", string(answer, "claim_digest"))
        );
        assert_eq!(int(answer, "reached"), 1);
        let output = &answer.outputs[0];
        assert_eq!(
            (output.name.as_str(), output.datatype.as_str(), &output.shape[..]),
            ("logits", "INT32", &[1, 10][..])
        );
        assert_eq!(answer.raw_output_contents, from_raw.raw_output_contents);
    }
    assert_eq!((from_raw.id.as_str(), from_typed.id.as_str()), ("", "mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_and_tokens_of_every_usual_shape_are_one_input() {
    let node = start().await;
    let mut client = connect(&node).await;
    let ids: Vec<u32> = b"hello".iter().map(|byte| u32::from(*byte) % 16).collect();
    let tokens = |shape: &[i64]| ModelInferRequest {
        inputs: vec![input("tokens", "UINT32", shape)],
        raw_input_contents: vec![
            ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>().into(),
        ],
        ..text(b"", "BYTES", &[1])
    };
    let mut streaming = text(b"hello", "BYTES", &[1, 1]);
    streaming.inputs.push(input("streaming", "BOOL", &[1]));
    streaming.raw_input_contents.push(vec![0].into());
    let asked =
        [text(b"hello", "BYTES", &[1]), tokens(&[5]), tokens(&[5, 1]), tokens(&[1, 5]), streaming];
    let mut hashes = Vec::new();
    for asked in asked {
        hashes.push(string(&client.model_infer(asked).await.unwrap().into_inner(), "output_hash"));
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_say_how_long_to_wait_and_make_a_request_repeatable() {
    let node = start().await;
    let mut client = connect(&node).await;
    let logged = with("wait_for", ParameterChoice::StringParam("logged".into()));
    let answer = client.model_infer(logged).await.unwrap().into_inner();
    assert!(int(&answer, "log_index") >= 0);

    let mut again = with("nonce", ParameterChoice::StringParam(format!("0x{}", "07".repeat(32))));
    let deadline =
        InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(4_000_000_000)) };
    again.parameters.insert("deadline_s".into(), deadline);
    let first = client.model_infer(again.clone()).await.unwrap().into_inner();
    let second = client.model_infer(again).await.unwrap().into_inner();
    assert_eq!(string(&first, "claim_digest"), string(&second, "claim_digest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    use ParameterChoice::{BoolParam, DoubleParam, Int64Param, StringParam};
    let node = start().await;
    let mut client = connect(&node).await;
    let shaped = |datatype: &str, shape: &[i64]| ModelInferRequest {
        inputs: vec![input("pixels", datatype, shape)],
        ..raw(image(1))
    };
    let typed = InferInputTensor {
        contents: Some(InferTensorContents { fp32_contents: vec![0.5; 64], ..Default::default() }),
        ..input("pixels", "INT32", &[1, 64])
    };
    let asks_for_streaming = {
        let mut asked = text(b"a", "BYTES", &[1]);
        asked.inputs.push(input("streaming", "BOOL", &[1]));
        asked.raw_input_contents.push(vec![1].into());
        asked
    };
    let cases: Vec<(&str, ModelInferRequest, Code, &str, &str)> = vec![
        (
            "no such model",
            ModelInferRequest { model_name: "nobody".into(), ..raw(image(1)) },
            Code::NotFound,
            "model_not_found",
            "nobody",
        ),
        (
            "another version",
            ModelInferRequest { model_version: "1".into(), ..raw(image(1)) },
            Code::NotFound,
            "model_not_found",
            "model_version",
        ),
        (
            "FP32",
            shaped("FP32", &[1, 64]),
            Code::InvalidArgument,
            "bad_field",
            "Multiply by 65536, round, and send INT32",
        ),
        ("FP16", shaped("FP16", &[1, 64]), Code::InvalidArgument, "bad_field", "send INT32"),
        ("UINT32", shaped("UINT32", &[1, 64]), Code::InvalidArgument, "bad_field", "INT32"),
        ("no type", shaped("", &[1, 64]), Code::InvalidArgument, "bad_field", "INT32"),
        (
            "dimension 0",
            shaped("INT32", &[0, 64]),
            Code::InvalidArgument,
            "bad_field",
            "inputs.shape",
        ),
        (
            "dimension -1",
            shaped("INT32", &[-1, 64]),
            Code::InvalidArgument,
            "bad_field",
            "inputs.shape",
        ),
        ("one dimension", shaped("INT32", &[64]), Code::InvalidArgument, "input_shape", "input"),
        (
            "nine dimensions",
            shaped("INT32", &[1; 9]),
            Code::InvalidArgument,
            "input_too_large",
            "inputs",
        ),
        ("another width", shaped("INT32", &[2, 32]), Code::InvalidArgument, "input_shape", "input"),
        ("a byte short", raw(vec![0; 255]), Code::InvalidArgument, "bad_field", "255"),
        ("nothing", raw(Vec::new()), Code::InvalidArgument, "bad_field", "0 bytes"),
        ("17 MiB", raw(vec![0; 17 << 20]), Code::InvalidArgument, "input_too_large", "inputs"),
        (
            "no contents",
            ModelInferRequest { raw_input_contents: Vec::new(), ..raw(image(1)) },
            Code::InvalidArgument,
            "bad_field",
            "no contents",
        ),
        (
            "no inputs",
            ModelInferRequest {
                inputs: Vec::new(),
                raw_input_contents: Vec::new(),
                ..raw(image(1))
            },
            Code::InvalidArgument,
            "input_shape",
            "inputs",
        ),
        (
            "raw for nobody",
            ModelInferRequest { inputs: Vec::new(), ..raw(image(1)) },
            Code::InvalidArgument,
            "bad_field",
            "raw_input_contents",
        ),
        (
            "raw and typed",
            ModelInferRequest { inputs: vec![typed.clone()], ..raw(image(1)) },
            Code::InvalidArgument,
            "bad_field",
            "raw_input_contents",
        ),
        (
            "floats in an INT32",
            ModelInferRequest {
                inputs: vec![typed],
                raw_input_contents: Vec::new(),
                ..raw(image(1))
            },
            Code::InvalidArgument,
            "bad_field",
            "0 bytes",
        ),
        (
            "another input",
            ModelInferRequest { inputs: vec![input("image", "INT32", &[1, 64])], ..raw(image(1)) },
            Code::InvalidArgument,
            "bad_field",
            "`pixels`",
        ),
        (
            "another output",
            ModelInferRequest {
                outputs: vec![InferRequestedOutputTensor {
                    name: "label".into(),
                    ..Default::default()
                }],
                ..raw(image(1))
            },
            Code::InvalidArgument,
            "bad_field",
            "`logits`",
        ),
        (
            "text for digits",
            ModelInferRequest { model_name: "digits".into(), ..text(b"7", "BYTES", &[1]) },
            Code::InvalidArgument,
            "bad_field",
            "`pixels`",
        ),
        (
            "text that is not UTF-8",
            text(b"\xff\xfe", "BYTES", &[1]),
            Code::InvalidArgument,
            "bad_field",
            "UTF-8",
        ),
        (
            "text as INT32",
            text(b"text", "INT32", &[1]),
            Code::InvalidArgument,
            "bad_field",
            "BYTES",
        ),
        ("two texts", text(b"a", "BYTES", &[2]), Code::InvalidArgument, "input_shape", "one text"),
        (
            "text without its length",
            ModelInferRequest {
                raw_input_contents: vec![b"abc".to_vec().into()],
                ..text(b"", "BYTES", &[1])
            },
            Code::InvalidArgument,
            "input_shape",
            "one text",
        ),
        (
            "a length that lies",
            ModelInferRequest {
                raw_input_contents: vec![vec![9, 0, 0, 0, b'a'].into()],
                ..text(b"", "BYTES", &[1])
            },
            Code::InvalidArgument,
            "input_shape",
            "one text",
        ),
        ("streaming", asks_for_streaming, Code::InvalidArgument, "bad_field", "inputs.streaming"),
        (
            "sampling",
            with("temperature", DoubleParam(0.7)),
            Code::InvalidArgument,
            "sampling_invalid",
            "temperature",
        ),
        (
            "an unknown parameter",
            with("tools", BoolParam(true)),
            Code::InvalidArgument,
            "unsupported_parameter",
            "tools",
        ),
        (
            "a nonce in decimal",
            with("nonce", StringParam("7".into())),
            Code::InvalidArgument,
            "bad_field",
            "nonce",
        ),
        (
            "a nonce as a number",
            with("nonce", Int64Param(7)),
            Code::InvalidArgument,
            "bad_field",
            "nonce",
        ),
        ("tier 3", with("tier", Int64Param(3)), Code::InvalidArgument, "bad_field", "request.tier"),
        ("tier -1", with("tier", Int64Param(-1)), Code::InvalidArgument, "bad_field", "tier"),
        (
            "a deadline in the past",
            with("deadline_s", Int64Param(1)),
            Code::DeadlineExceeded,
            "deadline",
            "deadline_s",
        ),
        (
            "a wait for nothing",
            with("wait_for", StringParam("ever".into())),
            Code::InvalidArgument,
            "bad_field",
            "wait_for",
        ),
    ];
    for (name, asked, code, want, word) in cases {
        let status = client.model_infer(asked).await.expect_err(name);
        assert_eq!(
            (status.code(), reason(&status).0.as_str()),
            (code, want),
            "{name}: {}",
            status.message()
        );
        assert!(status.message().contains(word), "{name}: {}", status.message());
    }
    client.model_infer(raw(seven())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_in_order_and_survives_an_error() {
    let node = start().await;
    let mut client = connect(&node).await;
    let named = |id: &str, asked: ModelInferRequest| ModelInferRequest { id: id.into(), ..asked };
    let asked = [named("a", raw(seven())), named("b", raw(Vec::new())), named("c", raw(image(2)))];
    let mut answers =
        client.model_stream_infer(tokio_stream::iter(asked)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let response = answer.infer_response.unwrap();
        let last = &response.parameters["triton_final_response"].parameter_choice;
        assert_eq!(last, &Some(ParameterChoice::BoolParam(true)));
        seen.push((response.id, answer.error_message, response.raw_output_contents.len()));
    }
    assert_eq!(seen.len(), 3);
    assert_eq!((seen[0].0.as_str(), seen[0].1.as_str(), seen[0].2), ("a", "", 1));
    assert!(
        seen[1].0 == "b" && seen[1].1.starts_with("bad_field: ") && seen[1].2 == 0,
        "{:?}",
        seen[1]
    );
    assert_eq!((seen[2].0.as_str(), seen[2].1.as_str(), seen[2].2), ("c", "", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_and_models_describe_themselves() {
    let node = start().await;
    let mut client = connect(&node).await;
    assert!(client.server_live(oip::ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(oip::ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let server = client.server_metadata(oip::ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(server.name, "hyperion");
    assert_eq!(
        server.extensions,
        ["binary_tensor_data", "model_repository", "statistics", "hyperion_claim"]
    );

    let id = node.model("digits").id.to_string();
    for (name, version, want) in [
        ("digits", "", true),
        ("digits", id.as_str(), true),
        (id.as_str(), "", true),
        ("digits", "1", false),
        ("nobody", "", false),
    ] {
        let asked = oip::ModelReadyRequest { name: name.into(), version: version.into() };
        assert_eq!(
            client.model_ready(asked).await.unwrap().into_inner().ready,
            want,
            "{name} {version}"
        );
    }

    let metadata =
        |name: &str| oip::ModelMetadataRequest { name: name.into(), version: String::new() };
    let digits = client.model_metadata(metadata("digits")).await.unwrap().into_inner();
    assert_eq!(
        (digits.platform.as_str(), &digits.versions[..]),
        ("hyperion_int8", &[id.clone()][..])
    );
    assert_eq!(
        (digits.inputs[0].datatype.as_str(), &digits.inputs[0].shape[..]),
        ("INT32", &[-1, 64][..])
    );
    let letters = client.model_metadata(metadata("letters")).await.unwrap().into_inner();
    assert_eq!(
        (letters.inputs[0].name.as_str(), letters.inputs[0].datatype.as_str()),
        ("text_input", "BYTES")
    );
    assert_eq!((letters.outputs[0].datatype.as_str(), letters.outputs[0].shape[0]), ("INT16", 1));
    assert_eq!(client.model_metadata(metadata("nobody")).await.unwrap_err().code(), Code::NotFound);

    let index =
        client.repository_index(oip::RepositoryIndexRequest::default()).await.unwrap().into_inner();
    assert!(index.models.iter().all(|model| model.state == "READY"), "{index:?}");
    assert_eq!(index.models.len(), 3);
    let load =
        oip::RepositoryModelLoadRequest { model_name: "digits".into(), ..Default::default() };
    assert_eq!(
        client.repository_model_load(load).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    client.model_infer(raw(seven())).await.unwrap();
    let asked = oip::ModelStatisticsRequest { name: "digits".into(), version: String::new() };
    let stats = client.model_statistics(asked).await.unwrap().into_inner();
    let stats = &stats.model_stats[0];
    assert_eq!(
        (stats.name.as_str(), stats.inference_count, stats.execution_count),
        ("digits", 1, 1)
    );
    assert_eq!(stats.inference_stats.as_ref().unwrap().success.as_ref().unwrap().count, 1);
    let all =
        client.model_statistics(oip::ModelStatisticsRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.model_stats.len(), 3);
}
