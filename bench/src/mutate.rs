//! A seeded mutator: stable Rust, no coverage feedback, every run repeatable from its seed.
//!
//! Inputs start from valid encodings, because a decoder's deep branches lie behind its first checks.

use hyperion_primitives::Mix;

/// Numbers that lengths, counts and offsets are replaced by.
const EXTREMES: [u64; 10] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX / 2, u64::MAX];

/// Turns a valid encoding into something near it.
#[derive(Debug)]
pub struct Mutator {
    mix: Mix,
}

impl Mutator {
    /// A mutator whose inputs follow from `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self { mix: Mix::new(seed) }
    }

    /// An index below `bound`; 0 when there is nothing to choose from.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            0
        } else {
            usize::try_from(self.mix.below(bound as u64)).expect("below a usize")
        }
    }

    /// A random word.
    pub fn word(&mut self) -> u64 {
        self.mix.u64()
    }

    /// One input: usually a corpus entry with one to eight edits, sometimes noise, rarely the entry itself.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        if corpus.is_empty() || self.below(16) == 0 {
            let len = self.below(600);
            return (0..len).map(|_| self.byte()).collect();
        }
        let pick = self.below(corpus.len());
        let mut bytes = corpus[pick].clone();
        for _ in 0..self.below(9) {
            self.edit(&mut bytes, corpus);
        }
        bytes
    }

    fn byte(&mut self) -> u8 {
        self.mix.u64().to_le_bytes()[3]
    }

    fn edit(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let len = 1 + self.below(32);
        match self.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.byte(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, self.byte()),
            4 => {
                let end = (at + len).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let end = (at + len).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            6 => {
                let number = EXTREMES[self.below(EXTREMES.len())];
                let width = [1, 2, 4, 8][self.below(4)];
                let big = number.to_be_bytes();
                let little = number.to_le_bytes();
                let digits = if self.below(2) == 0 { &big[8 - width..] } else { &little[..width] };
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, digits.iter().copied());
            }
            7 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.extend((0..len).map(|_| 0)),
        }
    }
}
