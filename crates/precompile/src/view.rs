use hyperion_primitives::{Address, B256, ModelId, RequestId};
use hyperion_verify::{Claim, Manifest, state::ClaimWord};

/// What a precompile may see: the state and the log after the parent block, and nothing that a block changes.
///
/// An answer never changes while a block is executed, so whoever plans a call twice gets the same plan.
pub trait View {
    /// What the chain knows of a model.
    fn model(&self, model: &ModelId) -> Option<Manifest>;

    /// The log after the parent block.
    fn checkpoint(&self) -> Checkpoint;

    /// Root of the log at a size at which a block up to the parent ended.
    fn log_root(&self, size: u64) -> Option<B256>;

    /// The first claim logged for a request.
    fn claim(&self, request: &RequestId) -> Option<Logged>;

    /// The first claim that a worker logged for a request.
    fn claim_of(&self, request: &RequestId, worker: &Address) -> Option<Logged>;

    /// Why an earlier answer may be wrong: reading failed. Whoever executes a block asks before it keeps a result.
    fn failure(&self) -> Option<String> {
        None
    }
}

/// The end of the log after a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Entries.
    pub size: u64,
    /// RFC 6962 root.
    pub root: B256,
    /// The block.
    pub height: u64,
}

/// A claim in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// What it says.
    pub claim: Claim,
    /// Where it stands.
    pub word: ClaimWord,
}
