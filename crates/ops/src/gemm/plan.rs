//! How the codes of one block of a row are multiplied: a list that is written once and read per panel.
//!
//! ```text
//! entry   place | 1, 2 or 4 quads of codes          words of 32 bits
//! lists   fours, pairs, ones, signed                one after another
//! ```
//!
//! A place is a byte in a block of a full panel. Codes stand in the list itself, so that a kernel walks one
//! array. No place leads outside the block that the list was made for, whatever its author did.

use super::packed::{BLOCK, PANEL, QUAD};

/// Bytes of one quad of a full panel.
pub(crate) const STRIDE: usize = PANEL * QUAD;

/// The list of one block of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// What the sum of products starts from: it takes the 128 of the weights back.
    pub(crate) base: i32,
    quads: usize,
    len: usize,
    ends: [usize; 4],
    words: [u32; 2 * BLOCK],
}

impl Default for Plan {
    fn default() -> Self {
        Self { base: 0, quads: 0, len: 0, ends: [0; 4], words: [0; 2 * BLOCK] }
    }
}

impl Plan {
    /// Starts a list for a block of `quads` quads.
    pub(crate) fn begin(&mut self, quads: usize) {
        assert!(quads <= BLOCK, "a block has {BLOCK} quads at most");
        (self.quads, self.len) = (quads, 0);
    }

    /// Appends `G` quads from `quad` on, whose codes these are.
    ///
    /// # Panics
    ///
    /// When they lie outside the block, or there are more entries than quads.
    #[inline(always)]
    pub(crate) fn push<const G: usize>(&mut self, quad: usize, codes: &[[i8; QUAD]; G]) {
        assert!(quad + G <= self.quads, "an entry lies inside its block");
        let (place, words) =
            self.words[self.len..][..G + 1].split_first_mut().expect("two or more");
        *place = u32::try_from(quad * STRIDE).expect("a block is short");
        for (word, codes) in words.iter_mut().zip(codes) {
            *word = u32::from_le_bytes(codes.map(i8::cast_unsigned));
        }
        self.len += G + 1;
    }

    /// Ends the list with this number: 0 for fours, 1 for pairs, 2 for ones, 3 for signed.
    pub(crate) fn end(&mut self, list: usize) {
        self.ends[list] = self.len;
    }

    /// Quads of the block: every place of every list leads to one of them and, with the rest of its entry,
    /// not beyond the last.
    pub(crate) const fn quads(&self) -> usize {
        self.quads
    }

    /// Four quads together.
    pub(crate) fn fours(&self) -> &[[u32; 5]] {
        self.words[..self.ends[0]].as_chunks().0
    }

    /// Two quads together.
    pub(crate) fn pairs(&self) -> &[[u32; 3]] {
        self.words[self.ends[0]..self.ends[1]].as_chunks().0
    }

    /// Quads alone.
    pub(crate) fn ones(&self) -> &[[u32; 2]] {
        self.words[self.ends[1]..self.ends[2]].as_chunks().0
    }

    /// Quads whose codes do not fit a lane unsigned.
    pub(crate) fn signed(&self) -> &[[u32; 2]] {
        self.words[self.ends[2]..self.ends[3]].as_chunks().0
    }
}
