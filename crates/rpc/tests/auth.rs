//! Keys: who is let in, how often, with how much at once, and how a new file takes over.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{
    Setup, ask_digits,
    device::{Hold, Stopping},
    image, reason, seven, start_with, until,
};
use hyperion_engine::{Clock, ManualClock};
use hyperion_primitives::sha256;
use hyperion_rpc::{
    auth::{Area, Gate, Keys},
    client::ClientConfig,
    r#gen::v1,
    status::Code,
};
use tonic_types::StatusExt as _;

fn line(id: &str, secret: u8, scopes: &str, more: &str) -> String {
    let digest = hex::encode(sha256([secret; 32]));
    format!(
        "[[key]]\nid = \"{id}\"\nsha256 = \"{digest}\"\nscopes = [{scopes}]\n\
         requests_per_s = 5\njobs_max = 1\n{more}\n"
    )
}

fn token(id: &str, secret: u8) -> String {
    format!("hyp.{id}.{}", URL_SAFE_NO_PAD.encode([secret; 32]))
}

fn bearer(id: &str, secret: u8) -> Vec<u8> {
    format!("Bearer {}", token(id, secret)).into_bytes()
}

fn file() -> Keys {
    let text = [
        line("acme", 1, "\"infer\"", ""),
        line("auditor", 2, "\"audit\"", ""),
        line("root", 3, "\"admin\"", ""),
        line("old", 4, "\"infer\"", "expires = 2020-01-01T00:00:00Z"),
    ];
    Keys::parse(&text.concat()).unwrap()
}

fn gate(clock: Arc<dyn Clock>) -> Gate {
    Gate::keyed(file(), vec![Area::Log, Area::Receipts, Area::Models], clock)
}

/// Name, `authorization`, where to, and the refusal.
type Case = (&'static str, Option<Vec<u8>>, Area, Option<Code>);

#[test]
fn who_is_let_in() {
    let gate = gate(Arc::new(ManualClock::new(1_700_000_000)));
    let acme = bearer("acme", 1);
    let cases: [Case; 16] = [
        ("nobody, to the log", None, Area::Log, None),
        ("nobody, to receipts", None, Area::Receipts, None),
        ("nobody, to models", None, Area::Models, None),
        ("nobody, to infer", None, Area::Infer, Some(Code::Unauthenticated)),
        ("nobody, to administer", None, Area::Admin, Some(Code::Unauthenticated)),
        ("acme, to infer", Some(acme.clone()), Area::Infer, None),
        ("acme, to the log", Some(acme.clone()), Area::Log, None),
        ("acme, to administer", Some(acme), Area::Admin, Some(Code::Forbidden)),
        ("the auditor, to infer", Some(bearer("auditor", 2)), Area::Infer, Some(Code::Forbidden)),
        ("root, to infer", Some(bearer("root", 3)), Area::Infer, None),
        ("root, to administer", Some(bearer("root", 3)), Area::Admin, None),
        (
            "a key that has expired",
            Some(bearer("old", 4)),
            Area::Infer,
            Some(Code::Unauthenticated),
        ),
        ("another secret", Some(bearer("acme", 2)), Area::Infer, Some(Code::Unauthenticated)),
        ("an unknown id", Some(bearer("nobody", 1)), Area::Infer, Some(Code::Unauthenticated)),
        (
            "a wrong key where none is needed",
            Some(bearer("acme", 9)),
            Area::Log,
            Some(Code::Unauthenticated),
        ),
        ("no token at all", Some(b"Bearer".to_vec()), Area::Infer, Some(Code::Unauthenticated)),
    ];
    for (name, header, area, want) in cases {
        let got = gate.admit(header.as_deref(), area).err().map(|error| error.code());
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn without_a_key_file_everybody_may_do_everything_but_administer() {
    let gate = Gate::open(Arc::new(ManualClock::new(0)));
    for area in [Area::Log, Area::Receipts, Area::Models, Area::Infer] {
        assert!(gate.admit(None, area).is_ok(), "{area:?}");
    }
    assert_eq!(gate.admit(None, Area::Admin).unwrap_err().code(), Code::Forbidden);
}

#[test]
fn a_rate_is_kept_and_says_when_to_come_back() {
    let clock = Arc::new(ManualClock::new(1_700_000_000));
    let gate = gate(Arc::clone(&clock) as _);
    let acme = bearer("acme", 1);
    for _ in 0..5 {
        gate.admit(Some(&acme), Area::Infer).unwrap();
    }
    let error = gate.admit(Some(&acme), Area::Infer).unwrap_err();
    assert_eq!(error.code(), Code::RateLimited);
    assert_eq!(error.retry(), Some(std::time::Duration::from_millis(200)));
    clock.advance_us(199_000);
    assert!(gate.admit(Some(&acme), Area::Infer).is_err(), "a millisecond early");
    clock.advance_us(1_000);
    gate.admit(Some(&acme), Area::Infer).unwrap();
}

#[test]
fn a_new_file_takes_over_and_forgets_nobody_who_stays() {
    let clock = Arc::new(ManualClock::new(1_700_000_000));
    let gate = gate(Arc::clone(&clock) as _);
    let acme = bearer("acme", 1);
    let caller = gate.admit(Some(&acme), Area::Infer).unwrap();
    let _place = caller.take_place().unwrap();
    for _ in 0..4 {
        gate.admit(Some(&acme), Area::Infer).unwrap();
    }

    gate.replace(Keys::parse(&line("acme", 1, "\"infer\"", "")).unwrap());
    let used = gate.admit(Some(&acme), Area::Infer).unwrap_err();
    assert_eq!(used.code(), Code::RateLimited, "a reload is no fresh rate");
    assert!(gate.admit(Some(&bearer("root", 3)), Area::Infer).is_err(), "a key that left the file");
    clock.advance_us(1_000_000);
    let again = gate.admit(Some(&acme), Area::Infer).unwrap();
    assert_eq!(
        again.take_place().unwrap_err().code(),
        Code::RateLimited,
        "its job is in flight still"
    );

    gate.replace(Keys::parse(&line("acme", 5, "\"infer\"", "")).unwrap());
    assert!(gate.admit(Some(&acme), Area::Infer).is_err(), "the old secret");
    gate.admit(Some(&bearer("acme", 5)), Area::Infer).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_work_over_grpc_and_http() {
    let hold = Hold::default();
    let device = Box::new(Stopping::new(&hold));
    let node = start_with(Setup { gate, devices: vec![device], ..Setup::default() }).await;
    let mut nobody = node.client().await;
    let status = nobody.inference.infer(ask_digits(seven())).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (tonic::Code::Unauthenticated, "unauthenticated")
    );
    nobody.inference.list_models(v1::ListModelsRequest::default()).await.unwrap();

    let config = ClientConfig { token: Some(token("acme", 1)), ..ClientConfig::default() };
    let mut acme = node.client_with(&config).await;
    acme.inference.infer(ask_digits(seven())).await.unwrap();

    // One job at a time: the second waits for the first.
    hold.close();
    let mut first = acme.clone();
    let call =
        tokio::spawn(async move { first.inference.infer(ask_digits(image(1))).await.map(drop) });
    until("the device stands still", || hold.is_waiting()).await;
    let status = acme.inference.infer(ask_digits(image(2))).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (tonic::Code::ResourceExhausted, "rate_limited")
    );
    assert!(status.get_error_details().retry_info().is_some(), "{status:?}");
    hold.open();
    call.await.unwrap().unwrap();

    let (status, ..) = node.http("GET", "/v1/models", "").await;
    assert_eq!(status, 200, "models are open");
}
