//! Models in floating point, in builds that have them: loaded at start, each run by a thread of its own.
//!
//! What they answer is signed with the worker's key and logged like every claim, with tier 0: attested only
//! (`docs/float.md`). A build without the feature `candle-float` refuses a configuration that names such a model.

use std::sync::Arc;

use hyperion_verify::Domain;

use crate::{clock::MachineClock, keys::WorkerKey, producer};

#[cfg(not(feature = "candle-float"))]
mod absent;
#[cfg(feature = "candle-float")]
mod lanes;

#[cfg(not(feature = "candle-float"))]
pub(crate) use absent::Lanes;
#[cfg(feature = "candle-float")]
pub(crate) use lanes::Lanes;

/// What every claim about a float model needs.
#[cfg_attr(
    not(feature = "candle-float"),
    expect(dead_code, reason = "a build without float models signs nothing of theirs")
)]
pub(crate) struct Notary {
    pub(crate) signer: Arc<WorkerKey>,
    pub(crate) domain: Domain,
    pub(crate) challenge_s: u64,
    pub(crate) clock: Arc<MachineClock>,
    pub(crate) claims: producer::Queue,
}
