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

fn change() -> impl Strategy<Value = (StatePath, Option<Word>)> {
    (path(), prop_oneof![Just(None), (0..3u8).prop_map(|byte| Some(Word::repeat_byte(byte)))])
}

proptest! {
    #[test]
    fn every_update_equals_the_definition(
        rounds in prop::collection::vec(prop::collection::btree_map(path(), change().prop_map(|c| c.1), 0..12), 1..12),
        absent in path(),
    ) {
        let (mut trie, mut model) = (Trie::default(), Model::new());
        let mut older: Vec<(Trie, B256)> = Vec::new();
        for changes in rounds {
            let want = apply(&mut model, &changes);
            let list: Vec<Change> = changes.into_iter().collect();
            let updated = trie.update(&list, 1);
            prop_assert_eq!(updated.replaced, want);
            trie = updated.trie;
            let all = leaves(&model);
            prop_assert_eq!(trie.root(), root_of(&all));
            prop_assert_eq!(trie.leaves(), all.len() as u64);
            for (path, word) in &all {
                prop_assert_eq!(trie.get(path), Some(*word));
                prop_assert_eq!(trie.prove(path), StateProof::of(&all, path));
            }
            prop_assert_eq!(trie.get(&absent), model.get(&absent).copied());
            prop_assert_eq!(trie.prove(&absent), StateProof::of(&all, &absent));
            older.push((trie.clone(), trie.root()));
        }
        // Successors leave their predecessors whole.
        for (trie, root) in older {
            prop_assert_eq!(trie.root(), root);
        }
    }
}

#[test]
fn threads_do_not_show() {
    let mut mix = Mix::new(7);
    let mut draw = || keccak256(mix.u64().to_be_bytes());
    let mut tries: Vec<Trie> = vec![Trie::default(); 4];
    let mut known: Vec<StatePath> = Vec::new();
    for round in 0..4 {
        let mut changes: BTreeMap<StatePath, Option<Word>> =
            (0..5_000).map(|_| (StatePath(draw()), Some(draw()))).collect();
        changes.extend(known.iter().step_by(3).map(|path| (*path, None)));
        known.extend(changes.keys());
        let list: Vec<Change> = changes.into_iter().collect();
        for (threads, trie) in (1..).zip(&mut tries) {
            *trie = trie.update(&list, threads).trie;
        }
        let roots: Vec<B256> = tries.iter().map(Trie::root).collect();
        assert!(roots.iter().all(|root| *root == roots[0]), "round {round}: {roots:?}");
    }
}
