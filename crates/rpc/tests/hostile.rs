//! Requests that nobody should send: each is answered with its own status and names its field, and the node goes on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Setup, ask_digits, image, reason, seven, start, start_with, tensors};
use hyperion_rpc::r#gen::v1::{
    self, ChatInput, InferRequest, Request, TensorInput, TokenInput, infer_request::Input,
    tensor::Body,
};
use tonic::Code;

fn digits(change: impl FnOnce(&mut InferRequest)) -> InferRequest {
    let mut request = ask_digits(image(3));
    change(&mut request);
    request
}

fn signed_terms(change: impl FnOnce(&mut Request)) -> InferRequest {
    digits(|request| change(request.request.insert(Request::default())))
}

fn tensor(change: impl FnOnce(&mut v1::Tensor)) -> InferRequest {
    digits(|request| {
        let Some(Input::Tensors(input)) = &mut request.input else { unreachable!() };
        change(&mut input.tensors[0]);
    })
}

fn letters(input: Input) -> InferRequest {
    InferRequest { model: "letters".into(), input: Some(input), ..InferRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_request_has_its_status_and_names_its_field() {
    use Code::{DeadlineExceeded, InvalidArgument, NotFound, PermissionDenied};
    let node = start().await;
    let mut client = node.client().await;
    let data = |len: usize| Some(Body::Data(vec![0; len].into()));
    let beyond = (1_u32 << 30).to_le_bytes().repeat(64);

    let cases: Vec<(&str, InferRequest, Code, &str, &str)> = vec![
        (
            "no such model",
            digits(|r| r.model = "nobody".into()),
            NotFound,
            "model_not_found",
            "model",
        ),
        ("no model", digits(|r| r.model.clear()), NotFound, "model_not_found", "model"),
        (
            "a long name",
            digits(|r| r.model = "m".repeat(129)),
            InvalidArgument,
            "bad_field",
            "model",
        ),
        ("half an id", digits(|r| r.model = "0x12".into()), NotFound, "model_not_found", "model"),
        ("no input", digits(|r| r.input = None), InvalidArgument, "bad_field", "input"),
        (
            "no tensor",
            digits(|r| r.input = Some(Input::Tensors(TensorInput::default()))),
            InvalidArgument,
            "input_shape",
            "tensors",
        ),
        (
            "two tensors",
            digits(|r| {
                let Some(Input::Tensors(input)) = &mut r.input else { unreachable!() };
                input.tensors.push(input.tensors[0].clone());
            }),
            InvalidArgument,
            "input_shape",
            "tensors",
        ),
        (
            "65 tensors",
            digits(|r| {
                let Some(Input::Tensors(input)) = &mut r.input else { unreachable!() };
                input.tensors = vec![input.tensors[0].clone(); 65];
            }),
            InvalidArgument,
            "input_too_large",
            "tensors",
        ),
        (
            "another name",
            tensor(|t| t.name = "logits".into()),
            InvalidArgument,
            "bad_field",
            "tensors.name",
        ),
        (
            "a long tensor name",
            tensor(|t| t.name = "n".repeat(129)),
            InvalidArgument,
            "bad_field",
            "tensors.name",
        ),
        ("no data", tensor(|t| t.body = None), InvalidArgument, "bad_field", "tensors"),
        ("empty data", tensor(|t| t.body = data(0)), InvalidArgument, "bad_field", "input"),
        ("a byte short", tensor(|t| t.body = data(255)), InvalidArgument, "bad_field", "input"),
        ("a byte long", tensor(|t| t.body = data(257)), InvalidArgument, "bad_field", "input"),
        (
            "a short blob root",
            tensor(|t| t.body = Some(Body::Blob(vec![1; 31].into()))),
            InvalidArgument,
            "bad_field",
            "blob",
        ),
        (
            "an unknown blob",
            tensor(|t| t.body = Some(Body::Blob(vec![1; 32].into()))),
            InvalidArgument,
            "bad_field",
            "blob",
        ),
        ("no type", tensor(|t| t.dtype = 0), InvalidArgument, "bad_field", "tensors"),
        ("type 9", tensor(|t| t.dtype = 9), InvalidArgument, "bad_field", "tensors"),
        (
            "the layout of weights",
            tensor(|t| t.dtype = 17),
            InvalidArgument,
            "bad_field",
            "tensors",
        ),
        ("type -1", tensor(|t| t.dtype = -1), InvalidArgument, "bad_field", "tensors"),
        (
            "another type",
            tensor(|t| t.dtype = v1::Dtype::U32.into()),
            InvalidArgument,
            "bad_field",
            "input",
        ),
        ("no dimension", tensor(|t| t.dims.clear()), InvalidArgument, "input_shape", "input"),
        ("dimension 0", tensor(|t| t.dims = vec![0, 64]), InvalidArgument, "input_shape", "input"),
        ("one dimension", tensor(|t| t.dims = vec![64]), InvalidArgument, "input_shape", "input"),
        (
            "nine dimensions",
            tensor(|t| t.dims = vec![1; 9]),
            InvalidArgument,
            "input_too_large",
            "tensors",
        ),
        (
            "another width",
            tensor(|t| t.dims = vec![2, 32]),
            InvalidArgument,
            "input_shape",
            "input",
        ),
        (
            "more rows than there are bytes",
            tensor(|t| t.dims = vec![u64::MAX, 64]),
            InvalidArgument,
            "bad_field",
            "input",
        ),
        (
            "beyond the range",
            tensor(|t| t.body = Some(Body::Data(beyond.into()))),
            InvalidArgument,
            "input_range",
            "input",
        ),
        (
            "tokens for a model of rows",
            digits(|r| r.input = Some(Input::Tokens(TokenInput { ids: vec![1] }))),
            InvalidArgument,
            "bad_field",
            "tokens",
        ),
        (
            "text for a model of rows",
            digits(|r| r.input = Some(Input::Text("7".into()))),
            InvalidArgument,
            "bad_field",
            "text",
        ),
        (
            "chat",
            digits(|r| r.input = Some(Input::Chat(ChatInput::default()))),
            InvalidArgument,
            "unsupported_parameter",
            "chat",
        ),
        (
            "513 turns",
            digits(|r| {
                let turns = vec![v1::ChatTurn::default(); 513];
                r.input = Some(Input::Chat(ChatInput { turns }));
            }),
            InvalidArgument,
            "input_too_large",
            "chat",
        ),
        (
            "no tokens",
            letters(Input::Tokens(TokenInput::default())),
            InvalidArgument,
            "input_shape",
            "tokens",
        ),
        (
            "a token beyond the vocabulary",
            letters(Input::Tokens(TokenInput { ids: vec![1, 16] })),
            InvalidArgument,
            "input_range",
            "input",
        ),
        (
            "more tokens than the context",
            letters(Input::Tokens(TokenInput { ids: vec![1; 65] })),
            InvalidArgument,
            "input_too_large",
            "input",
        ),
        ("no text", letters(Input::Text(String::new())), InvalidArgument, "input_shape", "tokens"),
        (
            "text that its tokenizer refuses",
            letters(Input::Text("\u{fffd}".into())),
            InvalidArgument,
            "bad_field",
            "text",
        ),
        (
            "a megabyte of text",
            letters(Input::Text("a".repeat((1 << 20) + 1))),
            InvalidArgument,
            "input_too_large",
            "text",
        ),
        (
            "rows for a model of tokens",
            letters(tensors(v1::Dtype::I32, &[1, 1], vec![0; 4])),
            InvalidArgument,
            "bad_field",
            "input",
        ),
        (
            "sampling",
            digits(|r| r.sampling = Some(v1::Sampling { top_k: 1, ..v1::Sampling::default() })),
            InvalidArgument,
            "sampling_invalid",
            "sampling",
        ),
        (
            "33 stop tokens",
            digits(|r| {
                r.sampling =
                    Some(v1::Sampling { stop_tokens: vec![0; 33], ..v1::Sampling::default() });
            }),
            InvalidArgument,
            "input_too_large",
            "sampling.stop_tokens",
        ),
        ("wait for 9", digits(|r| r.wait_for = 9), InvalidArgument, "bad_field", "wait_for"),
        ("wait for -1", digits(|r| r.wait_for = -1), InvalidArgument, "bad_field", "wait_for"),
        (
            "a short requester",
            signed_terms(|r| r.requester = vec![1; 19].into()),
            InvalidArgument,
            "bad_field",
            "request.requester",
        ),
        (
            "a long nonce",
            signed_terms(|r| r.nonce = vec![1; 33].into()),
            InvalidArgument,
            "bad_field",
            "request.nonce",
        ),
        (
            "another model",
            signed_terms(|r| r.model_id = vec![1; 32].into()),
            InvalidArgument,
            "bad_field",
            "request.model_id",
        ),
        (
            "another input",
            signed_terms(|r| r.input_hash = vec![1; 32].into()),
            InvalidArgument,
            "bad_field",
            "request.input_hash",
        ),
        (
            "a sampling hash",
            signed_terms(|r| r.sampling_hash = vec![1; 32].into()),
            InvalidArgument,
            "sampling_invalid",
            "sampling",
        ),
        (
            "another worker",
            signed_terms(|r| r.worker = vec![1; 20].into()),
            InvalidArgument,
            "bad_field",
            "request.worker",
        ),
        (
            "tier 2",
            signed_terms(|r| r.tier = 2),
            InvalidArgument,
            "unsupported_parameter",
            "request.tier",
        ),
        ("tier 3", signed_terms(|r| r.tier = 3), InvalidArgument, "bad_field", "request.tier"),
        ("tier 6", signed_terms(|r| r.tier = 6), InvalidArgument, "bad_field", "request.tier"),
        ("tier 257", signed_terms(|r| r.tier = 257), InvalidArgument, "bad_field", "request.tier"),
        (
            "a seed",
            signed_terms(|r| r.seed_mode = 1),
            InvalidArgument,
            "sampling_invalid",
            "request.seed_mode",
        ),
        (
            "entropy",
            signed_terms(|r| r.entropy = vec![1; 32].into()),
            InvalidArgument,
            "bad_field",
            "request.seed_mode",
        ),
        (
            "a fee in words",
            signed_terms(|r| r.fee_max = "much".into()),
            InvalidArgument,
            "bad_field",
            "request.fee_max",
        ),
        (
            "a fee of 2^128",
            signed_terms(|r| r.fee_max = "340282366920938463463374607431768211456".into()),
            InvalidArgument,
            "bad_field",
            "request.fee_max",
        ),
        (
            "a deadline in the past",
            signed_terms(|r| r.deadline_s = 1),
            DeadlineExceeded,
            "deadline",
            "request.deadline_s",
        ),
        (
            "a requester who has not signed",
            signed_terms(|r| r.requester = vec![1; 20].into()),
            PermissionDenied,
            "signature_invalid",
            "request_signature",
        ),
        (
            "a signature of nobody",
            digits(|r| r.request_signature = vec![27; 65].into()),
            InvalidArgument,
            "bad_field",
            "request_signature",
        ),
        (
            "a short signature",
            digits(|r| r.request_signature = vec![27; 64].into()),
            InvalidArgument,
            "bad_field",
            "request_signature",
        ),
        (
            "another's signature",
            digits(|r| {
                r.request = Some(Request { requester: vec![1; 20].into(), ..Request::default() });
                r.request_signature = vec![27; 65].into();
            }),
            PermissionDenied,
            "signature_invalid",
            "request_signature",
        ),
    ];
    for (name, request, code, want, field) in cases {
        let status = client.inference.infer(request).await.expect_err(name);
        assert_eq!(
            (status.code(), reason(&status)),
            (code, (want.to_owned(), field.to_owned())),
            "{name}: {}",
            status.message()
        );
        assert!(status.message().starts_with(field), "{name}: {}", status.message());
    }

    // Whatever came, the node still answers.
    let answer = client.inference.infer(ask_digits(seven())).await.unwrap().into_inner();
    assert_eq!(answer.reached, 1);
    assert!(node.seen.0.lock().unwrap().contains(&("grpc", "digits".into(), "ok")));
    assert!(node.seen.0.lock().unwrap().contains(&("grpc", "other".into(), "model_not_found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_refused() {
    let node = start().await;
    let mut raw = tonic::client::Grpc::new(node.channel().await);
    let cases: [(&str, &[u8]); 5] = [
        ("a field cut short", &[0x0a, 0x05, b'd']),
        ("a varint without end", &[0xff; 12]),
        ("wire type 7", &[0x0f]),
        ("a name that is not UTF-8", &[0x0a, 0x02, 0xff, 0xfe]),
        ("a length beyond the message", &[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]),
    ];
    for (name, bytes) in cases {
        raw.ready().await.unwrap();
        let path = "/hyperion.v1.InferenceService/Infer".parse().unwrap();
        let request = tonic::Request::new(bytes.to_vec());
        let answer = raw.unary(request, path, common::raw::RawCodec).await;
        let status = answer.expect_err(name);
        assert!(
            matches!(status.code(), Code::Internal | Code::InvalidArgument),
            "{name}: {status:?}"
        );
    }
    node.client().await.inference.infer(ask_digits(seven())).await.unwrap();
}

/// A stream of the caller's was once answered with `cancelled`, whatever had broken it off.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_has_the_status_of_what_broke_it() {
    let limits = hyperion_rpc::limits::Limits { message_bytes_max: 1 << 20, ..Default::default() };
    let node = start_with(Setup { limits, ..Setup::default() }).await;
    let mut raw = tonic::client::Grpc::new(node.channel().await);
    let cases = [
        ("no message", vec![0x0a, 0x05, b'd'], Code::Internal),
        ("a message over the limit", vec![0; (1 << 20) + 1], Code::OutOfRange),
    ];
    for method in
        ["hyperion.v1.InferenceService/PutBlob", "inference.GRPCInferenceService/ModelStreamInfer"]
    {
        for (name, bytes, want) in cases.clone() {
            raw.ready().await.unwrap();
            let path = format!("/{method}").parse().unwrap();
            let request = tonic::Request::new(tokio_stream::iter([bytes]));
            let status = match raw.streaming(request, path, common::raw::RawCodec).await {
                Ok(answers) => answers.into_inner().message().await.expect_err(name),
                Err(status) => status,
            };
            assert_eq!(status.code(), want, "{method}: {name}: {status:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_have_their_documented_status() {
    let limits = hyperion_rpc::limits::Limits {
        message_bytes_max: 1 << 20,
        tensor_bytes_max: 64 << 10,
        ..Default::default()
    };
    let node = start_with(Setup { limits, ..Setup::default() }).await;
    let mut client = node.client().await;
    let rows = |rows: u64| InferRequest {
        model: "digits".into(),
        input: Some(tensors(
            v1::Dtype::I32,
            &[rows, 64],
            vec![0; usize::try_from(rows).unwrap() * 256],
        )),
        ..InferRequest::default()
    };
    let cases = [
        (1, Code::Ok, ""),
        (256, Code::Ok, ""),
        (257, Code::InvalidArgument, "input_too_large"),
        (5000, Code::OutOfRange, ""),
    ];
    for (count, code, want) in cases {
        let outcome = client.inference.infer(rows(count)).await;
        let (got, named) = match &outcome {
            Ok(_) => (Code::Ok, String::new()),
            Err(status) => (status.code(), reason(status).0),
        };
        assert_eq!((got, named.as_str()), (code, want), "{count} rows");
    }
}
