//! Shapes and values of cases, drawn from one stream.

use alloc::vec::Vec;

use hyperion_primitives::{Mix, limits::SAT, w8r};

use crate::Sequence;

/// Which sizes a run of cases draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Few rows and every length that devices tend to differ at.
    Pinned,
    /// Many rows of short length, so that a million rows take seconds.
    Sweep,
}

/// Lengths at which tiles, blocks and tails begin and end.
const LENGTHS: [u32; 16] = [1, 2, 3, 7, 16, 31, 32, 33, 63, 64, 65, 255, 256, 257, 384, 1024];
/// The first so many of [`LENGTHS`] are drawn most often.
const SHORT: usize = 11;

/// A stream of cases.
#[derive(Clone, Debug)]
pub(super) struct Draw {
    mix: Mix,
    scale: Scale,
}

impl Draw {
    pub(super) const fn new(seed: u64, scale: Scale) -> Self {
        Self { mix: Mix::new(seed), scale }
    }

    pub(super) const fn u64(&mut self) -> u64 {
        self.mix.u64()
    }

    /// 0 to `bound - 1`.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.mix.below(bound.into())).expect("below a u32")
    }

    /// `first` to `last`.
    pub(super) fn between(&mut self, first: u32, last: u32) -> u32 {
        first + self.below(last - first + 1)
    }

    /// True once in `n` times.
    pub(super) fn once_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let count = u32::try_from(choices.len()).expect("a short list");
        choices[self.below(count) as usize]
    }

    /// A length; a long one once in four times, or in 32 for a sweep.
    pub(super) fn length(&mut self) -> u32 {
        let long = self.once_in(if self.scale == Scale::Pinned { 4 } else { 32 });
        if long { self.pick(&LENGTHS[SHORT..]) } else { self.pick(&LENGTHS[..SHORT]) }
    }

    /// A length that is never a long one.
    pub(super) fn short_length(&mut self) -> u32 {
        self.pick(&LENGTHS[..SHORT])
    }

    /// Rows of a batch beside rows of `width`; fewer when they are wide.
    pub(super) fn row_count(&mut self, width: u32) -> u32 {
        if self.scale == Scale::Pinned || width > 128 || self.once_in(4) {
            self.between(1, 9)
        } else {
            self.between(64, 256)
        }
    }

    /// Sequences of a batch, each 1 to 33 rows long or, once in 16 times, up to `rows_max`; most of them
    /// start at position 0.
    pub(super) fn sequences(&mut self, count_max: u32, rows_max: u32) -> Vec<Sequence> {
        let mut row = 0;
        (0..self.between(1, count_max))
            .map(|_| {
                let rows = if self.once_in(16) {
                    self.pick(&LENGTHS).min(rows_max)
                } else {
                    self.pick(&LENGTHS[..8]).min(rows_max)
                };
                let position = match self.below(4) {
                    0 => self.below(600),
                    1 => self.below(65_536 - rows),
                    _ => 0,
                };
                let sequence = Sequence { row, rows, position };
                row += rows;
                sequence
            })
            .collect()
    }

    /// Sequences of a whole program's batch; in a sweep many and mostly short ones, because it compares rows of
    /// results, of which a sequence may have but one, and pays for weights anew in every case.
    pub(super) fn batch(&mut self) -> Vec<Sequence> {
        match self.scale {
            Scale::Pinned => self.sequences(3, 33),
            Scale::Sweep => {
                let rows_max = if self.once_in(8) { 33 } else { 3 };
                self.sequences(32, rows_max)
            }
        }
    }

    /// A value of up to `bits` bits and a sign, within `+-SAT`.
    pub(super) fn value(&mut self, bits: u32) -> i32 {
        self.mix.i32(bits).clamp(-SAT, SAT)
    }

    /// Rows of activations.
    pub(super) fn rows(&mut self, rows: u32, width: u32) -> Vec<i32> {
        (0..rows).flat_map(|_| self.row(width)).collect()
    }

    /// One row: tiny, ordinary or saturating, and now and then made of what goes wrong most easily.
    pub(super) fn row(&mut self, width: u32) -> Vec<i32> {
        const EXTREMES: [i32; 12] =
            [0, 1, -1, 127, -127, 128, -128, 32_767, -32_768, 1 << 16, SAT, -SAT];
        let bits = self.below(31);
        let kind = self.below(16);
        let mut row: Vec<i32> = (0..width)
            .map(|_| match kind {
                0 => self.pick(&EXTREMES),
                // Odd multiples of half a step of 2^12: ties.
                1 => self.mix.i32(8) * 4096 + 2048,
                2 => 0,
                _ => self.value(bits),
            })
            .collect();
        if kind == 3 {
            // One massive activation beside ordinary ones.
            let place = self.below(width) as usize;
            row[place] = self.value(30);
        }
        row
    }

    /// A code, -127 to 127.
    pub(super) fn code(&mut self) -> i8 {
        i8::try_from(self.mix.i32(7).max(-127)).expect("8 bits without -128")
    }

    /// Codes of a matrix `[rows, padded]` that are 0 from column `width` on; some of all ±127.
    pub(super) fn codes(&mut self, rows: u32, width: u32, padded: u32) -> Vec<i8> {
        let extreme = self.once_in(8);
        let mut codes = Vec::new();
        for _ in 0..rows {
            for column in 0..padded {
                codes.push(match (column < width, extreme) {
                    (false, _) => 0,
                    (true, false) => self.code(),
                    (true, true) => self.pick(&[127, -127]),
                });
            }
        }
        codes
    }

    /// `B` and `kw` of `n` channels: `kw` from `low` on, at most `spread` above it and `last` in all.
    pub(super) fn steps(&mut self, n: u32, low: u32, spread: u32, last: u32) -> (Vec<u8>, Vec<i8>) {
        let highest = (low + spread).min(last);
        (0..n)
            .map(|_| {
                let mantissa = match self.below(8) {
                    0 => self.pick(&[1, 127, 128, 255]),
                    _ => self.byte(1),
                };
                let exponent = self.between(low, highest);
                (mantissa, i8::try_from(exponent).expect("40 at most"))
            })
            .unzip()
    }

    /// `least` to 255.
    pub(super) fn byte(&mut self, least: u32) -> u8 {
        u8::try_from(self.between(least, 255)).expect("255 at most")
    }

    /// Values of one width in bits, for biases and the like.
    pub(super) fn values(&mut self, n: u32, bits: u32) -> Vec<i32> {
        (0..n).map(|_| self.value(bits)).collect()
    }
}

/// The committed bytes of codes in whole groups of 32.
pub(super) fn committed(codes: &[i8]) -> Vec<u8> {
    let mut bytes = alloc::vec![0; codes.len()];
    w8r::encode(codes, &mut bytes);
    bytes
}
