//! What the tests of this crate share: the vectors, and small drawn values.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a vector that does not parse fails its test")]

use hyperion_primitives::{
    Address, B256, ClaimDigest, Dtype, Mix, ModelId, ProgramId, RequestId, TensorRoot, U256,
    keccak256, output_hash, tensor_root,
};
use hyperion_verify::{
    Checkpoint, Claim, Domain, KeyKind, NoteSigner, Receipt, Request, SignedClaim, SignedNote,
    Trust,
    log::{inclusion_proof, leaf_hash, root_of},
    sign::{self, SigningKey},
};
use serde_json::Value;

/// Vectors of claims, tensor roots and signatures.
pub(crate) fn claim_vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/claim.json")).unwrap()
}

/// Vectors of the log and the state.
pub(crate) fn store_vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/store.json")).unwrap()
}

/// Bytes of a hex string.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value).trim_start_matches("0x")).unwrap()
}

/// Thirty-two bytes of a hex string.
pub(crate) fn b256(value: &Value) -> B256 {
    B256::from_slice(&bytes(value))
}

/// An address of a hex string.
pub(crate) fn address(value: &Value) -> Address {
    Address::from_slice(&bytes(value))
}

/// A list of hashes.
pub(crate) fn hashes(value: &Value) -> Vec<B256> {
    value.as_array().unwrap().iter().map(b256).collect()
}

/// A string.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string"))
}

/// A number of any width up to 64 bits.
pub(crate) fn number<T: TryFrom<u64>>(value: &Value) -> T
where
    T::Error: std::fmt::Debug,
{
    T::try_from(value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))).unwrap()
}

/// The domain that the vectors were signed in.
pub(crate) fn vector_domain(vectors: &Value) -> Domain {
    let domain = &vectors["eip712"]["domain"];
    assert_eq!(text(&domain["name"]), Domain::NAME);
    assert_eq!(text(&domain["version"]), Domain::VERSION);
    Domain {
        chain_id: number(&domain["chainId"]),
        verifying_contract: address(&domain["verifyingContract"]),
    }
}

/// The request of a case of the vectors.
pub(crate) fn vector_request(request: &Value) -> Request {
    Request {
        requester: address(&request["requester"]),
        worker: address(&request["worker"]),
        model_id: ModelId(b256(&request["modelId"])),
        input_hash: b256(&request["inputHash"]),
        sampling_hash: b256(&request["samplingHash"]),
        tier: number(&request["tier"]),
        seed_mode: number(&request["seedMode"]),
        entropy: b256(&request["entropy"]),
        fee_asset: address(&request["feeAsset"]),
        fee_max: u128::from(number::<u64>(&request["feeMax"])),
        deadline: number(&request["deadline"]),
        nonce: U256::from(number::<u64>(&request["nonce"])),
    }
}

/// The claim of a case of the vectors.
pub(crate) fn vector_claim(claim: &Value) -> Claim {
    Claim {
        request_id: RequestId(b256(&claim["requestId"])),
        model_id: ModelId(b256(&claim["modelId"])),
        input_hash: b256(&claim["inputHash"]),
        output_hash: b256(&claim["outputHash"]),
        sampling_hash: b256(&claim["samplingHash"]),
        seed: b256(&claim["seed"]),
        trace_root: b256(&claim["traceRoot"]),
        in_tokens: number(&claim["inTokens"]),
        out_tokens: number(&claim["outTokens"]),
        macs: number(&claim["macs"]),
        challenge_until: number(&claim["challengeUntil"]),
        tier: number(&claim["tier"]),
        worker: address(&claim["worker"]),
    }
}

/// A domain for tests that need just any.
pub(crate) const DOMAIN: Domain =
    Domain { chain_id: 31_337, verifying_contract: Address::repeat_byte(0x77) };

/// A key drawn from a word.
pub(crate) fn key(seed: u64) -> SigningKey {
    SigningKey::from_slice(keccak256(seed.to_be_bytes()).as_slice()).unwrap()
}

/// A hash drawn from a stream.
pub(crate) fn draw(mix: &mut Mix) -> B256 {
    keccak256(mix.u64().to_be_bytes())
}

/// A claim drawn from a stream, without a worker yet.
pub(crate) fn drawn_claim(mix: &mut Mix) -> Claim {
    Claim {
        request_id: RequestId(draw(mix)),
        model_id: ModelId(draw(mix)),
        input_hash: draw(mix),
        output_hash: draw(mix),
        sampling_hash: draw(mix),
        seed: draw(mix),
        trace_root: B256::ZERO,
        in_tokens: u32::try_from(mix.below(1 << 32)).unwrap(),
        out_tokens: u32::try_from(mix.below(1 << 32)).unwrap(),
        macs: mix.u64(),
        challenge_until: mix.u64(),
        tier: u8::try_from(mix.below(6)).unwrap(),
        worker: Address::ZERO,
    }
}

/// A program id that names nothing.
pub(crate) fn program() -> ProgramId {
    ProgramId(keccak256(b"program of a test"))
}

/// A claim digest that names nothing.
pub(crate) fn claim_digest() -> ClaimDigest {
    ClaimDigest(keccak256(b"claim of a test"))
}

/// Every copy of `bytes` with one byte changed, by each of a few masks.
pub(crate) fn flips(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len()).flat_map(move |at| {
        [0x01, 0x10, 0x80, 0xff].map(|mask| {
            let mut changed = bytes.to_vec();
            changed[at] ^= mask;
            (at, changed)
        })
    })
}

/// A log of a few claims with everything that its receipts are checked against.
pub(crate) struct Log {
    /// The claims, signed.
    pub(crate) claims: Vec<SignedClaim>,
    /// Their leaf hashes.
    pub(crate) leaves: Vec<B256>,
    /// The log's signed checkpoint, cosigned by one witness.
    pub(crate) note: SignedNote,
    /// Whom to trust.
    pub(crate) trust: Trust,
}

impl Log {
    /// A log of `count` drawn claims, each by a worker of its own; claim i gives an output tensor of one byte, i.
    pub(crate) fn of(count: u8) -> Self {
        let log = NoteSigner::new("example.org/log", KeyKind::Log, &[1; 32]).unwrap();
        let witness = NoteSigner::new("example.org/witness", KeyKind::Witness, &[2; 32]).unwrap();
        let mut mix = Mix::new(1);
        let claims: Vec<_> = (0..count)
            .map(|i| {
                let key = key(i.into());
                let claim = Claim {
                    worker: sign::address(&key),
                    output_hash: output_hash(&[Self::output(i)]),
                    ..drawn_claim(&mut mix)
                };
                claim.sign(&DOMAIN, &key)
            })
            .collect();
        let leaves: Vec<_> = claims.iter().map(|claim| leaf_hash(&claim.entry())).collect();
        let (origin, root) = (log.key().name().to_owned(), root_of(&leaves));
        let mut note = Checkpoint { origin, size: count.into(), root }.sign(&log);
        note.cosign(&witness, 1_767_225_602);
        let trust = Trust {
            domain: DOMAIN,
            log: log.key().clone(),
            witnesses: vec![witness.key().clone()],
            witnesses_min: 1,
        };
        Self { claims, leaves, note, trust }
    }

    /// Root of the tensor that claim i gives.
    pub(crate) fn output(i: u8) -> TensorRoot {
        tensor_root(Dtype::U8, &[1, 1], &[i]).unwrap()
    }

    /// The receipt of claim `index`.
    pub(crate) fn receipt(&self, index: usize) -> Receipt {
        Receipt {
            entry: self.claims[index].entry().to_vec(),
            index: index as u64,
            path: inclusion_proof(index, &self.leaves).unwrap(),
            note: self.note.clone(),
        }
    }
}
