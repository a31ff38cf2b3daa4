use std::error::Error;

use crate::AnswersLost;

/// Why this node stops before it commits a block. Where it proposes the block itself, none of it can be reached by what a
/// transaction says.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The parent's state cannot be read.
    #[error("the state cannot be read: {0}")]
    State(#[source] Box<dyn Error + Send + Sync>),
    /// The environment does not fit the fork that the chain runs.
    #[error("the block's environment is unfit: {what}")]
    Header {
        /// What does not fit.
        what: &'static str,
    },
    /// An answer that somebody else's block needs did not come.
    #[error(transparent)]
    AnswersLost(#[from] AnswersLost),
    /// The virtual machine gave up on a transaction.
    #[error("transaction {tx} of the block ended in a fatal error: {text}")]
    Fatal {
        /// Its place in the block.
        tx: usize,
        /// What the virtual machine said.
        text: String,
    },
}
