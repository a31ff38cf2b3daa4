//! Checking an answer by one prefill.
//!
//! The logits after each token of an answer are those that drew it, however it was generated, so an answer is checked by
//! reading prompt and answer at once and drawing anew: one pass of many rows, where generating took a pass a token.

use hyperion_ops::Backend;

use super::{Decoder, Outputs, Turn};
use crate::{ModelError, Sampler};

/// What a check of an answer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Every token is the one that is drawn.
    Equal,
    /// The first token that is another.
    Differs {
        /// Its place in the answer, from 0.
        position: u32,
        /// The token of the answer.
        got: u32,
        /// The token that is drawn there.
        want: u32,
    },
}

/// Draws every token of an answer anew, from a prefill of prompt and answer, and compares.
///
/// `prompt` and `answer` are token ids, one at least of each; `sampler` has drawn nothing yet. Whether the answer *ends* where
/// it should is the caller's to say: its settings name the end ids.
///
/// # Errors
///
/// As for [`Decoder::run`]; the context is given back.
pub fn replay(
    decoder: &mut Decoder,
    backend: &mut dyn Backend,
    prompt: &[u32],
    answer: &[u32],
    mut sampler: Sampler,
) -> Result<Replay, ModelError> {
    let mut context = decoder.begin();
    let vocabulary = decoder.vocabulary() as usize;
    let (rows_max, outputs_max) = (decoder.limits().rows_max, decoder.limits().outputs_max);
    // The last prompt token's logits draw the first token, the last token's draw none.
    let (before, last) = prompt.split_at(prompt.len().saturating_sub(1));
    let scored: Vec<u32> = last.iter().chain(answer).take(answer.len()).copied().collect();
    let unscored = before.chunks(rows_max as usize).map(|tokens| (tokens, Outputs::None));
    let pieces = unscored.chain(
        scored.chunks(rows_max.min(outputs_max) as usize).map(|tokens| (tokens, Outputs::All)),
    );
    let mut position = 0;
    let mut outcome = Ok(Replay::Equal);
    'pieces: for (tokens, outputs) in pieces {
        let turn = Turn { context: &mut context, tokens, outputs };
        let logits = match decoder.run(backend, &mut [turn]) {
            Ok(mut logits) => logits.remove(0),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        };
        for row in logits.chunks_exact(vocabulary) {
            let (got, want) = (answer[position as usize], sampler.next(row));
            if got != want {
                outcome = Ok(Replay::Differs { position, got, want });
                break 'pieces;
            }
            position += 1;
        }
    }
    decoder.release(context);
    outcome
}
