//! A deadline ends a wait, not a run.

mod common;

use common::{Setup, UNIX_S, config, device::scripted, model::pixels};
use hyperion_engine::{Failure, Pushback, RequestStatus};
use hyperion_primitives::U256;
use hyperion_verify::Request;

#[test]
fn a_job_whose_deadline_passes_in_the_queue_frees_its_place() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    script.close();
    let (_running, first) = setup.submit(setup.job(&pixels(1, 1)).deadline_us(1_000));
    script.wait_at_gate(1);
    let late = setup.job(&pixels(2, 1)).deadline_us(1_000);
    let id = late.id();
    let (_ticket, second) = setup.submit(late);
    let (_patient, third) = setup.submit(setup.job(&pixels(3, 1)).deadline_us(1_001));
    setup.advance_us(1_000);
    assert_eq!(second.recv().unwrap().unwrap_err(), Failure::Deadline);
    assert_eq!(setup.engine.stats().models[0].queued, [0, 0, 1]);
    assert!(matches!(setup.engine.status(id), Some(RequestStatus::Failed(Failure::Deadline))));
    script.open();
    first.recv().unwrap().expect("a run that has begun is finished");
    third.recv().unwrap().expect("a later deadline is another");
    assert_eq!(setup.engine.stats().deadline, 1);
}

#[test]
fn a_request_that_failed_may_be_asked_again() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    script.close();
    let (_running, first) = setup.submit(setup.job(&pixels(1, 1)));
    script.wait_at_gate(1);
    let request = Request { nonce: U256::from(77), deadline: UNIX_S + 60, ..Request::default() };
    let job = || setup.job_with(request.clone(), &pixels(2, 1));
    let (_ticket, outcome) = setup.submit(job().deadline_us(500));
    setup.advance_us(500);
    assert_eq!(outcome.recv().unwrap().unwrap_err(), Failure::Deadline);
    let (_ticket, outcome) = setup.submit(job());
    script.open();
    let answer = outcome.recv().unwrap().unwrap();
    assert!(!answer.replayed);
    first.recv().unwrap().unwrap();
}

#[test]
fn a_deadline_in_the_past_is_pushed_back() {
    let setup = Setup::classifier(config(), scripted(u64::MAX).0);
    setup.advance_us(10_000_000);
    let refused = setup.try_submit(setup.job(&pixels(1, 1)).deadline_us(10_000_000)).unwrap_err();
    assert_eq!(refused, Pushback::Deadline);
    let request = Request { deadline: UNIX_S + 10, ..Request::default() };
    let refused = setup.try_submit(setup.job_with(request, &pixels(1, 1))).unwrap_err();
    assert_eq!(refused, Pushback::Deadline, "the request's own deadline counts too");
    assert_eq!(setup.engine.stats().pushed_back, 2);
}

#[test]
fn who_joins_a_run_has_a_deadline_of_his_own() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    script.close();
    let (_running, first) = setup.submit(setup.job(&pixels(1, 1)));
    script.wait_at_gate(1);
    let job = setup.job(&pixels(2, 1));
    let (_impatient, soon) = setup.submit(job.clone().deadline_us(100));
    let (_patient, later) = setup.submit(job);
    setup.advance_us(100);
    assert_eq!(soon.recv().unwrap().unwrap_err(), Failure::Deadline);
    script.open();
    later.recv().unwrap().unwrap();
    first.recv().unwrap().unwrap();
    assert_eq!(setup.engine.stats().deadline, 0, "the job itself had somebody waiting for it");
}
