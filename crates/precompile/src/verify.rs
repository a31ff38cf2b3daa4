//! VERIFY: checks what calldata brings.
//!
//! `verifyProof` comes with the proofs it verifies; until then it is an unknown function like any other.

use alloy_sol_types::SolCall;
use hyperion_primitives::{Address, Dtype, tensor_bytes, tensor_root};
use hyperion_verify::{
    Claim, ClaimError, SignedClaim,
    abi::{
        IVerify::{tensorRootCall, verifyReceiptCall},
        InferenceErrors::{CheckpointUnknown, InclusionInvalid, InputShape, SignerMismatch},
    },
    log::{check_inclusion, leaf_hash},
    sign::SIGNATURE_BYTES,
};

use crate::{
    Refusal,
    calldata::{Arguments, Tail},
    plan::{Case, Decided, Stop},
    refusal::bad_calldata,
};

/// Most dimensions of a tensor.
const RANK_MAX: usize = 8;
/// Longest inclusion path there is.
const PATH_MAX: usize = 64;
const WORD: usize = 32;
const TILE: u64 = hyperion_primitives::TILE_BYTES as u64;

pub(crate) fn dispatch(selector: [u8; 4], case: &mut Case<'_>) -> Option<Result<Decided, Stop>> {
    Some(match selector {
        tensorRootCall::SELECTOR => root(case),
        verifyReceiptCall::SELECTOR => receipt(case),
        _ => return None,
    })
}

fn root(case: &mut Case<'_>) -> Result<Decided, Stop> {
    let schedule = &case.rules.schedule;
    case.charge(schedule.tensor_root)?;
    let header = RootHeader::read(&case.arguments)?;
    case.no_value()?;
    let got = header.data.len as u64;
    let want = tensor_bytes(header.dtype, &header.dims);
    if want != Some(got) {
        // No shape is satisfied by zero bytes, and one beyond 2^64 by none at all.
        let has_zero = header.dims.contains(&0);
        let want = want.unwrap_or(if has_zero { 0 } else { u64::MAX });
        return Err(Refusal::InputShape(InputShape { gotBytes: got, rowBytes: want }).into());
    }
    case.charge(schedule.tiles(got.div_ceil(TILE)))?;
    let data = header.rest(&case.arguments)?;
    let root = tensor_root(header.dtype, &header.dims, data).expect("the shape was compared");
    Ok(Decided::Output(root.0.to_vec()))
}

/// Arguments of `tensorRoot`, the data left unread.
struct RootHeader {
    dtype: Dtype,
    dims: Vec<u64>,
    data: Tail,
}

impl RootHeader {
    fn read(arguments: &Arguments<'_>) -> Result<Self, Refusal> {
        let dtype = Dtype::from_code(arguments.u8(0, 0)?).ok_or(bad_calldata(0))?;
        arguments.offset(1, 1, 0, 3)?;
        let data_offset = arguments.u64(2, 2)?;
        let dims = arguments.tail(3, 1, WORD)?;
        let rank = dims.len / WORD;
        if !(1..=RANK_MAX).contains(&rank) {
            return Err(bad_calldata(1));
        }
        let dims_words = 4..4 + rank;
        let values = dims_words.map(|at| arguments.u64(at, 1)).collect::<Result<_, _>>()?;
        if data_offset != (WORD * dims.end()) as u64 {
            return Err(bad_calldata(2));
        }
        Ok(Self { dtype, dims: values, data: arguments.tail(dims.end(), 2, 1)? })
    }

    fn rest<'a>(&self, arguments: &Arguments<'a>) -> Result<&'a [u8], Refusal> {
        arguments.exactly(self.data.end())?;
        arguments.bytes(self.data)
    }
}

fn receipt(case: &mut Case<'_>) -> Result<Decided, Stop> {
    let schedule = &case.rules.schedule;
    case.charge(schedule.verify_receipt)?;
    let header = ReceiptHeader::read(&case.arguments)?;
    case.no_value()?;
    case.charge(schedule.path((header.path.len / WORD) as u64))?;
    let (signature, path) = header.rest(&case.arguments)?;
    let ReceiptHeader { claim, index, size, .. } = header;
    let signed = SignedClaim { claim, signature };
    let domain = &case.rules.domain;
    signed.check(domain).map_err(|error| claim_refused(&error, signed.claim.worker))?;
    let unknown = Refusal::CheckpointUnknown(CheckpointUnknown { size });
    let log_root = case.view.log_root(size).ok_or(unknown)?;
    check_inclusion(&leaf_hash(&signed.entry()), index, size, &path, &log_root)
        .map_err(|_| Refusal::InclusionInvalid(InclusionInvalid { index, size }))?;
    Ok(Decided::Output(signed.claim.digest(domain).0.to_vec()))
}

/// A claim that is none (its tier does not exist, or it lacks a worker) is bad calldata; one that nobody signed names
/// nobody as its signer.
fn claim_refused(error: &ClaimError, want: Address) -> Refusal {
    let got = match *error {
        ClaimError::SignerMismatch { got, .. } => got,
        ClaimError::Signature(_) => Address::ZERO,
        ClaimError::Tier { .. }
        | ClaimError::NoWorker { .. }
        | ClaimError::Length { .. }
        | ClaimError::Header { .. } => return bad_calldata(0),
    };
    Refusal::SignerMismatch(SignerMismatch { got, want })
}

/// Arguments of `verifyReceipt`, signature and path left unread.
struct ReceiptHeader {
    claim: Claim,
    signature: Tail,
    index: u64,
    size: u64,
    path: Tail,
}

/// Words of the arguments before the signature's length: the claim in place, and two offsets.
const RECEIPT_WORDS: usize = 15;

impl ReceiptHeader {
    fn read(arguments: &Arguments<'_>) -> Result<Self, Refusal> {
        let claim = Claim {
            request_id: arguments.word(0, 0)?.into(),
            model_id: arguments.word(1, 0)?.into(),
            input_hash: arguments.word(2, 0)?,
            output_hash: arguments.word(3, 0)?,
            sampling_hash: arguments.word(4, 0)?,
            seed: arguments.word(5, 0)?,
            trace_root: arguments.word(6, 0)?,
            in_tokens: arguments.u32(7, 0)?,
            out_tokens: arguments.u32(8, 0)?,
            macs: arguments.u64(9, 0)?,
            challenge_until: arguments.u64(10, 0)?,
            tier: arguments.u8(11, 0)?,
            worker: arguments.address(12, 0)?,
        };
        arguments.offset(13, 1, 0, RECEIPT_WORDS)?;
        let proof_offset = arguments.u64(14, 2)?;
        let signature = arguments.tail(RECEIPT_WORDS, 1, 1)?;
        if signature.len != SIGNATURE_BYTES {
            return Err(bad_calldata(1));
        }
        let proof = signature.end();
        if proof_offset != (WORD * proof) as u64 {
            return Err(bad_calldata(2));
        }
        let index = arguments.u64(proof, 2)?;
        let size = arguments.u64(proof + 1, 2)?;
        arguments.offset(proof + 2, 2, proof, proof + 3)?;
        let path = arguments.tail(proof + 3, 2, WORD)?;
        if path.len / WORD > PATH_MAX {
            return Err(bad_calldata(2));
        }
        Ok(Self { claim, signature, index, size, path })
    }

    fn rest(
        &self,
        arguments: &Arguments<'_>,
    ) -> Result<([u8; SIGNATURE_BYTES], Vec<hyperion_primitives::B256>), Refusal> {
        arguments.exactly(self.path.end())?;
        let signature = arguments.bytes(self.signature)?;
        let signature = signature.try_into().expect("the header took this length only");
        Ok((signature, arguments.words(self.path)?))
    }
}

#[cfg(test)]
mod tests;
