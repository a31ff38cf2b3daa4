//! Quantizes rows, a word at a time.

use crate::{
    lanes::{Lanes, work},
    quantize::{Quantizer, RowScale},
};

work! {
    /// [`quantize`].
    Quantize(x: &'a [i32], kmin: i32, codes: &'a mut [i8]) -> RowScale, Lanes,
    |l| quantize(l, x, kmin, codes)
}

work! {
    /// [`quantize_fine`].
    QuantizeFine(x: &'a [i32], kmin: i32, halves: [&'a mut [i8]; 2]) -> RowScale, Lanes,
    |l| quantize_fine(l, x, kmin, halves)
}

/// Largest magnitude of a row without `i32::MIN`, 1 at least.
#[inline(always)]
pub(crate) fn peak<L: Lanes>(l: L, x: &[i32]) -> u32 {
    let mut peaks = [l.splat(1); 2];
    let mut words = x.chunks_exact(2 * L::WIDTH);
    for x in &mut words {
        let (low, high) = x.split_at(L::WIDTH);
        peaks = [l.max(peaks[0], l.abs(l.load(low))), l.max(peaks[1], l.abs(l.load(high)))];
    }
    for x in words.remainder().chunks(L::WIDTH) {
        peaks[0] = l.max(peaks[0], l.abs(l.load_some(x)));
    }
    l.greatest(l.max(peaks[0], peaks[1])).unsigned_abs()
}

/// Quantizes a row to 8-bit codes, as [`crate::quantize::quantize`]; codes beyond the row are 0.
///
/// `codes` are whole groups of 32, enough for `x`; `|x|` is at most `2^31 - 2^15`.
#[inline(always)]
pub(crate) fn quantize<L: Lanes>(l: L, x: &[i32], kmin: i32, codes: &mut [i8]) -> RowScale {
    let quantizer = Quantizer::new(peak(l, x), kmin);
    encode(l, quantizer, x, codes);
    quantizer.scale
}

/// The codes of [`quantize`].
#[inline(always)]
pub(crate) fn encode<L: Lanes>(l: L, quantizer: Quantizer, x: &[i32], codes: &mut [i8]) {
    let rounding = Rounding::new(l, quantizer, 16);
    let (groups, rest) = x.as_chunks::<32>();
    let (whole, beyond) = codes.as_chunks_mut::<32>().0.split_at_mut(groups.len());
    for (x, codes) in groups.iter().zip(whole) {
        l.store_codes(&rounding.codes(l, x), codes);
    }
    if let Some((codes, beyond)) = beyond.split_first_mut() {
        l.store_codes(&rounding.codes(l, &padded(rest)), codes);
        beyond.as_flattened_mut().fill(0);
    }
}

/// Quantizes a row to 15-bit codes, as [`crate::quantize::quantize_fine`], taken apart into `hi` and `lo`.
#[inline(always)]
pub(crate) fn quantize_fine<L: Lanes>(
    l: L,
    x: &[i32],
    kmin: i32,
    halves: [&mut [i8]; 2],
) -> RowScale {
    let quantizer = Quantizer::new(peak(l, x), kmin);
    encode_fine(l, quantizer, x, halves);
    quantizer.scale
}

/// The codes of [`quantize_fine`].
#[inline(always)]
pub(crate) fn encode_fine<L: Lanes>(
    l: L,
    quantizer: Quantizer,
    x: &[i32],
    [hi, lo]: [&mut [i8]; 2],
) {
    let rounding = Rounding::new(l, quantizer, 9);
    let (groups, rest) = x.as_chunks::<32>();
    let (whole_hi, beyond_hi) = hi.as_chunks_mut::<32>().0.split_at_mut(groups.len());
    let (whole_lo, beyond_lo) = lo.as_chunks_mut::<32>().0.split_at_mut(groups.len());
    for (x, (hi, lo)) in groups.iter().zip(whole_hi.iter_mut().zip(whole_lo)) {
        store_halves(l, rounding.codes(l, x), hi, lo);
    }
    let first = (beyond_hi.split_first_mut(), beyond_lo.split_first_mut());
    if let (Some((hi, beyond_hi)), Some((lo, beyond_lo))) = first {
        store_halves(l, rounding.codes(l, &padded(rest)), hi, lo);
        beyond_hi.as_flattened_mut().fill(0);
        beyond_lo.as_flattened_mut().fill(0);
    }
}

/// Takes 15-bit codes apart, as [`crate::quantize::split`].
#[inline(always)]
fn store_halves<L: Lanes>(l: L, mut low: [L::Word; 4], hi: &mut [i8; 32], lo: &mut [i8; 32]) {
    let (half, unit, mut high) = (l.splat(64), l.splat(128), low);
    for (high, low) in high.iter_mut().zip(&mut low) {
        *high = l.shift_right(l.add(*low, half), 7);
        *low = l.sub(*low, l.mul(*high, unit));
    }
    l.store_codes(&high, hi);
    l.store_codes(&low, lo);
}

/// The last elements of a row, then zeros.
#[inline(always)]
fn padded(rest: &[i32]) -> [i32; 32] {
    let mut padded = [0; 32];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// What a word of a row goes through.
#[derive(Clone, Copy)]
struct Rounding<L: Lanes> {
    drop: u32,
    half_drop: L::Word,
    bound: [L::Word; 2],
    reciprocal: L::Word,
    half: L::Word,
    shift: u32,
}

impl<L: Lanes> Rounding<L> {
    #[inline(always)]
    fn new(l: L, quantizer: Quantizer, bits: u32) -> Self {
        let drop = u32::from(quantizer.drop);
        let shift = bits + u32::from(quantizer.shift);
        Self {
            drop,
            half_drop: l.splat((1 << drop) >> 1),
            bound: [l.splat(-32_767), l.splat(32_767)],
            reciprocal: l.splat(quantizer.reciprocal),
            half: l.splat(1 << (shift - 1)),
            shift,
        }
    }

    /// The codes of 32 elements.
    #[inline(always)]
    fn codes(self, l: L, x: &[i32; 32]) -> [L::Word; 4] {
        let mut words = [self.half; 4];
        for (word, x) in words.iter_mut().zip(x.chunks_exact(L::WIDTH)) {
            *word = self.code(l, l.load(x));
        }
        words
    }

    #[inline(always)]
    fn code(self, l: L, x: L::Word) -> L::Word {
        let short = l.shift_right(l.add(x, self.half_drop), self.drop);
        let short = l.min(l.max(short, self.bound[0]), self.bound[1]);
        // |xs * R| <= 127 * 2^24, and the rounding term adds 2^23 at most.
        l.shift_right(l.add(l.mul(short, self.reciprocal), self.half), self.shift)
    }
}
