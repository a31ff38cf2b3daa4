//! The float model that an exact model was made from, run by candle in f32 on the CPU.
//!
//! An oracle answers how much accuracy the integers cost, and nothing else: no claim, no root and no price
//! is ever made of what it says. Start with [`Oracle::open`]; [`check`](fn@check) runs it beside an exact model. This
//! module and calibration are the only places of the crate where floats occur.

mod agreement;
mod check;
mod classifier;
mod decoder;
mod encoder;
mod files;
mod gemma;
mod gpt2;
mod inputs;
mod perplexity;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

pub use agreement::{argmax, cosine};
pub use check::{Agreement, CheckError, Report, check};
pub use inputs::read_inputs;
pub use perplexity::{Perplexity, perplexity};

use classifier::Classifier;
use decoder::Decoder;
use encoder::Encoder;

use crate::import::onnx::OnnxError;

/// Why the float model has no answer.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// A file of the source folder cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file of the source folder is not the JSON that it should be.
    #[error("{path}: {source}")]
    Json {
        /// Which.
        path: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// The source asks for something that the oracle does not compute.
    #[error("{path}: {what} is not supported")]
    Unsupported {
        /// The file that asks.
        path: PathBuf,
        /// What for.
        what: String,
    },
    /// Neither `config.json` nor `graph.json` is there, and the source is not an ONNX file.
    #[error(
        "{0} holds neither config.json (an encoder) nor graph.json (a classifier), and is no .onnx file"
    )]
    NoModel(PathBuf),
    /// A model was asked for what another kind answers.
    #[error("the source is {is}; ask it for {answers}")]
    Kind {
        /// What it is.
        is: &'static str,
        /// What it answers.
        answers: &'static str,
    },
    /// More tokens than the model has positions, or none.
    #[error("{len} tokens were given; 1 to {max} are possible")]
    Length {
        /// Tokens given.
        len: usize,
        /// Positions.
        max: usize,
    },
    /// A token id beyond the vocabulary.
    #[error("token {id} is outside a vocabulary of {vocabulary}")]
    Token {
        /// The first such id.
        id: u32,
        /// Tokens there are.
        vocabulary: usize,
    },
    /// A row of another width than the model's.
    #[error("a row of {given} values was given to a model of {width}")]
    Width {
        /// Values given.
        given: usize,
        /// Values taken.
        width: usize,
    },
    /// An ONNX file that is not read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// Candle refuses the weights or the shapes.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A float model.
pub struct Oracle(Kind);

enum Kind {
    Encoder(Encoder),
    Classifier(Classifier),
    Decoder(Decoder),
}

impl fmt::Debug for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Oracle")
            .field(&match self.0 {
                Kind::Encoder(_) => "encoder",
                Kind::Classifier(_) => "classifier",
                Kind::Decoder(_) => "decoder",
            })
            .finish()
    }
}

impl Oracle {
    /// Loads what a model was imported from: the folder of a BERT-family encoder (`config.json`,
    /// `model.safetensors`, and the sentence-transformers files where they are), that of a decoder (`config.json`,
    /// `*.safetensors`), that of a classifier (`graph.json`, `model.safetensors`), or a file that ends in `.onnx`.
    ///
    /// # Errors
    ///
    /// When a file is missing or malformed, or asks for a layer, pooling or activation that is not supported.
    pub fn open(source: &Path) -> Result<Self, OracleError> {
        if source.extension().is_some_and(|extension| extension == "onnx") {
            return Ok(Self(Kind::Classifier(Classifier::onnx(source)?)));
        }
        if source.join("graph.json").is_file() {
            return Ok(Self(Kind::Classifier(Classifier::open(source)?)));
        }
        if source.join("config.json").is_file() && Decoder::is_here(source)? {
            return Ok(Self(Kind::Decoder(Decoder::open(source)?)));
        }
        if source.join("config.json").is_file() {
            return Ok(Self(Kind::Encoder(Encoder::open(source)?)));
        }
        Err(OracleError::NoModel(source.into()))
    }

    /// Whether [`next_logits`](Self::next_logits) answers.
    #[must_use]
    pub const fn is_decoder(&self) -> bool {
        matches!(self.0, Kind::Decoder(_))
    }

    /// Whether [`embed`](Self::embed) answers.
    #[must_use]
    pub const fn is_encoder(&self) -> bool {
        matches!(self.0, Kind::Encoder(_))
    }

    /// Embedding of a sequence of token ids, special tokens included: the pooled row, or without pooling the last
    /// hidden state of every token, one row after another.
    ///
    /// # Errors
    ///
    /// When the model is a classifier, when there are no or too many ids, or one is outside the vocabulary.
    pub fn embed(&self, ids: &[u32]) -> Result<Vec<f32>, OracleError> {
        match &self.0 {
            Kind::Encoder(encoder) => encoder.embed(ids),
            Kind::Classifier(_) => Err(OracleError::Kind { is: "a classifier", answers: "logits" }),
            Kind::Decoder(_) => Err(A_DECODER),
        }
    }

    /// Logits of one row of features in natural units (1.0 is Q16 65,536).
    ///
    /// # Errors
    ///
    /// When the model is an encoder, or the row has another width than its input.
    pub fn logits(&self, row: &[f32]) -> Result<Vec<f32>, OracleError> {
        match &self.0 {
            Kind::Encoder(_) => {
                Err(OracleError::Kind { is: "an encoder", answers: "an embedding" })
            }
            Kind::Classifier(classifier) => classifier.logits(row),
            Kind::Decoder(_) => Err(A_DECODER),
        }
    }

    /// Logits of a decoder after each token of a sequence, in natural units.
    ///
    /// # Errors
    ///
    /// When the model is no decoder, when there are no or too many ids, or one is outside the vocabulary.
    pub fn next_logits(&self, ids: &[u32]) -> Result<Vec<Vec<f32>>, OracleError> {
        match &self.0 {
            Kind::Decoder(decoder) => decoder.logits(ids),
            Kind::Classifier(_) => Err(OracleError::Kind { is: "a classifier", answers: "logits" }),
            Kind::Encoder(_) => {
                Err(OracleError::Kind { is: "an encoder", answers: "an embedding" })
            }
        }
    }
}

/// A decoder was asked for what others answer.
const A_DECODER: OracleError =
    OracleError::Kind { is: "a decoder", answers: "the logits after each token" };
