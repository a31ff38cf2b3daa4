//! The operations of [`Lanes`] in AVX2: eight lanes.
//!
//! AVX2 has no arithmetic shift of 64-bit lanes; [`narrow`](Lanes::narrow) needs none, because the low 32
//! bits of a logical shift by 32 or less are those of an arithmetic one.
#![expect(unsafe_code, reason = "intrinsics; a token proves that the CPU has them")]

use core::arch::x86_64::*;

use super::{Lanes, Lookup16, Work};

/// Proof that this CPU has AVX2: holding one is what makes its methods safe.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// `None` where the CPU lacks the instructions.
    pub fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

/// Evaluates intrinsics that touch no memory.
macro_rules! registers {
    ($expression:expr) => {
        // SAFETY: the only demand is AVX2, and `self` exists only where `detect` found it.
        unsafe { $expression }
    };
}

impl Lanes for Avx2 {
    const WIDTH: usize = 8;
    type Word = __m256i;
    type Wide = __m256i;

    #[inline(always)]
    fn vectorize<W: Work<Self>>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx2")]
        fn inner<W: Work<Avx2>>(l: Avx2, work: W) -> W::Output {
            work.run(l)
        }
        registers!(inner(self, work))
    }

    #[inline(always)]
    fn load(self, x: &[i32]) -> __m256i {
        assert!(x.len() >= 8, "a word is loaded from a word or more");
        // SAFETY: AVX2 as `self` proves; 32 bytes are readable by the line above, at any alignment.
        unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, x: __m256i, out: &mut [i32]) {
        assert!(out.len() >= 8, "a word is stored to a word or more");
        // SAFETY: AVX2 as `self` proves; 32 bytes are writable by the line above, at any alignment.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) }
    }

    #[inline(always)]
    fn splat(self, x: i32) -> __m256i {
        registers!(_mm256_set1_epi32(x))
    }

    #[inline(always)]
    fn add(self, x: __m256i, y: __m256i) -> __m256i {
        registers!(_mm256_add_epi32(x, y))
    }

    #[inline(always)]
    fn sub(self, x: __m256i, y: __m256i) -> __m256i {
        registers!(_mm256_sub_epi32(x, y))
    }

    #[inline(always)]
    fn mul(self, x: __m256i, y: __m256i) -> __m256i {
        registers!(_mm256_mullo_epi32(x, y))
    }

    #[inline(always)]
    fn min(self, x: __m256i, y: __m256i) -> __m256i {
        registers!(_mm256_min_epi32(x, y))
    }

    #[inline(always)]
    fn max(self, x: __m256i, y: __m256i) -> __m256i {
        registers!(_mm256_max_epi32(x, y))
    }

    #[inline(always)]
    fn abs(self, x: __m256i) -> __m256i {
        registers!(_mm256_abs_epi32(x))
    }

    #[inline(always)]
    fn shift_right(self, x: __m256i, shift: u32) -> __m256i {
        registers!(_mm256_sra_epi32(x, _mm_cvtsi32_si128(shift.cast_signed())))
    }

    #[inline(always)]
    fn shift_right_each(self, x: __m256i, shift: __m256i) -> __m256i {
        registers!(_mm256_srlv_epi32(x, shift))
    }

    #[inline(always)]
    fn within(self, x: __m256i, from: isize, to: isize, other: __m256i) -> __m256i {
        registers!({
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let (from, to) = (_mm256_set1_epi32(clamped(from)), _mm256_set1_epi32(clamped(to)));
            let before = _mm256_cmpgt_epi32(from, lane);
            let inside = _mm256_andnot_si256(before, _mm256_cmpgt_epi32(to, lane));
            _mm256_blendv_epi8(other, x, inside)
        })
    }

    #[inline(always)]
    fn greatest(self, x: __m256i) -> i32 {
        registers!({
            let x = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            let x = _mm_max_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
            _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
        })
    }

    #[inline(always)]
    fn total(self, x: __m256i) -> i64 {
        registers!({
            let low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(x));
            let high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256::<1>(x));
            self.wide_total(_mm256_add_epi64(low, high))
        })
    }

    #[inline(always)]
    fn products(self, x: __m256i, y: __m256i) -> (__m256i, __m256i) {
        registers!({
            // Moved by a shuffle: a shift tempts the compiler to multiply 64-bit lanes in pieces.
            let odd = |x| _mm256_shuffle_epi32::<0b11_11_01_01>(x);
            (_mm256_mul_epi32(x, y), _mm256_mul_epi32(odd(x), odd(y)))
        })
    }

    #[inline(always)]
    fn wide_splat(self, x: i64) -> __m256i {
        registers!(_mm256_set1_epi64x(x))
    }

    #[inline(always)]
    fn wide_add(self, x: __m256i, y: __m256i) -> __m256i {
        registers!(_mm256_add_epi64(x, y))
    }

    #[inline(always)]
    fn wide_total(self, x: __m256i) -> i64 {
        registers!({
            let x = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            _mm_cvtsi128_si64(_mm_add_epi64(x, _mm_unpackhi_epi64(x, x)))
        })
    }

    #[inline(always)]
    fn narrow(self, even: __m256i, odd: __m256i, shift: u32) -> __m256i {
        registers!({
            let (right, left) = (shift.cast_signed(), (32 - shift).cast_signed());
            let even = _mm256_srl_epi64(even, _mm_cvtsi32_si128(right));
            let odd = _mm256_sll_epi64(odd, _mm_cvtsi32_si128(left));
            _mm256_blend_epi32::<0b1010_1010>(even, odd)
        })
    }

    #[inline(always)]
    fn lookup(self, table: &[u32; 256], x: __m256i) -> __m256i {
        let place = registers!(_mm256_and_si256(x, _mm256_set1_epi32(255)));
        // SAFETY: AVX2 as `self` proves; each lane reads entry 0 to 255 of a table of 256.
        unsafe { _mm256_i32gather_epi32::<4>(table.as_ptr().cast(), place) }
    }

    #[inline(always)]
    fn lookup16(self, table: Lookup16<'_>, x: __m256i) -> __m256i {
        let last = i32::try_from(table.last()).expect("a table is short");
        let place = registers!(_mm256_min_epu32(x, _mm256_set1_epi32(last)));
        // SAFETY: AVX2 as `self` proves; each lane reads two entries from `last` at most on, and the
        // padding stands after `last`.
        let pair = unsafe { _mm256_i32gather_epi32::<2>(table.padded().as_ptr().cast(), place) };
        registers!(_mm256_and_si256(pair, _mm256_set1_epi32(0xffff)))
    }

    #[inline(always)]
    fn store_codes(self, words: &[__m256i; 4], out: &mut [i8; 32]) {
        let codes = registers!({
            let low = _mm256_packs_epi32(words[0], words[1]);
            let high = _mm256_packs_epi32(words[2], words[3]);
            // Packing works in halves of a register; the order within is by fours.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order)
        });
        // SAFETY: AVX2 as `self` proves; 32 bytes are writable by their type, at any alignment.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), codes) }
    }
}

/// A lane's number, or just beyond either end.
#[inline(always)]
fn clamped(at: isize) -> i32 {
    i32::try_from(at.clamp(-1, 16)).expect("clamped on this line")
}
