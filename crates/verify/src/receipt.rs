//! The file that proves a claim logged.
//!
//! A receipt is C2SP's `tlog-proof@v1` with the claim's entry inside, so one file carries all that a check needs but the
//! keys it trusts:
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra base64(entry)                    336 bytes, `SignedClaim::entry`
//! index 1
//! base64(hash)                           the inclusion path, leaf's sibling first; no line in a log of one entry
//!
//! the checkpoint's signed note           `SignedNote`
//! ```
//!
//! [`Receipt::check`] goes through signature, inclusion, checkpoint and output in this order and names the first thing
//! that is wrong; each step is also a function of its own.

use alloc::vec::Vec;
use core::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyperion_primitives::{Address, B256, RequestId, TensorRoot, output_hash};

use crate::{
    claim::{Claim, ClaimError, Domain, Request, RequestError, SignedClaim},
    log::{InclusionError, LogHash, check_inclusion, leaf_hash},
    note::{Lines, NOTE_BYTES_MAX, NoteError, NoteKey, SignedNote, decimal, hash},
};

/// Most bytes of a receipt.
pub const RECEIPT_BYTES_MAX: usize = NOTE_BYTES_MAX + 16 * 1024;
/// Most bytes of an entry of the log.
pub const LOG_ENTRY_BYTES_MAX: usize = 4096;
/// Hashes on the longest inclusion path there is.
const PATH_MAX: usize = 64;

/// A claim's entry, where the log has it, and the checkpoint that says so.
///
/// [`FromStr`] accepts exactly the texts that [`Display`](fmt::Display) writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The log entry, byte for byte.
    pub entry: Vec<u8>,
    /// Its index.
    pub index: u64,
    /// Inclusion path, leaf's sibling first.
    pub path: Vec<LogHash>,
    /// The checkpoint it leads to.
    pub note: SignedNote,
}

/// Whom the holder of a receipt trusts.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Chain and contract that claims are signed for.
    pub domain: Domain,
    /// The log.
    pub log: NoteKey,
    /// Witnesses whose cosignatures count.
    pub witnesses: Vec<NoteKey>,
    /// How many of them must have cosigned.
    pub witnesses_min: usize,
}

/// The first thing wrong with a receipt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Longer than any receipt is.
    #[error("the receipt has {got} bytes, want {RECEIPT_BYTES_MAX} at most")]
    Length {
        /// The bytes given.
        got: usize,
    },
    /// The text is no receipt.
    #[error("the receipt is malformed: {0}")]
    Form(NoteError),
    /// The entry is no claim, or not its worker's.
    #[error("signature: {0}")]
    Claim(#[from] ClaimError),
    /// The entry is not in the log there.
    #[error("log: {0}")]
    Inclusion(#[from] InclusionError),
    /// The checkpoint is not the log's.
    #[error("log: {0}")]
    Checkpoint(NoteError),
    /// Too few witnesses.
    #[error("log: {got} of the witnesses asked for cosigned, want {want}")]
    Witnesses {
        /// Those with a good line.
        got: usize,
        /// Those needed.
        want: usize,
    },
    /// The claim answers another request.
    #[error("request: {0}")]
    Request(#[from] AnswerError),
    /// The output is another.
    #[error("output: the tensors hash to {got}, the claim says {want}")]
    Output {
        /// [`output_hash`] of the tensors given.
        got: B256,
        /// The claim's.
        want: B256,
    },
}

/// Why a claim does not answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Another request.
    #[error("the claim answers {got}, the request is {want}")]
    Id {
        /// The request the claim names.
        got: RequestId,
        /// The request given.
        want: RequestId,
    },
    /// A hash that both carry.
    #[error("{field} is {got} in the claim, {want} in the request")]
    Field {
        /// Its name.
        field: &'static str,
        /// The claim's.
        got: B256,
        /// The request's.
        want: B256,
    },
    /// The tier that both carry.
    #[error("the tier is {got} in the claim, {want} in the request")]
    Tier {
        /// The claim's.
        got: u8,
        /// The request's.
        want: u8,
    },
    /// Somebody else was asked.
    #[error("{got} answered, the request names {want}")]
    Worker {
        /// The claim's worker.
        got: Address,
        /// The request's.
        want: Address,
    },
    /// The request itself breaks the seed rule.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Receipt {
    /// Checks everything a receipt can show, in this order: the claim's signature, its inclusion, the checkpoint with
    /// its witnesses and, if given, the roots of the output tensors.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(
        &self,
        trust: &Trust,
        output: Option<&[TensorRoot]>,
    ) -> Result<SignedClaim, ReceiptError> {
        let signed = self.check_claim(&trust.domain)?;
        self.check_inclusion()?;
        self.check_checkpoint(trust)?;
        output.map_or(Ok(()), |roots| check_output(&signed.claim, roots))?;
        Ok(signed)
    }

    /// The claim inside, if its worker signed it.
    ///
    /// # Errors
    ///
    /// When the entry is no claim or its signature not the worker's.
    pub fn check_claim(&self, domain: &Domain) -> Result<SignedClaim, ClaimError> {
        let signed = SignedClaim::from_entry(&self.entry)?;
        signed.check(domain).map(|()| signed)
    }

    /// Accepts that the checkpoint's root covers the entry at its index; does not judge the checkpoint.
    ///
    /// # Errors
    ///
    /// When the index is outside, the path has another length or leads elsewhere.
    pub fn check_inclusion(&self) -> Result<(), InclusionError> {
        let checkpoint = &self.note.checkpoint;
        let leaf = leaf_hash(&self.entry);
        check_inclusion(&leaf, self.index, checkpoint.size, &self.path, &checkpoint.root)
    }

    /// Accepts the checkpoint as the log's, cosigned by enough witnesses.
    ///
    /// # Errors
    ///
    /// When the log's line is missing or wrong, or too few of the witnesses have a good line.
    pub fn check_checkpoint(&self, trust: &Trust) -> Result<(), ReceiptError> {
        self.note.verify(&trust.log).map_err(ReceiptError::Checkpoint)?;
        let cosigned = |witness: &&NoteKey| self.note.cosigned_at(witness).is_ok();
        let got = trust.witnesses.iter().filter(cosigned).count();
        let want = trust.witnesses_min;
        if got >= want { Ok(()) } else { Err(ReceiptError::Witnesses { got, want }) }
    }
}

/// Accepts output tensors, by their CT1 roots in program order, as the claim's.
///
/// # Errors
///
/// When their hash is another.
pub fn check_output(claim: &Claim, roots: &[TensorRoot]) -> Result<(), ReceiptError> {
    let (got, want) = (output_hash(roots), claim.output_hash);
    if got == want { Ok(()) } else { Err(ReceiptError::Output { got, want }) }
}

/// Accepts a claim as an answer to this very request.
///
/// In seed mode 2 the seed is judged only if `beacon`, the hash of the block that accepted the request, is given.
///
/// # Errors
///
/// When the request's id, model, input, sampling, tier, worker or seed is not the claim's.
pub fn check_request(
    claim: &Claim,
    request: &Request,
    domain: &Domain,
    beacon: Option<B256>,
) -> Result<(), AnswerError> {
    let id = request.id(domain);
    if claim.request_id != id {
        return Err(AnswerError::Id { got: claim.request_id, want: id });
    }
    let fields = [
        ("model id", claim.model_id.0, request.model_id.0),
        ("input hash", claim.input_hash, request.input_hash),
        ("sampling hash", claim.sampling_hash, request.sampling_hash),
    ];
    if let Some((field, got, want)) = fields.into_iter().find(|(_, got, want)| got != want) {
        return Err(AnswerError::Field { field, got, want });
    }
    if claim.tier != request.tier {
        return Err(AnswerError::Tier { got: claim.tier, want: request.tier });
    }
    if !request.worker.is_zero() && request.worker != claim.worker {
        return Err(AnswerError::Worker { got: claim.worker, want: request.worker });
    }
    let want = match request.seed(id, beacon) {
        Err(RequestError::BeaconMissing) => return Ok(()),
        seed => seed?,
    };
    if claim.seed == want {
        return Ok(());
    }
    Err(AnswerError::Field { field: "seed", got: claim.seed, want })
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "c2sp.org/tlog-proof@v1")?;
        writeln!(f, "extra {}", STANDARD.encode(&self.entry))?;
        writeln!(f, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", STANDARD.encode(hash))?;
        }
        write!(f, "\n{}", self.note)
    }
}

impl FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        if text.len() > RECEIPT_BYTES_MAX {
            return Err(ReceiptError::Length { got: text.len() });
        }
        let mut lines = Lines::new(text);
        Self::read(&mut lines).map_err(ReceiptError::Form)
    }
}

impl Receipt {
    fn read(lines: &mut Lines<'_>) -> Result<Self, NoteError> {
        lines.next("\"c2sp.org/tlog-proof@v1\"", |line| {
            (line == "c2sp.org/tlog-proof@v1").then_some(())
        })?;
        let entry = lines.next("\"extra\" and base64 of an entry", |line| {
            let entry = STANDARD.decode(line.strip_prefix("extra ")?).ok()?;
            (2..=LOG_ENTRY_BYTES_MAX).contains(&entry.len()).then_some(entry)
        })?;
        let index =
            lines.next("\"index\" and a number", |line| decimal(line.strip_prefix("index ")?))?;
        let path = lines.take_while(PATH_MAX, hash);
        lines.next("hash of an inclusion path or blank line", |line| {
            line.is_empty().then_some(())
        })?;
        Ok(Self { entry, index, path, note: SignedNote::read(lines)? })
    }
}
