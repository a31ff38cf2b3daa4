//! Every decoder under a seeded mutator: no bytes panic, and whatever is accepted encodes to the same bytes.
#![expect(clippy::unwrap_used, reason = "what does not parse fails its test")]

mod common;

use common::{DOMAIN, Log};
use hyperion_primitives::{B256, Dtype, Mix, TensorRoot};
use hyperion_verify::{
    Manifest, Receipt, SignedClaim,
    hostile::{TARGETS, Target},
    log::{check_consistency, check_inclusion},
    state::{StatePath, StateProof},
    tensor::TileRun,
};

const ROUNDS: u64 = 20_000;
/// What counts and lengths are overwritten with.
const EXTREMES: [u64; 6] = [0, 1, 0x7f, 0x80, 0xffff, u64::MAX];

/// A valid encoding with a few edits, or noise.
fn mutated(mix: &mut Mix, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[pick(mix, corpus.len())].clone();
    for _ in 0..mix.below(4) {
        let at = pick(mix, bytes.len() + 1);
        let end = (at + pick(mix, 40)).min(bytes.len());
        let value = mix.u64().to_be_bytes();
        match mix.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << mix.below(8),
            1 if at < bytes.len() => bytes[at] = value[0],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.extend_from_within(at..end),
            5 => {
                let edge = EXTREMES[pick(mix, EXTREMES.len())].to_be_bytes();
                let width = (1 << mix.below(4)).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&edge[8 - width..]);
            }
            _ => drop(bytes.splice(at..at, value)),
        }
    }
    bytes
}

fn pick(mix: &mut Mix, bound: usize) -> usize {
    usize::try_from(mix.below(bound as u64)).unwrap()
}

#[test]
fn what_a_decoder_accepts_it_encodes_to_the_same_bytes() {
    for (seed, Target { name, recode, corpus }) in (1..).zip(TARGETS) {
        let corpus = corpus();
        for valid in &corpus {
            assert_eq!(recode(valid).as_ref(), Some(valid), "{name}: the corpus is accepted");
        }
        let mut mix = Mix::new(seed);
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..ROUNDS {
            let bytes = mutated(&mut mix, &corpus);
            match recode(&bytes) {
                Some(again) => {
                    assert_eq!(again, bytes, "{name}: two encodings of one value");
                    accepted += 1;
                }
                None => refused += 1,
            }
        }
        assert!(accepted > ROUNDS / 50 && refused > ROUNDS / 50, "{name}: {accepted}, {refused}");
    }
}

/// The checks behind the decoders, on values that decode but mean nothing.
#[test]
fn no_value_panics_a_check() {
    let log = Log::of(3);
    let mut mix = Mix::new(9);
    for Target { name, corpus, .. } in TARGETS {
        let corpus = corpus();
        for _ in 0..ROUNDS / 20 {
            let bytes = mutated(&mut mix, &corpus);
            let words: Vec<B256> = bytes.chunks_exact(32).map(B256::from_slice).collect();
            let root = words.first().copied().unwrap_or_default();
            let dims = [mix.u64() >> mix.below(64), 1 + mix.below(4)];
            let sizes = [mix.u64() >> mix.below(64), mix.u64() >> mix.below(64)];
            match name {
                "claim entry" => {
                    let _ = SignedClaim::from_entry(&bytes).map(|claim| claim.check(&DOMAIN));
                }
                "receipt" => {
                    let receipt =
                        str::from_utf8(&bytes).ok().and_then(|text| text.parse::<Receipt>().ok());
                    drop(
                        receipt.map(|receipt| receipt.check(&log.trust, Some(&[TensorRoot(root)]))),
                    );
                }
                "manifest" => {
                    if let Ok(manifest) = Manifest::decode(&bytes) {
                        let tokens = |word: u64| u32::try_from(word >> 32).unwrap();
                        let (inside, outside) =
                            (tokens(mix.u64()), tokens(mix.u64() >> mix.below(32)));
                        for inside in [inside, inside % 70_000] {
                            let _ = manifest.macs(inside, outside);
                            let _ = manifest.elements(inside, 0);
                            let _ = manifest.tiles(inside, outside);
                            let _ = manifest.check_input(&bytes[..pick(&mut mix, bytes.len())]);
                        }
                    }
                }
                "state proof" => {
                    let word = (mix.below(2) == 0).then_some(root);
                    let _ = StateProof::decode(&bytes)
                        .and_then(|proof| proof.check(&root, &StatePath(root), word.as_ref()));
                }
                "tile run" => {
                    let _ = TileRun::decode(&bytes)
                        .and_then(|run| run.check(&TensorRoot(root), Dtype::U8, &dims));
                }
                _ => {
                    let _ = check_inclusion(&root, sizes[0], sizes[1], &words, &root);
                    let _ = check_consistency(sizes[0], sizes[1], &root, &root, &words);
                }
            }
        }
    }
}
