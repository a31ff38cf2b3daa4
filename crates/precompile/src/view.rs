use hyperion_primitives::{B256, ClaimDigest, ModelId, RequestId};
use hyperion_verify::{Domain, manifest::Manifest, state::ClaimWord};

/// The newest checkpoint of the parent block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogHead {
    /// Entries of the log.
    pub size: u64,
    /// Its root.
    pub root: B256,
    /// The block's height.
    pub height: u64,
}

/// What a precompile may see: the parent block's state and log, and nothing that changes while a block runs.
///
/// `None` is an answer. A node whose store fails stops before it commits, so no implementation has an error to give.
pub trait View {
    /// Where signatures count.
    fn domain(&self) -> Domain;

    /// What the chain knows of a registered model.
    fn model(&self, model: ModelId) -> Option<Manifest>;

    /// The parent block's checkpoint.
    fn head(&self) -> LogHead;

    /// Root of the log at a size at which a block ended, up to the parent's.
    fn checkpoint_root(&self, size: u64) -> Option<B256>;

    /// The first claim logged for a request.
    fn first_claim(&self, request: RequestId) -> Option<ClaimDigest>;

    /// Where a claim stands.
    fn standing(&self, claim: ClaimDigest) -> Option<ClaimWord>;

    /// Entry of the log at an index below the head's size.
    fn entry(&self, index: u64) -> Option<Vec<u8>>;
}
