//! Products of packed operands with AVX2, exact and faster than its widened multiplies.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds two neighbouring products to a lane of 16
//! bits. The unsigned operand is a weight with 128 added, `u` in 1 to 255; the signed one a code `a`. A
//! lane that collects products of some codes lies between `-255 * N` and `255 * P`, where `P` is the sum of
//! the positive and `N` that of the negated negative ones. So
//!
//! ```text
//! P <= 128 and N <= 128   =>   -32,640 <= sum of u * a <= 32,640:   no lane saturates or wraps
//! ```
//!
//! whatever the weights are. The condition is on the row alone; it is looked up once per row and used for
//! all panels. Most codes are small, because a row's step fits its largest: usually sixteen neighbours
//! keep the condition, so four quads share one widening (`vpmaddwd` by ones) and one 32-bit addition.
//!
//! | quads | condition, per lane of a quad | operations for 32 products |
//! |---|---|---|
//! | four together | their codes keep it | 2.25 |
//! | two together | theirs do | 2.5 |
//! | one | its two do | 3 |
//! | signed | none: `|a|` times `w` with the sign of `a`, at most `2 * 127^2 < 2^15` | 5 |
//!
//! The 128 is taken back by a row's sum of codes, those of signed quads excepted.
#![expect(unsafe_code, reason = "intrinsics; a token proves that the CPU has them")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "registers only: one demand for all")]

use core::{arch::x86_64::*, array, ops::Range};

use super::packed::{BLOCK, CodeRows, Panel, Plan, QUAD};
use crate::lanes::avx2::Avx2;

/// Greatest sum of positive codes, and of negated negative ones, that a lane of 16 bits can collect.
const LANE_MAX: i16 = 128;

const _: () = assert!(255 * (LANE_MAX as i32) < 1 << 15);

/// One quad of `V` times 8 channels.
type Quad<const V: usize> = [[u8; 32]; V];

impl Avx2 {
    /// Sorts the quads of a block, a multiple of 32 codes, into those that go together.
    pub(crate) fn arrange_quads(self, codes: &[i8], plan: &mut Plan) {
        // SAFETY: `self` exists only where `detect` found AVX2.
        unsafe { arrange(codes, plan) }
    }

    /// Multiplies rows by a panel; `tile` is `[rows, width]`.
    pub(crate) fn multiply(
        self,
        panel: Panel<'_>,
        lhs: &CodeRows,
        rows: Range<usize>,
        tile: &mut [i32],
    ) {
        // SAFETY: `self` exists only where `detect` found AVX2.
        unsafe {
            match panel.width / 8 {
                2 => multiply::<2>(panel, lhs, rows, tile),
                4 => multiply::<4>(panel, lhs, rows, tile),
                6 => multiply::<6>(panel, lhs, rows, tile),
                _ => multiply::<8>(panel, lhs, rows, tile),
            }
        }
    }
}

/// Which quads of a block break the condition: alone, in their pair, in their four. A bit per quad.
#[derive(Clone, Copy, Default)]
struct Broken {
    alone: u128,
    pair: u128,
    four: u128,
}

const _: () = assert!(BLOCK <= 128, "a bit per quad");

#[target_feature(enable = "avx2")]
fn arrange(codes: &[i8], plan: &mut Plan) {
    let (broken, total) = examine(codes);
    // Of a pair or a four, every quad's bit is set or none; the first speaks for all.
    const FIRST_OF_PAIR: u128 = u128::MAX / 3;
    const FIRST_OF_FOUR: u128 = u128::MAX / 15;
    let all = u128::MAX >> (128 - codes.len() / QUAD);
    let mut count = 0;
    let mut list = |mut quads: u128, step: u32| {
        while quads != 0 {
            let quad = u8::try_from(quads.trailing_zeros() / step).expect("128 quads at most");
            plan.entries[count] = quad;
            count += 1;
            quads &= quads - 1;
        }
        u8::try_from(count).expect("128 quads at most")
    };
    let signed = broken.four & broken.pair & broken.alone;
    plan.ends = [
        list(all & FIRST_OF_FOUR & !broken.four, 4),
        list(all & FIRST_OF_PAIR & broken.four & !broken.pair, 2),
        list(broken.four & broken.pair & !broken.alone, 1),
        list(signed, 1),
    ];
    let mut unsigned = total;
    let quads = codes.as_chunks::<QUAD>().0;
    for quad in &plan.entries[usize::from(plan.ends[2])..usize::from(plan.ends[3])] {
        unsigned -= quads[usize::from(*quad)].iter().map(|code| i32::from(*code)).sum::<i32>();
    }
    // |unsigned| <= 127 * 384.
    plan.base = -128 * unsigned;
}

/// The condition for each quad, pair and four, and the sum of all codes.
#[target_feature(enable = "avx2")]
#[inline]
fn examine(codes: &[i8]) -> (Broken, i32) {
    let zero = _mm256_setzero_si256();
    let (ones, ones16) = (_mm256_set1_epi8(1), _mm256_set1_epi16(1));
    let limit = _mm256_set1_epi16(LANE_MAX);
    // A quad is a lane of 32 bits here: two sums of 16 bits, either of which may break the condition.
    let bits = |positive: __m256i, negative: __m256i| {
        let above = _mm256_cmpgt_epi16(_mm256_max_epi16(positive, negative), limit);
        let either = _mm256_or_si256(above, _mm256_slli_epi32::<16>(above));
        u128::from(_mm256_movemask_ps(_mm256_castsi256_ps(either)).cast_unsigned())
    };
    let (mut broken, mut total) = (Broken::default(), zero);
    for (i, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        let code = load_codes(codes);
        let positive = _mm256_maddubs_epi16(_mm256_max_epi8(code, zero), ones);
        let negative =
            _mm256_maddubs_epi16(_mm256_max_epi8(_mm256_sub_epi8(zero, code), zero), ones);
        let sum = _mm256_madd_epi16(_mm256_sub_epi16(positive, negative), ones16);
        total = _mm256_add_epi32(total, sum);
        let paired = |x| _mm256_add_epi16(x, _mm256_shuffle_epi32::<0b10_11_00_01>(x));
        let (positives, negatives) = (paired(positive), paired(negative));
        let crossed = |x| _mm256_add_epi16(x, _mm256_shuffle_epi32::<0b01_00_11_10>(x));
        broken.alone |= bits(positive, negative) << (8 * i);
        broken.pair |= bits(positives, negatives) << (8 * i);
        broken.four |= bits(crossed(positives), crossed(negatives)) << (8 * i);
    }
    (broken, sum_lanes(total))
}

#[target_feature(enable = "avx2")]
fn multiply<const V: usize>(
    panel: Panel<'_>,
    lhs: &CodeRows,
    rows: Range<usize>,
    tile: &mut [i32],
) {
    let quads: &[Quad<V>] = panel.bytes.as_chunks().0.as_chunks().0;
    for (block, quads) in quads.chunks(BLOCK).enumerate() {
        let sums = tile.as_chunks_mut::<8>().0.as_chunks_mut::<V>().0;
        for (row, sums) in rows.clone().zip(sums) {
            let (codes, plan) = lhs.block(row, block);
            let base = _mm256_set1_epi32(plan.base);
            let mut acc = [base; V];
            if block > 0 {
                acc = array::from_fn(|v| _mm256_add_epi32(base, load(&sums[v])));
            }
            row_block(quads, codes, plan, &mut acc);
            for (acc, sum) in acc.into_iter().zip(sums) {
                store(acc, sum);
            }
        }
    }
}

/// Adds the products of one block of a row.
#[target_feature(enable = "avx2")]
#[inline]
fn row_block<const V: usize>(
    quads: &[Quad<V>],
    codes: &[[i8; QUAD]],
    plan: &Plan,
    acc: &mut [__m256i; V],
) {
    let [four, pair, one, signed] = plan.ends.map(usize::from);
    together::<4, V>(quads, codes, &plan.entries[..four], acc);
    together::<2, V>(quads, codes, &plan.entries[four..pair], acc);
    together::<1, V>(quads, codes, &plan.entries[pair..one], acc);
    let (ones, bias) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
    for quad in &plan.entries[one..signed] {
        let (weights, code) = (&quads[usize::from(*quad)], broadcast(&codes[usize::from(*quad)]));
        let magnitude = _mm256_abs_epi8(code);
        for (acc, weights) in acc.iter_mut().zip(weights) {
            // A weight is -127 at least, so its negative is a byte too.
            let weight = _mm256_sign_epi8(_mm256_xor_si256(load_bytes(weights), bias), code);
            let sum = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, weight), ones);
            *acc = _mm256_add_epi32(*acc, sum);
        }
    }
}

/// Adds the products of groups of `G` quads whose lanes can collect all of a group.
#[target_feature(enable = "avx2")]
#[inline]
fn together<const G: usize, const V: usize>(
    quads: &[Quad<V>],
    codes: &[[i8; QUAD]],
    groups: &[u8],
    acc: &mut [__m256i; V],
) {
    let ones = _mm256_set1_epi16(1);
    let (quads, codes) = (quads.as_chunks::<G>().0, codes.as_chunks::<G>().0);
    for group in groups {
        let weights = &quads[usize::from(*group)];
        let codes = codes[usize::from(*group)].each_ref().map(|codes| broadcast(codes));
        // Two registers of channels at a time: equal operations side by side spread best over the ports.
        for v in (0..V).step_by(2) {
            let mut lanes = [_mm256_setzero_si256(); 2];
            for g in 0..G {
                let low = _mm256_maddubs_epi16(load_bytes(&weights[g][v]), codes[g]);
                let high = _mm256_maddubs_epi16(load_bytes(&weights[g][v + 1]), codes[g]);
                lanes = [_mm256_add_epi16(lanes[0], low), _mm256_add_epi16(lanes[1], high)];
            }
            let [low, high] = lanes.map(|lanes| _mm256_madd_epi16(lanes, ones));
            acc[v] = _mm256_add_epi32(acc[v], low);
            acc[v + 1] = _mm256_add_epi32(acc[v + 1], high);
        }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn broadcast(codes: &[i8; QUAD]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(codes.map(i8::cast_unsigned)))
}

#[target_feature(enable = "avx2")]
#[inline]
fn sum_lanes(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(x: &[i32; 8]) -> __m256i {
    // SAFETY: 32 bytes are readable by their type, at any alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_bytes(x: &[u8; 32]) -> __m256i {
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
