//! Attention to a cache: keys and values are quantized once, kept in pages, and never touched again.
//!
//! ```text
//! page      key codes [rows, kv_heads, 4 * ceil(head_dim / 4)] i8 | key steps [rows, kv_heads] u32
//!           value codes, value steps likewise                     codes beyond head_dim are 0
//! step      A + 2^8 * (k + 128)
//! position  p of a sequence is row p mod rows of its page p div rows
//! append    row p: per head (K, Ak, kk) = quantize(k_p, -4), (V, Av, kv) = quantize(v_p, -7)
//! attend    as `attention`, row p seeing the cached rows up to p
//! ```
//!
//! Attention itself quantizes a key or a value with nothing but the row's own numbers, so the codes of a cache are those
//! that a prefill of the whole sequence would compute, and decoding token by token gives the bits of one prefill, as does
//! any cut of the sequence into pieces. Pages are the backend's memory but their bytes are everybody's: they may be read,
//! moved to another device, and shared by sequences that begin alike.

use alloc::vec::Vec;
use core::ops::Range;

use hyperion_primitives::limits::CONTEXT_MAX;

use crate::{
    AttentionShape, RowScale,
    attention::KeyValues,
    quantize::{KMIN, KMIN_SCORE, quantize},
};

/// Sizes of a page of one attention step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PageShape {
    /// Key and value heads.
    pub kv_heads: u32,
    /// Columns of a head.
    pub head_dim: u32,
    /// Positions that a page holds.
    pub rows: u32,
}

/// Bytes of a row's step.
const STEP_BYTES: usize = 4;

impl PageShape {
    /// Pages of `rows` positions for a causal attention step.
    ///
    /// `None` when a page has no rows or more than a context has, or a row sees later rows, which a cache does not have.
    pub fn new(shape: AttentionShape, rows: u32) -> Option<Self> {
        let AttentionShape { kv_heads, head_dim, causal, .. } = shape;
        let fits = causal && (1..=CONTEXT_MAX).contains(&rows);
        fits.then_some(Self { kv_heads, head_dim, rows })
    }

    /// Bytes of a page, a multiple of 4.
    pub const fn bytes(self) -> u64 {
        2 * self.half() as u64
    }

    /// Pages that hold so many positions.
    pub const fn pages(self, positions: u32) -> u32 {
        positions.div_ceil(self.rows)
    }

    /// Bytes of a head's codes in a row.
    pub(crate) const fn code_bytes(self) -> usize {
        self.head_dim.next_multiple_of(4) as usize
    }

    /// Bytes of the keys, and of the values.
    const fn half(self) -> usize {
        self.rows as usize * self.kv_heads as usize * (self.code_bytes() + STEP_BYTES)
    }

    /// Where a key's codes and step stand in a buffer of pages; those of its value stand half a page later.
    pub(crate) fn places(self, pages: &[u32], position: u32, head: usize) -> Places {
        let page = pages[(position / self.rows) as usize] as usize * 2 * self.half();
        let row = (position % self.rows) as usize * self.kv_heads as usize + head;
        let codes = self.rows as usize * self.kv_heads as usize * self.code_bytes();
        Places {
            codes: page + row * self.code_bytes(),
            step: page + codes + row * STEP_BYTES,
            half: self.half(),
        }
    }
}

/// Bytes at which a row of one head begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// Codes of the key.
    pub(crate) codes: usize,
    /// Step of the key.
    pub(crate) step: usize,
    /// From a key to its value.
    pub(crate) half: usize,
}

/// A step as a page holds it.
pub(crate) fn step_word(scale: RowScale) -> u32 {
    u32::from(scale.mantissa) | (i32::from(scale.exponent) + 128).cast_unsigned() << 8
}

/// The step that a page holds so.
pub(crate) fn step_of(word: u32) -> RowScale {
    let [mantissa, exponent, ..] = word.to_le_bytes();
    let exponent = i32::from(exponent) - 128;
    RowScale { mantissa, exponent: i8::try_from(exponent).expect("-128 to 127") }
}

/// Quantizes rows at absolute positions `position`, `position + 1`, … into a sequence's pages.
///
/// | argument | shape, row-major | range |
/// |---|---|---|
/// | `buffer` | pages one after another | |
/// | `pages` | one per `page.rows` positions, from position 0 | within the buffer |
/// | `k`, `v` | `[rows, kv_heads * head_dim]` | Q16 within `+-SAT`; keys after `rope` |
///
/// # Panics
///
/// When the slices are not equally many whole rows, or a position has no page.
pub fn append(
    page: PageShape,
    buffer: &mut [u8],
    pages: &[u32],
    position: u32,
    k: &[i32],
    v: &[i32],
) {
    let head_dim = page.head_dim as usize;
    let width = page.kv_heads as usize * head_dim;
    assert_eq!(k.len() % width, 0, "keys are [rows, kv_heads * head_dim]");
    assert_eq!(k.len(), v.len(), "as many values as keys");
    for ((k, v), position) in k.chunks_exact(width).zip(v.chunks_exact(width)).zip(position..) {
        let heads = k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim));
        for (head, (k, v)) in heads.enumerate() {
            let places = page.places(pages, position, head);
            for (x, kmin, at) in [(k, KMIN_SCORE, 0), (v, KMIN, places.half)] {
                let mut codes = alloc::vec![0; head_dim];
                let step = step_word(quantize(x, kmin, &mut codes));
                codes.resize(page.code_bytes(), 0);
                let codes = codes.into_iter().map(i8::cast_unsigned);
                let place = &mut buffer[places.codes + at..][..page.code_bytes()];
                place.iter_mut().zip(codes).for_each(|(byte, code)| *byte = code);
                buffer[places.step + at..][..STEP_BYTES].copy_from_slice(&step.to_le_bytes());
            }
        }
    }
}

/// The keys and values of a sequence's positions.
///
/// # Panics
///
/// When a position has no page.
pub fn load(
    shape: AttentionShape,
    page: PageShape,
    buffer: &[u8],
    pages: &[u32],
    positions: Range<u32>,
) -> KeyValues {
    let mut cache = KeyValues::new(shape, positions.start);
    for position in positions {
        for head in 0..page.kv_heads as usize {
            let places = page.places(pages, position, head);
            let [key, value] = [0, places.half].map(|at| {
                let codes = &buffer[places.codes + at..][..page.head_dim as usize];
                let codes: Vec<i8> = codes.iter().map(|code| code.cast_signed()).collect();
                let word = buffer[places.step + at..].first_chunk().expect("a step has 4 bytes");
                (codes, step_of(u32::from_le_bytes(*word)))
            });
            cache.push(head, (&key.0, key.1), (&value.0, value.1));
        }
    }
    cache
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::attention;

    #[test]
    fn pages_hold_the_codes_that_attention_computes() {
        let shape = AttentionShape::new(4, 2, 6).unwrap().with_causal(0);
        let page = PageShape::new(shape, 3).unwrap();
        let mut mix = hyperion_primitives::Mix::new(3);
        let rows = 8;
        let [k, v]: [Vec<i32>; 2] = [(); 2].map(|()| (0..rows * 12).map(|_| mix.i32(20)).collect());
        let mut buffer = alloc::vec![0xa5; 5 * usize::try_from(page.bytes()).unwrap()];
        let pages = [4, 0, 2];
        append(page, &mut buffer, &pages, 0, &k[..60], &v[..60]);
        append(page, &mut buffer, &pages, 5, &k[60..], &v[60..]);
        let mut whole = KeyValues::new(shape, 0);
        whole.append(&k, &v);
        assert_eq!(load(shape, page, &buffer, &pages, 0..8), whole);
        let spared = usize::try_from(page.bytes()).unwrap();
        assert!(buffer[spared..2 * spared].iter().all(|byte| *byte == 0xa5), "page 1 is free");

        let q: Vec<i32> = (0..24).map(|_| mix.i32(20)).collect();
        let (mut want, mut got) = ([0; 24], [0; 24]);
        attention(shape, &whole, 7, &q, &mut want);
        let shape = shape.with_causal(4);
        attention(shape, &load(shape, page, &buffer, &pages, 4..8), 7, &q, &mut got);
        assert_ne!(got, want, "a window changes the answer");
        attention(shape, &whole, 7, &q, &mut want);
        assert_eq!(got, want, "what is behind the window is not needed");
    }

    #[test]
    fn a_step_is_one_word() {
        for scale in [(128, -7), (255, 16), (200, 0)] {
            let scale = RowScale { mantissa: scale.0, exponent: scale.1 };
            assert_eq!(step_of(step_word(scale)), scale);
        }
        assert_eq!(step_word(RowScale { mantissa: 128, exponent: -7 }), 128 + 121 * 256);
    }

    #[test]
    fn pages_of_what_sees_the_future_are_refused() {
        let shape = AttentionShape::new(2, 1, 6).unwrap();
        assert_eq!(PageShape::new(shape, 16), None);
        assert_eq!(PageShape::new(shape.with_causal(0), 0), None);
        let page = PageShape::new(shape.with_causal(9), 16).unwrap();
        assert_eq!((page.bytes(), page.pages(16), page.pages(17)), (2 * 16 * (8 + 4), 1, 2));
    }
}
