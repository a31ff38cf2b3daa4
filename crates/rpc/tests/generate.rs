//! Answers that are generated, over gRPC: whole, token by token, resumed, and given up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{
    DOMAIN, END, Node, Setup, Signs,
    device::{Hold, Stopping},
    reason, start, start_with, writer,
};
use hyperion_engine::{Drawing, Logprobs, RequestStatus};
use hyperion_model::{Decoder, Limits};
use hyperion_ops::{Reference, logprob::logprobs};
use hyperion_primitives::{B256, RequestId};
use hyperion_rpc::{
    client,
    r#gen::v1::{
        self, ChatTurn, InferRequest, InferStreamRequest, TokenInput, infer_request::Input,
        infer_stream_response::Event,
    },
    receipt_json::{Envelope, TensorData},
    writing::TextDecoder as _,
};
use hyperion_verify::Sampling;
use tonic::Code;

fn ask(text: &str, sampling: Option<v1::Sampling>) -> InferRequest {
    InferRequest {
        model: "writer".into(),
        input: Some(Input::Text(text.to_owned())),
        sampling,
        ..InferRequest::default()
    }
}

fn warm(tokens_max: u32) -> Option<v1::Sampling> {
    Some(v1::Sampling { temperature_q16: 2 << 16, tokens_max, ..v1::Sampling::default() })
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The answer over the scalar definitions, one token after another.
fn alone(prompt: &[u32], drawing: &Drawing, seed: B256) -> Vec<u32> {
    let mut reference = Reference::default();
    let limits = Limits { rows_max: 64, outputs_max: 1, pages: 2 };
    let mut decoder = Decoder::load(&writer(), &mut reference, limits).unwrap();
    let (mut context, mut sampler) = (decoder.begin(), drawing.sampler(seed, prompt));
    let mut logits = decoder.prefill(&mut reference, &mut context, prompt).unwrap();
    let mut answer = Vec::new();
    loop {
        answer.push(sampler.next(&logits));
        let last = *answer.last().unwrap();
        if drawing.ends(&answer) {
            return answer;
        }
        logits = decoder.step(&mut reference, &mut [(&mut context, last)]).unwrap().remove(0);
    }
}

/// What an answer has to be, from the settings and the seed that it came with.
fn check(answer: &v1::InferResponse) {
    let wire = answer.sampling.clone().unwrap();
    let sampling = Sampling {
        temperature_q16: wire.temperature_q16,
        top_k: wire.top_k,
        top_p_q16: wire.top_p_q16,
        frequency_q16: wire.frequency_q16,
        presence_q16: wire.presence_q16,
        tokens_max: wire.tokens_max,
        min_p_q16: wire.min_p_q16,
        repetition_q16: wire.repetition_q16,
        ..Sampling::default()
    };
    let drawing = Drawing::new(sampling, wire.stop_tokens).unwrap();
    let drawing = drawing.with_stop_texts(wire.stop_texts).unwrap();
    let drawing = drawing.with_token_bytes(Signs.token_bytes().unwrap());
    let claim = answer.claim.as_ref().unwrap().claim.as_ref().unwrap();
    assert_eq!(claim.sampling_hash, drawing.sampling().hash().as_slice());
    let want = alone(&answer.input_tokens, &drawing, B256::from_slice(&claim.seed));
    assert_eq!(answer.tokens, want);
    let stopped = drawing.stop_ids().contains(want.last().unwrap());
    let in_text = drawing.ends_in_text(&want);
    assert_eq!(answer.finish_reason, if stopped || in_text { "stop" } else { "length" });
    let shown = Signs.decode(&want[..want.len() - usize::from(stopped)]).unwrap();
    let ends = drawing.stop_texts().iter().filter_map(|text| shown.find(text.as_str())).min();
    assert_eq!(answer.text, shown[..ends.unwrap_or(shown.len())]);
    assert_eq!(ends.is_some(), in_text);
    assert_eq!(
        (claim.in_tokens, claim.out_tokens),
        (answer.input_tokens.len() as u32, want.len() as u32)
    );
}

async fn infer(node: &Node, request: InferRequest) -> v1::InferResponse {
    node.client().await.inference.infer(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_drawn_as_its_settings_and_seed_say() {
    let node = start().await;
    for (text, sampling) in [
        ("HELLO", None),
        ("A", warm(12)),
        ("ABC", warm(40)),
        ("Q", Some(v1::Sampling { stop_tokens: vec![9, 3, 9, 30], ..warm(50).unwrap() })),
        (
            "Q",
            Some(v1::Sampling { frequency_q16: 1 << 15, presence_q16: -300, ..warm(20).unwrap() }),
        ),
        ("Q", Some(v1::Sampling { stop_texts: texts(&["AB", "Z"]), ..warm(50).unwrap() })),
        ("Q", Some(v1::Sampling { stop_texts: texts(&["Y", "X", "Y"]), ..warm(50).unwrap() })),
        ("Q", Some(v1::Sampling { top_k: 3, top_p_q16: 40_000, ..warm(20).unwrap() })),
        ("Q", Some(v1::Sampling { min_p_q16: 9_000, ..warm(20).unwrap() })),
        ("QQRS", Some(v1::Sampling { repetition_q16: 90_000, ..warm(20).unwrap() })),
        (
            "QQRS",
            Some(v1::Sampling { repetition_q16: 90_000, tokens_max: 20, ..Default::default() }),
        ),
        (
            "QQRS",
            Some(v1::Sampling {
                min_p_q16: 900,
                repetition_q16: 40_000,
                presence_q16: 7_000,
                ..warm(20).unwrap()
            }),
        ),
    ] {
        let answer = infer(&node, ask(text, sampling.clone())).await;
        check(&answer);
        let filled = answer.sampling.unwrap();
        if sampling.is_none() {
            // Greedy, up to the model's limit, and the model's own end.
            assert_eq!((filled.temperature_q16, filled.tokens_max), (0, 64 - 5 + 1));
            assert_eq!(filled.stop_tokens, [END]);
        }
        let seeded = answer.request.unwrap().seed_mode;
        assert_eq!(seeded, u32::from(filled.temperature_q16 > 0));
    }
    // A chat and token ids, and twice the same request.
    let turns = [("user", "AB"), ("assistant", "C")]
        .map(|(role, content)| ChatTurn { role: role.into(), content: content.into() });
    let chat = Input::Chat(v1::ChatInput { turns: turns.to_vec() });
    let chat = infer(&node, InferRequest { input: Some(chat), ..ask("", warm(8)) }).await;
    check(&chat);
    let ids = TokenInput { ids: chat.input_tokens.clone() };
    let again = InferRequest {
        input: Some(Input::Tokens(ids)),
        request: chat.request.clone(),
        ..ask("", chat.sampling.clone())
    };
    let again = infer(&node, again).await;
    assert!(again.replayed && again.tokens == chat.tokens);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_says_how_its_answer_was_drawn() {
    let node = start().await;
    let asked = InferRequest { wait_for: v1::WaitFor::Logged.into(), ..ask("HELLO", warm(9)) };
    let answer = infer(&node, asked).await;
    let data = answer.input_tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
    let input = TensorData { dtype: hyperion_primitives::Dtype::U32, dims: vec![5, 1], data };
    let envelope = client::envelope(DOMAIN, answer, Some(vec![input])).unwrap();
    let read = Envelope::parse(&envelope.to_json()).unwrap();
    assert_eq!(read, envelope);
    read.check_log(&node.trust()).unwrap();
    read.check_request().unwrap();
    read.check_sampling().unwrap();
    read.check_input().unwrap();
    read.check_output().unwrap();
    let other = envelope.to_json().replace("\"tokensMax\":9", "\"tokensMax\":10");
    assert!(Envelope::parse(&other).unwrap().check_sampling().is_err());
    let wrong = envelope.to_json().replace("\"topPQ16\":65536", "\"topPQ16\":65537");
    assert!(Envelope::parse(&wrong).is_err());
}

/// How likely an answer's tokens are, over the scalar definitions from one prefill a token.
fn odds(answer: &v1::InferResponse, alternatives: usize) -> Vec<v1::TokenLogprobs> {
    let mut reference = Reference::default();
    let limits = Limits { rows_max: 64, outputs_max: 1, pages: 2 };
    let mut decoder = Decoder::load(&writer(), &mut reference, limits).unwrap();
    let mut text = answer.input_tokens.clone();
    let mut told = Vec::new();
    for token in &answer.tokens {
        let mut context = decoder.begin();
        let logits = decoder.prefill(&mut reference, &mut context, &text).unwrap();
        decoder.release(context);
        let Logprobs { own_q16, top_q16 } = logprobs(&logits, *token, alternatives);
        let (top_tokens, top_logprobs_q16) = top_q16.into_iter().unzip();
        told.push(v1::TokenLogprobs { logprob_q16: own_q16, top_tokens, top_logprobs_q16 });
        text.push(*token);
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn how_likely_tokens_were_is_told_beside_an_answer() {
    let node = start().await;
    // Penalised and warm: what is told is of the logits as they came.
    let settings =
        Some(v1::Sampling { presence_q16: 9_000, repetition_q16: 80_000, ..warm(20).unwrap() });
    let asked = |logprobs| InferRequest { logprobs, ..ask("QRS", settings.clone()) };
    let plain = infer(&node, asked(None)).await;
    assert!(plain.logprobs.is_empty());
    for alternatives in [0, 1, 20] {
        let answer = infer(&node, asked(Some(alternatives))).await;
        assert_eq!(answer.logprobs, odds(&answer, alternatives as usize));
        let request = asked(Some(alternatives));
        let (deltas, done) = stream(&node, request, 0).await;
        let told: Vec<_> = deltas.iter().flat_map(|delta| delta.logprobs.clone()).collect();
        assert!(deltas.iter().all(|delta| delta.logprobs.len() == delta.tokens.len()));
        assert_eq!((&told, &done.logprobs), (&done.logprobs, &odds(&done, alternatives as usize)));
    }
    // The request of the plain answer again: the claim is the stored one, what is told is of a run of its own.
    let same = |logprobs| InferRequest {
        request: plain.request.clone(),
        sampling: plain.sampling.clone(),
        ..asked(logprobs)
    };
    let again = infer(&node, same(Some(3))).await;
    assert!(again.replayed && again.claim == plain.claim && again.tokens == plain.tokens);
    assert_eq!(again.logprobs, odds(&again, 3));
    let (deltas, done) = stream(&node, same(Some(3)), 5).await;
    assert!(done.replayed && done.claim == plain.claim);
    let told: Vec<_> = deltas.iter().flat_map(|delta| delta.logprobs.clone()).collect();
    assert_eq!(told, odds(&again, 3).split_off(5));
    assert!(infer(&node, same(None)).await.logprobs.is_empty());
    // Greedy answers have equal content, and one of them is remembered.
    let greedy = |logprobs| InferRequest { logprobs, ..ask("QRS", None) };
    let (first, second) = (infer(&node, greedy(None)).await, infer(&node, greedy(Some(2))).await);
    assert_eq!((&first.tokens, second.logprobs.clone()), (&second.tokens, odds(&second, 2)));

    let mut client = node.client().await;
    for (request, why) in [
        (asked(Some(21)), "20 alternatives"),
        (
            InferRequest { model: "letters".into(), logprobs: Some(0), ..ask("hello", None) },
            "generates no tokens",
        ),
    ] {
        let status = client.inference.infer(request).await.unwrap_err();
        assert_eq!((status.code(), status.message().contains(why)), (Code::InvalidArgument, true));
    }
}

/// Everything that a stream says.
async fn stream(
    node: &Node,
    request: InferRequest,
    resume_at: u32,
) -> (Vec<v1::Delta>, v1::InferResponse) {
    let asked = InferStreamRequest { request: Some(request), resume_at };
    let mut client = node.client().await;
    let mut events = client.inference.infer_stream(asked).await.unwrap().into_inner();
    let accepted = events.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(accepted, Event::Accepted(_)), "{accepted:?}");
    let mut deltas = Vec::new();
    loop {
        match events.message().await.unwrap().unwrap().event.unwrap() {
            Event::Delta(delta) => deltas.push(delta),
            Event::Done(done) => {
                assert!(events.message().await.unwrap().is_none(), "done is last");
                return (deltas, done);
            }
            Event::Accepted(_) => panic!("accepted twice"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_in_order_and_a_stream_goes_on_where_it_broke_off() {
    let node = start().await;
    // Greedy answers are equal: a text of one is a stop text of the next.
    let mut greedy = v1::InferResponse::default();
    for prompt in 'A'..='Z' {
        greedy = infer(&node, ask(&prompt.to_string(), None)).await;
        if greedy.text.len() > 5 {
            break;
        }
    }
    let prompt = Signs.decode(&greedy.input_tokens).unwrap();
    let stop = texts(&[&greedy.text[1..4]]);
    let stopping = Some(v1::Sampling { stop_texts: stop, ..v1::Sampling::default() });
    let (deltas, done) = stream(&node, ask(&prompt, stopping), 0).await;
    check(&done);
    assert_eq!(done.finish_reason, "stop");
    let text: Vec<u8> = deltas.iter().flat_map(|delta| delta.text.to_vec()).collect();
    assert_eq!(String::from_utf8(text).unwrap(), done.text, "no part of the stop text");
    assert!(greedy.text.starts_with(&done.text) && done.tokens.len() == done.text.len() + 3);

    let (deltas, done) = stream(&node, ask("HELLO", warm(50)), 0).await;
    check(&done);
    let mut next = 0;
    for delta in &deltas {
        assert_eq!(delta.position, next);
        next += delta.tokens.len() as u32;
    }
    let tokens: Vec<u32> = deltas.iter().flat_map(|delta| delta.tokens.clone()).collect();
    let text: Vec<u8> = deltas.iter().flat_map(|delta| delta.text.to_vec()).collect();
    assert_eq!(
        (tokens, String::from_utf8(text).unwrap()),
        (done.tokens.clone(), done.text.clone())
    );

    let request = InferRequest { request: done.request.clone(), ..ask("HELLO", warm(50)) };
    for resume_at in [1, 7, done.tokens.len() as u32, 1000] {
        let (deltas, again) = stream(&node, request.clone(), resume_at).await;
        assert!(again.replayed);
        let tokens: Vec<u32> = deltas.iter().flat_map(|delta| delta.tokens.clone()).collect();
        assert_eq!(tokens, done.tokens.get(resume_at as usize..).unwrap_or_default());
        assert!(deltas.first().is_none_or(|delta| delta.position == resume_at));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_drawn_is_refused_by_name() {
    let node = start().await;
    let mut client = node.client().await;
    let refused = [
        (
            ask("A", Some(v1::Sampling { temperature_q16: 1, ..Default::default() })),
            "sampling_invalid",
        ),
        (
            ask("A", Some(v1::Sampling { top_p_q16: 65_537, ..Default::default() })),
            "sampling_invalid",
        ),
        (
            ask("A", Some(v1::Sampling { min_p_q16: 65_537, ..Default::default() })),
            "sampling_invalid",
        ),
        (
            ask("A", Some(v1::Sampling { repetition_q16: 8_191, ..Default::default() })),
            "sampling_invalid",
        ),
        (
            ask("A", Some(v1::Sampling { repetition_q16: 524_289, ..warm(3).unwrap() })),
            "sampling_invalid",
        ),
        (
            ask("A", Some(v1::Sampling { stop_tokens: vec![64], ..Default::default() })),
            "sampling_invalid",
        ),
        (
            ask("A", Some(v1::Sampling { stop_tokens: vec![1; 33], ..Default::default() })),
            "input_too_large",
        ),
        (
            ask("A", Some(v1::Sampling { stop_texts: texts(&["a"; 5]), ..Default::default() })),
            "input_too_large",
        ),
        (
            ask(
                "A",
                Some(v1::Sampling { stop_texts: vec!["a".repeat(257)], ..Default::default() }),
            ),
            "input_too_large",
        ),
        (
            ask("A", Some(v1::Sampling { stop_texts: texts(&[""]), ..Default::default() })),
            "bad_field",
        ),
        (ask("A", Some(v1::Sampling { tokens_max: 65, ..Default::default() })), "input_too_large"),
        (ask(&"A".repeat(65), None), "input_too_large"),
        (ask("", None), "input_shape"),
        (InferRequest { model: "letters".into(), ..ask("A", warm(3)) }, "sampling_invalid"),
        (
            InferRequest {
                model: "letters".into(),
                input: Some(Input::Chat(v1::ChatInput { turns: vec![ChatTurn::default()] })),
                ..ask("A", None)
            },
            "unsupported_parameter",
        ),
        (
            InferRequest {
                request: Some(v1::Request { seed_mode: 2, ..v1::Request::default() }),
                ..ask("A", warm(3))
            },
            "bad_field",
        ),
        (
            InferRequest {
                request: Some(v1::Request {
                    sampling_hash: vec![1; 32].into(),
                    ..v1::Request::default()
                }),
                ..ask("A", warm(3))
            },
            "bad_field",
        ),
    ];
    for (request, want) in refused {
        let status = client.inference.infer(request.clone()).await.unwrap_err();
        assert_eq!(reason(&status).0, want, "{request:?}: {status}");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_hears_ends_its_answer() {
    let gate = Hold::default();
    let setup = Setup { devices: vec![Box::new(Stopping::new(&gate))], ..Setup::default() };
    let node = start_with(setup).await;
    gate.close();
    let asked = InferStreamRequest { request: Some(ask("HELLO", warm(50))), resume_at: 0 };
    let mut client = node.client().await;
    let mut events = client.inference.infer_stream(asked).await.unwrap().into_inner();
    let Some(Event::Accepted(accepted)) = events.message().await.unwrap().unwrap().event else {
        panic!("the first event accepts")
    };
    let id = RequestId(B256::from_slice(&accepted.request_id));
    while !matches!(node.engine.status(id), Some(RequestStatus::Running)) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop((events, client));
    while !matches!(node.engine.status(id), Some(RequestStatus::Failed(_))) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    gate.open();
    // The place is free, and the next answer comes.
    check(&infer(&node, ask("A", warm(5))).await);
    assert_eq!(node.engine.stats().cancelled, 1);
}
