//! Quantizes rows, a word at a time.

use crate::{
    lanes::Lanes,
    quantize::{Quantizer, RowScale},
};

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
    each_group(x, codes.as_chunks_mut().0, |x, codes| {
        l.store_codes(|i| rounding.code(l, l.load(&x[i * L::WIDTH..])), codes);
    });
}

/// Quantizes a row to 15-bit codes, as [`crate::quantize::quantize_fine`], taken apart into `hi` and `lo`.
#[inline(always)]
pub(crate) fn quantize_fine<L: Lanes>(
    l: L,
    x: &[i32],
    kmin: i32,
    hi: &mut [i8],
    lo: &mut [i8],
) -> RowScale {
    let quantizer = Quantizer::new(peak(l, x), kmin);
    encode_fine(l, quantizer, x, hi, lo);
    quantizer.scale
}

/// The codes of [`quantize_fine`].
#[inline(always)]
pub(crate) fn encode_fine<L: Lanes>(
    l: L,
    quantizer: Quantizer,
    x: &[i32],
    hi: &mut [i8],
    lo: &mut [i8],
) {
    let rounding = Rounding::new(l, quantizer, 9);
    let high = |code| l.shift_right(l.add(code, l.splat(64)), 7);
    each_group(x, hi.as_chunks_mut().0, |x, hi| {
        l.store_codes(|i| high(rounding.code(l, l.load(&x[i * L::WIDTH..]))), hi);
    });
    each_group(x, lo.as_chunks_mut().0, |x, lo| {
        let low = |code| l.sub(code, l.mul(high(code), l.splat(128)));
        l.store_codes(|i| low(rounding.code(l, l.load(&x[i * L::WIDTH..]))), lo);
    });
}

/// Calls `f` with every 32 elements of `x` and their codes; zeros stand where `x` has ended.
#[inline(always)]
fn each_group(x: &[i32], codes: &mut [[i8; 32]], f: impl Fn(&[i32; 32], &mut [i8; 32])) {
    let (groups, rest) = x.as_chunks::<32>();
    let (whole, more) = codes.split_at_mut(groups.len());
    for (x, codes) in groups.iter().zip(whole) {
        f(x, codes);
    }
    if let Some((codes, beyond)) = more.split_first_mut() {
        let mut padded = [0; 32];
        padded[..rest.len()].copy_from_slice(rest);
        f(&padded, codes);
        beyond.as_flattened_mut().fill(0);
    }
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

    #[inline(always)]
    fn code(self, l: L, x: L::Word) -> L::Word {
        let short = l.shift_right(l.add(x, self.half_drop), self.drop);
        let short = l.min(l.max(short, self.bound[0]), self.bound[1]);
        // |xs * R| <= 127 * 2^24, and the rounding term adds 2^23 at most.
        l.shift_right(l.add(l.mul(short, self.reciprocal), self.half), self.shift)
    }
}
