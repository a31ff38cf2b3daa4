//! Equal work is done once.

mod common;

use common::{Setup, config, device::scripted, model::pixels};
use hyperion_engine::{EngineConfig, KeyId, Pushback, RequestStatus};
use hyperion_primitives::{Address, U256};
use hyperion_verify::Request;

#[test]
fn the_same_request_is_answered_from_the_store_and_says_so() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    let job = setup.job(&pixels(1, 2));
    let (_ticket, outcome) = setup.submit(job.clone());
    let first = outcome.recv().unwrap().unwrap();
    let runs = script.runs();
    let (_ticket, outcome) = setup.submit(job);
    let second = outcome.recv().unwrap().unwrap();
    assert_eq!((first.replayed, second.replayed), (false, true));
    assert_eq!((first.claim.clone(), &first.output), (second.claim.clone(), &second.output));
    assert_eq!((script.runs(), setup.sink.claims.lock().len()), (runs, 1));
    assert_eq!(setup.engine.stats().replayed, 1);
}

#[test]
fn the_same_request_under_way_is_joined() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    script.close();
    let job = setup.job(&pixels(1, 1));
    let (_first, for_first) = setup.submit(job.clone());
    script.wait_at_gate(1);
    let (_second, for_second) = setup.submit(job);
    script.open();
    let answers = [for_first, for_second].map(|outcome| outcome.recv().unwrap().unwrap());
    assert_eq!(answers[0].digest, answers[1].digest);
    assert_eq!((setup.engine.stats().joined, setup.sink.claims.lock().len()), (1, 1));
}

#[test]
fn equal_content_needs_no_second_run_but_a_claim_of_its_own() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config(), device);
    let jobs = [setup.job(&pixels(1, 2)), setup.job(&pixels(1, 2))];
    assert_ne!(jobs[0].id(), jobs[1].id());
    let [first, second] = jobs.map(|job| {
        let (_ticket, outcome) = setup.submit(job);
        let answer = outcome.recv().unwrap().unwrap();
        (answer, script.runs())
    });
    assert_eq!(first.1, second.1, "the device was asked once");
    assert_eq!(first.0.output, second.0.output);
    assert_ne!(first.0.digest, second.0.digest);
    assert!(!second.0.replayed);
    second.0.claim.check(&setup.engine.domain()).unwrap();
    assert_eq!(setup.engine.stats().memo_hits, 1);
    let output = setup.engine.remembered(setup.models[0].id(), first.0.request.input_hash).unwrap();
    assert_eq!(output, first.0.output);
}

#[test]
fn equal_contents_of_one_batch_run_once() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(EngineConfig { memo_bytes_max: 0, ..config() }, device);
    script.close();
    let (_running, _first) = setup.submit(setup.job(&pixels(9, 1)));
    script.wait_at_gate(1);
    let waiting: Vec<_> = (0..6).map(|n| setup.submit(setup.job(&pixels(n % 2, 3)))).collect();
    script.open();
    let outputs: Vec<_> = waiting
        .iter()
        .map(|(_, outcome)| outcome.recv().unwrap().unwrap().output.clone())
        .collect();
    assert!(outputs.iter().zip(&outputs[2..]).all(|(one, other)| one == other));
    assert_eq!(setup.engine.stats().models[0].rows, 1 + 2 * 3, "two contents of three rows");
}

#[test]
fn without_a_memo_every_request_runs_and_says_the_same() {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(EngineConfig { memo_bytes_max: 0, ..config() }, device);
    let [first, second] = [(); 2].map(|()| {
        let (_ticket, outcome) = setup.submit(setup.job(&pixels(1, 2)));
        (outcome.recv().unwrap().unwrap().output.clone(), script.runs())
    });
    assert_eq!(first.0, second.0);
    assert_eq!(second.1, first.1 + 1);
}

#[test]
fn an_unsigned_request_is_replayed_to_its_own_key_only() {
    let setup = Setup::classifier(config(), scripted(u64::MAX).0);
    let (ann, ben) = (KeyId::from("ann"), KeyId::from("ben"));
    let unsigned = setup.job(&pixels(1, 1));
    let (_ticket, outcome) = setup.submit(unsigned.clone().owner(ann.clone()));
    outcome.recv().unwrap().unwrap();
    for stranger in [unsigned.clone().owner(ben.clone()), unsigned.clone()] {
        assert_eq!(setup.try_submit(stranger).unwrap_err(), Pushback::NonceSpent(unsigned.id()));
    }
    let (_ticket, outcome) = setup.submit(unsigned.owner(ann.clone()));
    assert!(outcome.recv().unwrap().unwrap().replayed);

    let requester = Address::repeat_byte(3);
    let signed = Request { requester, nonce: U256::from(5), ..Request::default() };
    let signed = setup.job_with(signed, &pixels(2, 1));
    for owner in [ann, ben] {
        let (_ticket, outcome) = setup.submit(signed.clone().owner(owner));
        outcome.recv().unwrap().expect("a signature is the requester's, whatever the key");
    }
}

#[test]
fn an_answer_is_let_go_when_its_time_is_over_and_made_anew() {
    let setup = Setup::classifier(EngineConfig { keep_s: 10, ..config() }, scripted(u64::MAX).0);
    let request = Request { nonce: U256::from(1), deadline: u64::MAX, ..Request::default() };
    let job = || setup.job_with(request.clone(), &pixels(1, 1));
    let (_ticket, outcome) = setup.submit(job());
    let answer = outcome.recv().unwrap().unwrap();
    setup.engine.logged(&[(job().id(), answer.digest, 0)]);
    assert_eq!(setup.engine.request_of(answer.digest), Some(job().id()));
    setup.clock.advance_us(12_000_000);
    // Whoever asks for work lets go of what is over.
    let (_other, outcome) = setup.submit(setup.job(&pixels(2, 1)));
    outcome.recv().unwrap().unwrap();
    assert!(setup.engine.status(job().id()).is_none());
    assert_eq!(setup.engine.request_of(answer.digest), None);
    let (_ticket, outcome) = setup.submit(job());
    let again = outcome.recv().unwrap().unwrap();
    assert_eq!((again.replayed, &again.output), (false, &answer.output));
}

#[test]
fn answers_are_kept_within_their_bytes() {
    let config = EngineConfig { kept_bytes_max: 4_000, ..config() };
    let setup = Setup::classifier(config, scripted(u64::MAX).0);
    let ids: Vec<_> = (0..8)
        .map(|seed| {
            let job = setup.job(&pixels(seed, 1));
            let id = job.id();
            let (_ticket, outcome) = setup.submit(job);
            outcome.recv().unwrap().unwrap();
            id
        })
        .collect();
    let kept: Vec<bool> = ids.iter().map(|id| setup.engine.status(*id).is_some()).collect();
    assert_eq!(kept, [false, false, false, false, false, true, true, true]);
    assert!(matches!(setup.engine.status(ids[7]), Some(RequestStatus::Claimed(_))));
    assert!(setup.engine.stats().kept_bytes <= 4_000);
}
