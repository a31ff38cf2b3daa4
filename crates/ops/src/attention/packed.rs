//! Keys and values of one sequence and head as kernels read them.
//!
//! ```text
//! keys    panel (32 rows) | pair (2 columns) | row | 2 codes of 16 bits
//! values  quad (4 rows)   | column           | 4 codes
//! ```
//!
//! A score needs two signed operands, so keys are widened once; a value is weighed by codes that are not
//! negative, so bytes do. What lies beyond the last row is 0.

use alloc::vec::Vec;
use core::ops::Range;

use crate::{
    cache::{PageShape, step_of},
    cpu::Aligned,
    lanes::{Lanes, Work},
    quantize::{KMIN, KMIN_SCORE, kernel::quantize},
};

/// Rows of a panel of keys.
pub(crate) const KEYS: usize = 32;
/// Rows of values that one instruction weighs and sums.
pub(crate) const QUAD: usize = 4;
/// Columns of values are padded to a multiple of this.
const COLUMN_STEP: usize = 16;

/// One pair of columns of a panel of keys.
pub(crate) type KeyPair = [i16; 2 * KEYS];

/// Steps of quantized rows, one element per row, padded to whole panels.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub(crate) mantissas: Vec<i32>,
    pub(crate) exponents: Vec<i32>,
}

/// Keys and values of one head.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// Rows there are.
    pub(crate) rows: usize,
    /// Columns of a head.
    pub(crate) head_dim: usize,
    keys: Aligned<i16>,
    values: Aligned<i8>,
    pub(crate) key_steps: Steps,
    pub(crate) value_steps: Steps,
    /// Exponents of keys, from the least to the greatest.
    pub(crate) key_exponents: (i32, i32),
    /// `Ak * 2^(kk - least)`, one per key, where the exponents differ by 15 at most.
    pub(crate) key_multipliers: Vec<i32>,
    /// Codes of four rows before they are packed.
    codes: [Vec<i8>; QUAD],
}

impl Head {
    /// Bytes that room for `rows` rows takes.
    pub(crate) fn bytes(rows: usize, head_dim: usize) -> u64 {
        let rows = rows.next_multiple_of(KEYS);
        let steps = (rows * 5 * size_of::<i32>() + QUAD * (head_dim + 32)) as u64;
        Aligned::<i16>::bytes(rows * key_width(head_dim))
            + Aligned::<i8>::bytes(rows * value_width(head_dim))
            + steps
    }

    /// Room for `rows` rows; `None` when there is no memory.
    pub(crate) fn new(rows: usize, head_dim: usize) -> Option<Self> {
        let rows = rows.next_multiple_of(KEYS);
        let words = || {
            let mut words = Vec::new();
            words.try_reserve_exact(rows).ok()?;
            words.resize(rows, 0);
            Some(words)
        };
        Some(Self {
            rows: 0,
            head_dim,
            keys: Aligned::new(rows * key_width(head_dim))?,
            values: Aligned::new(rows * value_width(head_dim))?,
            key_steps: Steps { mantissas: words()?, exponents: words()? },
            value_steps: Steps { mantissas: words()?, exponents: words()? },
            key_exponents: (0, 0),
            key_multipliers: words()?,
            codes: [(); QUAD].map(|()| alloc::vec![0; head_dim.next_multiple_of(32)]),
        })
    }

    /// Starts over for `rows` rows of heads this wide, inside the room there is.
    pub(crate) fn begin(&mut self, rows: usize, head_dim: usize) {
        (self.rows, self.head_dim) = (rows, head_dim);
        let padded = rows.next_multiple_of(KEYS);
        let last = rows / KEYS * KEYS;
        // Rows are written below; padding is what rows of an earlier sequence may have left.
        let key_width = self.key_width();
        self.keys.as_mut_slice()[last * key_width..padded * key_width].fill(0);
        let value_width = value_width(head_dim);
        self.values.as_mut_slice()[last * value_width..padded * value_width].fill(0);
        for steps in [&mut self.key_steps, &mut self.value_steps] {
            steps.mantissas[rows..padded].fill(0);
            steps.exponents[rows..padded].fill(0);
        }
    }

    /// Quantizes four rows of keys and four of values and packs them, or as many as there are from `row` on.
    #[inline(always)]
    fn set_quad<L: Lanes>(&mut self, l: L, row: usize, keys: Rows<'_>, values: Rows<'_>) {
        let Self { rows, head_dim, codes, .. } = self;
        let (rows, head_dim) = (row..(*rows).min(row + QUAD), *head_dim);
        let codes = codes.each_mut().map(|codes| &mut codes[..head_dim.next_multiple_of(32)]);
        let codes = quantize_rows(l, rows.clone(), (keys, KMIN_SCORE), codes, &mut self.key_steps);
        place_keys(self.keys.as_mut_slice(), row, head_dim, codes.each_ref().map(|codes| &**codes));
        let codes = quantize_rows(l, rows, (values, KMIN), codes, &mut self.value_steps);
        let values = self.values.as_mut_slice();
        place_values(values, row, head_dim, codes.map(|codes| &*codes));
    }

    /// Packs four rows of a cache, or as many as there are from `row` on.
    #[inline(always)]
    fn load_quad(&mut self, row: usize, cached: Cached<'_>) {
        let Self { rows, head_dim, codes, .. } = self;
        let (rows, head_dim) = (row..(*rows).min(row + QUAD), *head_dim);
        let codes = codes.each_mut().map(|codes| &mut codes[..head_dim.next_multiple_of(32)]);
        let codes = load_rows(rows.clone(), (cached, false), codes, &mut self.key_steps);
        place_keys(self.keys.as_mut_slice(), row, head_dim, codes.each_ref().map(|codes| &**codes));
        let codes = load_rows(rows, (cached, true), codes, &mut self.value_steps);
        let values = self.values.as_mut_slice();
        place_values(values, row, head_dim, codes.map(|codes| &*codes));
    }

    /// Brings the steps of all keys to one exponent, once every row is set.
    fn finish(&mut self) {
        let exponents = &self.key_steps.exponents[..self.rows];
        let least = exponents.iter().copied().min().unwrap_or(0);
        let greatest = exponents.iter().copied().max().unwrap_or(0);
        self.key_exponents = (least, greatest);
        if greatest - least > 15 {
            return;
        }
        let steps = self.key_steps.mantissas.iter().zip(&self.key_steps.exponents);
        let padded = self.rows.next_multiple_of(KEYS);
        for (m, (mantissa, exponent)) in self.key_multipliers[..padded].iter_mut().zip(steps) {
            // Padding has mantissa 0, whatever its exponent.
            *m = mantissa << (exponent - least).clamp(0, 15);
        }
    }

    /// Columns of keys with padding.
    fn key_width(&self) -> usize {
        key_width(self.head_dim)
    }

    /// The pairs of a panel of keys.
    pub(crate) fn keys(&self, panel: usize) -> &[KeyPair] {
        let width = self.key_width();
        let panel = &self.keys.as_slice()[panel * KEYS * width..][..KEYS * width];
        panel.as_chunks().0
    }

    /// Columns of values with padding: a multiple of 16.
    pub(crate) fn value_width(&self) -> usize {
        value_width(self.head_dim)
    }

    /// The values of rows `4 * quad` to `4 * end`.
    pub(crate) fn values(&self, quad: usize, end: usize) -> &[i8] {
        let width = QUAD * self.value_width();
        &self.values.as_slice()[quad * width..end * width]
    }
}

/// Rows of a matrix: `[rows, width]`, from one to the next `stride` elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) elements: &'a [i32],
    pub(crate) stride: usize,
    pub(crate) width: usize,
}

impl<'a> Rows<'a> {
    /// A row.
    pub(crate) fn row(self, row: usize) -> &'a [i32] {
        &self.elements[row * self.stride..][..self.width]
    }
}

/// Packs every row of a head that has begun.
#[derive(Debug)]
pub(crate) struct Pack<'a> {
    pub(crate) head: &'a mut Head,
    pub(crate) keys: Rows<'a>,
    pub(crate) values: Rows<'a>,
}

impl<L: Lanes> Work<L> for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, l: L) {
        for row in (0..self.head.rows).step_by(QUAD) {
            self.head.set_quad(l, row, self.keys, self.values);
        }
        self.head.finish();
    }
}

/// Quantizes rows, four at most, and notes their steps; the codes of those that are missing are 0.
#[inline(always)]
fn quantize_rows<'c, L: Lanes>(
    l: L,
    rows: Range<usize>,
    (elements, kmin): (Rows<'_>, i32),
    mut codes: [&'c mut [i8]; QUAD],
    steps: &mut Steps,
) -> [&'c mut [i8]; QUAD] {
    for (index, codes) in codes.iter_mut().enumerate() {
        let row = rows.start + index;
        if row >= rows.end {
            codes.fill(0);
            continue;
        }
        let scale = quantize(l, elements.row(row), kmin, codes);
        steps.mantissas[row] = scale.mantissa.into();
        steps.exponents[row] = scale.exponent.into();
    }
    codes
}

/// Puts the codes of four rows of keys where kernels read them.
#[inline(always)]
fn place_keys(keys: &mut [i16], row: usize, head_dim: usize, codes: [&[i8]; QUAD]) {
    let width = key_width(head_dim);
    let panel = &mut keys[row / KEYS * KEYS * width..][..KEYS * width];
    let pairs = codes.map(|codes| codes.as_chunks::<2>().0);
    for (index, pair) in panel.as_chunks_mut::<{ 2 * KEYS }>().0.iter_mut().enumerate() {
        let place = &mut pair.as_chunks_mut::<2>().0[row % KEYS..][..QUAD];
        for (place, pairs) in place.iter_mut().zip(pairs) {
            *place = pairs[index].map(i16::from);
        }
    }
}

/// Puts the codes of four rows of values where kernels read them.
#[inline(always)]
fn place_values(values: &mut [i8], row: usize, head_dim: usize, codes: [&[i8]; QUAD]) {
    let width = value_width(head_dim);
    let quad = &mut values[row / QUAD * QUAD * width..][..QUAD * width];
    let [c0, c1, c2, c3] = codes;
    let codes = c0.iter().zip(c1).zip(c2.iter().zip(c3));
    for (column, ((c0, c1), (c2, c3))) in quad.as_chunks_mut::<QUAD>().0.iter_mut().zip(codes) {
        *column = [*c0, *c1, *c2, *c3];
    }
}

/// Rows of one head of a sequence's cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cached<'a> {
    pub(crate) page: PageShape,
    /// The sequence's pages.
    pub(crate) pages: &'a [u32],
    /// All pages.
    pub(crate) words: &'a [i32],
    pub(crate) kv_head: usize,
    /// Absolute position of row 0.
    pub(crate) first: u32,
}

/// Packs every row of a head that has begun, from a cache.
#[derive(Debug)]
pub(crate) struct Unpack<'a> {
    pub(crate) head: &'a mut Head,
    pub(crate) cached: Cached<'a>,
}

impl<L: Lanes> Work<L> for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, _: L) {
        for row in (0..self.head.rows).step_by(QUAD) {
            self.head.load_quad(row, self.cached);
        }
        self.head.finish();
    }
}

/// Takes rows out of a cache, four at most, and notes their steps; the codes of those that are missing are 0.
#[inline(always)]
fn load_rows<'c>(
    rows: Range<usize>,
    (cached, is_value): (Cached<'_>, bool),
    mut codes: [&'c mut [i8]; QUAD],
    steps: &mut Steps,
) -> [&'c mut [i8]; QUAD] {
    let Cached { page, pages, words, kv_head, first } = cached;
    for (index, codes) in codes.iter_mut().enumerate() {
        codes.fill(0);
        let row = rows.start + index;
        if row >= rows.end {
            continue;
        }
        let position = first + u32::try_from(row).expect("a context has 2^16 rows at most");
        let places = page.places(pages, position, kv_head);
        let at = if is_value { places.half } else { 0 };
        let from = &words[(places.codes + at) / 4..][..page.code_bytes() / 4];
        for (codes, word) in codes.as_chunks_mut::<4>().0.iter_mut().zip(from) {
            *codes = word.to_le_bytes().map(u8::cast_signed);
        }
        let scale = step_of(words[(places.step + at) / 4].cast_unsigned());
        steps.mantissas[row] = scale.mantissa.into();
        steps.exponents[row] = scale.exponent.into();
    }
    codes
}

fn key_width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(2)
}

fn value_width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(COLUMN_STEP)
}
