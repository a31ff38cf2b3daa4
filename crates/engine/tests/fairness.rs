//! Who is served first, and how much of the queue one caller may fill.

mod common;

use common::{
    Setup, config,
    device::{Script, scripted},
    model::pixels,
};
use hyperion_engine::{BlockCall, Class, EngineConfig, KeyId, Pushback, Ticket};

/// A setup whose device is busy until the script opens the gate.
fn busy(config: EngineConfig) -> (Setup, Script, Ticket) {
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::classifier(config, device);
    script.close();
    let (running, _outcome) = setup.submit(setup.job(&pixels(1_000, 1)));
    script.wait_at_gate(1);
    (setup, script, running)
}

#[test]
fn one_caller_leaves_room_for_the_next_and_holds_half_while_he_waits() {
    let (setup, script, _running) = busy(EngineConfig { queue_jobs_max: 16, ..config() });
    let job = |owner: &str, seed| setup.job(&pixels(seed, 1)).owner(KeyId::from(owner));
    let mut tickets = Vec::new();
    for seed in 0..14 {
        tickets.push(setup.submit(job("ann", seed)).0);
    }
    let refused = setup.try_submit(job("ann", 14)).unwrap_err();
    assert!(
        matches!(refused, Pushback::ShareFull { own: 14, waiting: 14, limit: 16, .. }),
        "{refused}"
    );
    let ben = setup.submit(job("ben", 20)).0;
    tickets.drain(..6).for_each(drop);
    let refused = setup.try_submit(job("ann", 15)).unwrap_err();
    assert!(
        matches!(refused, Pushback::ShareFull { own: 8, waiting: 9, limit: 16, .. }),
        "{refused}"
    );
    drop(ben);
    tickets.push(setup.submit(job("ann", 15)).0);
    script.open();
}

#[test]
fn a_class_goes_before_the_next_and_within_a_class_the_first_comes_first() {
    let (setup, script, _running) = busy(EngineConfig { batch_jobs_max: 1, ..config() });
    let classes = [Class::Free, Class::Paid, Class::Free, Class::Paid];
    let jobs =
        classes.iter().zip(0..).map(|(class, seed)| setup.job(&pixels(seed, 1)).class(*class));
    let _waiting: Vec<_> = jobs.map(|job| setup.submit(job)).collect();
    let call = BlockCall::plain(setup.models[0].id(), pixels(4, 1));
    setup.engine.run_batch(vec![call], Box::new(drop));
    script.open();
    setup.engine.drain(u64::MAX);
    let seen = script.seen();
    let order: Vec<_> = seen[seen.len() - 5..].to_vec();
    assert_eq!(order, [4, 1, 3, 0, 2].map(|seed| pixels(seed, 1)), "the block, the paid, the free");
}

#[test]
fn a_block_is_never_refused_for_want_of_room() {
    let (setup, script, _running) =
        busy(EngineConfig { queue_jobs_max: 1, queue_bytes_max: 64, ..config() });
    let _ticket = setup.submit(setup.job(&pixels(0, 1)));
    assert!(setup.try_submit(setup.job(&pixels(1, 1))).is_err());
    let (tell, told) = std::sync::mpsc::channel();
    let model = setup.models[0].id();
    let calls = (10..60).map(|seed| BlockCall::plain(model, pixels(seed, 1))).collect();
    setup.engine.run_batch(calls, Box::new(move |outputs| tell.send(outputs).unwrap()));
    assert_eq!(setup.engine.stats().models[0].queued, [50, 0, 1]);
    script.open();
    assert!(told.recv().unwrap().iter().all(Result::is_ok));
}
