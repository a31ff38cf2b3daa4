//! A worker that says what is not so is found out where it can be, and put out of service.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    DOMAIN, Node, Setup, ask_digits,
    device::{Hold, Stopping},
    image, start_with, until,
    worker::{self, Fake, address, finished, resign, serves},
};
use hyperion_engine::{Engine, EngineConfig};
use hyperion_ops::Reference;
use hyperion_rpc::r#gen::v1::{
    self, attach_request::Event as Said, attach_response::Event as Told,
};
use tonic::Code;

/// A node whose own device is held back, and an engine that knows the truth.
async fn held(lease_us: u64) -> (Node, Hold, Engine) {
    let hold = Hold::default();
    let engine = EngineConfig { worker_lease_us: lease_us, ..EngineConfig::default() };
    let node = start_with(Setup {
        devices: vec![Box::new(Stopping::new(&hold))],
        workers: vec![address(9)],
        engine,
        ..Setup::default()
    })
    .await;
    let (truth, _) = worker::engine(9, Box::new(Reference::new(1 << 30))).await;
    (node, hold, truth)
}

/// Asks while the node's device is at something else, so that the worker is asked.
async fn asked(
    node: &Node,
    hold: &Hold,
) -> tokio::task::JoinHandle<Result<tonic::Response<v1::InferResponse>, tonic::Status>> {
    hold.close();
    let (mut client, mut other) = (node.client().await, node.client().await);
    tokio::spawn(async move { other.inference.infer(ask_digits(image(1))).await });
    until("the node's device is busy", || hold.is_waiting()).await;
    tokio::spawn(async move { client.inference.infer(ask_digits(image(2))).await })
}

fn worker_of(answer: &v1::InferResponse) -> Vec<u8> {
    answer.claim.as_ref().unwrap().claim.as_ref().unwrap().worker.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_answer_to_a_known_question_keeps_a_worker_out() {
    let (node, _, _) = held(30_000_000).await;
    let mut fake = Fake::welcome(&node, 9).await;
    let Told::Probe(probe) = fake.hear().await.unwrap() else { panic!() };
    let output_hash = vec![1; 32].into();
    fake.say(Said::Probed(v1::Probed { probe_id: probe.probe_id, output_hash })).await;
    let status = fake.end().await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("known question"), "{status}");
    assert!(!serves(&node, 9));

    // Not back at once either, and the reason is told again.
    let mut again = Fake::dial(&node, 9).await;
    again.say(Said::Hello(again.hello())).await;
    let status = again.end().await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("it may come back in "), "{status}");
}

/// Each field of a claim, each form of an output: what is signed is what was leased and what was sent, or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_not_about_the_lease_is_refused_and_its_job_done_elsewhere() {
    type Change = fn(&mut v1::Finished);
    fn claim(finished: &mut v1::Finished) -> &mut v1::Claim {
        finished.claim.as_mut().unwrap().claim.as_mut().unwrap()
    }
    fn output(finished: &mut v1::Finished) -> &mut v1::Tensor {
        &mut finished.outputs[0]
    }
    let cases: [(&str, Change, bool, &str); 14] = [
        ("another output", |f| *output(f) = zeros(10), true, "output hash"),
        ("a longer output", |f| *output(f) = zeros(11), true, "the model gives"),
        ("another type", |f| output(f).dtype = v1::Dtype::U32.into(), true, "the model gives"),
        ("another shape", |f| output(f).dims = vec![10, 1], true, "the model gives"),
        ("fewer bytes than said", |f| shorten(output(f)), true, "the model gives"),
        ("the request", |f| claim(f).request_id = vec![3; 32].into(), true, "request id"),
        ("the model", |f| claim(f).model_id = vec![3; 32].into(), true, "model id"),
        ("the input", |f| claim(f).input_hash = vec![3; 32].into(), true, "input hash"),
        ("the work", |f| claim(f).macs += 1, true, "macs"),
        ("the time", |f| claim(f).challenge_until_s += 1, true, "challenge time"),
        ("the tier", |f| claim(f).tier = 2, true, "tier"),
        ("the trace", |f| claim(f).trace_root = vec![3; 32].into(), true, "trace root"),
        ("the worker", |f| claim(f).worker = address(8).to_vec().into(), true, "worker"),
        ("an old signature", |f| tamper(f), false, "not its worker's"),
    ];
    for (name, change, sign, text) in cases {
        let (node, hold, truth) = held(30_000_000).await;
        let mut fake = Fake::serve(&node, 9, &truth, 1).await;
        let answer = asked(&node, &hold).await;
        let lease = fake.lease().await;
        let mut finished = fake.finished(&truth, &lease).await;
        change(&mut finished);
        if sign {
            resign(9, &mut finished);
        }
        fake.say(Said::Finished(finished)).await;
        let status = fake.end().await;
        assert_eq!(status.code(), Code::PermissionDenied, "{name}: {status}");
        assert!(status.message().contains(text), "{name}: {status}");
        assert!(!serves(&node, 9), "{name}");
        hold.open();
        let answer = answer.await.unwrap().unwrap().into_inner();
        assert_eq!(worker_of(&answer), address(7).to_vec(), "{name}");
    }
}

fn zeros(width: usize) -> v1::Tensor {
    v1::Tensor {
        name: String::new(),
        dtype: v1::Dtype::I32.into(),
        dims: vec![1, width as u64],
        body: Some(v1::tensor::Body::Data(vec![0; 4 * width].into())),
    }
}

fn shorten(tensor: &mut v1::Tensor) {
    tensor.body = Some(v1::tensor::Body::Data(vec![0; 36].into()));
}

/// A right claim under a signature that is one bit off.
fn tamper(finished: &mut v1::Finished) {
    let signed = finished.claim.as_mut().unwrap();
    let mut signature = signed.signature.to_vec();
    signature[40] ^= 1;
    signed.signature = signature.into();
}

/// The wrong bytes, rightly signed, from a worker whose lease had ended: the scalar reference decides, the answer given
/// stands, and the worker is out for as long as the node lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_lie_is_disproved_and_its_worker_out_for_good() {
    let (node, hold, truth) = held(300_000).await;
    let mut fake = Fake::serve(&node, 9, &truth, 1).await;
    let answer = asked(&node, &hold).await;
    let lease = fake.lease().await;
    until("the lease has ended", || node.engine.stats().leases_ended == 1).await;
    hold.open();
    let answer = answer.await.unwrap().unwrap().into_inner();
    assert_eq!(worker_of(&answer), address(7).to_vec());

    drop(fake);
    let mut fake = Fake::welcome(&node, 9).await;
    fake.say(Said::Finished(finished(9, &lease, &[7; 40]))).await;
    let status = fake.end().await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("the scalar reference disproved"), "{status}");
    let evidence = node.engine.evidence().remove(0);
    assert_eq!(evidence.truth.as_ref(), Some(&evidence.first.1));
    assert_eq!(node.engine.stats().results_mismatch, 1);

    let mut again = Fake::dial(&node, 9).await;
    again.say(Said::Hello(again.hello())).await;
    let status = again.end().await;
    assert!(status.message().contains("once the node was started anew"), "{status}");

    // The right answer stands.
    let asked = v1::GetClaimRequest {
        key: Some(v1::get_claim_request::Key::ClaimDigest(
            hyperion_rpc::client::claim_digest(&DOMAIN, &answer).unwrap().0.to_vec().into(),
        )),
    };
    let claim = node.client().await.inference.get_claim(asked).await.unwrap().into_inner();
    assert!(claim.claim.is_some() && claim.reason.is_empty(), "{claim:?}");
}

/// The liar was first and the truth came late: the claim that was signed is disproved, by the worker's own signature.
#[tokio::test(flavor = "multi_thread")]
async fn a_lie_that_came_first_is_disproved_by_the_truth() {
    let hold = Hold::default();
    let node = start_with(Setup {
        devices: vec![Box::new(Stopping::new(&hold))],
        workers: vec![address(9)],
        engine: EngineConfig { lease_us: 2_000_000, ..EngineConfig::default() },
        ..Setup::default()
    })
    .await;
    let (truth, _) = worker::engine(9, Box::new(Reference::new(1 << 30))).await;
    let mut fake = Fake::serve(&node, 9, &truth, 1).await;
    hold.close();
    let mut client = node.client().await;
    let answer =
        tokio::spawn(async move { client.inference.infer(ask_digits(image(1))).await.unwrap() });
    // The node's own device is silent about it for too long, so the worker gets it.
    let lease = fake.lease().await;
    fake.say(Said::Finished(finished(9, &lease, &[7; 40]))).await;
    let answer = answer.await.unwrap().into_inner();
    assert_eq!(worker_of(&answer), address(9).to_vec());
    hold.open();
    let status = fake.end().await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let digest = hyperion_rpc::client::claim_digest(&DOMAIN, &answer).unwrap();
    let request = node.engine.request_of(digest).unwrap();
    let disproved = matches!(
        node.engine.status(request),
        Some(hyperion_engine::RequestStatus::Failed(hyperion_engine::Failure::Disproved))
    );
    assert!(disproved);
}
