//! Messages that no worker sends: each ends its own connection with the reason, and the node goes on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{
    Setup, ask_digits, image, start_with, until,
    worker::{self, Fake, address, finished},
};
use hyperion_ops::Reference;
use hyperion_rpc::r#gen::v1::{
    self, Credit, Draining, Failed, Finished, Heartbeat, Hello, Lease, Probed, Progress,
    attach_request::Event as Said, attach_response::Event as Told,
};
use tonic::Code;

fn setup() -> Setup {
    Setup { workers: vec![address(8), address(9)], ..Setup::default() }
}

fn sixteen(byte: u8) -> bytes::Bytes {
    vec![byte; 16].into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_is_a_hello_and_comes_once() {
    let node = start_with(setup()).await;
    let firsts = [
        Said::Credit(Credit::default()),
        Said::Heartbeat(Heartbeat::default()),
        Said::Finished(Finished::default()),
        Said::Draining(Draining {}),
    ];
    for first in firsts {
        let mut fake = Fake::dial(&node, 9).await;
        fake.say(first.clone()).await;
        assert_eq!(fake.end().await.code(), Code::InvalidArgument, "{first:?}");
    }
    let mut nothing = Fake::dial(&node, 9).await;
    nothing.say_nothing().await;
    assert_eq!(nothing.end().await.code(), Code::InvalidArgument);
    let mut empty = Fake::dial(&node, 9).await;
    empty.say(Said::Hello(Hello::default())).await;
    assert_eq!(empty.end().await.code(), Code::InvalidArgument);
    let mut twice = Fake::welcome(&node, 9).await;
    twice.say(Said::Hello(twice.hello())).await;
    assert_eq!(twice.end().await.code(), Code::InvalidArgument);
    until("the worker has gone", || node.engine.stats().workers == 0).await;
}

/// Over ten seconds, for which the node waits.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_is_let_go_after_ten_seconds() {
    let node = start_with(setup()).await;
    let mut silent = Fake::dial(&node, 9).await;
    assert_eq!(silent.end().await.code(), Code::DeadlineExceeded);
}

/// Strangers who say nothing fill the places of those who say hello; the rest is told to come back.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_so_many_say_hello_at_once() {
    let node = start_with(setup()).await;
    let mut fakes = Vec::new();
    for _ in 0..32 {
        fakes.push(Fake::dial(&node, 9).await);
    }
    let mut client = v1::worker_service_client::WorkerServiceClient::new(node.channel().await);
    let refused = client.attach(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    drop(fakes);
    // Closed connections give their places back.
    let again = async {
        while client.attach(tokio_stream::pending()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_malformed_message_ends_its_connection_only() {
    let node = start_with(setup()).await;
    let (engine, _) = worker::engine(9, Box::new(Reference::new(1 << 30))).await;
    let lease = Lease {
        lease_id: sixteen(1),
        request: Some(v1::Request {
            model_id: node.model("digits").id.0.to_vec().into(),
            input_hash: vec![0; 32].into(),
            ..v1::Request::default()
        }),
        request_id: vec![0; 32].into(),
        ..Lease::default()
    };
    let whole = finished(9, &lease, &[0; 40]);
    let bad: Vec<(&str, Said)> = vec![
        ("a short model id", Said::Credit(Credit { model_id: vec![1; 31].into(), slots: 1 })),
        ("a short lease", Said::Heartbeat(Heartbeat { lease_ids: vec![vec![1; 15].into()] })),
        ("very many leases", Said::Heartbeat(Heartbeat { lease_ids: vec![sixteen(1); 4097] })),
        ("tokens", Said::Progress(Progress::default())),
        ("no lease", Said::Finished(Finished { lease_id: vec![].into(), ..whole.clone() })),
        (
            "a short lease, failed",
            Said::Failed(Failed { lease_id: vec![1; 17].into(), ..Failed::default() }),
        ),
        (
            "a short question",
            Said::Probed(Probed { probe_id: vec![1].into(), output_hash: vec![0; 32].into() }),
        ),
    ];
    for (name, event) in bad {
        let mut fake = Fake::welcome(&node, 9).await;
        fake.say(event).await;
        let status = fake.end().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status}");
    }

    // Of things that nobody knows: passed over, or acknowledged so that the worker lets go of them.
    let mut fake = Fake::serve(&node, 9, &engine, 1).await;
    let unknown = [
        Said::Credit(Credit { model_id: vec![1; 32].into(), slots: u32::MAX }),
        Said::Heartbeat(Heartbeat { lease_ids: vec![sixteen(1); 100] }),
        Said::Failed(Failed { lease_id: sixteen(1), kind: 99, detail: "é".repeat(10_000) }),
        Said::Probed(Probed { probe_id: sixteen(1), output_hash: vec![0; 32].into() }),
        Said::Finished(whole),
    ];
    for event in unknown {
        fake.say(event).await;
    }
    let Told::Ack(ack) = fake.hear().await.unwrap() else { panic!() };
    assert_eq!((ack.lease_id, ack.duplicate), (sixteen(1), false));

    // Larger than any result.
    let body = Some(v1::tensor::Body::Data(vec![0; 1 << 20].into()));
    let outputs = vec![v1::Tensor { body, ..v1::Tensor::default() }];
    fake.say(Said::Finished(Finished { outputs, ..Finished::default() })).await;
    assert_eq!(fake.end().await.code(), Code::OutOfRange);

    node.client().await.inference.infer(ask_digits(image(1))).await.unwrap();
}

/// A worker may not touch what another holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_its_own_workers() {
    let setup = Setup { devices: Vec::new(), ..setup() };
    let node = start_with(setup).await;
    let (engine, _) = worker::engine(9, Box::new(Reference::new(1 << 30))).await;
    let mut honest = Fake::serve(&node, 9, &engine, 1).await;
    let mut thief = Fake::serve(&node, 8, &engine, 0).await;
    let mut client = node.client().await;
    let answer =
        tokio::spawn(async move { client.inference.infer(ask_digits(image(1))).await.unwrap() });
    let lease = honest.lease().await;
    let kind = v1::FailureKind::DeviceLost.into();
    let lease_id = lease.lease_id.clone();
    thief.say(Said::Failed(Failed { lease_id, kind, detail: "mine".into() })).await;
    thief.say(Said::Finished(finished(8, &lease, &[0; 40]))).await;
    let Told::Ack(ack) = thief.hear().await.unwrap() else { panic!() };
    assert!(!ack.duplicate);
    honest.say(Said::Finished(honest.finished(&engine, &lease).await)).await;
    let answer = answer.await.unwrap().into_inner();
    let worker = answer.claim.unwrap().claim.unwrap().worker;
    assert_eq!(worker, address(9).to_vec());
    assert_eq!(node.engine.stats().leases_ended, 0);
}

/// Calls under way still need their worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_node_lets_its_workers_finish_and_go() {
    let node = start_with(Setup { devices: Vec::new(), ..setup() }).await;
    let (engine, _) = worker::engine(9, Box::new(Reference::new(1 << 30))).await;
    let mut fake = Fake::serve(&node, 9, &engine, 1).await;
    let mut client = node.client().await;
    let answer = tokio::spawn(async move { client.inference.infer(ask_digits(image(1))).await });
    let lease = fake.lease().await;
    node.shutdown.stop.cancel();
    let Told::Drain(_) = fake.hear().await.unwrap() else { panic!() };
    fake.say(Said::Finished(fake.finished(&engine, &lease).await)).await;
    answer.await.unwrap().expect("the call that was under way");
    fake.end().await;
}
