//! Products of attention with AVX-512 VNNI: `vpdpwssd` for scores, `vpdpbusd` for values.
//!
//! Attention weights are not negative, so they are the unsigned operand as they are. The low halves of
//! 15-bit weights have signs: their magnitude is the unsigned operand, and values take the sign.
#![expect(unsafe_code, reason = "intrinsics; a token proves that the CPU has them")]

use core::arch::x86_64::*;

use super::packed::{KEYS, KeyPair, QUAD};
use crate::lanes::avx512::Avx512;

impl Avx512 {
    /// Scores of `R` queries with a panel of keys; a query is its pairs of codes, two halves of 32 bits.
    #[inline(always)]
    pub(crate) fn attention_scores<const R: usize>(
        self,
        queries: [&[i32]; R],
        keys: &[KeyPair],
        out: &mut [[i32; KEYS]; R],
    ) {
        // SAFETY: `self` exists only where `detect` found the instructions.
        unsafe { scores(queries, keys, out) }
    }

    /// Adds rows of values, each times its code, 0 to 127; `acc` is `[width]`.
    #[inline(always)]
    pub(crate) fn attention_values(self, codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]) {
        // SAFETY: `self` exists only where `detect` found the instructions.
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
        // SAFETY: `self` exists only where `detect` found the instructions.
        unsafe { columns::<true>(codes, values, acc) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn scores<const R: usize>(queries: [&[i32]; R], keys: &[KeyPair], out: &mut [[i32; KEYS]; R]) {
    let mut acc = [[_mm512_setzero_si512(); 2]; R];
    let queries = queries.map(|query| &query[..keys.len()]);
    for (pair, keys) in keys.iter().enumerate() {
        let keys: &[[i16; 32]] = keys.as_chunks().0;
        let keys = [load_keys(&keys[0]), load_keys(&keys[1])];
        for r in 0..R {
            let query = _mm512_set1_epi32(queries[r][pair]);
            for v in 0..2 {
                acc[r][v] = _mm512_dpwssd_epi32(acc[r][v], keys[v], query);
            }
        }
    }
    for (acc, out) in acc.into_iter().zip(out) {
        for (acc, out) in acc.into_iter().zip(out.as_chunks_mut().0) {
            store(acc, out);
        }
    }
}

/// All columns, as many registers of sixteen at a time as there are.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn columns<const SIGNED: bool>(codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]) {
    let width = acc.len() / 16;
    let (values, acc) = (values.as_chunks::<64>().0, acc.as_chunks_mut::<16>().0);
    let mut start = 0;
    while start < width {
        let acc = &mut acc[start..];
        start += match width - start {
            1 => weigh::<SIGNED, 1>(codes, &values[start..], width, acc),
            2 | 3 => weigh::<SIGNED, 2>(codes, &values[start..], width, acc),
            _ => weigh::<SIGNED, 4>(codes, &values[start..], width, acc),
        };
    }
}

/// Adds one quad of keys to `V` registers of columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn add_products<const SIGNED: bool, const V: usize>(
    codes: [i8; QUAD],
    values: &[[i8; 64]],
    acc: &mut [__m512i; V],
) {
    let code = _mm512_set1_epi32(i32::from_le_bytes(codes.map(i8::cast_unsigned)));
    let magnitude = if SIGNED { _mm512_abs_epi8(code) } else { code };
    let negative = _mm512_movepi8_mask(code);
    let values: &[_; V] = values.first_chunk().expect("so many registers are left");
    for v in 0..V {
        let mut value = load_codes(&values[v]);
        if SIGNED {
            // A value's code is -127 at least, so its negative is a byte too.
            value = _mm512_mask_sub_epi8(value, negative, _mm512_setzero_si512(), value);
        }
        acc[v] = _mm512_dpbusd_epi32(acc[v], magnitude, value);
    }
}

/// `V` registers of columns; returns how many.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn weigh<const SIGNED: bool, const V: usize>(
    codes: &[[i8; QUAD]],
    values: &[[i8; 64]],
    width: usize,
    out: &mut [[i32; 16]],
) -> usize {
    // Two sums of each register, because one would wait for its own last product.
    let (mut even, mut odd) = ([_mm512_setzero_si512(); V], [_mm512_setzero_si512(); V]);
    let (pairs, last) = codes.as_chunks::<2>();
    let (paired, rest) = values.split_at((2 * pairs.len() * width).min(values.len()));
    for (pair, values) in pairs.iter().zip(paired.chunks(2 * width)) {
        add_products::<SIGNED, V>(pair[0], values, &mut even);
        add_products::<SIGNED, V>(pair[1], &values[width..], &mut odd);
    }
    if let [codes] = last {
        add_products::<SIGNED, V>(*codes, rest, &mut even);
    }
    for v in 0..V {
        store(_mm512_add_epi32(load(&out[v]), _mm512_add_epi32(even[v], odd[v])), &mut out[v]);
    }
    V
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(x: &[i32; 16]) -> __m512i {
    // SAFETY: 64 bytes are readable by their type, at any alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_keys(x: &[i16; 32]) -> __m512i {
    // SAFETY: 64 bytes are readable by their type, at any alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_codes(x: &[i8; 64]) -> __m512i {
    // SAFETY: 64 bytes are readable by their type, at any alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(x: __m512i, out: &mut [i32; 16]) {
    // SAFETY: 64 bytes are writable by their type, at any alignment.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) }
}
