//! A worker attaches over the network and its claims are the node's answers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    DOMAIN, Setup, ask_digits,
    device::{Hold, Stopping},
    image, reason, seven, start_with, until,
    worker::{self, address, serves},
};
use hyperion_ops::Reference;
use hyperion_primitives::Address;
use hyperion_rpc::{client, r#gen::v1};

fn reference() -> Box<Reference> {
    Box::new(Reference::new(1 << 30))
}

/// Whose claim an answer carries; the claim is checked.
fn signer(answer: &v1::InferResponse) -> Address {
    let envelope = client::envelope(DOMAIN, answer.clone(), None).unwrap();
    let receipt = envelope.receipt().unwrap();
    let claim = hyperion_verify::SignedClaim::from_entry(&receipt.entry).unwrap();
    claim.check(&DOMAIN).unwrap();
    claim.claim.worker
}

fn logged(data: Vec<u8>) -> v1::InferRequest {
    v1::InferRequest { wait_for: v1::WaitFor::Logged.into(), ..ask_digits(data) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_devices_serves_through_a_worker() {
    let setup = Setup { devices: Vec::new(), workers: vec![address(9)], ..Setup::default() };
    let node = start_with(setup).await;
    let mut client = node.client().await;
    let refused = client.inference.infer(logged(seven())).await.unwrap_err();
    assert_eq!(reason(&refused).0, "no_worker", "{refused}");

    let worker = worker::start(&node, 9, reference()).await;
    let answer = client.inference.infer(logged(seven())).await.unwrap().into_inner();
    assert_eq!(signer(&answer), address(9));
    let output = client::tensor_data(answer.outputs[0].clone()).unwrap();
    let engine = worker.engine.clone();
    let model = node.model("digits").id;
    let own = tokio::task::spawn_blocking(move || engine.infer_now(model, &seven()).unwrap());
    assert_eq!(output.data, own.await.unwrap().data);

    // Told to end, the worker delivers what it holds and goes; then nobody serves.
    let asked: Vec<_> = (0..20)
        .map(|pixel| {
            let mut client = client.clone();
            tokio::spawn(async move { client.inference.infer(logged(image(pixel))).await })
        })
        .collect();
    for answer in asked {
        assert_eq!(signer(&answer.await.unwrap().unwrap().into_inner()), address(9));
    }
    worker.stop.cancel();
    let joined = worker.joined.await.unwrap().unwrap();
    assert_eq!((joined.delivered, joined.undelivered, joined.sessions), (21, 0, 1));
    until("the worker has gone", || !serves(&node, 9)).await;
    assert_eq!(node.engine.stats().workers, 0);
}

/// With devices of its own a node gives workers what these have no time for.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_what_the_node_has_no_time_for() {
    let hold = Hold::default();
    let node = start_with(Setup {
        devices: vec![Box::new(Stopping::new(&hold))],
        workers: vec![address(9)],
        ..Setup::default()
    })
    .await;
    let _worker = worker::start(&node, 9, reference()).await;
    hold.close();
    let mut first = node.client().await;
    let held = tokio::spawn(async move { first.inference.infer(logged(image(1))).await });
    until("the node's device is busy", || hold.is_waiting()).await;
    let mut client = node.client().await;
    for pixel in 0..10 {
        let answer = client.inference.infer(logged(image(pixel))).await.unwrap().into_inner();
        assert_eq!(signer(&answer), address(9), "{pixel}");
    }
    hold.open();
    assert_eq!(signer(&held.await.unwrap().unwrap().into_inner()), address(7));

    // What a worker said is not remembered as this node's own knowledge.
    let input = image(99);
    hold.close();
    let mut busy = node.client().await;
    let held = tokio::spawn(async move { busy.inference.infer(logged(image(2))).await });
    until("the node's device is busy again", || hold.is_waiting()).await;
    client.inference.infer(logged(input.clone())).await.unwrap();
    let job = hyperion_primitives::tensor_root(hyperion_primitives::Dtype::I32, &[1, 64], &input);
    let input_hash = hyperion_primitives::input_hash(&[job.unwrap()]);
    assert!(node.engine.remembered(node.model("digits").id, input_hash).is_none());
    hold.open();
    held.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_request_comes_to_the_worker_with_its_signature() {
    let setup = Setup { devices: Vec::new(), workers: vec![address(9)], ..Setup::default() };
    let node = start_with(setup).await;
    let (engine, _) = worker::engine(9, reference()).await;
    let mut fake = worker::Fake::serve(&node, 9, &engine, 4).await;
    let requester = common::key(3);
    let input = seven();
    let request = hyperion_verify::Request {
        requester: hyperion_verify::sign::address(&requester),
        nonce: hyperion_primitives::U256::from(5),
        deadline: u64::from(u32::MAX),
        ..hyperion_verify::Request::default()
    };
    let job = node.engine.complete(node.model("digits").id, request, input.clone().into()).unwrap();
    let signature = hyperion_verify::sign::sign(&requester, &job.id().0);
    let whole = job.request().clone();
    let asked = v1::InferRequest {
        request: Some(v1::Request {
            requester: whole.requester.to_vec().into(),
            worker: Vec::new().into(),
            model_id: whole.model_id.0.to_vec().into(),
            input_hash: whole.input_hash.to_vec().into(),
            sampling_hash: whole.sampling_hash.to_vec().into(),
            tier: whole.tier.into(),
            seed_mode: 0,
            entropy: Vec::new().into(),
            fee_asset: Vec::new().into(),
            fee_max: "0".to_owned(),
            deadline_s: whole.deadline,
            nonce: whole.nonce.to_be_bytes::<32>().to_vec().into(),
        }),
        request_signature: signature.to_vec().into(),
        ..logged(input)
    };
    let mut client = node.client().await;
    let answer = tokio::spawn(async move { client.inference.infer(asked).await });
    let lease = fake.lease().await;
    assert_eq!(lease.request_signature, signature.to_vec());
    assert_eq!(lease.request_id, job.id().0.to_vec());
    let finished = fake.finished(&engine, &lease).await;
    fake.say(v1::attach_request::Event::Finished(finished)).await;
    assert_eq!(signer(&answer.await.unwrap().unwrap().into_inner()), address(9));
}
