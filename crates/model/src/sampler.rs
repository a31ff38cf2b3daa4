//! The draws of one answer.

use hyperion_ops::{Sampling, sample::sample};

/// Draws the tokens of one answer, one after another; every draw is an integer function of the logits, the seed and the
/// tokens before.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    seed: [u8; 32],
    /// How often each token was drawn; empty where that does not matter.
    counts: Vec<u32>,
    /// Tokens drawn.
    position: u32,
}

impl Sampler {
    /// Begins an answer. The seed is the request's; the same seed, prompt and settings give the same answer.
    pub const fn new(sampling: Sampling, seed: [u8; 32]) -> Self {
        Self { sampling, seed, counts: Vec::new(), position: 0 }
    }

    /// Draws the next token from logits, Q16, one per token id.
    ///
    /// # Panics
    ///
    /// When there are no logits, or not as many as for the tokens before.
    pub fn next(&mut self, logits: &[i32]) -> u32 {
        let counts_matter = (self.sampling.frequency_q16, self.sampling.presence_q16) != (0, 0);
        if counts_matter && self.counts.is_empty() {
            self.counts = vec![0; logits.len()];
        }
        let token = sample(self.sampling, &self.seed, self.position, logits, &self.counts);
        if counts_matter {
            self.counts[token as usize] += 1;
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
            let mut sampler = Sampler::new(sampling, [seed; 32]);
            (0..6).map(|_| sampler.next(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draw(Sampling::GREEDY, 1), [0; 6]);
        let warm = Sampling::new(1 << 17, 0, 1 << 16, 0, 0).unwrap();
        assert_eq!(draw(warm, 1), draw(warm, 1));
        assert_ne!(draw(warm, 1), draw(warm, 2));
        // Half a unit off per occurrence: the two leaders take turns until the third is level with them.
        let frequent = Sampling::new(0, 0, 1 << 16, 1 << 15, 0).unwrap();
        assert_eq!(draw(frequent, 1), [0, 1, 0, 1, 0, 2]);
    }
}
