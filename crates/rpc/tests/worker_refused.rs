//! Who may attach: a key that is listed, proved anew on each connection, to this node and no other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{
    DOMAIN, Setup, start_with,
    worker::{self, Fake, address, hello},
};
use hyperion_engine::Clock;
use hyperion_ops::Reference;
use hyperion_primitives::{Address, sha256};
use hyperion_rpc::{
    auth::{Gate, Keys},
    client::ClientConfig,
    r#gen::v1::{self, attach_request::Event as Said},
    join::{JoinConfig, JoinError},
};
use hyperion_verify::Domain;
use tonic::Code;

fn setup() -> Setup {
    Setup { workers: vec![address(9)], ..Setup::default() }
}

/// What a node says to a Hello.
async fn said(node: &common::Node, change: impl FnOnce(&Fake) -> v1::Hello) -> (Code, String) {
    let mut fake = Fake::dial(node, 9).await;
    let hello = change(&fake);
    fake.say(Said::Hello(hello)).await;
    let status = fake.end().await;
    (status.code(), status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_false_hello_is_refused_with_the_reason() {
    use Code::{FailedPrecondition, InvalidArgument, PermissionDenied};
    let node = start_with(setup()).await;
    let elsewhere = Domain { chain_id: 1, ..DOMAIN };
    type Change = Box<dyn FnOnce(&Fake) -> v1::Hello>;
    let change = |change: fn(&mut v1::Hello)| -> Change {
        Box::new(move |fake| {
            let mut hello = fake.hello();
            change(&mut hello);
            hello
        })
    };
    let cases: Vec<(&str, Change, Code, &str)> = vec![
        (
            "a key that is not listed",
            Box::new(|fake| hello(8, &fake.greeting, &DOMAIN)),
            PermissionDenied,
            "workers.keys",
        ),
        (
            "another chain's signature",
            Box::new(move |fake| hello(9, &fake.greeting, &elsewhere)),
            PermissionDenied,
            "hello.signature",
        ),
        (
            "another worker's name",
            change(|hello| hello.worker = address(8).to_vec().into()),
            PermissionDenied,
            "hello.signature",
        ),
        (
            "a signature for another node",
            Box::new(|fake| {
                let node = Address::repeat_byte(1).to_vec().into();
                hello(9, &v1::Greeting { node, ..fake.greeting.clone() }, &DOMAIN)
            }),
            PermissionDenied,
            "hello.signature",
        ),
        (
            "a later end",
            Box::new(|fake| {
                let expires_s = fake.greeting.expires_s + 1;
                hello(9, &v1::Greeting { expires_s, ..fake.greeting.clone() }, &DOMAIN)
            }),
            PermissionDenied,
            "hello.signature",
        ),
        (
            "half a signature",
            change(|hello| hello.signature = hello.signature.slice(..64)),
            InvalidArgument,
            "hello.signature",
        ),
        (
            "a short address",
            change(|hello| hello.worker = hello.worker.slice(1..)),
            InvalidArgument,
            "hello.worker",
        ),
        ("another operator set", change(|hello| hello.opset = 3), FailedPrecondition, "set 3"),
        (
            "no model of this node",
            change(|hello| hello.models = vec![vec![7; 32].into()]),
            FailedPrecondition,
            "none of the models",
        ),
        (
            "a short model id",
            change(|hello| hello.models = vec![vec![7; 31].into()]),
            InvalidArgument,
            "hello.models",
        ),
        (
            "too many models",
            change(|hello| hello.models = vec![vec![7; 32].into(); 1025]),
            InvalidArgument,
            "hello.models",
        ),
        (
            "a long name of a device",
            change(|hello| {
                let name = "n".repeat(129);
                hello.devices = vec![v1::Device { name, ..v1::Device::default() }];
            }),
            InvalidArgument,
            "hello.devices",
        ),
    ];
    for (name, change, code, text) in cases {
        let (got, message) = said(&node, change).await;
        assert_eq!(got, code, "{name}: {message}");
        assert!(message.contains(text), "{name}: {message}");
    }
    assert_eq!(node.engine.stats().workers, 0);
    Fake::welcome(&node, 9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_hello_opens_no_second_connection() {
    let node = start_with(setup()).await;
    let first = Fake::dial(&node, 9).await;
    let recorded = first.hello();
    first.say(Said::Hello(recorded.clone())).await;
    let (code, message) = said(&node, |_| recorded).await;
    assert_eq!(code, Code::PermissionDenied, "{message}");
    assert!(message.contains("hello.signature"), "{message}");
}

/// The newer connection of a key counts; whoever had the older one hears why it ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_of_a_worker_takes_the_place_of_the_first() {
    let node = start_with(setup()).await;
    let mut first = Fake::welcome(&node, 9).await;
    let _second = Fake::welcome(&node, 9).await;
    assert_eq!(first.end().await.code(), Code::Aborted);
    assert_eq!(node.engine.stats().workers, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lists_nobody_takes_nobody() {
    let node = start_with(Setup::default()).await;
    let config = worker::config(&format!("http://{}", node.grpc));
    let worker = worker::start_with(config, 9, Box::new(Reference::new(1 << 30))).await;
    let Err(JoinError::Refused(why)) = worker.joined.await.unwrap() else { panic!() };
    assert!(why.contains("workers.keys"), "{why}");
}

fn gate(clock: Arc<dyn Clock>) -> Gate {
    let line = |id: &str, secret: u8, scope: &str| {
        format!(
            "[[key]]\nid = \"{id}\"\nsha256 = \"{}\"\nscopes = [\"{scope}\"]\nrequests_per_s = 50\njobs_max = 1\n",
            hex::encode(sha256([secret; 32]))
        )
    };
    let file = [line("gpu", 1, "worker"), line("acme", 2, "infer")].concat();
    Gate::keyed(Keys::parse(&file).unwrap(), Vec::new(), clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_keys_are_asked_for_a_worker_needs_one_of_its_scope() {
    let node = start_with(Setup { gate, ..setup() }).await;
    let token = |id: &str, secret: u8| format!("hyp.{id}.{}", URL_SAFE_NO_PAD.encode([secret; 32]));
    let join = async |token: Option<String>| {
        let config = JoinConfig {
            client: ClientConfig { token, ..ClientConfig::default() },
            ..worker::config(&format!("http://{}", node.grpc))
        };
        worker::start_with(config, 9, Box::new(Reference::new(1 << 30))).await
    };
    for token in [None, Some(token("acme", 2))] {
        let worker = join(token.clone()).await;
        let refused = worker.joined.await.unwrap();
        assert!(matches!(refused, Err(JoinError::Refused(_))), "{token:?}: {refused:?}");
    }
    let worker = join(Some(token("gpu", 1))).await;
    worker::attached(&node, 9).await;
    worker.stop.cancel();
    worker.joined.await.unwrap().unwrap();
}

/// A node in the middle could pass a worker's proof on, if the worker signed for whoever asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_signs_for_its_own_node_only() {
    let node = start_with(setup()).await;
    let config = JoinConfig {
        node_address: Some(address(1)),
        ..worker::config(&format!("http://{}", node.grpc))
    };
    let worker = worker::start_with(config, 9, Box::new(Reference::new(1 << 30))).await;
    let Err(JoinError::Refused(why)) = worker.joined.await.unwrap() else { panic!() };
    assert!(why.contains(&address(7).to_string()), "{why}");
}
