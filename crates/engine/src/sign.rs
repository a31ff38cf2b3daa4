//! Who signs claims, and where signed claims go.

use std::sync::Arc;

use hyperion_primitives::{Address, B256};

use crate::{Answer, Pushback};

/// A signature that was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claim was not signed: {0}")]
pub struct SignError(pub String);

/// The worker's key.
pub trait Signer: Send + Sync {
    /// Whose signature [`sign`](Self::sign) makes; the `worker` of every claim.
    fn address(&self) -> Address;

    /// Signs an EIP-712 digest: r ‖ s ‖ v, low s, v 27 or 28.
    ///
    /// # Errors
    ///
    /// When the key cannot be used.
    fn sign(&self, digest: B256) -> Result<[u8; 65], SignError>;
}

/// Takes signed claims on their way into the log: the producer's queue.
pub trait ClaimSink: Send {
    /// Takes one claim, in the order of signing, without blocking.
    ///
    /// # Errors
    ///
    /// When there is no room; the engine keeps the claim and offers it again, and pushes new work back while
    /// it holds many.
    fn offer(&self, answer: Arc<Answer>) -> Result<(), Pushback>;
}
