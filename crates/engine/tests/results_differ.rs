//! Two different results of one job are evidence: both are kept, and the scalar reference decides.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::{sync::Arc, thread};

use common::{
    Setup, config,
    device::{Script, first_at_gate},
    model::pixels,
    two,
};
use hyperion_engine::{Answer, EngineConfig, Failure, Job, RequestStatus};

/// One of two devices goes silent under a job, the other answers it, then the first speaks after all. Gives which
/// spoke late.
fn late(late_lies: bool) -> (Setup, Job, Arc<Answer>, usize) {
    let (setup, scripts) = two(EngineConfig { lease_us: 1_000, memo_bytes_max: 0, ..config() });
    scripts.iter().for_each(Script::close);
    let job = setup.job(&pixels(1, 1));
    let (_ticket, outcome) = setup.submit(job.clone());
    let silent = first_at_gate(&scripts);
    let other = 1 - silent;
    scripts[if late_lies { silent } else { other }].lie(true);
    setup.advance_us(1_000);
    scripts[other].open();
    let answer = outcome.recv().unwrap().unwrap();
    scripts[silent].open();
    while setup.engine.evidence().iter().all(|evidence| evidence.truth.is_none()) {
        thread::yield_now();
    }
    (setup, job, answer, silent)
}

#[test]
fn a_late_lie_changes_nothing_but_is_kept() {
    let (setup, job, answer, silent) = late(true);
    let evidence = setup.engine.evidence().remove(0);
    let order = (evidence.first.0, evidence.second.0, evidence.request);
    assert_eq!(order, (1 - silent, silent, Some(job.id())));
    assert_eq!(evidence.truth.as_ref(), Some(&evidence.first.1));
    assert_ne!(evidence.first.1, evidence.second.1);
    assert_eq!(setup.engine.stats().results_mismatch, 1);
    assert!(matches!(setup.engine.status(job.id()), Some(RequestStatus::Claimed(_))));
    let (_ticket, outcome) = setup.submit(job);
    assert_eq!(outcome.recv().unwrap().unwrap().digest, answer.digest, "the right claim stands");
}

#[test]
fn a_claim_that_was_wrong_is_disproved_for_good() {
    let (setup, job, answer, _) = late(false);
    let evidence = setup.engine.evidence().remove(0);
    assert_eq!(evidence.truth.as_ref(), Some(&evidence.second.1));
    assert_eq!(answer.output, evidence.first.1);
    assert!(matches!(
        setup.engine.status(job.id()),
        Some(RequestStatus::Failed(Failure::Disproved))
    ));
    let (_ticket, outcome) = setup.submit(job);
    assert_eq!(outcome.recv().unwrap().unwrap_err(), Failure::Disproved);
}
