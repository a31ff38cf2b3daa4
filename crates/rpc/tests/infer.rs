//! The main call from a real client to a real engine, and everything that can be asked about it afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::{
    DOMAIN, Letters, Setup, ask_digits, image, key, reason, seven, start, start_with, tensors,
};
use hyperion_primitives::{B256, Dtype, keccak256, tensor_root};
use hyperion_rpc::{
    client::{self, Client},
    door::TextEncoder as _,
    r#gen::v1::{
        self, InferRequest, RequestState, TokenInput, get_claim_request::Key, infer_request::Input,
        infer_stream_response::Event, tensor::Body,
    },
    receipt_json::{Envelope, TensorData},
};
use hyperion_verify::{receipt::check_request, sign};
use tonic::Code;

fn logits(answer: &v1::InferResponse) -> Vec<i32> {
    let Some(Body::Data(data)) = &answer.outputs[0].body else { panic!("{answer:?}") };
    data.chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn digest(answer: &v1::InferResponse) -> Bytes {
    answer.claim.as_ref().unwrap().claim_digest.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seven_is_read_and_its_claim_holds() {
    let node = start().await;
    let mut client = node.client().await;
    let answer = client.inference.infer(ask_digits(seven())).await.unwrap().into_inner();
    let output = &answer.outputs[0];
    assert_eq!((output.name.as_str(), &output.dims[..]), ("logits", &[1, 10][..]));
    let logits = logits(&answer);
    assert_eq!(logits.iter().enumerate().max_by_key(|(_, value)| **value).unwrap().0, 7);
    assert_eq!((answer.reached, answer.replayed, answer.fee.as_str()), (1, false, "0"));
    assert!(answer.receipt.is_none(), "nobody waited for the log");

    let request = answer.request.clone().unwrap();
    assert_eq!(request.tier, 1);
    assert_ne!(request.nonce, vec![0; 32], "a nonce was drawn");
    let claim_digest = client::claim_digest(&DOMAIN, &answer).unwrap();
    assert_eq!(digest(&answer), claim_digest.0.as_slice());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logged_answer_is_a_receipt_that_anybody_can_check() {
    let node = start().await;
    let mut client = node.client().await;
    let asked = InferRequest { wait_for: v1::WaitFor::Logged.into(), ..ask_digits(seven()) };
    let answer = client.inference.infer(asked).await.unwrap().into_inner();
    let input = TensorData { dtype: Dtype::I32, dims: vec![1, 64], data: seven() };
    let envelope = client::envelope(DOMAIN, answer.clone(), Some(vec![input])).unwrap();

    let again = Envelope::parse(&envelope.to_json()).unwrap();
    assert_eq!(again, envelope);
    assert_eq!(again.claim.check(&DOMAIN), Ok(()));
    let receipt = again.check_log(&node.trust()).unwrap();
    again.check_request().unwrap();
    again.check_input().unwrap();
    again.check_output().unwrap();
    receipt.check(&node.trust(), None).unwrap();
    check_request(&again.claim.claim, again.request.as_ref().unwrap(), &DOMAIN, None).unwrap();

    // The same receipt, asked for by digest, and as text.
    let asked =
        v1::GetReceiptRequest { claim_digest: digest(&answer), size: receipt.note.checkpoint.size };
    let found = client.inference.get_receipt(asked).await.unwrap().into_inner();
    assert_eq!(found.receipt, answer.receipt);
    assert_eq!(found.tlog_proof, receipt.to_string());

    // And over HTTP, without input and output, which are the caller's own.
    let (status, _, body) =
        node.http("GET", &format!("/v1/receipts/{}", hex(&digest(&answer))), "").await;
    assert_eq!(status, 200, "{body}");
    let fetched = Envelope::parse(&body).unwrap();
    assert_eq!((fetched.claim, fetched.request), (envelope.claim, envelope.request));
    assert_eq!((fetched.input, fetched.output), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_the_same_answer() {
    let node = start().await;
    let mut client = node.client().await;
    let terms =
        v1::Request { nonce: vec![9; 32].into(), deadline_s: 4_000_000_000, ..Default::default() };
    let asked = InferRequest { request: Some(terms), ..ask_digits(seven()) };
    let first = client.inference.infer(asked.clone()).await.unwrap().into_inner();
    let second = client.inference.infer(asked).await.unwrap().into_inner();
    assert!(!first.replayed && second.replayed);
    assert_eq!((first.claim, first.outputs), (second.claim, second.outputs));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_give_an_input_is_the_same_input() {
    let node = start().await;
    let mut client = node.client().await;
    let ids = Letters.encode("hello").unwrap();
    let data: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let root = put(&mut client, v1::Dtype::U32, &[5, 1], &data, 7).await.unwrap();
    assert_eq!(root, tensor_root(Dtype::U32, &[5, 1], &data).unwrap().0.as_slice());
    let blob = v1::Tensor { body: Some(Body::Blob(root)), ..v1::Tensor::default() };
    let inputs = [
        Input::Tokens(TokenInput { ids }),
        Input::Text("hello".into()),
        tensors(v1::Dtype::U32, &[5, 1], data),
        Input::Tensors(v1::TensorInput { tensors: vec![blob] }),
    ];
    let mut hashes = Vec::new();
    for input in inputs {
        let asked =
            InferRequest { model: "letters".into(), input: Some(input), ..InferRequest::default() };
        let answer = client.inference.infer(asked).await.unwrap().into_inner();
        let claim = answer.claim.unwrap().claim.unwrap();
        assert_eq!(claim.in_tokens, 5);
        hashes.push((hex(&claim.input_hash), hex(&claim.output_hash)));
    }
    let asked = r#"{"model":"letters","input":"hello"}"#;
    let (_, _, body) = node.http("POST", "/v1/embeddings", asked).await;
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    let said = |name: &str| answer["verification"][name].as_str().unwrap().to_owned();
    hashes.push((said("input_hash"), said("output_hash")));
    hashes.dedup();
    assert_eq!(hashes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_named_by_alias_or_by_id() {
    let node = start().await;
    let mut client = node.client().await;
    let id = node.model("digits").id;
    let asked = InferRequest { model: id.to_string(), ..ask_digits(seven()) };
    let answer = client.inference.infer(asked).await.unwrap().into_inner();
    assert_eq!(answer.request.unwrap().model_id, id.0.as_slice());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_request_needs_its_requesters_signature() {
    let node = start().await;
    let mut client = node.client().await;
    let (mine, other) = (key(3), key(4));
    let input = image(1);
    let root = tensor_root(Dtype::I32, &[1, 64], &input).unwrap();
    let request = hyperion_verify::Request {
        requester: sign::address(&mine),
        model_id: node.model("digits").id,
        input_hash: hyperion_primitives::input_hash(&[root]),
        tier: 1,
        deadline: 4_000_000_000,
        nonce: hyperion_primitives::U256::from(1),
        ..Default::default()
    };
    let id = request.id(&DOMAIN);
    let signed = |key: &sign::SigningKey| InferRequest {
        request: Some(v1::Request {
            requester: Bytes::copy_from_slice(request.requester.as_slice()),
            deadline_s: request.deadline,
            nonce: B256::from(request.nonce).to_vec().into(),
            ..v1::Request::default()
        }),
        request_signature: sign::sign(key, &id.0).to_vec().into(),
        ..ask_digits(input.clone())
    };
    let status = client.inference.infer(signed(&other)).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::PermissionDenied, "signature_invalid")
    );
    let answer = client.inference.infer(signed(&mine)).await.unwrap().into_inner();
    assert_eq!(answer.claim.unwrap().claim.unwrap().request_id, id.0.as_slice());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_accepts_and_is_done() {
    let node = start().await;
    let mut client = node.client().await;
    let asked = v1::InferStreamRequest { request: Some(ask_digits(seven())), resume_at: 0 };
    let mut events = client.inference.infer_stream(asked.clone()).await.unwrap().into_inner();
    let Some(Event::Accepted(accepted)) = events.message().await.unwrap().unwrap().event else {
        panic!()
    };
    let Some(Event::Done(done)) = events.message().await.unwrap().unwrap().event else { panic!() };
    assert_eq!(accepted.request_id, done.claim.unwrap().claim.unwrap().request_id);
    assert!(events.message().await.unwrap().is_none(), "exactly one done, and it is last");

    for (name, asked) in [
        ("a token to resume at", v1::InferStreamRequest { resume_at: 1, ..asked }),
        ("no request", v1::InferStreamRequest::default()),
    ] {
        let mut events = client.inference.infer_stream(asked).await.unwrap().into_inner();
        let status = events.message().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_can_be_asked_about_until_it_ends() {
    let node = start_with(Setup { log_at_once: false, ..Setup::default() }).await;
    let mut client = node.client().await;
    let answer = client.inference.infer(ask_digits(seven())).await.unwrap().into_inner();
    let claim = answer.claim.clone().unwrap();
    let request_id = claim.claim.clone().unwrap().request_id;
    let by_claim = Key::ClaimDigest(claim.claim_digest.clone());
    let by_request = Key::RequestId(request_id);

    for key in [by_claim.clone(), by_request.clone()] {
        let found = get(&mut client, key).await.unwrap();
        assert_eq!((found.state, found.reached), (RequestState::Claimed.into(), 1));
        assert_eq!(found.claim.as_ref(), Some(&claim));
    }
    let no_receipt = v1::GetReceiptRequest { claim_digest: claim.claim_digest.clone(), size: 0 };
    let status = client.inference.get_receipt(no_receipt.clone()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).0.as_str()), (Code::NotFound, "claim_not_found"));

    node.log_claims();
    for key in [by_claim.clone(), by_request.clone()] {
        let found = get(&mut client, key).await.unwrap();
        assert_eq!((found.state, found.index), (RequestState::Logged.into(), 0));
    }
    let receipt = client.inference.get_receipt(no_receipt).await.unwrap().into_inner();
    assert_eq!(receipt.receipt.unwrap().claim, Some(claim.clone()));
    let beyond = v1::GetReceiptRequest { claim_digest: claim.claim_digest.clone(), size: 77 };
    let status = client.inference.get_receipt(beyond).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);

    node.ledger.disprove(B256::from_slice(&claim.claim_digest).into());
    let found = get(&mut client, by_request).await.unwrap();
    assert_eq!(
        (found.state, found.reason.as_str()),
        (RequestState::Disproved.into(), "claim_disproved")
    );

    for (name, key, code) in [
        ("an unknown claim", Some(Key::ClaimDigest(vec![1; 32].into())), Code::NotFound),
        ("an unknown request", Some(Key::RequestId(vec![1; 32].into())), Code::NotFound),
        ("a short digest", Some(Key::ClaimDigest(vec![1; 31].into())), Code::InvalidArgument),
        ("no key", None, Code::InvalidArgument),
    ] {
        let asked = v1::GetClaimRequest { key };
        let status = client.inference.get_claim(asked).await.unwrap_err();
        assert_eq!(status.code(), code, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_is_waited_for_until_the_log_knows_it() {
    let node = start().await;
    let mut client = node.client().await;
    let asked = InferRequest { wait_for: v1::WaitFor::Tier.into(), ..ask_digits(seven()) };
    let answer = client.inference.infer(asked).await.unwrap().into_inner();
    assert_eq!(answer.reached, 1);
    assert!(answer.receipt.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_with_what_they_read_and_cost() {
    let node = start().await;
    let mut client = node.client().await;
    let all = v1::ListModelsRequest::default();
    let models = client.inference.list_models(all).await.unwrap().into_inner();
    assert_eq!((models.models.len(), models.next_page_token.as_str()), (3, ""));
    let digits = models.models.iter().find(|model| model.alias == "digits").unwrap();
    assert_eq!(
        (digits.inputs[0].name.as_str(), &digits.inputs[0].dims[..]),
        ("pixels", &[-1, 64][..])
    );
    assert_eq!((digits.inputs[0].dtype(), digits.inputs[0].exponent), (v1::Dtype::I32, 16));
    assert_eq!((digits.outputs[0].name.as_str(), digits.ready), ("logits", true));

    // Page by page, the same.
    let mut paged = Vec::new();
    let mut page_token = String::new();
    loop {
        let asked = v1::ListModelsRequest { page_size: 1, page_token };
        let page = client.inference.list_models(asked).await.unwrap().into_inner();
        assert_eq!(page.models.len(), 1);
        paged.extend(page.models);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, models.models);
    let bad = v1::ListModelsRequest { page_size: 1, page_token: "next".into() };
    assert_eq!(client.inference.list_models(bad).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_is_what_the_claim_says_later() {
    let node = start().await;
    let mut client = node.client().await;
    let asked = v1::QuoteRequest { model: "digits".into(), input_bytes: 256, ..Default::default() };
    let quote = client.inference.quote(asked.clone()).await.unwrap().into_inner();
    let answer = client.inference.infer(ask_digits(seven())).await.unwrap().into_inner();
    assert_eq!(quote.macs, answer.claim.unwrap().claim.unwrap().macs);
    assert_eq!((quote.macs, quote.gas, quote.fee.as_str()), (6464, 256, "0"));
    assert!(quote.peak_bytes > 0 && quote.valid_until_s > 0);

    for (name, asked, code, want) in [
        (
            "no whole row",
            v1::QuoteRequest { input_bytes: 255, ..asked.clone() },
            Code::InvalidArgument,
            "input_shape",
        ),
        (
            "tokens of a classifier",
            v1::QuoteRequest { tokens_max: 1, ..asked.clone() },
            Code::InvalidArgument,
            "input_too_large",
        ),
        (
            "tier 4",
            v1::QuoteRequest { tier: 4, ..asked.clone() },
            Code::InvalidArgument,
            "unsupported_parameter",
        ),
        (
            "no such model",
            v1::QuoteRequest { model: "nobody".into(), ..asked },
            Code::NotFound,
            "model_not_found",
        ),
    ] {
        let status = client.inference.quote(asked).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).0.as_str()), (code, want), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_in_pieces_and_leave_in_pieces() {
    let limits = hyperion_rpc::limits::Limits {
        blob_bytes_max: 100_000,
        blobs_bytes_max: 150_000,
        chunk_bytes_max: 1000,
        ..Default::default()
    };
    let node = start_with(Setup { limits, ..Setup::default() }).await;
    let mut client = node.client().await;
    let data: Vec<u8> = (0..5000_u32).map(|i| keccak256(i.to_be_bytes())[0]).collect();
    let root = put(&mut client, v1::Dtype::U8, &[5, 1000], &data, 999).await.unwrap();

    for (offset, want) in [(0, &data[..]), (4999, &data[4999..]), (5000, &[][..])] {
        let asked = v1::GetBlobRequest { root: root.clone(), offset };
        let mut pieces = client.inference.get_blob(asked).await.unwrap().into_inner();
        let mut got = Vec::new();
        while let Some(piece) = pieces.message().await.unwrap() {
            assert!(piece.chunk.len() <= 1000);
            got.extend(piece.chunk);
        }
        assert_eq!(got, want, "from {offset}");
    }
    let beyond = v1::GetBlobRequest { root, offset: 5001 };
    assert_eq!(client.inference.get_blob(beyond).await.unwrap_err().code(), Code::InvalidArgument);

    let zeros = |len: usize| vec![0; len];
    let u8 = v1::Dtype::U8;
    for (name, outcome, code, want) in [
        (
            "a byte short",
            put(&mut client, u8, &[5, 100], &zeros(499), 100).await,
            Code::InvalidArgument,
            "bad_field",
        ),
        (
            "a byte long",
            put(&mut client, u8, &[5, 100], &zeros(501), 100).await,
            Code::InvalidArgument,
            "bad_field",
        ),
        (
            "a large piece",
            put(&mut client, u8, &[5, 400], &zeros(2000), 1001).await,
            Code::InvalidArgument,
            "input_too_large",
        ),
        (
            "a large blob",
            put(&mut client, u8, &[100_001], &[], 1).await,
            Code::InvalidArgument,
            "input_too_large",
        ),
        (
            "dimension 0",
            put(&mut client, u8, &[5, 0], &[], 1).await,
            Code::InvalidArgument,
            "bad_field",
        ),
        (
            "no dimension",
            put(&mut client, u8, &[], &[], 1).await,
            Code::InvalidArgument,
            "bad_field",
        ),
        (
            "a shape beyond 64 bits",
            put(&mut client, u8, &[u64::MAX, 2], &[], 1).await,
            Code::InvalidArgument,
            "bad_field",
        ),
    ] {
        let status = outcome.expect_err(name);
        assert_eq!((status.code(), reason(&status).0.as_str()), (code, want), "{name}: {status:?}");
    }

    // What failed gave its room back: 145,000 bytes are free still, and no more.
    put(&mut client, u8, &[100_000], &zeros(100_000), 1000).await.unwrap();
    let status = put(&mut client, u8, &[50_000], &vec![1; 50_000], 1000).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    put(&mut client, u8, &[45_000], &vec![1; 45_000], 1000).await.unwrap();
}

async fn get(client: &mut Client, key: Key) -> Result<v1::GetClaimResponse, tonic::Status> {
    let asked = v1::GetClaimRequest { key: Some(key) };
    client.inference.get_claim(asked).await.map(tonic::Response::into_inner)
}

/// Puts a blob in pieces of `piece` bytes.
async fn put(
    client: &mut Client,
    dtype: v1::Dtype,
    dims: &[u64],
    data: &[u8],
    piece: usize,
) -> Result<Bytes, tonic::Status> {
    let mut pieces: Vec<v1::PutBlobRequest> = data
        .chunks(piece)
        .map(|chunk| v1::PutBlobRequest { chunk: chunk.to_vec().into(), ..Default::default() })
        .collect();
    if pieces.is_empty() {
        pieces.push(v1::PutBlobRequest::default());
    }
    pieces[0].dtype = dtype.into();
    pieces[0].dims = dims.to_vec();
    let answer = client.inference.put_blob(tokio_stream::iter(pieces)).await?;
    Ok(answer.into_inner().root)
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}
