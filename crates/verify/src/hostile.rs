//! Every decoder of this crate in one shape, for whoever feeds them bytes nobody meant well.
//!
//! A [`Target`] turns bytes into the value's own encoding, or into nothing when the decoder refuses. Whatever it accepts
//! it must give back unchanged, since a second encoding of one value is a second hash of one claim; and no bytes may make
//! it panic. `corpus` starts a mutator off with bytes that are accepted.

use alloc::{string::ToString as _, vec, vec::Vec};
use core::str;

use hyperion_primitives::{Address, B256, Dtype, ProgramId, TILE_BYTES, keccak256};

use crate::{
    Checkpoint, Claim, Domain, Formula, KeyKind, Manifest, NoteKey, NoteSigner, OutputRows,
    Receipt, SignedClaim, SignedNote,
    commit::{CommitEntry, CommitRecord, DiffChunk, DiffEntry},
    log::{inclusion_proof, leaf_hash, root_of},
    sign::{self, SigningKey},
    state::{AccountWord, ClaimWord, StatePath, StateProof},
    tensor::TileRun,
};

/// One decoder.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it decodes.
    pub name: &'static str,
    /// The encoding of what the bytes decode to; `None` when they are refused.
    pub recode: fn(&[u8]) -> Option<Vec<u8>>,
    /// Encodings that are accepted.
    pub corpus: fn() -> Vec<Vec<u8>>,
}

/// Every decoder of this crate.
pub const TARGETS: [Target; 12] = [
    Target {
        name: "claim entry",
        recode: |bytes| Some(SignedClaim::from_entry(bytes).ok()?.entry().to_vec()),
        corpus: || {
            vec![claim().entry().to_vec(), SignedClaim::of_block(claim().claim).entry().to_vec()]
        },
    },
    Target {
        name: "receipt",
        recode: |bytes| recode_text::<Receipt>(bytes),
        corpus: || vec![receipt().to_string().into_bytes()],
    },
    Target {
        name: "signed note",
        recode: |bytes| recode_text::<SignedNote>(bytes),
        corpus: || vec![receipt().note.to_string().into_bytes()],
    },
    Target {
        name: "checkpoint",
        recode: |bytes| {
            Some(Checkpoint::parse(str::from_utf8(bytes).ok()?).ok()?.body().into_bytes())
        },
        corpus: || vec![receipt().note.checkpoint.body().into_bytes()],
    },
    Target {
        name: "note key",
        recode: |bytes| recode_text::<NoteKey>(bytes),
        corpus: || {
            [KeyKind::Log, KeyKind::Witness]
                .map(|kind| signer(kind).key().to_string().into())
                .into()
        },
    },
    Target {
        name: "manifest",
        recode: |bytes| Some(Manifest::decode(bytes).ok()?.encode().to_vec()),
        corpus: || vec![manifest().encode().to_vec()],
    },
    Target {
        name: "commit entry",
        recode: |bytes| Some(CommitEntry::decode(bytes).ok()?.encode().to_vec()),
        corpus: || vec![record().entry.encode().to_vec()],
    },
    Target {
        name: "commit record",
        recode: |bytes| Some(CommitRecord::decode(bytes).ok()?.encode().to_vec()),
        corpus: || vec![record().encode().to_vec()],
    },
    Target {
        name: "diff chunk",
        recode: |bytes| {
            let chunk = DiffChunk::decode(bytes).ok()?;
            Some(DiffChunk::encode(chunk.height, chunk.part, &chunk.entries))
        },
        corpus: || vec![DiffChunk::encode(7, 1, &changes())],
    },
    Target {
        name: "state proof",
        recode: |bytes| Some(StateProof::decode(bytes).ok()?.encode()),
        corpus: state_proofs,
    },
    Target {
        name: "state word",
        recode: |bytes| {
            let word = B256::try_from(bytes).ok()?;
            let account = AccountWord::from_word(&word).map(|account| account.word());
            let claim = ClaimWord::from_word(&word).map(|claim| claim.word());
            Some(account.or(claim).ok()?.to_vec())
        },
        corpus: || {
            let account = AccountWord { code_bytes: 9, nonce: 7, balance: 1 << 90 };
            vec![account.word().to_vec(), ClaimWord::logged(5, false).word().to_vec()]
        },
    },
    Target {
        name: "tile run",
        recode: |bytes| Some(TileRun::decode(bytes).ok()?.encode()),
        corpus: || {
            let tensor = vec![3; 5 * TILE_BYTES + 9];
            [(0, 0), (1, 3), (5, 5)]
                .into_iter()
                .filter_map(|(a, b)| Some(TileRun::open(&tensor, a, b)?.encode()))
                .collect()
        },
    },
];

fn recode_text<T: str::FromStr + alloc::string::ToString>(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(str::from_utf8(bytes).ok()?.parse::<T>().ok()?.to_string().into_bytes())
}

fn hash(of: u8) -> B256 {
    keccak256([of])
}

fn claim() -> SignedClaim {
    let key = SigningKey::from_slice(hash(1).as_slice()).expect("a hash below the group's order");
    let claim =
        Claim { worker: sign::address(&key), output_hash: hash(2), tier: 1, ..Claim::default() };
    claim.sign(&Domain { chain_id: 31_337, verifying_contract: Address::ZERO }, &key)
}

fn signer(kind: KeyKind) -> NoteSigner {
    NoteSigner::new("log.example", kind, &hash(3).0).expect("a plain name")
}

fn receipt() -> Receipt {
    let entry = claim().entry().to_vec();
    let leaves = [hash(4), leaf_hash(&entry), hash(5)];
    let checkpoint = Checkpoint { origin: "log.example".into(), size: 3, root: root_of(&leaves) };
    let mut note = checkpoint.sign(&signer(KeyKind::Log));
    note.cosign(&signer(KeyKind::Witness), 1_767_225_602);
    let path = inclusion_proof(1, &leaves).expect("three leaves");
    Receipt { entry, index: 1, path, note }
}

fn manifest() -> Manifest {
    Manifest {
        program_id: ProgramId(hash(6)),
        active: true,
        native: true,
        causal: false,
        generator: false,
        input_dtype: Dtype::U32,
        input_width: 1,
        vocabulary: 30_522,
        output_dtype: Dtype::I16,
        output_width: 384,
        output_rows: OutputRows::One,
        rows_max: 512,
        macs: Formula { per_row: 10_616_832, per_pair: 4_608, ..Formula::default() },
        elements: Formula { base: 384, per_row: 40_000, ..Formula::default() },
        peak_bytes: 1 << 20,
    }
}

fn record() -> CommitRecord {
    let entry = CommitEntry {
        claims: 2,
        height: 7,
        first_index: 30,
        parent: hash(7),
        ..CommitEntry::default()
    };
    CommitRecord { entry, size_after: 33, log_root_after: hash(8) }
}

fn changes() -> Vec<DiffEntry> {
    let word = |of| Some(hash(of));
    let changes = [(None, word(1)), (word(2), word(3)), (word(4), None)];
    let paths = [1, 2, 3].map(|at| StatePath(B256::with_last_byte(at)));
    paths.into_iter().zip(changes).map(|(path, (old, new))| DiffEntry { path, old, new }).collect()
}

fn state_proofs() -> Vec<Vec<u8>> {
    let mut leaves: Vec<_> = (0..32).map(|of| (StatePath(hash(of)), hash(of))).collect();
    leaves.sort();
    let paths = (28..60).map(|of| StatePath(hash(of)));
    paths.map(|path| StateProof::of(&leaves, &path).encode()).collect()
}
