//! How an engine goes home.

mod common;

use std::{
    sync::{Arc, mpsc::channel},
    thread,
};

use common::{Setup, config, device::scripted, model::pixels};
use hyperion_engine::{Drained, EngineConfig, Failure, Pushback, Unready};
use parking_lot::Mutex;

#[test]
fn a_drain_finishes_what_waits_and_takes_nothing_new() {
    let (device, script) = scripted(u64::MAX);
    // A wait for company that nobody will end: a drain does.
    let setup = Setup::classifier(EngineConfig { batch_wait_us: 1_000_000, ..config() }, device);
    let waiting: Vec<_> = (0..5).map(|seed| setup.submit(setup.job(&pixels(seed, 1)))).collect();
    assert_eq!(setup.engine.stats().models[0].queued, [0, 0, 5]);
    let before = script.runs();
    let drained = setup.engine.drain(u64::MAX);
    assert_eq!(drained, Drained { finished: 5, ..Drained::default() });
    assert_eq!(script.runs(), before + 1);
    for (_ticket, outcome) in &waiting {
        outcome.recv().unwrap().unwrap();
    }
    assert_eq!(setup.try_submit(setup.job(&pixels(9, 1))).unwrap_err(), Pushback::Draining);
    assert_eq!(setup.engine.models()[0].ready, Err(Unready::Draining));
}

#[test]
fn a_drain_cuts_at_its_deadline() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    script.close();
    let (_running, running) = setup.submit(setup.job(&pixels(1, 1)));
    script.wait_at_gate(1);
    let (_waiting, waiting) = setup.submit(setup.job(&pixels(2, 1)));
    let drained = thread::scope(|scope| {
        let drained = scope.spawn(|| setup.engine.drain(500));
        while setup.engine.models()[0].ready != Err(Unready::Draining) {
            thread::yield_now();
        }
        setup.advance_us(500);
        drained.join().unwrap()
    });
    assert_eq!(drained, Drained { cut: 1, running: 1, ..Drained::default() });
    assert_eq!(waiting.recv().unwrap().unwrap_err(), Failure::Draining);
    script.open();
    running.recv().unwrap().expect("what a device has begun it finishes");
}

#[test]
fn a_drain_waits_for_the_log_and_then_lets_go_of_the_sink() {
    let setup = Setup::classifier(config(), scripted(u64::MAX).0);
    *setup.sink.room.lock() = Some(0);
    let (_ticket, outcome) = setup.submit(setup.job(&pixels(1, 1)));
    outcome.recv().unwrap().unwrap();
    let drained = thread::scope(|scope| {
        let drained = scope.spawn(|| setup.engine.drain(1_000));
        *setup.sink.room.lock() = None;
        drained.join().unwrap()
    });
    assert_eq!(drained.unlogged, 0);
    assert_eq!(setup.sink.claims.lock().len(), 1);
    assert_eq!(Arc::strong_count(&setup.sink.claims), 1, "the engine holds its sink no longer");
}

#[test]
fn dropping_the_engine_ends_every_wait_once() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    script.close();
    let (running, for_running) = setup.submit(setup.job(&pixels(1, 1)));
    script.wait_at_gate(1);
    let (waiting, for_waiting) = setup.submit(setup.job(&pixels(2, 1)));
    let Setup { engine, .. } = setup;
    let dropped = thread::spawn(move || drop(engine));
    assert_eq!(for_waiting.recv().unwrap().unwrap_err(), Failure::Draining);
    script.open();
    for_running.recv().unwrap().unwrap();
    dropped.join().unwrap();
    drop((running, waiting));
    assert!(for_running.recv().is_err() && for_waiting.recv().is_err(), "nothing came twice");
}

#[test]
fn a_waiter_may_hold_the_last_engine_and_may_panic() {
    let setup = Setup::classifier(config(), scripted(u64::MAX).0);
    let panics = setup.job(&pixels(1, 1));
    let _ticket =
        setup.engine.submit(panics, Box::new(|_| panic!("the waiter's own fault"))).unwrap();
    let (_ticket, outcome) = setup.submit(setup.job(&pixels(2, 1)));
    outcome.recv().unwrap().expect("the engine's threads go on");
    let (tell, told) = channel();
    let engine = Arc::new(Mutex::new(Some(setup.engine.clone())));
    let job = setup.job(&pixels(3, 1));
    let held = Arc::clone(&engine);
    let last = Box::new(move |_| {
        drop(held.lock().take());
        tell.send(()).unwrap();
    });
    engine.lock().as_ref().unwrap().submit(job, last).unwrap().detach();
    drop(setup);
    told.recv().unwrap();
}
