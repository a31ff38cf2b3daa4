//! Any course of prepare, commit, abandon, flush, snapshot and reopen reads like the plain model.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::{Draft, Memory, Model, config, create, seal};
use hyperion_primitives::Mix;
use hyperion_store::{PageStore, Snapshot, Store, StoreError};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Commit { claims: usize, words: usize },
    Abandon,
    Stale,
    Pair { claims: usize },
    Flush,
    Hold,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    // Around the multiples of 256 bundles and tiles end; above some fifty claims a block skips the tail.
    let claims =
        prop_oneof![4 => 0..4usize, 2 => 30..70usize, 1 => 250..260usize, 1 => 500..520usize];
    prop_oneof![
        8 => (claims, 0..12usize).prop_map(|(claims, words)| Step::Commit { claims, words }),
        1 => Just(Step::Abandon),
        1 => Just(Step::Stale),
        1 => (0..40usize).prop_map(|claims| Step::Pair { claims }),
        1 => Just(Step::Flush),
        2 => Just(Step::Hold),
        2 => Just(Step::Reopen),
    ]
}

/// Runs one step; `None` asks for a reopen.
fn run<P: PageStore>(
    step: &Step,
    store: &Store<P>,
    model: &mut Model,
    mix: &mut Mix,
    held: &mut Vec<Snapshot<P>>,
) -> Option<()> {
    match *step {
        Step::Commit { claims, words } => {
            let draft = Draft::drawn(mix, claims, words, 40);
            let head = draft.commit(store);
            assert_eq!(head, store.head());
            model.follow(&draft, store);
        }
        Step::Abandon => {
            let before = store.head();
            let draft = Draft::drawn(mix, 3, 5, 40);
            drop(store.prepare(draft.input()).unwrap());
            assert_eq!(store.head(), before);
        }
        Step::Stale => {
            let draft = Draft::drawn(mix, 2, 2, 40);
            let stale = store.prepare(draft.input()).unwrap();
            draft.commit(store);
            model.follow(&draft, store);
            let refused = store.commit(stale, seal(0));
            assert!(matches!(refused, Err(StoreError::StalePrepared { .. })), "{refused:?}");
        }
        Step::Pair { claims } => {
            let (first, second) = (Draft::drawn(mix, claims, 4, 40), Draft::drawn(mix, 1, 4, 40));
            let one = store.prepare(first.input()).unwrap();
            let two = store.prepare_on(&one.base(), second.input()).unwrap();
            let roots = [one.state_root(), two.state_root()];
            for (prepared, root) in [one, two].into_iter().zip(roots) {
                let sealed = seal(prepared.height());
                let size = prepared.log_size();
                let head = store.commit(prepared, sealed).unwrap();
                assert_eq!((head.state_root, head.log_size), (root, size));
            }
            model.follow(&first, store);
            model.follow(&second, store);
        }
        Step::Flush => store.flush().unwrap(),
        Step::Hold => held.push(store.snapshot()),
        Step::Reopen => return None,
    }
    Some(())
}

fn check_held<P: PageStore>(held: &[Snapshot<P>], model: &Model) {
    for snapshot in held {
        let height = snapshot.head().height;
        assert_eq!(snapshot.head().state_root, model.state_root(height));
        let pinned = snapshot.pin().unwrap();
        for (path, word) in &model.states[height as usize] {
            assert_eq!(pinned.get(path), Some(*word), "height {height}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn tables_in_memory(steps in prop::collection::vec(step(), 1..24), seed: u64) {
        let mut config = config("");
        config.threads = 1 + (seed % 2) as usize;
        let memory = Memory::new(&config);
        let mut store = memory.create(&config);
        let (mut model, mut mix, mut held) = (Model::new(&store), Mix::new(seed), Vec::new());
        for step in &steps {
            if run(step, &store, &mut model, &mut mix, &mut held).is_none() {
                drop(store);
                store = memory.open(&config);
            }
            model.check(&store, &mut mix);
        }
        check_held(&held, &model);
        drop((held, store));
        let report = hyperion_store::fsck(memory.medium(), &config).unwrap();
        prop_assert!(report.is_clean(), "{:?}", report.faults);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn tables_on_disk(steps in prop::collection::vec(step(), 1..24), seed: u64) {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path().join("store"));
        let mut store = create(&config);
        let (mut model, mut mix, mut held) = (Model::new(&store), Mix::new(seed), Vec::new());
        for step in &steps {
            if run(step, &store, &mut model, &mut mix, &mut held).is_none() {
                // A snapshot keeps its store open.
                check_held(&held, &model);
                held.clear();
                drop(store);
                store = Store::open(&config).unwrap();
            }
            model.check(&store, &mut mix);
        }
        drop((held, store));
        let report = Store::fsck(&config).unwrap();
        prop_assert!(report.is_clean(), "{:?}", report.faults);
    }
}
