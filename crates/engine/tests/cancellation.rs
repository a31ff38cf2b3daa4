//! Dropping a ticket takes queued work back.

mod common;

use common::{Setup, config, device::scripted, model::pixels};
use hyperion_engine::{Failure, RequestStatus};
use hyperion_primitives::{Address, U256};
use hyperion_verify::Request;

#[test]
fn a_dropped_ticket_takes_its_job_out_of_the_queue() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    script.close();
    let (_running, first) = setup.submit(setup.job(&pixels(1, 1)));
    script.wait_at_gate(1);
    let runs = script.runs();
    let (ticket, outcome) = setup.submit(setup.job(&pixels(2, 1)));
    drop(ticket);
    assert_eq!(outcome.recv().unwrap().unwrap_err(), Failure::Cancelled);
    let stats = setup.engine.stats();
    assert_eq!((stats.models[0].queued, stats.queued_bytes), ([0; 3], 0));
    script.open();
    first.recv().unwrap().unwrap();
    setup.engine.drain(u64::MAX);
    assert_eq!(script.runs(), runs, "nothing ran for it");
}

#[test]
fn one_of_two_who_wait_may_go() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    script.close();
    let (_running, _first) = setup.submit(setup.job(&pixels(1, 1)));
    script.wait_at_gate(1);
    let job = setup.job(&pixels(2, 1));
    let (ann, for_ann) = setup.submit(job.clone());
    let (_ben, for_ben) = setup.submit(job);
    drop(ann);
    assert_eq!(for_ann.recv().unwrap().unwrap_err(), Failure::Cancelled);
    script.open();
    for_ben.recv().unwrap().unwrap();
}

#[test]
fn a_run_that_has_begun_is_claimed_only_if_somebody_signed_for_it() {
    for (name, requester) in [("unsigned", Address::ZERO), ("signed", Address::repeat_byte(1))] {
        let (device, script) = scripted(u64::MAX);
        let setup = Setup::classifier(config(), device);
        script.close();
        let request = Request { requester, nonce: U256::from(1), ..Request::default() };
        let job = setup.job_with(request, &pixels(1, 1));
        let id = job.id();
        let (ticket, outcome) = setup.submit(job);
        script.wait_at_gate(1);
        drop(ticket);
        assert_eq!(outcome.recv().unwrap().unwrap_err(), Failure::Cancelled, "{name}");
        script.open();
        setup.engine.drain(u64::MAX);
        let claims = setup.sink.claims.lock().len();
        match setup.engine.status(id) {
            Some(RequestStatus::Failed(Failure::Cancelled)) => {
                assert_eq!((name, claims), ("unsigned", 0));
            }
            Some(RequestStatus::Claimed(_)) => assert_eq!((name, claims), ("signed", 1)),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_detached_job_goes_on() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    script.close();
    let (_running, _first) = setup.submit(setup.job(&pixels(1, 1)));
    script.wait_at_gate(1);
    let (ticket, outcome) = setup.submit(setup.job(&pixels(2, 1)));
    ticket.detach();
    script.open();
    outcome.recv().unwrap().unwrap();
}
