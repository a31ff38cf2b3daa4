//! How surprised a decoder is by a text.

use std::fmt;

use hyperion_ops::Backend;

use super::{CheckError, Oracle};
use crate::{Decoder, Limits, Model, ModelError, Outputs, Turn};

/// Rows of logits that are computed together; they are as wide as the vocabulary.
const ROWS: u32 = 64;

/// Surprise of a decoder, and of the float model beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// `e` to the mean surprise of the exact model, in nats.
    pub exact: f64,
    /// The same of the float model, if there is one.
    pub float: Option<f64>,
}

impl fmt::Display for Perplexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens: perplexity {:.4}", self.tokens, self.exact)?;
        if let Some(float) = self.float {
            let more = 100.0 * (self.exact / float - 1.0);
            write!(f, ", float {float:.4}, {more:+.2} %")?;
        }
        Ok(())
    }
}

/// Scores a text in pieces of `window` tokens, each from its own beginning: every token but a piece's first is predicted.
///
/// The device is used alone and left without buffers or weights of this model. `progress` hears of tokens done.
///
/// # Errors
///
/// When there is nothing to predict, the model is no decoder, a token is outside its vocabulary, the oracle is of another
/// kind, or the device fails.
pub fn perplexity(
    model: &Model,
    oracle: Option<&Oracle>,
    backend: &mut dyn Backend,
    (ids, window): (&[u32], u32),
    progress: &mut dyn FnMut(usize),
) -> Result<Perplexity, CheckError> {
    let window = window.clamp(2, model.program().context().max(2));
    let mut scorer = Scorer::load(model, backend, window)?;
    let mut done = 0;
    let (mut tokens, mut exact, mut float) = (0, 0.0, 0.0);
    let outcome =
        ids.chunks(window as usize).filter(|piece| piece.len() > 1).try_for_each(|piece| {
            let logits = scorer.logits(backend, piece)?;
            let rows = logits.chunks_exact(scorer.decoder.vocabulary() as usize);
            for (row, next) in rows.zip(&piece[1..]) {
                let row: Vec<f32> = row.iter().map(|logit| *logit as f32 / 65_536.0).collect();
                exact += surprise(&row, *next);
                tokens += 1;
            }
            if let Some(oracle) = oracle {
                let rows = oracle.next_logits(piece)?;
                float += rows
                    .iter()
                    .zip(&piece[1..])
                    .map(|(row, next)| surprise(row, *next))
                    .sum::<f64>();
            }
            done += piece.len();
            progress(done);
            Ok::<_, CheckError>(())
        });
    scorer.unload(backend);
    backend.reset();
    outcome?;
    if tokens == 0 {
        return Err(CheckError::NoInputs);
    }
    let mean = |sum: f64| (sum / tokens as f64).exp();
    Ok(Perplexity { tokens, exact: mean(exact), float: oracle.map(|_| mean(float)) })
}

/// `-ln` of the softmax's share of one token.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - top).exp()).sum();
    sum.ln() + top - f64::from(logits[token as usize])
}

/// A decoder that computes the logits after every token of one text at a time.
pub(super) struct Scorer {
    decoder: Decoder,
}

impl Scorer {
    /// Reserves room for texts of `tokens` tokens.
    pub(super) fn load(
        model: &Model,
        backend: &mut dyn Backend,
        tokens: u32,
    ) -> Result<Self, ModelError> {
        let pages = tokens.div_ceil(Decoder::PAGE_ROWS);
        let limits = Limits { rows_max: ROWS, outputs_max: ROWS, pages };
        Ok(Self { decoder: Decoder::load(model, backend, limits)? })
    }

    /// Q16, `[tokens, vocabulary]`.
    pub(super) fn logits(
        &mut self,
        backend: &mut dyn Backend,
        ids: &[u32],
    ) -> Result<Vec<i32>, ModelError> {
        let mut context = self.decoder.begin();
        let mut logits = Vec::new();
        let outcome = ids.chunks(ROWS as usize).try_for_each(|tokens| {
            let turn = Turn { context: &mut context, tokens, outputs: Outputs::All };
            logits.extend(self.decoder.run(backend, &mut [turn])?.remove(0));
            Ok(())
        });
        self.decoder.release(context);
        outcome.map(|()| logits)
    }

    pub(super) fn unload(self, backend: &mut dyn Backend) {
        self.decoder.unload(backend);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_is_that_of_the_softmax() {
        assert!((surprise(&[0.0; 4], 2) - 4.0_f64.ln()).abs() < 1e-12);
        let sure = surprise(&[100.0, 0.0], 0);
        assert!((0.0..1e-40).contains(&sure), "{sure}");
        assert!((surprise(&[100.0, 0.0], 1) - 100.0).abs() < 1e-4);
    }
}
