use hyperion_primitives::{Address, B256, Dtype, Keccak, ModelId, RequestId, U256, tensor_root_of};

use super::Domain;
use crate::abi;

/// Most end ids a request may name.
pub const STOP_IDS_MAX: usize = 256;

/// Most texts that end an answer.
pub const STOP_TEXTS_MAX: usize = 4;

/// Bytes of such a text at most.
pub const STOP_TEXT_BYTES_MAX: usize = 256;

/// What a requester asks for; its EIP-712 digest is the request's identity.
///
/// One digest binds chain, contract, model, input, sampling, price cap and freshness at once, so nothing of it can be
/// replayed elsewhere or swapped underneath.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Who asks and pays; zero for an unsigned call, whose `nonce` is then 32 random bytes.
    pub requester: Address,
    /// The only worker that may answer; zero: any.
    pub worker: Address,
    /// The model to run.
    pub model_id: ModelId,
    /// [`hyperion_primitives::input_hash`] of the input tensors.
    pub input_hash: B256,
    /// [`sampling_hash`]; zero for a model that generates nothing.
    pub sampling_hash: B256,
    /// The tier demanded, 0 to 5.
    pub tier: u8,
    /// Where the seed comes from: 0 none, 1 `entropy`, 2 a beacon ([`seed`]).
    pub seed_mode: u8,
    /// The requester's own randomness in mode 1, else zero.
    pub entropy: B256,
    /// What the fee is paid in; zero: the chain's native token.
    pub fee_asset: Address,
    /// Most that may be charged, in the asset's smallest unit.
    pub fee_max: u128,
    /// Unix seconds after which no answer is wanted.
    pub deadline: u64,
    /// Makes two equal requests two.
    pub nonce: U256,
}

impl Request {
    /// The request's identity: its EIP-712 digest.
    pub fn id(&self, domain: &Domain) -> RequestId {
        RequestId(domain.digest(&abi::InferenceRequest::from(self)))
    }

    /// The seed of the run, from this request's mode and entropy and the id that [`id`](Self::id) gave.
    ///
    /// `beacon` is the hash of the block that accepted the request; only mode 2 reads it.
    ///
    /// # Errors
    ///
    /// When the mode is none of 0, 1, 2, when modes 0 or 2 come with entropy, or when mode 2 has no beacon.
    pub fn seed(&self, id: RequestId, beacon: Option<B256>) -> Result<B256, RequestError> {
        let (mode, entropy) = (self.seed_mode, self.entropy);
        match mode {
            0 | 2 if !entropy.is_zero() => Err(RequestError::EntropyUnused { mode }),
            0 => Ok(seed(0, id, B256::ZERO)),
            1 => Ok(seed(1, id, entropy)),
            2 => Ok(seed(2, id, beacon.ok_or(RequestError::BeaconMissing)?)),
            got => Err(RequestError::SeedMode { got }),
        }
    }
}

/// Why a request asks for nothing that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The seed mode names no rule.
    #[error("seed mode {got} is none of 0, 1, 2")]
    SeedMode {
        /// The mode found.
        got: u8,
    },
    /// Entropy where the mode reads none.
    #[error("seed mode {mode} takes no entropy, and the request has some")]
    EntropyUnused {
        /// The request's mode.
        mode: u8,
    },
    /// Mode 2 before its block is known.
    #[error("seed mode 2 needs the hash of the block that accepted the request")]
    BeaconMissing,
    /// The end ids are not strictly ascending.
    #[error("end id {got} follows {before}; want them strictly ascending")]
    StopOrder {
        /// The id found.
        got: u32,
        /// The id before it.
        before: u32,
    },
    /// Too many end ids.
    #[error("{got} end ids, want {STOP_IDS_MAX} at most")]
    StopCount {
        /// The ids given.
        got: usize,
    },
    /// Too many texts that end an answer.
    #[error("{got} stop texts, want {STOP_TEXTS_MAX} at most")]
    TextCount {
        /// The texts given.
        got: usize,
    },
    /// A text that ends an answer is empty or too long.
    #[error("a stop text of {got} bytes, want 1 to {STOP_TEXT_BYTES_MAX}")]
    TextBytes {
        /// Its bytes.
        got: usize,
    },
    /// The texts that end an answer are not strictly ascending by their bytes.
    #[error(
        "stop text {place} is not behind the one before it; want them ascending by their bytes"
    )]
    TextOrder {
        /// Place of the text found.
        place: usize,
    },
}

impl From<&Request> for abi::InferenceRequest {
    fn from(request: &Request) -> Self {
        Self {
            requester: request.requester,
            worker: request.worker,
            modelId: request.model_id.0,
            inputHash: request.input_hash,
            samplingHash: request.sampling_hash,
            tier: request.tier,
            seedMode: request.seed_mode,
            entropy: request.entropy,
            feeAsset: request.fee_asset,
            feeMax: request.fee_max,
            deadline: request.deadline,
            nonce: request.nonce,
        }
    }
}

/// Tokens at most that penalties look at, since whoever checks a draw has to open all of them: of the answer for the frequency
/// and presence penalties, of prompt and answer for the repetition penalty.
pub const PENALISED_TOKENS_MAX: u32 = 4096;

/// How a generator draws its tokens; the preimage of `samplingHash`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sampling {
    /// Temperature in Q16; 0: the largest logit.
    pub temperature_q16: u32,
    /// Tokens kept by rank; 0: all.
    pub top_k: u32,
    /// Share of the weight kept, Q16; 65,536: all.
    pub top_p_q16: u32,
    /// Taken off a logit per earlier occurrence, Q16.
    pub frequency_q16: i32,
    /// Taken off a logit once its token has occurred, Q16.
    pub presence_q16: i32,
    /// The answer ends after this many tokens at the latest.
    pub tokens_max: u32,
    /// [`stop_hash`] of the end ids; zero: none.
    pub stop_hash: B256,
    /// Weight that a drawn token has at least, as a share of the likeliest one's, Q16; 0: off.
    pub min_p_q16: u32,
    /// Divides or multiplies the logits of prompt and answer, Q16; 65,536, or 0: off.
    pub repetition_q16: u32,
    /// [`text_stop_hash`] of the texts that end the answer; zero: none.
    pub text_stop_hash: B256,
}

impl Sampling {
    /// The repetition penalty with its one spelling of "off", 65,536.
    pub const fn repetition(&self) -> u32 {
        if self.repetition_q16 == 0 { 65_536 } else { self.repetition_q16 }
    }

    /// `K("S1" ‖ word temperature ‖ word top_k ‖ word top_p ‖ word frequency ‖ word presence ‖ word tokens_max ‖ stop_hash)`
    /// where min-p and the repetition penalty are off and no text ends the answer,
    /// `K("S2" ‖ the same seven ‖ word min_p ‖ word repetition)` where no text does, else
    /// `K("S3" ‖ the same seven ‖ word min_p ‖ word repetition ‖ text_stop_hash)`.
    pub fn hash(&self) -> B256 {
        let narrows = self.min_p_q16 != 0 || self.repetition() != 65_536;
        let has_texts = !self.text_stop_hash.is_zero();
        let mut hasher = Keccak::tagged(match (has_texts, narrows) {
            (true, _) => b"S3",
            (false, true) => b"S2",
            (false, false) => b"S1",
        });
        hasher
            .word(self.temperature_q16.into())
            .word(self.top_k.into())
            .word(self.top_p_q16.into())
            .signed_word(self.frequency_q16.into())
            .signed_word(self.presence_q16.into())
            .word(self.tokens_max.into())
            .update(self.stop_hash);
        if narrows || has_texts {
            hasher.word(self.min_p_q16.into()).word(self.repetition().into());
        }
        if has_texts {
            hasher.update(self.text_stop_hash);
        }
        hasher.finish()
    }

    /// The numbers the operator `sample` takes; `None` when one is outside its range.
    pub fn draw(&self) -> Option<hyperion_ops::sample::Sampling> {
        hyperion_ops::sample::Sampling::new(
            self.temperature_q16,
            self.top_k,
            self.top_p_q16,
            self.frequency_q16,
            self.presence_q16,
        )?
        .min_p(self.min_p_q16)?
        .repetition(self.repetition())
    }
}

/// `samplingHash` of a request: zero for a model without a sampler.
pub fn sampling_hash(sampling: Option<&Sampling>) -> B256 {
    sampling.map_or(B256::ZERO, Sampling::hash)
}

/// CT1 root of the end ids as `u32 [n]`; zero when there are none.
///
/// # Errors
///
/// When they are not strictly ascending or more than [`STOP_IDS_MAX`].
pub fn stop_hash(ids: &[u32]) -> Result<B256, RequestError> {
    if ids.len() > STOP_IDS_MAX {
        return Err(RequestError::StopCount { got: ids.len() });
    }
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(RequestError::StopOrder { got: pair[1], before: pair[0] });
    }
    let root =
        tensor_root_of(Dtype::U32, &[ids.len() as u64], ids.iter().map(|id| id.to_le_bytes()));
    Ok(root.map_or(B256::ZERO, |root| root.0))
}

/// `K("ST1" ‖ for each text: u16 length ‖ bytes)`, lengths big-endian, of the texts that end an answer; zero when there are none.
///
/// # Errors
///
/// When they are not strictly ascending by their bytes, more than [`STOP_TEXTS_MAX`], empty, or longer than
/// [`STOP_TEXT_BYTES_MAX`].
pub fn text_stop_hash(texts: &[impl AsRef<[u8]>]) -> Result<B256, RequestError> {
    if texts.is_empty() {
        return Ok(B256::ZERO);
    }
    if texts.len() > STOP_TEXTS_MAX {
        return Err(RequestError::TextCount { got: texts.len() });
    }
    let mut hasher = Keccak::tagged(b"ST1");
    for (place, text) in texts.iter().enumerate() {
        let text = text.as_ref();
        if place > 0 && texts[place - 1].as_ref() >= text {
            return Err(RequestError::TextOrder { place });
        }
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        if text.is_empty() || text.len() > STOP_TEXT_BYTES_MAX {
            return Err(RequestError::TextBytes { got: text.len() });
        }
        hasher.update(length.to_be_bytes()).update(text);
    }
    Ok(hasher.finish())
}

/// The seed rule: zero in mode 0, else `K("SD1" ‖ request id ‖ entropy)`.
///
/// `entropy` is the request's own in mode 1 and the beacon in mode 2. The seed is fixed before the run, so no worker
/// can try seeds until it likes the answer.
pub fn seed(mode: u8, id: RequestId, entropy: B256) -> B256 {
    if mode == 0 {
        return B256::ZERO;
    }
    Keccak::tagged(b"SD1").update(id.0).update(entropy).finish()
}
