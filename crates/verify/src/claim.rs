//! What is asked and what is signed, byte by byte.
//!
//! A [`Request`] is named by its EIP-712 digest, and so is a [`Claim`]: the statement that one model gave one output for
//! that request. A [`SignedClaim`] adds the worker's signature; its 336 bytes ([`SignedClaim::entry`]) are what the log
//! keeps. The layouts stand in `docs/claims.md`; the structs that are hashed are those of `IInference.sol`
//! ([`crate::abi`]).

mod request;

use alloc::borrow::Cow;

use alloy_sol_types::{Eip712Domain, SolStruct};
use hyperion_primitives::{Address, B256, ClaimDigest, Keccak, ModelId, RequestId, U256};
pub use request::{
    PENALISED_TOKENS_MAX, Request, RequestError, STOP_IDS_MAX, STOP_TEXT_BYTES_MAX, STOP_TEXTS_MAX,
    Sampling, sampling_hash, seed, stop_hash, text_stop_hash,
};

use crate::{
    abi,
    bytes::{Fields, Writer},
    sign::{self, SIGNATURE_BYTES, SignatureError, SigningKey},
};

/// Bytes of a claim in the log.
pub const ENTRY_BYTES: usize = 336;
/// First byte of a log entry that holds a claim.
pub const ENTRY_KIND: u8 = 1;
const ENTRY_VERSION: u8 = 1;
/// The highest tier there is.
pub const TIER_MAX: u8 = 5;

/// Where signatures count: one chain and one contract on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// EIP-155 id of the chain.
    pub chain_id: u64,
    /// The chain's `REQUESTS` contract.
    pub verifying_contract: Address,
}

impl Domain {
    /// `name` of the EIP-712 domain.
    pub const NAME: &'static str = "Hyperion Inference";
    /// `version` of the EIP-712 domain.
    pub const VERSION: &'static str = "1";

    /// The EIP-712 domain separator.
    pub fn separator(&self) -> B256 {
        self.eip712().separator()
    }

    /// EIP-712 digest of a struct in this domain.
    pub(crate) fn digest(&self, value: &impl SolStruct) -> B256 {
        value.eip712_signing_hash(&self.eip712())
    }

    fn eip712(&self) -> Eip712Domain {
        Eip712Domain {
            name: Some(Cow::Borrowed(Self::NAME)),
            version: Some(Cow::Borrowed(Self::VERSION)),
            chain_id: Some(U256::from(self.chain_id)),
            verifying_contract: Some(self.verifying_contract),
            salt: None,
        }
    }
}

/// The statement a worker signs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The request answered.
    pub request_id: RequestId,
    /// The model that ran.
    pub model_id: ModelId,
    /// [`hyperion_primitives::input_hash`] of what it read.
    pub input_hash: B256,
    /// [`hyperion_primitives::output_hash`] of what it gave.
    pub output_hash: B256,
    /// The request's sampling.
    pub sampling_hash: B256,
    /// The seed of the draws, by [`Request::seed`].
    pub seed: B256,
    /// Root of the intermediate results; zero: built when someone asks.
    pub trace_root: B256,
    /// Rows of the input.
    pub in_tokens: u32,
    /// Tokens generated; 0 for a model that generates none.
    pub out_tokens: u32,
    /// Multiply-adds, by the model's formula ([`crate::manifest::Manifest::macs`]).
    pub macs: u64,
    /// Unix seconds until which the worker keeps input, output and seed.
    pub challenge_until: u64,
    /// The tier the request demanded; 0 beside a worker: attested only ([`SignedClaim::is_attested_only`]).
    pub tier: u8,
    /// Who signs; zero in a result that a block computed itself.
    pub worker: Address,
}

impl Claim {
    /// The claim's name everywhere: its EIP-712 digest.
    pub fn digest(&self, domain: &Domain) -> ClaimDigest {
        ClaimDigest(domain.digest(&abi::InferenceClaim::from(self)))
    }

    /// What must be equal between honest workers: everything but trace, terms and signer.
    ///
    /// `K("CC1" ‖ request ‖ model ‖ input ‖ output ‖ sampling ‖ seed ‖ word in ‖ word out ‖ word macs)`.
    pub fn core(&self) -> B256 {
        let mut hasher = Keccak::tagged(b"CC1");
        hasher
            .update(self.request_id.0)
            .update(self.model_id.0)
            .update(self.input_hash)
            .update(self.output_hash)
            .update(self.sampling_hash)
            .update(self.seed)
            .word(self.in_tokens.into())
            .word(self.out_tokens.into())
            .word(self.macs);
        hasher.finish()
    }

    /// Signs the claim. `worker` is to be the key's address, else nobody will accept the result.
    pub fn sign(self, domain: &Domain, key: &SigningKey) -> SignedClaim {
        let signature = sign::sign(key, &self.digest(domain).0);
        SignedClaim { claim: self, signature }
    }
}

impl From<&Claim> for abi::InferenceClaim {
    fn from(claim: &Claim) -> Self {
        Self {
            requestId: claim.request_id.0,
            modelId: claim.model_id.0,
            inputHash: claim.input_hash,
            outputHash: claim.output_hash,
            samplingHash: claim.sampling_hash,
            seed: claim.seed,
            traceRoot: claim.trace_root,
            inTokens: claim.in_tokens,
            outTokens: claim.out_tokens,
            macs: claim.macs,
            challengeUntil: claim.challenge_until,
            tier: claim.tier,
            worker: claim.worker,
        }
    }
}

impl From<&abi::InferenceClaim> for Claim {
    fn from(claim: &abi::InferenceClaim) -> Self {
        Self {
            request_id: RequestId(claim.requestId),
            model_id: ModelId(claim.modelId),
            input_hash: claim.inputHash,
            output_hash: claim.outputHash,
            sampling_hash: claim.samplingHash,
            seed: claim.seed,
            trace_root: claim.traceRoot,
            in_tokens: claim.inTokens,
            out_tokens: claim.outTokens,
            macs: claim.macs,
            challenge_until: claim.challengeUntil,
            tier: claim.tier,
            worker: claim.worker,
        }
    }
}

/// A claim with its signature, as the log keeps it.
///
/// A result that a block computed itself (tier T0) has no worker, tier 0 and 65 zero bytes for a signature: the block
/// vouches for it. Any other claim without a worker is refused. Tier 0 beside a worker is a result that cannot be
/// recomputed, [attested only](Self::is_attested_only).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedClaim {
    /// The statement.
    pub claim: Claim,
    /// `r ‖ s ‖ v` over the claim's digest ([`crate::sign`]).
    pub signature: [u8; SIGNATURE_BYTES],
}

/// Why bytes are no claim, or a claim not its worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The entry has another length.
    #[error("a claim entry has {got} bytes, want {ENTRY_BYTES}")]
    Length {
        /// The bytes given.
        got: usize,
    },
    /// The first two bytes are not those of a claim entry.
    #[error("the entry begins with kind {kind}, version {version}; want kind 1, version 1")]
    Header {
        /// The first byte.
        kind: u8,
        /// The second byte.
        version: u8,
    },
    /// The tier does not exist.
    #[error("tier {got} does not exist, want 0 to {TIER_MAX}")]
    Tier {
        /// The tier found.
        got: u8,
    },
    /// No worker, yet not a result of the block.
    #[error(
        "a claim without a worker is a block's own result: want tier 0 and no signature, got tier {tier}"
    )]
    NoWorker {
        /// The tier found.
        tier: u8,
    },
    /// The signature is not in its one form, or nobody's.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Somebody else signed.
    #[error("recovered {got}, claim names {want}")]
    SignerMismatch {
        /// Who signed.
        got: Address,
        /// The claim's worker.
        want: Address,
    },
}

impl SignedClaim {
    /// A result that a block computed itself: no worker, tier 0, no signature.
    pub fn of_block(mut claim: Claim) -> Self {
        claim.worker = Address::ZERO;
        claim.tier = 0;
        Self { claim, signature: [0; SIGNATURE_BYTES] }
    }

    /// Whether this is a block's own result, which no worker signs.
    pub fn is_of_block(&self) -> bool {
        self.claim.worker.is_zero()
            && self.claim.tier == 0
            && self.signature == [0; SIGNATURE_BYTES]
    }

    /// Whether a worker vouches for a result that nobody can recompute: a model in floating point, tier 0. Such a claim
    /// reaches no tier, so whoever asks for T1 refuses it.
    pub fn is_attested_only(&self) -> bool {
        self.claim.tier == 0 && !self.claim.worker.is_zero()
    }

    /// Who signed, whatever the claim says.
    ///
    /// # Errors
    ///
    /// When the signature is not in its one form or nobody's.
    pub fn recover(&self, domain: &Domain) -> Result<Address, ClaimError> {
        Ok(sign::recover(&self.claim.digest(domain).0, &self.signature)?)
    }

    /// Accepts a claim that its worker signed, or that is a block's own result.
    ///
    /// # Errors
    ///
    /// When the tier does not exist, when a claim without a worker is no block's result, when the signature is
    /// malformed, and when another key than the worker's signed.
    pub fn check(&self, domain: &Domain) -> Result<(), ClaimError> {
        self.check_form()?;
        if self.is_of_block() {
            return Ok(());
        }
        let got = self.recover(domain)?;
        let want = self.claim.worker;
        if got == want { Ok(()) } else { Err(ClaimError::SignerMismatch { got, want }) }
    }

    /// C1: the 336 bytes of a claim in the log.
    pub fn entry(&self) -> [u8; ENTRY_BYTES] {
        let claim = &self.claim;
        let mut bytes = [0; ENTRY_BYTES];
        Writer::new(&mut bytes)
            .put([ENTRY_KIND, ENTRY_VERSION])
            .put(claim.request_id.0)
            .put(claim.model_id.0)
            .put(claim.input_hash)
            .put(claim.output_hash)
            .put(claim.sampling_hash)
            .put(claim.seed)
            .put(claim.trace_root)
            .put(claim.in_tokens.to_be_bytes())
            .put(claim.out_tokens.to_be_bytes())
            .put(claim.macs.to_be_bytes())
            .put(claim.challenge_until.to_be_bytes())
            .put([claim.tier])
            .put(claim.worker)
            .put(self.signature)
            .done();
        bytes
    }

    /// Reads a C1 entry. The signature is taken as it stands; [`check`](Self::check) judges it.
    ///
    /// # Errors
    ///
    /// When length, kind or version are not a claim's, the tier does not exist, or a claim without a worker is no
    /// block's result.
    pub fn from_entry(bytes: &[u8]) -> Result<Self, ClaimError> {
        if bytes.len() != ENTRY_BYTES {
            return Err(ClaimError::Length { got: bytes.len() });
        }
        let mut fields = Fields::new(bytes);
        let (kind, version) = (fields.u8(), fields.u8());
        if (kind, version) != (ENTRY_KIND, ENTRY_VERSION) {
            return Err(ClaimError::Header { kind, version });
        }
        let claim = Claim {
            request_id: RequestId(fields.b256()),
            model_id: ModelId(fields.b256()),
            input_hash: fields.b256(),
            output_hash: fields.b256(),
            sampling_hash: fields.b256(),
            seed: fields.b256(),
            trace_root: fields.b256(),
            in_tokens: fields.u32(),
            out_tokens: fields.u32(),
            macs: fields.u64(),
            challenge_until: fields.u64(),
            tier: fields.u8(),
            worker: fields.address(),
        };
        let signed = Self { claim, signature: fields.array() };
        signed.check_form().map(|()| signed)
    }

    fn check_form(&self) -> Result<(), ClaimError> {
        let tier = self.claim.tier;
        if tier > TIER_MAX {
            return Err(ClaimError::Tier { got: tier });
        }
        if self.claim.worker.is_zero() && !self.is_of_block() {
            return Err(ClaimError::NoWorker { tier });
        }
        Ok(())
    }
}
