//! What is signed, and how a caller learns that it is in the log.

mod common;

use std::sync::{Arc, mpsc::channel};

use common::{
    Key, Setup, UNIX_S, config,
    device::scripted,
    domain,
    model::{classifier, pixels},
};
use hyperion_engine::{
    ClaimSink, Engine, EngineConfig, Failure, LogPlace, ManualClock, Registry, RequestStatus,
    SignError, Signer,
};
use hyperion_primitives::{Address, B256, RequestId, U256};
use hyperion_verify::Request;

#[test]
fn a_claim_says_what_ran_and_checks() {
    let config = EngineConfig { challenge_window_s: 1_000, ..config() };
    let setup = Setup::classifier(config, scripted(u64::MAX).0);
    setup.advance_us(5_000_000);
    let job = setup
        .job_with(Request { tier: 4, nonce: U256::from(1), ..Request::default() }, &pixels(1, 3));
    let request = job.request().clone();
    let (_ticket, outcome) = setup.submit(job.clone());
    let answer = outcome.recv().unwrap().unwrap();
    let claim = &answer.claim.claim;
    answer.claim.check(&domain()).unwrap();
    assert_eq!(answer.digest, claim.digest(&domain()));
    assert_eq!(answer.request, request);
    assert_eq!((claim.request_id, claim.model_id), (job.id(), setup.models[0].id()));
    assert_eq!(
        (claim.input_hash, claim.output_hash),
        (request.input_hash, answer.output.output_hash())
    );
    assert_eq!((claim.in_tokens, claim.out_tokens), (3, 0));
    assert_eq!(Some(claim.macs), setup.models[0].manifest().macs(3, 0));
    assert_eq!((claim.tier, claim.worker), (4, setup.engine.worker()));
    assert_eq!(claim.challenge_until, UNIX_S + 5 + 1_000);
    assert_eq!(
        (claim.seed, claim.sampling_hash, claim.trace_root),
        (B256::ZERO, B256::ZERO, B256::ZERO)
    );
    assert_eq!(setup.sink.claims.lock()[0].digest, answer.digest);
}

#[test]
fn a_request_goes_from_claimed_to_logged_and_its_waiters_hear_of_it() {
    let setup = Setup::classifier(config(), scripted(u64::MAX).0);
    let job = setup.job(&pixels(1, 1));
    let id = job.id();
    assert!(setup.engine.status(id).is_none());
    let (_ticket, outcome) = setup.submit(job);
    let answer = outcome.recv().unwrap().unwrap();
    assert!(matches!(setup.engine.status(id), Some(RequestStatus::Claimed(_))));
    let (tell, told) = channel();
    let listen = || {
        let tell = tell.clone();
        setup.engine.on_logged(id, Box::new(move |place| tell.send(place).unwrap()));
    };
    listen();
    assert!(told.try_recv().is_err());
    setup.engine.logged(&[(id, Default::default(), 9), (RequestId::default(), answer.digest, 9)]);
    assert!(told.try_recv().is_err(), "another claim's place is nobody's business");
    setup.engine.logged(&[(id, answer.digest, 17)]);
    let place = LogPlace { digest: answer.digest, index: 17 };
    assert_eq!(told.try_recv(), Ok(place));
    listen();
    assert_eq!(told.try_recv(), Ok(place), "later listeners hear at once");
    match setup.engine.status(id) {
        Some(RequestStatus::Logged { index: 17, answer: logged }) => {
            assert_eq!(logged.digest, answer.digest);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(setup.engine.request_of(answer.digest), Some(id));
}

#[test]
fn who_waits_for_a_request_that_nobody_made_is_let_go() {
    let setup = Setup::classifier(config(), scripted(u64::MAX).0);
    let (tell, told) = channel::<LogPlace>();
    setup.engine.on_logged(RequestId::default(), Box::new(move |place| tell.send(place).unwrap()));
    assert!(told.recv().is_err());
}

/// A key that cannot be used.
struct Broken;

impl Signer for Broken {
    fn address(&self) -> Address {
        Key::new().address()
    }

    fn sign(&self, _: B256) -> Result<[u8; 65], SignError> {
        Err(SignError("the key is away".to_owned()))
    }
}

#[test]
fn what_cannot_be_signed_fails_and_is_not_offered() {
    let mut models = Registry::new();
    models.add("m", classifier(1)).unwrap();
    let sink = common::Sink::default();
    let offered: Box<dyn ClaimSink> = Box::new(sink.clone());
    let clock = Arc::new(ManualClock::new(UNIX_S));
    let devices = vec![Box::new(scripted(u64::MAX).0) as Box<_>];
    let engine =
        Engine::new(config(), models, devices, Arc::new(Broken), domain(), clock, offered).unwrap();
    let model = engine.resolve("m").unwrap().id;
    let job = engine.complete(model, Request::default(), pixels(1, 1).into()).unwrap();
    let (tell, told) = channel();
    let _ticket = engine.submit(job, Box::new(move |outcome| tell.send(outcome).unwrap())).unwrap();
    let failure = told.recv().unwrap().unwrap_err();
    assert_eq!(failure, Failure::Sign(SignError("the key is away".to_owned())));
    assert!(sink.claims.lock().is_empty());
}
