//! The draws of one answer.

use hyperion_ops::{
    Sampling,
    sample::{Past, sample},
};

/// Draws the tokens of one answer, one after another; every draw is an integer function of the logits, the seed and the
/// tokens before.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    seed: [u8; 32],
    /// How often each token was drawn; empty where that does not matter.
    counts: Vec<u32>,
    /// Tokens of prompt and answer, ascending and each once; empty where that does not matter.
    seen: Vec<u32>,
    /// Tokens drawn.
    position: u32,
}

impl Sampler {
    /// Begins an answer to a prompt. The seed is the request's; the same seed, prompt and settings give the same answer.
    ///
    /// The prompt is the whole of it, whichever part of it a cache holds already.
    pub fn new(sampling: Sampling, seed: [u8; 32], prompt: &[u32]) -> Self {
        let mut seen = if sampling.sees() { prompt.to_vec() } else { Vec::new() };
        seen.sort_unstable();
        seen.dedup();
        Self { sampling, seed, counts: Vec::new(), seen, position: 0 }
    }

    /// Draws the next token from logits, Q16, one per token id.
    ///
    /// # Panics
    ///
    /// When there are no logits, or not as many as for the tokens before, or a token of the prompt has none.
    pub fn next(&mut self, logits: &[i32]) -> u32 {
        let counts_matter = self.sampling.counts();
        if counts_matter && self.counts.is_empty() {
            self.counts = vec![0; logits.len()];
        }
        let past = Past { counts: &self.counts, seen: &self.seen };
        let token = sample(self.sampling, &self.seed, self.position, logits, past);
        if counts_matter {
            self.counts[token as usize] += 1;
        }
        if self.sampling.sees()
            && let Err(place) = self.seen.binary_search(&token)
        {
            self.seen.insert(place, token);
        }
        self.position += 1;
        token
    }

    /// Tokens drawn so far.
    pub const fn drawn(&self) -> u32 {
        self.position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_repeats_and_penalties_count_its_own_tokens() {
        let logits = [3 << 16, (3 << 16) - 1, 2 << 16, 0];
        let draw = |sampling, seed| {
            let mut sampler = Sampler::new(sampling, [seed; 32], &[1, 1]);
            (0..6).map(|_| sampler.next(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draw(Sampling::GREEDY, 1), [0; 6]);
        let warm = Sampling::new(1 << 17, 0, 1 << 16, 0, 0).unwrap();
        assert_eq!(draw(warm, 1), draw(warm, 1));
        assert_ne!(draw(warm, 1), draw(warm, 2));
        // Half a unit off per occurrence: the two leaders take turns until the third is level with them.
        let frequent = Sampling::new(0, 0, 1 << 16, 1 << 15, 0).unwrap();
        assert_eq!(draw(frequent, 1), [0, 1, 0, 1, 0, 2]);
        // The prompt holds 1, so 0 leads; once it is said, 2 with its whole logit does; all are said after three draws.
        let repeated = Sampling::GREEDY.repetition(1 << 17).unwrap();
        assert_eq!(draw(repeated, 1), [0, 2, 0, 0, 0, 0]);
    }
}
