use std::collections::BTreeMap;

use hyperion_primitives::{B256, Mix, keccak256};
use hyperion_verify::state::{StatePath, StateProof, Word, root_of};
use proptest::prelude::*;

use super::{Change, Trie};

type Model = BTreeMap<StatePath, Word>;

fn leaves(model: &Model) -> Vec<(StatePath, Word)> {
    model.iter().map(|(path, word)| (*path, *word)).collect()
}

fn apply(model: &mut Model, changes: &BTreeMap<StatePath, Option<Word>>) -> Vec<Option<Word>> {
    changes
        .iter()
        .map(|(path, word)| match word {
            Some(word) => model.insert(*path, *word),
            None => model.remove(path),
        })
        .collect()
}

fn check(trie: &Trie, model: &Model, absent: &StatePath) {
    let all = leaves(model);
    assert_eq!(trie.root(), root_of(&all));
    assert_eq!(trie.leaves(), all.len() as u64);
    for (path, word) in &all {
        assert_eq!(trie.get(path), Some(*word));
        assert_eq!(trie.prove(path), StateProof::of(&all, path));
    }
    assert_eq!(trie.get(absent), model.get(absent).copied());
    assert_eq!(trie.prove(absent), StateProof::of(&all, absent));
}

/// Paths from a small set of which many share long prefixes, so that leaves move up and down.
fn path() -> impl Strategy<Value = StatePath> {
    (0..4u8, prop_oneof![Just(0usize), Just(1), Just(7), Just(8), Just(63), Just(200), Just(255)])
        .prop_map(|(first, bit)| {
            let mut path = [0; 32];
            path[0] = first << 6;
            path[bit / 8] ^= 0x80 >> (bit % 8);
            StatePath(B256::new(path))
        })
}

fn word() -> impl Strategy<Value = Option<Word>> {
    prop_oneof![Just(None), (0..3u8).prop_map(|byte| Some(Word::repeat_byte(byte)))]
}

#[derive(Clone, Debug)]
struct Round {
    changes: BTreeMap<StatePath, Option<Word>>,
    /// A candidate that is made beside it, on it, and abandoned.
    abandoned: BTreeMap<StatePath, Option<Word>>,
    is_held: bool,
}

fn round() -> impl Strategy<Value = Round> {
    let changes = || prop::collection::btree_map(path(), word(), 0..12);
    (changes(), changes(), any::<bool>()).prop_map(|(changes, abandoned, is_held)| Round {
        changes,
        abandoned,
        is_held,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_version_equals_the_definition_for_as_long_as_it_is_held(
        rounds in prop::collection::vec(round(), 1..12),
        absent in path(),
    ) {
        let (mut trie, mut model) = (Trie::default(), Model::new());
        let mut held = vec![(trie.clone(), model.clone())];
        for round in rounds {
            let list: Vec<Change> = round.abandoned.into_iter().collect();
            let beside = trie.update(&list, 1).trie;
            let on_it = beside.update(&list[..list.len() / 2], 1).trie;
            drop(beside);
            let want = apply(&mut model, &round.changes);
            let list: Vec<Change> = round.changes.into_iter().collect();
            let updated = trie.update(&list, 1);
            prop_assert_eq!(updated.replaced, want);
            trie.succeed(&updated.trie);
            trie = updated.trie;
            drop(on_it);
            check(&trie, &model, &absent);
            if round.is_held {
                held.push((trie.clone(), model.clone()));
            }
        }
        // From the middle, so that versions go in another order than they came.
        while !held.is_empty() {
            let (trie, model) = held.swap_remove(held.len() / 2);
            check(&trie, &model, &absent);
        }
        check(&trie, &model, &absent);
    }
}

#[test]
fn slots_are_those_of_the_versions_that_can_be_read() {
    let mut mix = Mix::new(3);
    let mut trie = Trie::default();
    let arena = std::sync::Arc::clone(&trie.version.arena);
    let held = trie.clone();
    let mut most = 0;
    for round in 0..60u64 {
        let changes: BTreeMap<StatePath, Option<Word>> = (0..200)
            .map(|_| {
                let path = StatePath(keccak256(mix.below(1_000).to_be_bytes()));
                (path, (mix.below(3) > 0).then(|| Word::from(keccak256(round.to_be_bytes()))))
            })
            .collect();
        let list: Vec<Change> = changes.into_iter().collect();
        let before = arena.live();
        drop(trie.update(&list, 1));
        assert_eq!(arena.live(), before, "an abandoned candidate leaves nothing");
        let next = trie.update(&list, 2).trie;
        trie.succeed(&next);
        trie = next;
        most = arena.live();
    }
    drop(held);
    // A leaf each, and in a random trie about 1.44 branches to a leaf; branches with one side make a few more.
    let leaves = trie.leaves() as usize;
    assert!(arena.live() < 3 * leaves, "{} slots for {leaves} leaves", arena.live());
    assert!(arena.live() < most / 4, "the first version kept all {most} slots");
    let all: Vec<Change> =
        (0..1_000u64).map(|n| (StatePath(keccak256(n.to_be_bytes())), None)).collect();
    let all: BTreeMap<_, _> = all.into_iter().collect();
    let none = trie.update(&all.into_iter().collect::<Vec<_>>(), 1).trie;
    trie.succeed(&none);
    drop(trie);
    assert_eq!((none.root(), arena.live()), (B256::ZERO, 0), "nothing held, no slot taken");
}

#[test]
fn a_reader_that_outlived_a_hundred_thousand_versions_may_go() {
    let mut trie = Trie::default();
    let held = trie.clone();
    let path = StatePath(B256::ZERO);
    for round in 0..100_000u64 {
        let next =
            trie.update(&[(path, Some(Word::left_padding_from(&round.to_be_bytes())))], 1).trie;
        trie.succeed(&next);
        trie = next;
    }
    drop(held);
    assert_eq!(trie.version.arena.live(), 1);
}

#[test]
fn threads_do_not_show() {
    let mut mix = Mix::new(7);
    let mut draw = || keccak256(mix.u64().to_be_bytes());
    let mut tries: Vec<Trie> =
        vec![Trie::default(), Trie::default(), Trie::default(), Trie::default()];
    let mut known: Vec<StatePath> = Vec::new();
    for round in 0..4 {
        let mut changes: BTreeMap<StatePath, Option<Word>> =
            (0..5_000).map(|_| (StatePath(draw()), Some(draw()))).collect();
        changes.extend(known.iter().step_by(3).map(|path| (*path, None)));
        known.extend(changes.keys());
        let list: Vec<Change> = changes.into_iter().collect();
        for (threads, trie) in (1..).zip(&mut tries) {
            let next = trie.update(&list, threads).trie;
            trie.succeed(&next);
            *trie = next;
        }
        let roots: Vec<B256> = tries.iter().map(Trie::root).collect();
        assert!(roots.iter().all(|root| *root == roots[0]), "round {round}: {roots:?}");
    }
}
