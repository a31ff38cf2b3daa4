//! A caller whose time is over, or who is gone, leaves nothing behind: the device never begins its job.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{
    Setup, ask_digits,
    device::{Hold, Stopping},
    image, reason, start_with, until,
};
use hyperion_rpc::{
    client::Client,
    r#gen::v1::{
        self, infer_stream_response::Event, inference_service_client::InferenceServiceClient,
    },
};
use tokio::task::JoinHandle;
use tonic::{Code, Request};

async fn node(hold: &Hold) -> common::Node {
    start_with(Setup { devices: vec![Box::new(Stopping::new(hold))], ..Setup::default() }).await
}

/// A call that the device takes and keeps in its hands.
async fn occupy(node: &common::Node, hold: &Hold) -> JoinHandle<Result<(), tonic::Status>> {
    hold.close();
    let mut client = node.client().await;
    let call =
        tokio::spawn(async move { client.inference.infer(ask_digits(image(1))).await.map(drop) });
    until("the device stands still", || hold.is_waiting()).await;
    call
}

fn with_timeout<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_too_long_is_told_so_and_never_runs() {
    let hold = Hold::default();
    let node = node(&hold).await;
    let first = occupy(&node, &hold).await;
    let runs = hold.runs();

    let (transport, origin) = node.untimed();
    let mut client = InferenceServiceClient::with_origin(transport, origin);
    let request = with_timeout(ask_digits(image(2)), Duration::from_millis(60));
    let status = client.infer(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(reason(&status).0, "deadline", "the answer is ours, not tonic's");
    until("the job has left the queue", || node.engine.stats().models[0].queued == [0; 3]).await;

    hold.open();
    first.await.unwrap().unwrap();
    assert_eq!(hold.runs(), runs, "the late job began");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_is_gone_takes_its_job_along() {
    let hold = Hold::default();
    let node = node(&hold).await;
    let first = occupy(&node, &hold).await;
    let runs = hold.runs();

    let mut client = node.client().await;
    let gone =
        tokio::spawn(async move { client.inference.infer(ask_digits(image(3))).await.map(drop) });
    until("the second job waits", || node.engine.stats().models[0].queued == [0, 0, 1]).await;
    gone.abort();
    until("the job has left the queue", || node.engine.stats().models[0].queued == [0; 3]).await;

    hold.open();
    first.await.unwrap().unwrap();
    assert_eq!(hold.runs(), runs, "the job of a caller who is gone began");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_by_its_own_clock() {
    let hold = Hold::default();
    let node = node(&hold).await;
    let first = occupy(&node, &hold).await;

    let (transport, origin) = node.untimed();
    let request = v1::InferStreamRequest { request: Some(ask_digits(image(4))), resume_at: 0 };
    let request = with_timeout(request, Duration::from_millis(300));
    let mut client = InferenceServiceClient::with_origin(transport, origin);
    let mut events = client.infer_stream(request).await.unwrap().into_inner();
    let accepted = events.message().await.unwrap().unwrap().event.unwrap();
    let Event::Accepted(accepted) = accepted else { panic!("{accepted:?}") };
    let status = events.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");

    let state = claim_state(&mut node.client().await, accepted.request_id.clone()).await;
    assert_eq!(state.0, v1::RequestState::Failed as i32);
    assert!(["cancelled", "deadline"].contains(&state.1.as_str()), "{state:?}");

    hold.open();
    first.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_log_ends_at_the_deadline_and_the_claim_is_found_later() {
    let node = start_with(Setup { log_at_once: false, ..Setup::default() }).await;
    let mut client = node.client().await;
    let nonce = bytes::Bytes::from(vec![5; 32]);
    let mut asked = ask_digits(image(5));
    asked.wait_for = v1::WaitFor::Logged.into();
    asked.request = Some(v1::Request { nonce, deadline_s: 4_000_000_000, ..Default::default() });
    let signed = v1::InferRequest { wait_for: v1::WaitFor::Signed.into(), ..asked.clone() };
    client.inference.infer(signed).await.unwrap();

    let (transport, origin) = node.untimed();
    let mut untimed = InferenceServiceClient::with_origin(transport, origin);
    let request = with_timeout(asked.clone(), Duration::from_millis(60));
    let status = untimed.infer(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);

    node.log_claims();
    let answer = client.inference.infer(asked).await.unwrap().into_inner();
    assert!(answer.replayed, "the same request is the same answer");
    assert!(answer.receipt.is_some());
}

async fn claim_state(client: &mut Client, request_id: bytes::Bytes) -> (i32, String) {
    let key = Some(v1::get_claim_request::Key::RequestId(request_id));
    let found = client.inference.get_claim(v1::GetClaimRequest { key }).await.unwrap().into_inner();
    (found.state, found.reason)
}
