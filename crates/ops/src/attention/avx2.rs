//! Products of attention with AVX2.
#![expect(unsafe_code, reason = "intrinsics; a token proves that the CPU has them")]

use core::arch::x86_64::*;

use super::packed::{KEYS, KeyPair, QUAD};
use crate::lanes::avx2::Avx2;

impl Avx2 {
    /// Scores of `R` queries with a panel of keys; a query is its pairs of codes, two halves of 32 bits.
    #[inline(always)]
    pub(crate) fn attention_scores<const R: usize>(
        self,
        queries: [&[i32]; R],
        keys: &[KeyPair],
        out: &mut [[i32; KEYS]; R],
    ) {
        // SAFETY: `self` exists only where `detect` found AVX2.
        unsafe { scores(queries, keys, out) }
    }

    /// Adds rows of values, each times its code, 0 to 127; `acc` is `[width]`.
    #[inline(always)]
    pub(crate) fn attention_values(self, codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]) {
        // SAFETY: `self` exists only where `detect` found AVX2.
        unsafe { columns::<false>(codes, values, acc) }
    }

    /// Adds rows of values, each times its code, -127 to 127; `acc` is `[width]`.
    #[inline(always)]
    pub(crate) fn attention_values_signed(
        self,
        codes: &[[i8; QUAD]],
        values: &[i8],
        acc: &mut [i32],
    ) {
        // SAFETY: `self` exists only where `detect` found AVX2.
        unsafe { columns::<true>(codes, values, acc) }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn scores<const R: usize>(queries: [&[i32]; R], keys: &[KeyPair], out: &mut [[i32; KEYS]; R]) {
    let mut acc = [[_mm256_setzero_si256(); 4]; R];
    let queries = queries.map(|query| &query[..keys.len()]);
    for (pair, keys) in keys.iter().enumerate() {
        let keys: &[[i16; 16]] = keys.as_chunks().0;
        let keys =
            [load_keys(&keys[0]), load_keys(&keys[1]), load_keys(&keys[2]), load_keys(&keys[3])];
        for r in 0..R {
            let query = _mm256_set1_epi32(queries[r][pair]);
            for v in 0..4 {
                acc[r][v] = _mm256_add_epi32(acc[r][v], _mm256_madd_epi16(keys[v], query));
            }
        }
    }
    for (acc, out) in acc.into_iter().zip(out) {
        for (acc, out) in acc.into_iter().zip(out.as_chunks_mut().0) {
            store(acc, out);
        }
    }
}

/// All columns, as many registers of eight at a time as there are.
#[target_feature(enable = "avx2")]
#[inline]
fn columns<const SIGNED: bool>(codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]) {
    let width = acc.len() / 8;
    let (values, acc) = (values.as_chunks::<32>().0, acc.as_chunks_mut::<8>().0);
    let mut start = 0;
    while start < width {
        let acc = &mut acc[start..];
        start += match width - start {
            2 | 3 => weigh::<SIGNED, 2>(codes, &values[start..], width, acc),
            _ => weigh::<SIGNED, 4>(codes, &values[start..], width, acc),
        };
    }
}

/// `V` registers of columns; returns how many.
#[target_feature(enable = "avx2")]
#[inline]
fn weigh<const SIGNED: bool, const V: usize>(
    codes: &[[i8; QUAD]],
    values: &[[i8; 32]],
    width: usize,
    out: &mut [[i32; 8]],
) -> usize {
    let ones = _mm256_set1_epi16(1);
    let mut acc = [_mm256_setzero_si256(); V];
    for (codes, values) in codes.iter().zip(values.chunks(width)) {
        let code = _mm256_set1_epi32(i32::from_le_bytes(codes.map(i8::cast_unsigned)));
        let magnitude = if SIGNED { _mm256_abs_epi8(code) } else { code };
        let values: &[_; V] = values.first_chunk().expect("so many registers are left");
        for v in 0..V {
            let value = load_codes(&values[v]);
            // A value's code is -127 at least, so its negative is a byte too.
            let value = if SIGNED { _mm256_sign_epi8(value, code) } else { value };
            // Two products of 127^2 at most stay below 2^15: nothing saturates.
            let pairs = _mm256_maddubs_epi16(magnitude, value);
            acc[v] = _mm256_add_epi32(acc[v], _mm256_madd_epi16(pairs, ones));
        }
    }
    for (acc, out) in acc.into_iter().zip(out) {
        store(_mm256_add_epi32(load(out), acc), out);
    }
    V
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(x: &[i32; 8]) -> __m256i {
    // SAFETY: 32 bytes are readable by their type, at any alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_keys(x: &[i16; 16]) -> __m256i {
    // SAFETY: 32 bytes are readable by their type, at any alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_codes(x: &[i8; 32]) -> __m256i {
    // SAFETY: 32 bytes are readable by their type, at any alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(x: __m256i, out: &mut [i32; 8]) {
    // SAFETY: 32 bytes are writable by their type, at any alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) }
}
