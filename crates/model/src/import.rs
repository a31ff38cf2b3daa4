//! Makes model files out of what others publish.
//!
//! An import is a pure function of the source's bits: the same source gives the same file and the same model id on
//! every machine. Each source kind has its file: [`bert()`] (Hugging Face encoders), [`mlp()`] (safetensors with a
//! declared graph), [`onnx()`] (classifiers). What they share is `Builder`, which turns source weights into operators
//! one by one.

mod bert;
mod builder;
pub(crate) mod mlp;
pub mod onnx;
mod order;
mod source;

use std::{
    io,
    path::{Path, PathBuf},
};

pub(crate) use self::builder::Builder;
pub use self::{bert::bert, mlp::mlp, onnx::onnx};
use crate::{file::Parts, program::ProgramError, quantized::WeightError};

/// Why a source cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A file is not what its name says.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The configuration asks for something that the operator set does not have.
    #[error("{key} is {got}; {want}")]
    Unsupported {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        got: String,
        /// What is supported.
        want: &'static str,
    },
    /// A tensor is not there.
    #[error("the source has no tensor `{name}`")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape.
    #[error("tensor `{name}` is {got:?}, want {want:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that the configuration implies.
        want: Vec<usize>,
    },
    /// A tensor's numbers cannot be represented.
    #[error("tensor `{name}`: {cause}")]
    Weight {
        /// Its name.
        name: String,
        /// Why not.
        cause: WeightError,
    },
    /// The operators do not fit together.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The ONNX file.
    #[error(transparent)]
    Onnx(#[from] onnx::OnnxError),
}

/// Hears of an import's progress: steps done, steps in all.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// Imports a source of any kind: a folder with `config.json` (BERT family), a folder with `graph.json` (a declared
/// graph), or a file that ends in `.onnx`.
///
/// # Errors
///
/// When the source is none of these, or its own import refuses it.
pub fn import(source: &Path, progress: Progress<'_>) -> Result<Parts, ImportError> {
    if source.extension().is_some_and(|extension| extension == "onnx") {
        return onnx(source);
    }
    if source.join("graph.json").is_file() {
        return mlp(source);
    }
    if source.join("config.json").is_file() {
        return bert(source, progress);
    }
    let what =
        "no config.json (Hugging Face), no graph.json (declared graph), and not a .onnx file";
    Err(ImportError::Format { path: source.to_path_buf(), what: what.to_owned() })
}
