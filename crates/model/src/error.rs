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
    /// An operator that a forward pass cannot run yet.
    #[error("operator {op}, `{name}`, needs a key-value cache, which this version does not have")]
    Unsupported {
        /// Its place in the program.
        op: usize,
        /// Its name.
        name: &'static str,
    },
}
