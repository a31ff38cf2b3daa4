//! From an output to a signed claim.

use std::sync::Arc;

use hyperion_primitives::{B256, output_hash};
use hyperion_verify::{Claim, Domain, SignedClaim};

use crate::{Answer, Clock, SignError, Signer, machine::ToSign, registry::Registry};

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
        let in_tokens = to_sign.rows;
        let macs = manifest.macs(in_tokens, 0);
        let claim = Claim {
            request_id: to_sign.ask.id,
            model_id: to_sign.content.model,
            input_hash: to_sign.content.input_hash,
            output_hash: output_hash(&[to_sign.output.root()]),
            sampling_hash: to_sign.content.sampling_hash,
            seed: to_sign.content.seed,
            trace_root: B256::ZERO,
            in_tokens,
            out_tokens: 0,
            macs: macs.expect("the manifest accepted this input when the job was made"),
            challenge_until: clock.unix_s().saturating_add(self.window_s),
            tier: to_sign.ask.request.tier,
            worker: self.signer.address(),
        };
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
}
