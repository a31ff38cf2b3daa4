//! From an output to a signed claim.

use std::sync::Arc;

use hyperion_model::Tensor;
use hyperion_primitives::{Address, B256, output_hash};
use hyperion_verify::{Claim, Domain, Manifest, SignedClaim};

use crate::{
    Answer, Clock, Content, Job, SignError, Signer,
    machine::{Ask, ToSign},
    registry::Registry,
};

/// What every claim of a worker needs.
pub(crate) struct Notary {
    pub(crate) domain: Domain,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) window_s: u64,
}

impl Notary {
    /// Builds and signs the claim that `to_sign.output` answers `to_sign.ask`.
    pub(crate) fn claim(
        &self,
        to_sign: &ToSign,
        models: &Registry,
        clock: &dyn Clock,
    ) -> Result<Answer, SignError> {
        let manifest = models.models()[to_sign.model].manifest();
        let claim = statement(
            &to_sign.ask,
            to_sign.content,
            (manifest, to_sign.rows, out_tokens(manifest, &to_sign.output)),
            output_hash(&[to_sign.output.root()]),
            (self.signer.address(), clock.unix_s().saturating_add(self.window_s)),
        );
        let digest = claim.digest(&self.domain);
        let signature = self.signer.sign(digest.0)?;
        Ok(Answer {
            request: to_sign.ask.request.clone(),
            output: Arc::clone(&to_sign.output),
            claim: SignedClaim { claim, signature },
            digest,
            replayed: false,
        })
    }

    /// Builds and signs the claim that `output` answers `job`.
    pub(crate) fn sign(
        &self,
        models: &Registry,
        job: &Job,
        output: &Tensor,
        challenge_until: u64,
    ) -> Result<SignedClaim, SignError> {
        let manifest = models.models()[job.work.model].manifest();
        let claim = statement(
            &job.ask,
            job.work.content,
            (manifest, job.work.rows, out_tokens(manifest, output)),
            output.output_hash(),
            (self.signer.address(), challenge_until),
        );
        let signature = self.signer.sign(claim.digest(&self.domain).0)?;
        Ok(SignedClaim { claim, signature })
    }
}

/// Tokens that an output has; 0 for a model that generates nothing.
fn out_tokens(manifest: &Manifest, output: &Tensor) -> u32 {
    let tokens = if manifest.generator { output.dims[0] } else { 0 };
    u32::try_from(tokens).expect("an answer fits the model's context")
}

/// The one claim that a worker can make about an input of so many rows and an output of so many tokens; the worker and until
/// when it can be challenged are its own.
pub(crate) fn statement(
    ask: &Ask,
    content: Content,
    (manifest, rows, out_tokens): (&Manifest, u32, u32),
    output_hash: B256,
    (worker, challenge_until): (Address, u64),
) -> Claim {
    let macs = manifest.macs(rows, out_tokens);
    Claim {
        request_id: ask.id,
        model_id: content.model,
        input_hash: content.input_hash,
        output_hash,
        sampling_hash: content.sampling_hash,
        seed: content.seed,
        trace_root: B256::ZERO,
        in_tokens: rows,
        out_tokens,
        macs: macs.expect("the manifest accepted this input when the job was made"),
        challenge_until,
        tier: ask.request.tier,
        worker,
    }
}
