use std::{io, path::PathBuf};

use hyperion_ops::BackendError;
use hyperion_verify::InputError;

use crate::file::FileError;

/// Why a model cannot be read, loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file is no model.
    #[error(transparent)]
    File(#[from] FileError),
    /// The device refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// An input does not fit the model.
    #[error("input {index}: {cause}")]
    Input {
        /// Which of the batch.
        index: usize,
        /// Why not.
        cause: InputError,
    },
    /// More rows than were planned for, or none.
    #[error("a batch of {got} rows, 1 to {max} were planned for")]
    Rows {
        /// Rows of all inputs.
        got: u64,
        /// Rows planned for.
        max: u32,
    },
    /// An operator that a forward pass does not run.
    #[error("operator {op}, `{name}`, draws tokens one by one; a forward pass has one output")]
    Unsupported {
        /// Its place in the program.
        op: usize,
        /// Its name.
        name: &'static str,
    },
    /// A model that does not generate.
    #[error("not a decoder: {0}")]
    NotADecoder(&'static str),
    /// A turn of a generator that is not possible.
    #[error("turn {index}: {cause}")]
    Turn {
        /// Which of the batch.
        index: usize,
        /// Why not.
        cause: TurnError,
    },
    /// More logits than were planned for.
    #[error("{got} rows of output, {max} at most were planned for")]
    Outputs {
        /// Rows asked for.
        got: u64,
        /// Rows planned for.
        max: u32,
    },
    /// The cache has no room for all that a batch adds.
    #[error("{wanted} pages of cache are needed, {free} are free")]
    Pages {
        /// Pages that the batch adds.
        wanted: usize,
        /// Pages left.
        free: usize,
    },
}

/// Why one turn is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// There are no tokens.
    #[error("there are no tokens")]
    Empty,
    /// A token that the model does not have.
    #[error("token {token} is outside a vocabulary of {vocabulary}")]
    Token {
        /// The first such id.
        token: u32,
        /// Tokens there are.
        vocabulary: u32,
    },
    /// More tokens than the model has positions.
    #[error("{got} tokens in all, the model has {max} positions")]
    Length {
        /// Tokens cached, and those of this turn.
        got: u64,
        /// Positions there are.
        max: u32,
    },
    /// A context from before the device was reset.
    #[error("its context was lost when the device was reset")]
    Lost,
}
