//! `Keccak-f[1600]` on four states at once: word i of every state lies in one 256-bit register.
#![expect(unsafe_code, reason = "a token proves that the CPU has AVX2")]

use core::arch::x86_64::{
    __m256i, _mm256_andnot_si256, _mm256_extract_epi64, _mm256_or_si256, _mm256_set_epi64x,
    _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_slli_epi64, _mm256_srli_epi64,
    _mm256_xor_si256,
};

use crate::B256;

/// Bytes absorbed between two permutations.
const RATE: usize = 136;

const ROUND_CONSTANTS: [u64; 24] = [
    0x0000000000000001,
    0x0000000000008082,
    0x800000000000808a,
    0x8000000080008000,
    0x000000000000808b,
    0x0000000080000001,
    0x8000000080008081,
    0x8000000000008009,
    0x000000000000008a,
    0x0000000000000088,
    0x0000000080008009,
    0x000000008000000a,
    0x000000008000808b,
    0x800000000000008b,
    0x8000000000008089,
    0x8000000000008003,
    0x8000000000008002,
    0x8000000000000080,
    0x000000000000800a,
    0x800000008000000a,
    0x8000000080008081,
    0x8000000000008080,
    0x0000000080000001,
    0x8000000080008008,
];

/// Proof that this CPU has AVX2: holding one is what makes [`hash4`](Self::hash4) safe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

impl Avx2 {
    /// `None` where the CPU lacks the instructions.
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// keccak-256 of four messages of one length.
    pub(super) fn hash4(self, messages: [&[u8]; 4]) -> [B256; 4] {
        // SAFETY: `self` exists only where `detect` found avx2.
        unsafe { hash4(messages) }
    }
}

#[target_feature(enable = "avx2")]
fn hash4(messages: [&[u8]; 4]) -> [B256; 4] {
    let mut state = [_mm256_setzero_si256(); 25];
    let mut rest = messages;
    while let [Some(a), Some(b), Some(c), Some(d)] = rest.map(<[u8]>::split_first_chunk::<RATE>) {
        absorb(&mut state, [a.0, b.0, c.0, d.0]);
        permute(&mut state);
        rest = [a.1, b.1, c.1, d.1];
    }
    let last = rest.map(|tail| {
        let mut block = [0; RATE];
        block[..tail.len()].copy_from_slice(tail);
        block[tail.len()] = 0x01;
        block[RATE - 1] |= 0x80;
        block
    });
    absorb(&mut state, last.each_ref());
    permute(&mut state);
    squeeze(&state)
}

#[target_feature(enable = "avx2")]
fn absorb(state: &mut [__m256i; 25], blocks: [&[u8; RATE]; 4]) {
    let [a, b, c, d] = blocks.map(|block| block.as_chunks::<8>().0);
    for (i, word) in state.iter_mut().take(RATE / 8).enumerate() {
        let [a, b, c, d] = [a[i], b[i], c[i], d[i]].map(i64::from_le_bytes);
        *word = _mm256_xor_si256(*word, _mm256_set_epi64x(d, c, b, a));
    }
}

#[target_feature(enable = "avx2")]
fn squeeze(state: &[__m256i; 25]) -> [B256; 4] {
    let mut out = [B256::ZERO; 4];
    for (i, word) in state.iter().take(4).enumerate() {
        let lanes = [
            _mm256_extract_epi64::<0>(*word),
            _mm256_extract_epi64::<1>(*word),
            _mm256_extract_epi64::<2>(*word),
            _mm256_extract_epi64::<3>(*word),
        ];
        for (hash, lane) in out.iter_mut().zip(lanes) {
            hash[8 * i..8 * i + 8].copy_from_slice(&lane.to_le_bytes());
        }
    }
    out
}

/// Rotates left by a constant; by 0 it is the identity, since a right shift by 64 gives 0.
macro_rules! rotate {
    ($lane:expr, $left:literal) => {{
        let lane = $lane;
        _mm256_or_si256(_mm256_slli_epi64::<$left>(lane), _mm256_srli_epi64::<{ 64 - $left }>(lane))
    }};
}

/// Steps theta (its second half), rho and pi (FIPS 202, 3.2.1 to 3.2.3), word by word.
macro_rules! rho_pi {
    ($state:ident, $parity:ident, $($to:literal <- $from:literal by $left:literal),* $(,)?) => {{
        let mut moved = [_mm256_setzero_si256(); 25];
        $(moved[$to] = rotate!(_mm256_xor_si256($state[$from], $parity[$from % 5]), $left);)*
        moved
    }};
}

/// `Keccak-f[1600]` (FIPS 202, 3.3); word (x, y) of the text is word x + 5y here.
#[target_feature(enable = "avx2")]
fn permute(state: &mut [__m256i; 25]) {
    let mut a = *state;
    for constant in ROUND_CONSTANTS {
        let mut column = [_mm256_setzero_si256(); 5];
        for x in 0..5 {
            let upper = _mm256_xor_si256(_mm256_xor_si256(a[x], a[x + 5]), a[x + 10]);
            column[x] = _mm256_xor_si256(upper, _mm256_xor_si256(a[x + 15], a[x + 20]));
        }
        let mut parity = [_mm256_setzero_si256(); 5];
        for x in 0..5 {
            parity[x] = _mm256_xor_si256(column[(x + 4) % 5], rotate!(column[(x + 1) % 5], 1));
        }
        let b = rho_pi!(
            a, parity,
            0 <- 0 by 0, 1 <- 6 by 44, 2 <- 12 by 43, 3 <- 18 by 21, 4 <- 24 by 14,
            5 <- 3 by 28, 6 <- 9 by 20, 7 <- 10 by 3, 8 <- 16 by 45, 9 <- 22 by 61,
            10 <- 1 by 1, 11 <- 7 by 6, 12 <- 13 by 25, 13 <- 19 by 8, 14 <- 20 by 18,
            15 <- 4 by 27, 16 <- 5 by 36, 17 <- 11 by 10, 18 <- 17 by 15, 19 <- 23 by 56,
            20 <- 2 by 62, 21 <- 8 by 55, 22 <- 14 by 39, 23 <- 15 by 41, 24 <- 21 by 2,
        );
        for y in [0, 5, 10, 15, 20] {
            for x in 0..5 {
                let others = _mm256_andnot_si256(b[y + (x + 1) % 5], b[y + (x + 2) % 5]);
                a[y + x] = _mm256_xor_si256(b[y + x], others);
            }
        }
        a[0] = _mm256_xor_si256(a[0], _mm256_set1_epi64x(constant.cast_signed()));
    }
    *state = a;
}
