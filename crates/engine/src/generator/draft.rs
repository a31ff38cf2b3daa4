//! A smaller model that proposes tokens (speculative decoding, Leviathan et al. 2023, arXiv 2211.17192).
//!
//! The large model reads the proposals in one step, where it would have taken one step each. Floating-point engines accept by a
//! probability; here a proposal is right exactly when it is the token that is drawn, so the answer is the same with any draft
//! model and with none. The draft draws with the answer's own seed and settings: the same point on nearly the same
//! distribution.

use hyperion_model::{Context, Decoder, ModelError, Outputs, Turn};
use hyperion_ops::Backend;

use super::Running;

/// Answers that are drafted for at most: with more, a step has enough rows without proposals.
const ANSWERS_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Draft {
    pub(super) decoder: Decoder,
    tokens: usize,
}

impl Draft {
    pub(super) const fn new(decoder: Decoder, tokens: u32) -> Self {
        Self { decoder, tokens: tokens as usize }
    }

    /// Proposals for the answers that are drawing, by their places.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub(super) fn propose(
        &mut self,
        backend: &mut dyn Backend,
        running: &mut [Running],
    ) -> Result<Vec<(usize, Vec<u32>)>, ModelError> {
        let drawing = running.iter().filter(|running| running.is_drawing()).count();
        if drawing == 0 || drawing > ANSWERS_MAX {
            return Ok(Vec::new());
        }
        let mut proposals = Vec::new();
        for (at, running) in running.iter_mut().enumerate() {
            // The answer's own draw takes one of the tokens that are left.
            let most = self.tokens.min(running.left().saturating_sub(1));
            let fits = running.tokens.len() + most <= self.decoder.context_max() as usize;
            if !running.is_drawing() || most == 0 || !fits {
                continue;
            }
            let ahead = running.ahead.take().unwrap_or_else(|| self.decoder.begin());
            let (ahead, proposed) = self.propose_one(backend, running, ahead, most)?;
            running.ahead = ahead;
            proposals.push((at, proposed));
        }
        Ok(proposals)
    }

    /// Proposals for one answer; its context goes back where the draft's cache is full.
    fn propose_one(
        &mut self,
        backend: &mut dyn Backend,
        running: &Running,
        mut ahead: Context,
        most: usize,
    ) -> Result<(Option<Context>, Vec<u32>), ModelError> {
        let mut sampler = running.sampler.clone();
        let mut answer = running.tokens[running.prompt..].to_vec();
        let mut proposed = Vec::with_capacity(most);
        let mut unread = running.tokens[ahead.len() as usize..].to_vec();
        while proposed.len() < most {
            let logits = match self.read(backend, &mut ahead, &unread) {
                Ok(logits) => logits,
                Err(ModelError::Pages { .. }) => {
                    self.decoder.release(ahead);
                    return Ok((None, proposed));
                }
                Err(error) => return Err(error),
            };
            let token = sampler.next(&logits);
            proposed.push(token);
            answer.push(token);
            if running.drawing.ends(&answer) {
                break;
            }
            unread = vec![token];
        }
        Ok((Some(ahead), proposed))
    }

    fn read(
        &mut self,
        backend: &mut dyn Backend,
        ahead: &mut Context,
        unread: &[u32],
    ) -> Result<Vec<i32>, ModelError> {
        if let [token] = unread {
            let tokens = std::slice::from_ref(token);
            let turn = Turn { context: ahead, tokens, outputs: Outputs::Last };
            return Ok(self.decoder.run(backend, &mut [turn])?.remove(0));
        }
        self.decoder.prefill(backend, ahead, unread)
    }
}
