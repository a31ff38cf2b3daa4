//! A device that fails under its work costs time, not answers.

mod common;

use std::{
    sync::{Arc, mpsc::Receiver},
    thread,
    time::Duration,
};

use common::{
    Outcome, Setup, config,
    device::{Fault, Script, first_at_gate, scripted},
    model::{classifier, pixels},
    two,
};
use hyperion_engine::{
    Clock as _, Engine, EngineConfig, EngineError, Failure, ManualClock, Pushback, Registry,
};

/// Waits for an outcome while time passes in steps of a second, as devices that failed a test need it.
fn within(setup: &Setup, outcome: &Receiver<Outcome>) -> Outcome {
    loop {
        match outcome.recv_timeout(Duration::from_millis(2)) {
            Ok(outcome) => return outcome,
            Err(_) => setup.advance_us(1_000_000),
        }
    }
}

#[test]
fn the_jobs_of_a_lost_device_are_answered_by_another() {
    for fault in [Fault::Lost, Fault::Panic] {
        let (setup, scripts) = two(config());
        for script in &scripts {
            script.poison(&pixels(1, 1), fault, 1);
        }
        let (_ticket, outcome) = setup.submit(setup.job(&pixels(1, 1)));
        let answer = within(&setup, &outcome).expect("two losses are fewer than three");
        answer.claim.check(&setup.engine.domain()).unwrap();
        let stats = setup.engine.stats();
        assert_eq!((stats.devices_lost, stats.failed), (2, 0), "{fault:?}: one loss on each");
    }
}

#[test]
fn the_only_device_comes_back_after_its_test_and_answers() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    script.poison(&pixels(1, 1), Fault::Lost, 2);
    let (_ticket, outcome) = setup.submit(setup.job(&pixels(1, 1)));
    within(&setup, &outcome).unwrap();
    let stats = setup.engine.stats();
    assert_eq!((stats.devices_lost, stats.devices[0].in_service), (2, true));
}

#[test]
fn a_job_that_breaks_every_device_fails_alone_after_three() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    let poison = pixels(66, 1);
    script.poison(&poison, Fault::Panic, 3);
    script.close();
    let (_running, first) = setup.submit(setup.job(&pixels(0, 1)));
    script.wait_at_gate(1);
    let good: Vec<_> = (1..=5).map(|seed| setup.submit(setup.job(&pixels(seed, 1)))).collect();
    let (_bad, bad) = setup.submit(setup.job(&poison));
    let more: Vec<_> = (6..=9).map(|seed| setup.submit(setup.job(&pixels(seed, 1)))).collect();
    script.open();
    match within(&setup, &bad) {
        Err(Failure::NoWorker { attempts: 3, cause }) => {
            assert!(cause.contains("told to"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    for outcome in good.iter().chain(&more).map(|(_, outcome)| outcome).chain([&first]) {
        within(&setup, outcome).expect("the others of its batch lost one device at most");
    }
}

#[test]
fn a_silent_device_loses_its_lease_and_its_late_result_is_dropped() {
    let (setup, scripts) = two(EngineConfig { lease_us: 1_000, memo_bytes_max: 0, ..config() });
    scripts.iter().for_each(Script::close);
    let (_ticket, outcome) = setup.submit(setup.job(&pixels(1, 1)));
    let slow = first_at_gate(&scripts);
    setup.advance_us(1_000);
    scripts[1 - slow].open();
    outcome.recv().unwrap().expect("the other device answers");
    assert!(!setup.engine.stats().devices[slow].in_service);
    scripts[slow].open();
    setup.engine.drain(setup.clock.now_us() + 1_000_000);
    let stats = setup.engine.stats();
    assert_eq!((stats.results_mismatch, stats.claimed, setup.sink.claims.lock().len()), (0, 1, 1));
}

#[test]
fn without_any_device_in_service_new_work_is_pushed_back_and_old_work_fails_in_the_end() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    script.lie(true);
    script.poison(&pixels(1, 1), Fault::Lost, 1);
    let (_ticket, outcome) = setup.submit(setup.job(&pixels(1, 1)));
    // Its known answer is wrong from now on, so the device passes no test any more.
    match within(&setup, &outcome) {
        Err(Failure::NoWorker { attempts: 1, cause }) => {
            assert!(cause.contains("known question"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    let refused = setup.try_submit(setup.job(&pixels(2, 1))).unwrap_err();
    assert!(matches!(refused, Pushback::NoWorker { .. }), "{refused}");
    assert!(setup.engine.models()[0].ready.is_err());
    script.lie(false);
    while setup.engine.models()[0].ready.is_err() {
        setup.advance_us(1_000_000);
        thread::yield_now();
    }
    let (_ticket, outcome) = setup.submit(setup.job(&pixels(2, 1)));
    within(&setup, &outcome).unwrap();
}

#[test]
fn an_idle_device_is_probed_and_leaves_when_it_answers_wrongly() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(EngineConfig { probe_us: 1_000, ..config() }, device);
    while setup.engine.stats().devices[0].probes == 0 {
        setup.advance_us(1_000);
        thread::yield_now();
    }
    script.lie(true);
    while setup.engine.stats().devices[0].in_service {
        setup.advance_us(1_000);
        thread::yield_now();
    }
    assert_eq!(setup.engine.stats().devices_lost, 1);
    assert!(setup.engine.stats().devices[0].reason.contains("known question"));
}

#[test]
fn a_device_that_computes_other_bits_than_pinned_never_serves() {
    let (device, script) = scripted(u64::MAX);
    script.lie(true);
    let mut models = Registry::new();
    models.add("m", classifier(1)).unwrap();
    let config = EngineConfig::default();
    let started = Engine::new(
        config,
        models,
        vec![Box::new(device)],
        Arc::new(common::Key::new()),
        common::domain(),
        Arc::new(ManualClock::new(0)),
        Box::new(common::Sink::default()),
    );
    match started {
        Err(EngineError::NoDevice(why)) => {
            assert!(why.contains("other bits than pinned: quantize"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}
