//! A worker that dies, falls silent or loses its connection takes no request with it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    Setup, ask_digits,
    device::{Hold, Stopping},
    image, reason, start_with, until,
    worker::{self, Fake, address, attached, serves},
};
use hyperion_engine::EngineConfig;
use hyperion_ops::Reference;
use hyperion_rpc::r#gen::v1::{
    self, attach_request::Event as Said, attach_response::Event as Told,
};

fn reference() -> Box<Reference> {
    Box::new(Reference::new(1 << 30))
}

fn remote_only(workers: &[u8]) -> Setup {
    let workers = workers.iter().map(|byte| address(*byte)).collect();
    Setup { devices: Vec::new(), workers, ..Setup::default() }
}

fn hasty(workers: &[u8]) -> Setup {
    let engine = EngineConfig { worker_lease_us: 300_000, ..EngineConfig::default() };
    Setup { engine, ..remote_only(workers) }
}

fn worker_of(answer: &v1::InferResponse) -> Vec<u8> {
    answer.claim.as_ref().unwrap().claim.as_ref().unwrap().worker.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_over_its_work_loses_nothing() {
    let node = start_with(remote_only(&[8, 9])).await;
    let hold = Hold::default();
    let doomed = worker::start(&node, 8, Box::new(Stopping::new(&hold))).await;
    hold.close();
    let asked: Vec<_> = (0..6)
        .map(|pixel| {
            let grpc = node.grpc;
            tokio::spawn(async move {
                let address = format!("http://{grpc}");
                let config = hyperion_rpc::client::ClientConfig::default();
                let mut client =
                    hyperion_rpc::client::Client::connect(&address, &config).await.unwrap();
                client.inference.infer(ask_digits(image(pixel))).await
            })
        })
        .collect();
    until("the worker is at them", || node.engine.stats().leases == 6).await;
    until("its device stands still", || hold.is_waiting()).await;
    let _heir = worker::start(&node, 9, reference()).await;
    doomed.joined.abort();
    for answer in asked {
        let answer = answer.await.unwrap().unwrap().into_inner();
        assert_eq!(worker_of(&answer), address(9).to_vec());
    }
    let stats = node.engine.stats();
    assert_eq!((stats.leases_ended, stats.failed, stats.claimed), (6, 0, 6));
    hold.open();
}

/// It reads, it says nothing: only the end of the lease tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_silent_worker_goes_to_another() {
    let node = start_with(hasty(&[8, 9])).await;
    let (engine, _) = worker::engine(8, reference()).await;
    let mut silent = Fake::serve(&node, 8, &engine, 1).await;
    let mut client = node.client().await;
    let answer =
        tokio::spawn(async move { client.inference.infer(ask_digits(image(1))).await.unwrap() });
    let lease = silent.lease().await;
    assert_eq!(lease.attempt, 0);
    let _heir = worker::start(&node, 9, reference()).await;
    assert_eq!(worker_of(answer.await.unwrap().get_ref()), address(9).to_vec());
    until("it is out of service", || !serves(&node, 8)).await;
    assert_eq!(silent.end().await.code(), tonic::Code::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_a_long_job_where_it_is() {
    let node = start_with(hasty(&[8])).await;
    let (engine, _) = worker::engine(8, reference()).await;
    let mut slow = Fake::serve(&node, 8, &engine, 1).await;
    let mut client = node.client().await;
    let answer =
        tokio::spawn(async move { client.inference.infer(ask_digits(image(1))).await.unwrap() });
    let lease = slow.lease().await;
    let lease_ids = vec![lease.lease_id.clone()];
    for _ in 0..12 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        slow.say(Said::Heartbeat(v1::Heartbeat { lease_ids: lease_ids.clone() })).await;
    }
    slow.say(Said::Finished(slow.finished(&engine, &lease).await)).await;
    assert_eq!(worker_of(answer.await.unwrap().get_ref()), address(8).to_vec());
    assert_eq!(node.engine.stats().leases_ended, 0);
}

/// The connection breaks, the result comes over the next one: it counts, since nobody was faster.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_from_before_the_connection_broke_counts() {
    let node = start_with(remote_only(&[8])).await;
    let (engine, _) = worker::engine(8, reference()).await;
    let mut before = Fake::serve(&node, 8, &engine, 1).await;
    let mut client = node.client().await;
    let answer =
        tokio::spawn(async move { client.inference.infer(ask_digits(image(1))).await.unwrap() });
    let lease = before.lease().await;
    let finished = before.finished(&engine, &lease).await;
    drop(before);
    until("the job waits again", || node.engine.stats().leases_ended == 1).await;
    let mut after = Fake::welcome(&node, 8).await;
    after.say(Said::Finished(finished.clone())).await;
    assert_eq!(worker_of(answer.await.unwrap().get_ref()), address(8).to_vec());
    let mut acks = Vec::new();
    after.say(Said::Finished(finished)).await;
    while acks.len() < 2 {
        if let Told::Ack(ack) = after.hear().await.unwrap() {
            acks.push(ack.duplicate);
        }
    }
    assert_eq!(acks, [false, false], "taken, and then unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_three_workers_give_back_fails() {
    let node = start_with(remote_only(&[8])).await;
    let (engine, _) = worker::engine(8, reference()).await;
    let mut fake = Fake::serve(&node, 8, &engine, 1).await;
    let mut client = node.client().await;
    let answer = tokio::spawn(async move { client.inference.infer(ask_digits(image(1))).await });
    for attempt in 0..3 {
        let lease = fake.lease().await;
        assert_eq!(lease.attempt, attempt);
        fake.say(Said::Failed(v1::Failed {
            lease_id: lease.lease_id,
            kind: v1::FailureKind::InputRejected.into(),
            detail: "do not like it".to_owned(),
        }))
        .await;
        let model_id = node.model("digits").id.0.to_vec().into();
        fake.say(Said::Credit(v1::Credit { model_id, slots: 1 })).await;
    }
    let failed = answer.await.unwrap().unwrap_err();
    assert_eq!(reason(&failed).0, "no_worker");
    assert!(failed.message().contains("do not like it"), "{failed}");
}

/// A caller who goes takes along what no device has begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_cancels_the_lease() {
    let node = start_with(remote_only(&[8])).await;
    let (engine, _) = worker::engine(8, reference()).await;
    let mut fake = Fake::serve(&node, 8, &engine, 1).await;
    let mut client = node.client().await;
    let asking = tokio::spawn(async move { client.inference.infer(ask_digits(image(1))).await });
    let lease = fake.lease().await;
    asking.abort();
    let Told::Cancel(cancel) = fake.hear().await.unwrap() else { panic!() };
    assert_eq!(cancel.lease_id, lease.lease_id);
    let kind = v1::FailureKind::Cancelled.into();
    fake.say(Said::Failed(v1::Failed { lease_id: lease.lease_id, kind, detail: String::new() }))
        .await;
    until("nothing lives", || node.engine.is_idle()).await;
    attached(&node, 8).await;
}
