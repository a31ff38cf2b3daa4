//! A thousand callers who change their minds at any moment: nothing stays behind, and every request ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{DOMAIN, Setup, ask_digits, image, start_with, until};
use hyperion_primitives::{Dtype, Mix, RequestId, U256, input_hash, sha256, tensor_root};
use hyperion_rpc::{
    auth::{Area, Gate, Keys},
    client::ClientConfig,
    r#gen::v1::{self, InferRequest, RequestState, get_claim_request::Key},
};
use tokio::{sync::Semaphore, task::JoinSet};
use tonic::Code;

const CALLS: u64 = 1000;
/// Calls at once, and places of the key.
const AT_ONCE: u32 = 48;

/// A request whose identity is known before it is sent.
fn request(model: hyperion_primitives::ModelId, nonce: u64) -> (RequestId, InferRequest) {
    let data = image(0);
    let root = tensor_root(Dtype::I32, &[1, 64], &data).unwrap();
    let request = hyperion_verify::Request {
        model_id: model,
        input_hash: input_hash(&[root]),
        tier: 1,
        deadline: 4_000_000_000,
        nonce: U256::from(nonce),
        ..Default::default()
    };
    let wire = v1::Request {
        deadline_s: request.deadline,
        nonce: request.nonce.to_be_bytes::<32>().to_vec().into(),
        ..v1::Request::default()
    };
    (request.id(&DOMAIN), InferRequest { request: Some(wire), ..ask_digits(data) })
}

fn keys() -> Keys {
    let digest = hex::encode(sha256([1; 32]));
    let text = format!(
        "[[key]]\nid = \"storm\"\nsha256 = \"{digest}\"\nscopes = [\"infer\"]\n\
         requests_per_s = 1000000\njobs_max = {AT_ONCE}\n"
    );
    Keys::parse(&text).unwrap()
}

/// Why a call ended. HTTP/2 closes a connection on which many calls are taken back before the server has looked at them; the calls
/// beside those, which the client then names UNKNOWN, were aborted too.
fn reason(status: &tonic::Status) -> Code {
    let is_closed = status.code() == Code::Unknown && status.message() == "transport error";
    if is_closed { Code::Aborted } else { status.code() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_change_their_minds() {
    let gate = |clock| Gate::keyed(keys(), vec![Area::Receipts], clock);
    let node = start_with(Setup { gate, ..Setup::default() }).await;
    let token = format!("hyp.storm.{}", URL_SAFE_NO_PAD.encode([1; 32]));
    let client =
        node.client_with(&ClientConfig { token: Some(token.clone()), ..Default::default() }).await;
    let model = node.model("digits").id;

    let turns = Arc::new(Semaphore::new(AT_ONCE as usize));
    let mut calls = JoinSet::new();
    let mut ids = Vec::new();
    let mut mix = Mix::new(12);
    for nonce in 1..=CALLS {
        let (id, asked) = request(model, nonce);
        ids.push(id);
        let mut client = client.clone();
        let turn = Arc::clone(&turns).acquire_owned().await.unwrap();
        let (patience, microseconds) = (mix.below(40), mix.below(6000));
        calls.spawn(async move {
            let _turn = turn;
            let mut asked = tonic::Request::new(asked);
            if patience % 3 == 0 {
                asked.set_timeout(Duration::from_micros(microseconds));
            }
            let call = client.inference.infer(asked);
            let bored = async {
                for _ in 0..patience {
                    tokio::task::yield_now().await;
                }
                if patience % 2 == 0 {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                outcome = call => outcome.map(drop).map_err(|status| reason(&status)),
                () = bored => Err(Code::Aborted),
            }
        });
    }
    let outcomes = calls.join_all().await;
    let count =
        |want: Result<(), Code>| outcomes.iter().filter(|outcome| **outcome == want).count();
    assert!(count(Ok(())) > 0 && count(Err(Code::Aborted)) > 0, "every kind of end happens");
    let known = [Code::Aborted, Code::DeadlineExceeded, Code::Cancelled, Code::ResourceExhausted];
    let odd = outcomes.iter().find(|outcome| outcome.is_err_and(|code| !known.contains(&code)));
    assert_eq!(odd, None);

    until("the queue is empty", || node.engine.stats().models[0].queued == [0; 3]).await;
    let header = format!("Bearer {token}");
    let caller = || node.door.gate().admit(Some(header.as_bytes()), Area::Infer).unwrap();
    until("the key has all its places back", || {
        let places: Vec<_> = (0..AT_ONCE).map(|_| caller().take_place()).collect();
        places.iter().all(Result::is_ok)
    })
    .await;

    let mut client = node.client().await;
    for id in ids {
        let ended = loop {
            let key = Some(Key::RequestId(id.0.to_vec().into()));
            match client.inference.get_claim(v1::GetClaimRequest { key }).await {
                Err(status) => break status.code() == Code::NotFound, // it never reached the engine
                Ok(found) => match found.into_inner().state() {
                    RequestState::Logged | RequestState::Failed => break true,
                    RequestState::Queued | RequestState::Running | RequestState::Claimed => {
                        tokio::task::yield_now().await;
                    }
                    other => panic!("{other:?}"),
                },
            }
        };
        assert!(ended, "{id}");
    }
}
