//! What is known of models, requests and claims; every surface asks here.

use std::sync::Arc;

use hyperion_engine::{Answer, Failure, ModelInfo, RequestStatus};
use hyperion_primitives::{ClaimDigest, Dtype, RequestId};
use hyperion_verify::{SignedClaim, manifest::OutputRows};

use crate::{
    answer::Place,
    convert::{Form, copied, input_form, output_form},
    door::Door,
    r#gen::v1,
    log::newest_checkpoint,
    status::{Code, Error},
};

/// What is known of a claim or a request.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: v1::RequestState,
    /// A code of the error table where the state is FAILED or DISPROVED.
    pub(crate) reason: &'static str,
    pub(crate) claim: Option<SignedClaim>,
    pub(crate) reached: u8,
    pub(crate) index: Option<u64>,
}

impl Found {
    const fn plain(state: v1::RequestState) -> Self {
        Self { state, reason: "", claim: None, reached: 0, index: None }
    }
}

impl Door {
    /// What a model costs for an input of this length.
    pub(crate) fn quote(
        &self,
        model: &str,
        input_bytes: u64,
        tokens_max: u32,
        tier: u32,
    ) -> Result<v1::QuoteResponse, Error> {
        let model = self.model(model)?;
        if tier > 1 {
            let text = format!("tier {tier} is not served by this node");
            return Err(Error::at(Code::UnsupportedParameter, "tier", text));
        }
        let manifest = model.model.manifest();
        let rows = manifest
            .input_rows(input_bytes)
            .map_err(|error| Error::at(Code::InputShape, "input_bytes", error.to_string()))?;
        let macs = manifest.macs(rows, tokens_max).ok_or_else(|| {
            Error::at(Code::InputTooLarge, "tokens_max", "the run does not fit the model")
        })?;
        Ok(v1::QuoteResponse {
            macs,
            peak_bytes: model.memory_bytes,
            gas: self.prices.gas(&model, input_bytes, tokens_max).unwrap_or(0),
            fee: "0".to_owned(),
            valid_until_s: self.clock.unix_s() + QUOTE_S,
            queue_ms: u32::try_from(self.engine.wait_ms(model.id)).unwrap_or(u32::MAX),
        })
    }

    /// A model for the wire.
    pub(crate) fn wire_model(&self, model: &ModelInfo) -> v1::Model {
        let manifest = model.model.manifest();
        let face = self.face(model.id);
        let spec = |name: &str, form: Form, rows| v1::TensorSpec {
            name: name.to_owned(),
            dtype: form.dtype.code().into(),
            dims: vec![rows, i64::try_from(form.width).unwrap_or(i64::MAX)],
            exponent: exponent(form.dtype),
        };
        v1::Model {
            alias: model.aliases.first().cloned().unwrap_or_default(),
            model_id: copied(model.id.0),
            program_id: copied(manifest.program_id.0),
            inputs: vec![spec(&face.input, input_form(model), -1)],
            outputs: vec![spec(&face.output, output_form(model), output_rows(model))],
            native: manifest.native,
            ready: model.ready.is_ok(),
            not_ready_reason: model.ready.err().map(|why| why.to_string()).unwrap_or_default(),
            license: face.license.clone(),
            macs_base: manifest.macs.base,
            macs_per_row: manifest.macs.per_row,
            macs_per_pair: manifest.macs.per_pair,
            macs_per_out: manifest.macs.per_out,
            rows_max: model.rows_max,
            causal: manifest.causal,
            generator: manifest.generator,
        }
    }

    /// What is known of a request.
    pub(crate) fn find_request(&self, id: RequestId) -> Result<Found, Error> {
        let claimed = |answer: &Answer, state, index| Found {
            claim: Some(answer.claim.clone()),
            reached: 1,
            index,
            ..Found::plain(state)
        };
        match self.engine.status(id) {
            Some(RequestStatus::Queued) => Ok(Found::plain(v1::RequestState::Queued)),
            Some(RequestStatus::Running) => Ok(Found::plain(v1::RequestState::Running)),
            Some(RequestStatus::Claimed(answer)) => {
                Ok(claimed(&answer, v1::RequestState::Claimed, None))
            }
            Some(RequestStatus::Logged { answer, index }) => match self.log.claim(answer.digest)? {
                Some(_) => self.find_claim(answer.digest),
                None => Ok(claimed(&answer, v1::RequestState::Logged, Some(index))),
            },
            Some(RequestStatus::Failed(failure)) => {
                let state = match failure {
                    Failure::Disproved => v1::RequestState::Disproved,
                    _ => v1::RequestState::Failed,
                };
                let reason = Error::from(&failure).code().row().name;
                Ok(Found { reason, ..Found::plain(state) })
            }
            None => match (self.log.claim_of(id)?, self.float_claim(id)) {
                (Some(claim), _) => self.find_claim(claim),
                (None, Some(claim)) => {
                    Ok(Found { claim: Some(claim), ..Found::plain(v1::RequestState::Claimed) })
                }
                (None, None) => {
                    let text = format!("request {id} is not known here");
                    Err(Error::new(Code::ClaimNotFound, text))
                }
            },
        }
    }

    /// What is known of a claim.
    pub(crate) fn find_claim(&self, claim: ClaimDigest) -> Result<Found, Error> {
        let Some(standing) = self.log.claim(claim)? else {
            let request = self.engine.request_of(claim).ok_or_else(|| {
                Error::new(Code::ClaimNotFound, format!("claim {claim} is not known here"))
            })?;
            return self.find_request(request);
        };
        let (state, reason) = if standing.disproved {
            (v1::RequestState::Disproved, Code::ClaimDisproved.row().name)
        } else {
            (v1::RequestState::Logged, "")
        };
        Ok(Found {
            state,
            reason,
            claim: Some(self.signed_claim(standing.index)?),
            reached: standing.reached,
            index: Some(standing.index),
        })
    }

    /// A logged claim with its path to the checkpoint of `size` entries; 0 is the newest.
    pub(crate) fn place_of(
        &self,
        claim: ClaimDigest,
        size: u64,
    ) -> Result<(SignedClaim, Place), Error> {
        let standing = self.log.claim(claim)?.ok_or_else(|| {
            Error::new(Code::ClaimNotFound, format!("claim {claim} is not in the log yet"))
        })?;
        let checkpoint = match size {
            0 => newest_checkpoint(&*self.log)?,
            size => Arc::new(self.log.checkpoint(size)?),
        };
        let index = standing.index;
        if index >= checkpoint.size {
            let text =
                format!("entry {index} is not under a checkpoint of {} entries", checkpoint.size);
            return Err(Error::at(Code::CheckpointUnknown, "size", text));
        }
        let path = self.log.inclusion(index, checkpoint.size)?;
        Ok((self.signed_claim(index)?, Place { index, path, checkpoint }))
    }

    fn signed_claim(&self, index: u64) -> Result<SignedClaim, Error> {
        SignedClaim::from_entry(&self.log.entry(index)?)
            .map_err(|error| Error::new(Code::Internal, format!("entry {index}: {error}")))
    }
}

/// How long a quote may be relied on: prices change with the chain's schedule only.
const QUOTE_S: u64 = 60;

/// For display: real value = integer / 2^exponent.
pub(crate) const fn exponent(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::I32 => 16,
        Dtype::I16 => 15,
        _ => 0,
    }
}

/// Rows of a model's output in a declaration: 1 where it pools, free elsewhere.
pub(crate) fn output_rows(model: &ModelInfo) -> i64 {
    match model.model.manifest().output_rows {
        OutputRows::One => 1,
        OutputRows::Rows | OutputRows::Tokens => -1,
    }
}
