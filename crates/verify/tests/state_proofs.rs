//! The state's tree and its proofs: the vectors, and drawn states against the definition.
#![expect(clippy::unwrap_used, reason = "what does not parse fails its test")]

mod common;

use common::{address, b256, bytes, claim_digest, draw, flips, number, store_vectors, text};
use hyperion_primitives::{Address, B256, ClaimDigest, Mix, RequestId, keccak::Lanes, keccak256};
use hyperion_verify::{
    Claim, SignedClaim,
    state::{
        AccountWord, ClaimWord, End, Namespace, StatePath, StateProof, StateProofError, Word,
        WordError, combine, leaf, leaves, node, nodes, root_of,
    },
};
use proptest::{collection::btree_map, prelude::*};
use serde_json::Value;

const NAMESPACES: [Namespace; 6] = [
    Namespace::Account,
    Namespace::Code,
    Namespace::Storage,
    Namespace::Model,
    Namespace::Request,
    Namespace::Claim,
];

fn sorted(leaves: impl IntoIterator<Item = (StatePath, Word)>) -> Vec<(StatePath, Word)> {
    let mut leaves: Vec<_> = leaves.into_iter().collect();
    leaves.sort();
    leaves
}

fn items(vectors: &Value) -> Vec<(StatePath, Word)> {
    let items = vectors["state"]["items"].as_array().unwrap().iter();
    items.map(|item| (StatePath(b256(&item["path"])), b256(&item["word"]))).collect()
}

#[test]
fn paths_leaves_and_the_root_are_those_of_the_vectors() {
    let vectors = store_vectors();
    for item in vectors["state"]["items"].as_array().unwrap() {
        let code = number::<u8>(&item["namespace"]);
        let namespace = NAMESPACES.into_iter().find(|n| *n as u8 == code).unwrap();
        let path = StatePath::of(namespace, &bytes(&item["key"]));
        assert_eq!(path.0, b256(&item["path"]), "{}", item["name"]);
        assert_eq!(leaf(&path, &b256(&item["word"])), b256(&item["leaf"]), "{}", item["name"]);
    }
    let leaves = sorted(items(&vectors));
    assert_eq!(root_of(&leaves), b256(&vectors["state"]["root"]));
    assert_eq!(root_of(&[]), b256(&vectors["state"]["empty_root"]));
    assert_eq!(root_of(&leaves[..1]), b256(&vectors["state"]["one_leaf_root"]));
}

#[test]
fn typed_paths_and_words_are_those_of_the_vectors() {
    let vectors = store_vectors();
    let item = |name: &str| {
        let items = vectors["state"]["items"].as_array().unwrap();
        items.iter().find(|item| text(&item["name"]) == name).unwrap().clone()
    };
    let account = item("account");
    let owner = address(&account["key"]);
    assert_eq!(StatePath::account(&owner).0, b256(&account["path"]));
    let word = AccountWord { code_bytes: 0, nonce: 7, balance: 10_u128.pow(18) };
    assert_eq!(word.word(), b256(&account["word"]));
    assert_eq!(AccountWord::from_word(&word.word()), Ok(word));

    let storage = item("storage 2");
    let slot = B256::with_last_byte(2);
    assert_eq!(StatePath::storage(&owner, &slot).0, b256(&storage["path"]));

    let request = item("request");
    let id = RequestId(keccak256(b"request 1"));
    assert_eq!(StatePath::request(&id).0, b256(&request["path"]));

    let claim = item("claim");
    let digest = ClaimDigest(b256(&request["word"]));
    assert_eq!(StatePath::claim(&digest).0, b256(&claim["path"]));
    let word = ClaimWord::logged(1, false);
    assert_eq!(word.word(), b256(&claim["word"]));
    assert_eq!(ClaimWord::from_word(&word.word()), Ok(word));
    assert_eq!(word.reached(), 1);
}

#[test]
fn proofs_are_those_of_the_vectors_and_hold_for_nothing_else() {
    let vectors = store_vectors();
    let state = &vectors["state"];
    let (leaves, root) = (sorted(items(&vectors)), b256(&state["root"]));
    for item in state["items"].as_array().unwrap() {
        let (path, word) = (StatePath(b256(&item["path"])), b256(&item["word"]));
        let proof = StateProof::of(&leaves, &path);
        assert_eq!(proof.encode(), bytes(&item["proof"]), "{}", item["name"]);
        holds_for_one_statement(&proof.encode(), &root, &path, Some(&word));
    }
    for (name, end) in [("absent_other_leaf", 2), ("absent_empty", 0)] {
        let path = StatePath(b256(&state[name]["path"]));
        let proof = StateProof::of(&leaves, &path);
        assert_eq!(proof.encode(), bytes(&state[name]["proof"]), "{name}");
        assert_eq!(proof.encode()[2], end, "{name}");
        holds_for_one_statement(&proof.encode(), &root, &path, None);
    }
}

/// Paths ground to share 63 bits: the deepest tree an attacker could afford, and more.
#[test]
fn the_deep_pair_of_the_vectors_has_their_root_and_proof() {
    let vectors = &store_vectors()["state_deep"];
    let pairs = vectors["leaves"].as_array().unwrap().iter();
    let leaves: Vec<_> = pairs.map(|pair| (StatePath(b256(&pair[0])), b256(&pair[1]))).collect();
    assert_eq!(root_of(&leaves), b256(&vectors["root"]));
    let (path, word) = leaves[2];
    let proof = StateProof::of(&leaves, &path);
    assert_eq!(proof.siblings().len(), 64);
    assert_eq!(proof.encode(), bytes(&vectors["proof"]));
    holds_for_one_statement(&proof.encode(), &root_of(&leaves), &path, Some(&word));
}

/// The deepest tree there is: two paths that differ in their last bit.
#[test]
fn two_paths_may_share_all_but_one_bit() {
    let last = StatePath(B256::with_last_byte(1));
    let leaves = [(StatePath::default(), Word::ZERO), (last, Word::ZERO)];
    let proof = StateProof::of(&leaves, &last);
    assert_eq!(proof.siblings().len(), 256);
    holds_for_one_statement(&proof.encode(), &root_of(&leaves), &last, Some(&Word::ZERO));
}

/// The proof decodes and holds; the contrary, another word, another root and every changed byte are refused.
fn holds_for_one_statement(proof: &[u8], root: &B256, path: &StatePath, word: Option<&Word>) {
    let decoded = StateProof::decode(proof).unwrap();
    assert_eq!(decoded.encode(), proof);
    assert_eq!(decoded.check(root, path, word), Ok(()));
    let other = B256::repeat_byte(0x5a);
    let contrary = if word.is_some() { None } else { Some(&other) };
    let got_present = word.is_some();
    assert_eq!(decoded.check(root, path, contrary), Err(StateProofError::Presence { got_present }));
    assert!(decoded.check(root, path, Some(&other)).is_err());
    assert!(decoded.check(&other, path, word).is_err());
    for (at, changed) in flips(proof) {
        let refused = StateProof::decode(&changed).and_then(|proof| proof.check(root, path, word));
        assert!(refused.is_err(), "byte {at} changed, still accepted");
    }
}

#[test]
fn a_malformed_proof_says_what_is_wrong() {
    let own = StateProof::new(End::Own, vec![B256::repeat_byte(1), B256::ZERO]).unwrap().encode();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = own.clone();
        change(&mut changed);
        StateProof::decode(&changed).unwrap_err()
    };
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: [(&str, Change<'_>, StateProofError); 9] = [
        ("nothing", &|p| p.clear(), StateProofError::Length { got: 0, want: 5 }),
        ("a byte short", &|p| p.truncate(37), StateProofError::Length { got: 37, want: 38 }),
        ("a byte long", &|p| p.push(0), StateProofError::Length { got: 39, want: 38 }),
        ("no bitmap", &|p| p.truncate(5), StateProofError::Length { got: 5, want: 6 }),
        ("version 2", &|p| p[0] = 2, StateProofError::Header { version: 2, hash: 1, kind: 1 }),
        ("BLAKE3", &|p| p[1] = 2, StateProofError::Header { version: 1, hash: 2, kind: 1 }),
        ("kind 3", &|p| p[2] = 3, StateProofError::Header { version: 1, hash: 1, kind: 3 }),
        ("257 levels", &|p| p[3..5].fill(1), StateProofError::Depth { got: 257 }),
        ("a zero sibling", &|p| p[6..].fill(0), StateProofError::ZeroSibling { sibling: 0 }),
    ];
    for (name, change, want) in cases {
        assert_eq!(with(change), want, "{name}");
    }
    let padded = with(&|p| {
        p[5] = 0b1000_0001;
        p.extend([1; 32]);
    });
    assert_eq!(padded, StateProofError::Padding);
    assert_eq!(StateProof::new(End::Empty, vec![B256::ZERO; 257]), None);
}

/// A prover who shows some other leaf, which is not where the path leads, has shown nothing.
#[test]
fn the_other_leaf_must_stand_in_the_way() {
    let mut mix = Mix::new(5);
    let leaves = sorted((0..64).map(|_| (StatePath(draw(&mut mix)), draw(&mut mix))));
    let root = root_of(&leaves);
    let absent = StatePath(draw(&mut mix));
    let (present, word) = leaves[10];
    let stray = leaves.iter().find(|(path, _)| !path.shares(&absent, 1)).unwrap();
    let honest = StateProof::of(&leaves, &stray.0);
    let forged =
        StateProof::new(End::Other { path: stray.0, word: stray.1 }, honest.siblings().to_vec());
    assert_eq!(
        forged.unwrap().check(&root, &absent, None),
        Err(StateProofError::OtherLeaf { path: stray.0.0 })
    );
    let own = StateProof::of(&leaves, &present);
    let denied = StateProof::new(End::Other { path: present, word }, own.siblings().to_vec());
    assert_eq!(
        denied.unwrap().check(&root, &present, None),
        Err(StateProofError::OtherLeaf { path: present.0 }),
        "a path does not stand in its own way"
    );
}

#[test]
fn words_of_the_state_have_one_form() {
    let account = AccountWord { code_bytes: 0xff_ffff, nonce: u64::MAX, balance: u128::MAX };
    assert_eq!(AccountWord::from_word(&account.word()), Ok(account));
    let mut word = account.word();
    word.0[0] = 2;
    assert_eq!(AccountWord::from_word(&word), Err(WordError::Version { got: 2 }));
    let mut word = account.word();
    word.0[4] = 1;
    assert_eq!(AccountWord::from_word(&word), Err(WordError::Reserved));

    let claim = ClaimWord { tiers: 0b11_0110, disproved: true, index: u64::MAX };
    assert_eq!(ClaimWord::from_word(&claim.word()), Ok(claim));
    assert_eq!((claim.reached(), ClaimWord::default().reached()), (5, 0));
    assert_eq!(ClaimWord::logged(7, true).reached(), 5, "the block computed it itself");
    let of = |tier, worker| {
        let claim = Claim { tier, worker, ..Claim::default() };
        ClaimWord::of(&SignedClaim { claim, signature: [0; 65] }, 7)
    };
    let worker = Address::repeat_byte(1);
    assert_eq!(of(1, worker), ClaimWord::logged(7, false));
    assert_eq!(of(0, Address::ZERO), ClaimWord::logged(7, true));
    let attested = of(0, worker);
    assert_eq!((attested.reached(), attested.index), (0, 7), "nobody can recompute it");
    assert_eq!(ClaimWord::from_word(&attested.word()), Ok(attested));
    for (byte, value, want) in [
        (0, 0b1000, WordError::Tiers { got: 0b1000 }),
        (0, 0b1, WordError::Tiers { got: 0b1 }),
        (1, 2, WordError::Disproved { got: 2 }),
        (2, 1, WordError::Reserved),
        (23, 1, WordError::Reserved),
    ] {
        let mut word = claim.word();
        word.0[byte] = value;
        assert_eq!(ClaimWord::from_word(&word), Err(want), "byte {byte}");
    }
}

#[test]
fn a_key_in_another_namespace_is_another_path() {
    let key = claim_digest();
    let mut paths: Vec<_> = NAMESPACES.map(|n| StatePath::of(n, key.as_bytes())).to_vec();
    assert_eq!(paths[3], StatePath::model(&key.0.into()));
    assert_eq!(paths[4], StatePath::request(&key.0.into()));
    assert_eq!(paths[5], StatePath::claim(&key));
    assert_ne!(StatePath::code(&Address::ZERO), StatePath::account(&Address::ZERO));
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), NAMESPACES.len());
}

#[test]
fn many_hashed_at_once_equal_each_hashed_alone() {
    let mut mix = Mix::new(11);
    let pairs: Vec<[B256; 2]> = (0..23).map(|_| [draw(&mut mix), draw(&mut mix)]).collect();
    let messages: Vec<[u8; 64]> =
        pairs.iter().map(|[left, right]| [left.0, right.0].concat().try_into().unwrap()).collect();
    for lanes in Lanes::available() {
        let mut hashes = vec![B256::ZERO; pairs.len()];
        leaves(&messages, lanes, &mut hashes);
        let alone = pairs.iter().map(|[path, word]| leaf(&StatePath(*path), word));
        assert!(hashes.iter().copied().eq(alone), "{}", lanes.name());
        nodes(&messages, lanes, &mut hashes);
        let alone = pairs.iter().map(|[left, right]| node(left, right));
        assert!(hashes.iter().copied().eq(alone), "{}", lanes.name());
    }
}

/// The root, built upwards by `combine` alone from a full tree of `depth` levels.
fn root_by_combining(leaves: &[(StatePath, Word)], depth: usize) -> B256 {
    let prefix = |path: &StatePath| (0..depth).fold(0, |p, at| p << 1 | usize::from(path.bit(at)));
    let mut level: Vec<B256> = (0..1 << depth)
        .map(|p| {
            let below: Vec<_> =
                leaves.iter().copied().filter(|(path, _)| prefix(path) == p).collect();
            // Below a prefix the definition starts at that depth, which a common prefix makes no difference to only
            // because a lone leaf's hash holds no depth.
            subtree(&below, depth)
        })
        .collect();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| combine(&pair[0], &pair[1])).collect();
    }
    level[0]
}

fn subtree(leaves: &[(StatePath, Word)], depth: usize) -> B256 {
    match leaves {
        [] => B256::ZERO,
        [(path, word)] => leaf(path, word),
        _ => {
            let (left, right) =
                leaves.split_at(leaves.partition_point(|(path, _)| !path.bit(depth)));
            node(&subtree(left, depth + 1), &subtree(right, depth + 1))
        }
    }
}

proptest! {
    #[test]
    fn how_leaves_are_grouped_never_shows_in_the_root(
        state in btree_map(any::<[u8; 32]>(), any::<[u8; 32]>(), 0..40), depth in 0..7_usize,
    ) {
        let leaves: Vec<_> =
            state.into_iter().map(|(path, word)| (StatePath(path.into()), word.into())).collect();
        prop_assert_eq!(root_by_combining(&leaves, depth), root_of(&leaves));
    }

    #[test]
    fn every_path_present_or_not_has_a_proof_that_holds(
        state in btree_map(any::<[u8; 32]>(), any::<[u8; 32]>(), 0..40), seed in any::<u64>(),
    ) {
        let leaves: Vec<_> =
            state.into_iter().map(|(path, word)| (StatePath(path.into()), word.into())).collect();
        let root = root_of(&leaves);
        let mut mix = Mix::new(seed);
        let present = leaves.iter().map(|(path, word)| (*path, Some(*word)));
        let absent = (0..4).map(|_| (StatePath(draw(&mut mix)), None));
        for (path, word) in present.chain(absent) {
            let encoded = StateProof::of(&leaves, &path).encode();
            let proof = StateProof::decode(&encoded).unwrap();
            prop_assert_eq!(proof.check(&root, &path, word.as_ref()), Ok(()));
        }
    }
}
