//! An exact model beside the float model that it was made from.

use std::{fmt, io, path::PathBuf};

use hyperion_ops::Backend;
use hyperion_primitives::Dtype;

use super::{Oracle, OracleError, argmax, cosine, perplexity::Scorer};
use crate::{Model, ModelError, Prepared, Tensor, TokenizerError, program::Input};

/// Why a model cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The inputs cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line of the inputs is not an input of the model.
    #[error("{path}, line {line}: {what}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A line of text that the tokenizer does not take.
    #[error("{path}, line {line}: {source}")]
    Text {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why not.
        source: TokenizerError,
    },
    /// The model reads tokens and no tokenizer was given.
    #[error("the model reads tokens; text needs the tokenizer.json that it was imported with")]
    NoTokenizer,
    /// The source is of another kind than the model.
    #[error("the model {model} and the source {from}; it was not imported from there")]
    Source {
        /// What the model does.
        model: &'static str,
        /// What the source does.
        from: &'static str,
    },
    /// Nothing to check.
    #[error("there are no inputs")]
    NoInputs,
    /// An input does not fit the model, or the device failed.
    #[error("the exact model: {0}")]
    Model(#[from] ModelError),
    /// The float model has no answer.
    #[error("the float model: {0}")]
    Oracle(#[from] OracleError),
}

/// How an exact answer compares with the float one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Agreement {
    /// Embeddings: the angle between them.
    Cosine {
        /// Tokens of the input.
        tokens: usize,
        /// 1 where the directions are equal.
        cosine: f64,
    },
    /// Classes: the index of the largest logit, the lowest on a tie.
    Class {
        /// The exact model's.
        exact: usize,
        /// The float model's.
        float: usize,
    },
    /// Logits after each token of a text.
    Logits {
        /// Tokens of the text.
        tokens: usize,
        /// Of them, those after which both say the same token next.
        equal: usize,
        /// Mean over all tokens.
        cosine: f64,
    },
}

impl Agreement {
    /// Compares the logits after each token of a text: `exact` are rows of Q16.
    ///
    /// # Panics
    ///
    /// When there are no rows, or they have other lengths.
    #[must_use]
    pub fn of_logits(exact: &[i32], float: &[Vec<f32>]) -> Self {
        let vocabulary = float[0].len();
        let (mut equal, mut sum) = (0, 0.0);
        for (exact, float) in exact.chunks_exact(vocabulary).zip(float) {
            let exact: Vec<f32> = exact.iter().map(|logit| *logit as f32 / 65_536.0).collect();
            equal += usize::from(argmax(&exact) == argmax(float));
            sum += cosine(&exact, float);
        }
        Self::Logits { tokens: float.len(), equal, cosine: sum / float.len() as f64 }
    }

    /// The cosine, or 1 for equal and 0 for different classes.
    #[must_use]
    pub const fn score(self) -> f64 {
        match self {
            Self::Cosine { cosine, .. } | Self::Logits { cosine, .. } => cosine,
            Self::Class { exact, float } => (exact == float) as u8 as f64,
        }
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cosine { tokens, cosine } => write!(f, "{tokens} tokens, cosine {cosine:.6}"),
            Self::Logits { tokens, equal, cosine } => {
                write!(f, "{tokens} tokens, cosine {cosine:.6}, same next token after {equal}")
            }
            Self::Class { exact, float } if exact == float => write!(f, "class {exact}"),
            Self::Class { exact, float } => write!(f, "class {exact}, float says {float}"),
        }
    }
}

/// What a check found: one agreement an input, in their order. Never empty.
#[derive(Clone, Debug)]
pub struct Report {
    /// One an input.
    pub agreements: Vec<Agreement>,
}

impl Report {
    /// The least score: the worst cosine, or 0 when a class differs.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.agreements.iter().map(|agreement| agreement.score()).fold(f64::INFINITY, f64::min)
    }

    /// After how many tokens both say the same token next, and how many tokens there are; none for what is no decoder.
    #[must_use]
    pub fn next_tokens(&self) -> (usize, usize) {
        let counts = self.agreements.iter().filter_map(|agreement| match agreement {
            Agreement::Logits { equal, tokens, .. } => Some((*equal, *tokens)),
            _ => None,
        });
        counts.fold((0, 0), |sum, (equal, tokens)| (sum.0 + equal, sum.1 + tokens))
    }

    /// The mean score: the mean cosine, or the share of equal classes.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let sum: f64 = self.agreements.iter().map(|agreement| agreement.score()).sum();
        sum / self.agreements.len() as f64
    }
}

impl fmt::Display for Report {
    /// One line, such as `77 inputs: cosine min 0.996012, mean 0.997480`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inputs = self.agreements.len();
        if !matches!(self.agreements.first(), Some(Agreement::Class { .. })) {
            let (min, mean) = (self.min(), self.mean());
            write!(f, "{inputs} inputs: cosine min {min:.6}, mean {mean:.6}")?;
            let (equal, tokens) = self.next_tokens();
            if tokens > 0 {
                write!(f, "; same next token after {equal} of {tokens}")?;
            }
            return Ok(());
        }
        let equal = self.agreements.iter().filter(|agreement| agreement.score() == 1.0).count();
        write!(f, "{inputs} inputs: same class on {equal} ({:.2} %)", 100.0 * self.mean())
    }
}

/// Runs both models over inputs, one at a time, and compares.
///
/// An input is what the exact model takes: little-endian token ids, or one row of Q16. The device is used alone
/// and left without buffers or weights of this model. `progress` hears of inputs done.
///
/// # Errors
///
/// When there are no inputs, one does not fit the model, the oracle is of another kind, or the device fails.
pub fn check(
    model: &Model,
    oracle: &Oracle,
    backend: &mut dyn Backend,
    inputs: &[Vec<u8>],
    progress: &mut dyn FnMut(usize),
) -> Result<Report, CheckError> {
    let kind = |is_decoder, reads_tokens| match (is_decoder, reads_tokens) {
        (true, _) => "generates from tokens",
        (false, true) => "reads tokens",
        (false, false) => "reads rows",
    };
    let is_decoder = model.manifest().generator;
    let model_kind = kind(is_decoder, model.program().input() == Input::Tokens);
    let source_kind = kind(oracle.is_decoder(), oracle.is_encoder());
    if model_kind != source_kind {
        return Err(CheckError::Source { model: model_kind, from: source_kind });
    }
    if is_decoder {
        return check_decoder(model, oracle, backend, inputs, progress);
    }
    let row_bytes = 4 * model.program().input().width() as usize;
    let rows =
        inputs.iter().map(|input| input.len() / row_bytes).max().ok_or(CheckError::NoInputs)?;
    // Rows beyond the model's own limit are refused when they are run, with their number.
    let rows = u32::try_from(rows).unwrap_or(u32::MAX).min(model.program().context()).max(1);
    let prepared = Prepared::load(model, backend, rows)?;
    let mut agreements = Vec::with_capacity(inputs.len());
    let outcome = inputs.iter().enumerate().try_for_each(|(done, input)| {
        let exact = prepared.run(backend, &[input])?.remove(0);
        agreements.push(agreement(model, oracle, input, &exact)?);
        progress(done + 1);
        Ok::<_, CheckError>(())
    });
    prepared.unload(backend);
    backend.reset();
    outcome.map(|()| Report { agreements })
}

fn check_decoder(
    model: &Model,
    oracle: &Oracle,
    backend: &mut dyn Backend,
    inputs: &[Vec<u8>],
    progress: &mut dyn FnMut(usize),
) -> Result<Report, CheckError> {
    let longest = inputs.iter().map(|input| input.len() / 4).max().ok_or(CheckError::NoInputs)?;
    let longest = u32::try_from(longest).unwrap_or(u32::MAX).min(model.program().context());
    let mut scorer = Scorer::load(model, backend, longest)?;
    let mut agreements = Vec::with_capacity(inputs.len());
    let outcome = inputs.iter().enumerate().try_for_each(|(done, input)| {
        let ids: Vec<u32> = input.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
        let exact = scorer.logits(backend, &ids)?;
        agreements.push(Agreement::of_logits(&exact, &oracle.next_logits(&ids)?));
        progress(done + 1);
        Ok::<_, CheckError>(())
    });
    scorer.unload(backend);
    backend.reset();
    outcome.map(|()| Report { agreements })
}

fn agreement(
    model: &Model,
    oracle: &Oracle,
    input: &[u8],
    exact: &Tensor,
) -> Result<Agreement, CheckError> {
    let (words, _) = input.as_chunks::<4>();
    let elements = exact.elements();
    if oracle.is_encoder() {
        let ids: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let float = oracle.embed(&ids)?;
        // Only the direction counts, so the fixed point needs no scaling.
        let exact: Vec<f32> = elements.iter().map(|&element| element as f32).collect();
        return Ok(Agreement::Cosine { tokens: ids.len(), cosine: cosine(&exact, &float) });
    }
    let row: Vec<f32> =
        words.iter().map(|word| i32::from_le_bytes(*word) as f32 / 65_536.0).collect();
    let float = argmax(&oracle.logits(&row)?).unwrap_or(0);
    let is_class = model.program().output().dtype == Dtype::U32;
    let exact = if is_class {
        elements.first().and_then(|&class| class.try_into().ok())
    } else {
        argmax(&elements)
    };
    Ok(Agreement::Class { exact: exact.unwrap_or(0), float })
}
