//! What is not taken is refused at once, with a reason and numbers.

mod common;

use common::{
    Setup, config,
    device::scripted,
    model::{self, PIXELS, pixels},
};
use hyperion_engine::{Class, EngineConfig, Failure, Invalid, Pushback};
use hyperion_primitives::{Address, B256, ModelId, U256};
use hyperion_verify::{InputError, Request};

#[test]
fn a_full_queue_says_how_full_and_when_to_come_back() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(EngineConfig { queue_jobs_max: 3, ..config() }, device);
    script.close();
    let (_running, _first) = setup.submit(setup.job(&pixels(0, 1)));
    script.wait_at_gate(1);
    let waiting: Vec<_> = (1..=3).map(|seed| setup.submit(setup.job(&pixels(seed, 1)))).collect();
    let refused = setup.try_submit(setup.job(&pixels(4, 1))).unwrap_err();
    let Pushback::QueueFull { waiting: 3, limit: 3, retry_ms } = refused else {
        panic!("{refused}")
    };
    assert!((40..=12_000).contains(&retry_ms), "{retry_ms}");
    let paid = setup.submit(setup.job(&pixels(5, 1)).class(Class::Paid));
    script.open();
    for (_ticket, outcome) in waiting.into_iter().chain([paid]) {
        outcome.recv().unwrap().unwrap();
    }
}

#[test]
fn waiting_inputs_are_bounded_in_bytes() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(EngineConfig { queue_bytes_max: 200, ..config() }, device);
    script.close();
    let (_running, _first) = setup.submit(setup.job(&pixels(0, 1)));
    script.wait_at_gate(1);
    let _second = setup.submit(setup.job(&pixels(1, 2)));
    let refused = setup.try_submit(setup.job(&pixels(2, 2))).unwrap_err();
    assert!(
        matches!(refused, Pushback::BytesFull { waiting_bytes: 128, limit_bytes: 200, .. }),
        "{refused}"
    );
    let _third = setup.submit(setup.job(&pixels(3, 1)));
    script.open();
}

#[test]
fn a_log_that_is_behind_pushes_new_requests_back_and_old_claims_arrive_in_order() {
    let config = EngineConfig { claims_waiting_max: 2, ..config() };
    let setup = Setup::classifier(config, scripted(u64::MAX).0);
    *setup.sink.room.lock() = Some(1);
    let digests: Vec<_> = (0..3)
        .map(|seed| {
            let (_ticket, outcome) = setup.submit(setup.job(&pixels(seed, 1)));
            outcome.recv().unwrap().unwrap().digest
        })
        .collect();
    assert_eq!(setup.engine.stats().claims_waiting, 2);
    let refused = setup.try_submit(setup.job(&pixels(9, 1))).unwrap_err();
    assert!(matches!(refused, Pushback::LogBehind { .. }), "{refused}");
    setup.engine.infer_now(setup.models[0].id(), &pixels(9, 1)).expect("no claim, no log");
    *setup.sink.room.lock() = None;
    setup.engine.logged(&[]);
    assert_eq!(setup.engine.stats().claims_waiting, 0);
    let (_ticket, outcome) = setup.submit(setup.job(&pixels(9, 1)));
    let last = outcome.recv().unwrap().unwrap().digest;
    let arrived: Vec<_> = setup.sink.claims.lock().iter().map(|answer| answer.digest).collect();
    assert_eq!(arrived, [digests, vec![last]].concat());
}

#[test]
fn a_request_that_contradicts_itself_is_invalid() {
    let setup = Setup::classifier(config(), scripted(u64::MAX).0);
    let model = setup.models[0].id();
    let refused = |request: Request, input: &[u8]| {
        setup.engine.complete(model, request, input.into()).unwrap_err()
    };
    let other = B256::repeat_byte(9);
    let fields: [(&str, Request); 7] = [
        ("request.model_id", Request { model_id: ModelId(other), ..Request::default() }),
        ("request.input_hash", Request { input_hash: other, ..Request::default() }),
        ("request.worker", Request { worker: Address::repeat_byte(1), ..Request::default() }),
        ("request.seed_mode", Request { seed_mode: 1, ..Request::default() }),
        ("request.seed_mode", Request { seed_mode: 9, ..Request::default() }),
        ("request.seed_mode", Request { entropy: other, ..Request::default() }),
        ("request.tier", Request { tier: 6, ..Request::default() }),
    ];
    for (name, request) in fields {
        match refused(request, &pixels(1, 1)) {
            Invalid::Field { field, .. } => assert_eq!(field, name),
            invalid => panic!("{name}: {invalid}"),
        }
    }
    let sampled = Request { sampling_hash: other, ..Request::default() };
    assert_eq!(refused(sampled, &pixels(1, 1)), Invalid::Sampling);
    let row_bytes = PIXELS * 4;
    let mut wild = pixels(1, 1);
    wild[..4].copy_from_slice(&i32::MIN.to_le_bytes());
    let inputs = [
        ("empty", vec![], InputError::Shape { got_bytes: 0, row_bytes }),
        (
            "a byte short",
            pixels(1, 1)[1..].to_vec(),
            InputError::Shape { got_bytes: 63, row_bytes },
        ),
        ("a row too many", pixels(1, 41), InputError::Rows { got: 41, max: 40 }),
        (
            "out of range",
            wild,
            InputError::Range { element: 0, got: i32::MIN.into(), max: (1 << 30) - 1 },
        ),
    ];
    for (name, input, want) in inputs {
        assert_eq!(refused(Request::default(), &input), Invalid::Input(want), "{name}");
    }
    let unknown =
        setup.engine.complete(ModelId(other), Request::default(), pixels(1, 1).into()).unwrap_err();
    assert_eq!(unknown, Invalid::ModelNotFound(other.to_string()));
}

#[test]
fn a_request_is_filled_where_it_is_zero() {
    let setup = Setup::classifier(config(), scripted(u64::MAX).0);
    let job = setup.job_with(Request { nonce: U256::from(3), ..Request::default() }, &pixels(1, 2));
    let request = job.request();
    assert_eq!(
        (request.model_id, request.tier, request.nonce),
        (setup.models[0].id(), 1, U256::from(3))
    );
    assert_eq!(request.deadline, common::UNIX_S + 60);
    assert!(!request.input_hash.is_zero() && request.sampling_hash.is_zero());
    assert_eq!((job.id(), job.rows()), (request.id(&setup.engine.domain()), 2));
    let again = setup.job_with(request.clone(), &pixels(1, 2));
    assert_eq!(again.request(), request, "a complete request stays as it is");
}

#[test]
fn a_model_goes_by_its_aliases_and_by_its_id() {
    let model = model::classifier(1);
    let setup = Setup::new(
        config(),
        vec![model.clone(), model.clone()],
        vec![Box::new(scripted(u64::MAX).0)],
    );
    let info = setup.engine.resolve("m1").unwrap();
    assert_eq!(
        (info.id, info.aliases.clone(), info.ready),
        (model.id(), vec!["m0".into(), "m1".into()], Ok(()))
    );
    assert_eq!(setup.engine.models().len(), 1, "two names, one model");
    assert_eq!(setup.engine.resolve(&model.id().to_string()).unwrap().id, model.id());
    for nobody in ["m2", "", "0x", "0x1234", &B256::ZERO.to_string()] {
        assert!(setup.engine.resolve(nobody).is_none(), "{nobody}");
    }
}

#[test]
fn what_a_refused_closure_holds_may_call_the_engine_when_it_goes() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(EngineConfig { queue_jobs_max: 1, ..config() }, device);
    script.close();
    let (_running, _first) = setup.submit(setup.job(&pixels(0, 1)));
    script.wait_at_gate(1);
    let (waiting, outcome) = setup.submit(setup.job(&pixels(1, 1)));
    let holds = Box::new(move |_| drop(waiting));
    assert!(setup.engine.submit(setup.job(&pixels(2, 1)), holds).is_err());
    assert_eq!(outcome.recv().unwrap().unwrap_err(), Failure::Cancelled, "its ticket went with it");
    script.open();
}
