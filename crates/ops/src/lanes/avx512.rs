//! The operations of [`Lanes`] in AVX-512: sixteen lanes.
#![expect(unsafe_code, reason = "intrinsics; a token proves that the CPU has them")]

use core::arch::x86_64::*;

use super::{Lanes, Lookup16, Work};

/// Proof that this CPU has AVX-512 with VNNI: holding one is what makes its methods safe.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// `None` where the CPU lacks the instructions.
    pub fn detect() -> Option<Self> {
        let found = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vnni");
        found.then_some(Self(()))
    }
}

/// Evaluates intrinsics that touch no memory.
macro_rules! registers {
    ($expression:expr) => {
        // SAFETY: the only demands are AVX-512 F, BW, VL and DQ, and `self` exists only where `detect`
        // found them.
        unsafe {
            $expression
        }
    };
}

impl Lanes for Avx512 {
    const WIDTH: usize = 16;
    type Word = __m512i;
    type Wide = __m512i;

    #[inline(always)]
    fn vectorize<W: Work<Self>>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        fn inner<W: Work<Avx512>>(l: Avx512, work: W) -> W::Output {
            work.run(l)
        }
        registers!(inner(self, work))
    }

    #[inline(always)]
    fn load(self, x: &[i32]) -> __m512i {
        assert!(x.len() >= 16, "a word is loaded from a word or more");
        // SAFETY: AVX-512 as `self` proves; 64 bytes are readable by the line above, at any alignment.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, x: __m512i, out: &mut [i32]) {
        assert!(out.len() >= 16, "a word is stored to a word or more");
        // SAFETY: AVX-512 as `self` proves; 64 bytes are writable by the line above, at any alignment.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) }
    }

    #[inline(always)]
    fn splat(self, x: i32) -> __m512i {
        registers!(_mm512_set1_epi32(x))
    }

    #[inline(always)]
    fn add(self, x: __m512i, y: __m512i) -> __m512i {
        registers!(_mm512_add_epi32(x, y))
    }

    #[inline(always)]
    fn sub(self, x: __m512i, y: __m512i) -> __m512i {
        registers!(_mm512_sub_epi32(x, y))
    }

    #[inline(always)]
    fn mul(self, x: __m512i, y: __m512i) -> __m512i {
        registers!(_mm512_mullo_epi32(x, y))
    }

    #[inline(always)]
    fn min(self, x: __m512i, y: __m512i) -> __m512i {
        registers!(_mm512_min_epi32(x, y))
    }

    #[inline(always)]
    fn max(self, x: __m512i, y: __m512i) -> __m512i {
        registers!(_mm512_max_epi32(x, y))
    }

    #[inline(always)]
    fn abs(self, x: __m512i) -> __m512i {
        registers!(_mm512_abs_epi32(x))
    }

    #[inline(always)]
    fn shift_right(self, x: __m512i, shift: u32) -> __m512i {
        registers!(_mm512_sra_epi32(x, _mm_cvtsi32_si128(shift.cast_signed())))
    }

    #[inline(always)]
    fn shift_right_each(self, x: __m512i, shift: __m512i) -> __m512i {
        registers!(_mm512_srlv_epi32(x, shift))
    }

    #[inline(always)]
    fn within(self, x: __m512i, from: isize, to: isize, other: __m512i) -> __m512i {
        // Bits `from..to` of 16: those below `to` without those below `from`.
        let inside = below(to) & !below(from);
        registers!(_mm512_mask_mov_epi32(other, inside, x))
    }

    #[inline(always)]
    fn greatest(self, x: __m512i) -> i32 {
        registers!(_mm512_reduce_max_epi32(x))
    }

    #[inline(always)]
    fn total(self, x: __m512i) -> i64 {
        registers!({
            let low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(x));
            let high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64::<1>(x));
            _mm512_reduce_add_epi64(_mm512_add_epi64(low, high))
        })
    }

    #[inline(always)]
    fn products(self, x: __m512i, y: __m512i) -> (__m512i, __m512i) {
        registers!({
            let (x_odd, y_odd) = (_mm512_srli_epi64::<32>(x), _mm512_srli_epi64::<32>(y));
            (_mm512_mul_epi32(x, y), _mm512_mul_epi32(x_odd, y_odd))
        })
    }

    #[inline(always)]
    fn wide_splat(self, x: i64) -> __m512i {
        registers!(_mm512_set1_epi64(x))
    }

    #[inline(always)]
    fn wide_add(self, x: __m512i, y: __m512i) -> __m512i {
        registers!(_mm512_add_epi64(x, y))
    }

    #[inline(always)]
    fn wide_total(self, x: __m512i) -> i64 {
        registers!(_mm512_reduce_add_epi64(x))
    }

    #[inline(always)]
    fn narrow(self, even: __m512i, odd: __m512i, shift: u32) -> __m512i {
        registers!({
            let (right, left) = (shift.cast_signed(), (32 - shift).cast_signed());
            let even = _mm512_srl_epi64(even, _mm_cvtsi32_si128(right));
            let odd = _mm512_sll_epi64(odd, _mm_cvtsi32_si128(left));
            _mm512_mask_blend_epi32(0b1010_1010_1010_1010, even, odd)
        })
    }

    #[inline(always)]
    fn lookup(self, table: &[u32; 256], x: __m512i) -> __m512i {
        // Eight choices among 32 entries each, then by the upper three bits among those: half the time of a gather on a
        // CPU whose gathers go entry by entry.
        let words = table.as_chunks::<16>().0;
        let mut of = [x; 8];
        for (i, of) in of.iter_mut().enumerate() {
            let [low, high] = [2 * i, 2 * i + 1].map(|word| words[word].as_ptr().cast());
            // SAFETY: AVX-512 as `self` proves; 64 bytes are readable by their type, at any alignment.
            let low = unsafe { _mm512_loadu_si512(low) };
            // SAFETY: as for the line above.
            let high = unsafe { _mm512_loadu_si512(high) };
            *of = registers!(_mm512_permutex2var_epi32(low, x, high));
        }
        registers!({
            let b32 = _mm512_test_epi32_mask(x, _mm512_set1_epi32(32));
            let b64 = _mm512_test_epi32_mask(x, _mm512_set1_epi32(64));
            let b128 = _mm512_test_epi32_mask(x, _mm512_set1_epi32(128));
            let first = _mm512_mask_blend_epi32(b32, of[0], of[1]);
            let second = _mm512_mask_blend_epi32(b32, of[2], of[3]);
            let third = _mm512_mask_blend_epi32(b32, of[4], of[5]);
            let fourth = _mm512_mask_blend_epi32(b32, of[6], of[7]);
            let lower = _mm512_mask_blend_epi32(b64, first, second);
            let upper = _mm512_mask_blend_epi32(b64, third, fourth);
            _mm512_mask_blend_epi32(b128, lower, upper)
        })
    }

    #[inline(always)]
    fn lookup16(self, table: Lookup16<'_>, x: __m512i) -> __m512i {
        let last = i32::try_from(table.last()).expect("a table is short");
        let place = registers!(_mm512_min_epu32(x, _mm512_set1_epi32(last)));
        // SAFETY: AVX-512 as `self` proves; each lane reads two entries from `last` at most on, and the
        // padding stands after `last`.
        let pair = unsafe { _mm512_i32gather_epi32::<2>(place, table.padded().as_ptr().cast()) };
        registers!(_mm512_and_si512(pair, _mm512_set1_epi32(0xffff)))
    }

    #[inline(always)]
    fn store_codes(self, words: &[__m512i; 4], out: &mut [i8; 32]) {
        let codes = registers!({
            let (low, high) = (_mm512_cvtepi32_epi8(words[0]), _mm512_cvtepi32_epi8(words[1]));
            _mm256_set_m128i(high, low)
        });
        // SAFETY: AVX-512 as `self` proves; 32 bytes are writable by their type, at any alignment.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), codes) }
    }
}

/// A mask of the lanes below `at`.
#[inline(always)]
fn below(at: isize) -> u16 {
    let lanes = at.clamp(0, 16).cast_unsigned();
    u16::try_from((1_u32 << lanes) - 1).expect("16 bits")
}
