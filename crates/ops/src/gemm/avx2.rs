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
//! | signed | none: `abs(a)` times `w` with the sign of `a`, at most `2 * 127^2 < 2^15` | 5 |
//!
//! The 128 is taken back by a row's sum of codes, those of signed quads excepted.
#![expect(unsafe_code, reason = "intrinsics; a token proves that the CPU has them")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "registers only: one demand for all")]

use core::{
    arch::{asm, x86_64::*},
    array,
    ops::Range,
};

use super::{
    narrow::{Group, NarrowPanel},
    packed::{BLOCK, CodeRows, Panel, QUAD},
    plan::{Plan, STRIDE},
};
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

    /// The bytes of a panel whose weights have four bits.
    pub(crate) fn widen_panel(self, panel: NarrowPanel<'_>, bytes: &mut [u8]) {
        // SAFETY: `self` exists only where `detect` found the instructions.
        unsafe { widen(panel, bytes) }
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
                _ => multiply::<6>(panel, lhs, rows, tile),
            }
        }
    }
}

/// A bit per quad of a block.
type Quads = [u64; 2];

const _: () = assert!(BLOCK <= 128, "a bit per quad");

/// Which quads of a block break the condition: alone, in their pair, in their four.
#[derive(Clone, Copy, Default)]
struct Broken {
    alone: Quads,
    pair: Quads,
    four: Quads,
}

#[target_feature(enable = "avx2")]
fn arrange(codes: &[i8], plan: &mut Plan) {
    // Of a pair or a four, every quad's bit is set or none; the first speaks for all.
    const FIRST_OF_PAIR: u64 = u64::MAX / 3;
    const FIRST_OF_FOUR: u64 = u64::MAX / 15;
    let (broken, total) = examine(codes);
    let codes = codes.as_chunks::<QUAD>().0;
    plan.begin(codes.len());
    for (word, codes) in codes.chunks(64).enumerate() {
        let all = if codes.len() < 64 { (1 << codes.len()) - 1 } else { u64::MAX };
        list::<4>(plan, word, codes, all & FIRST_OF_FOUR & !broken.four[word]);
    }
    plan.end(0);
    for (word, codes) in codes.chunks(64).enumerate() {
        list::<2>(plan, word, codes, FIRST_OF_PAIR & broken.four[word] & !broken.pair[word]);
    }
    plan.end(1);
    for (word, codes) in codes.chunks(64).enumerate() {
        let broken_pairs = broken.four[word] & broken.pair[word];
        list::<1>(plan, word, codes, broken_pairs & !broken.alone[word]);
    }
    plan.end(2);
    for (word, codes) in codes.chunks(64).enumerate() {
        list::<1>(plan, word, codes, broken.four[word] & broken.pair[word] & broken.alone[word]);
    }
    plan.end(3);
    let sum = |[_, codes]: &[u32; 2]| {
        codes.to_le_bytes().iter().map(|code| i32::from(code.cast_signed())).sum::<i32>()
    };
    let unsigned = total - plan.signed().iter().map(sum).sum::<i32>();
    // |unsigned| <= 127 * 384.
    plan.base = -128 * unsigned;
}

/// Appends the groups of `G` quads whose first one's bit is set; `codes` are those of the word's quads.
#[inline(always)]
fn list<const G: usize>(plan: &mut Plan, word: usize, codes: &[[i8; QUAD]], mut first: u64) {
    while first != 0 {
        let quad = first.trailing_zeros() as usize;
        let group = codes[quad..].first_chunk().expect("groups do not cross the end of a block");
        plan.push::<G>(64 * word + quad, group);
        first &= first - 1;
    }
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
        u64::from(_mm256_movemask_ps(_mm256_castsi256_ps(either)).cast_unsigned())
    };
    let (mut broken, mut total) = (Broken::default(), zero);
    for (word, codes) in codes.chunks(64 * QUAD).enumerate() {
        for (i, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
            let code = load_codes(codes);
            let negated = _mm256_sub_epi8(zero, code);
            let positive = _mm256_maddubs_epi16(_mm256_max_epi8(code, zero), ones);
            let negative = _mm256_maddubs_epi16(_mm256_max_epi8(negated, zero), ones);
            let sum = _mm256_madd_epi16(_mm256_sub_epi16(positive, negative), ones16);
            total = _mm256_add_epi32(total, sum);
            let paired = |x| _mm256_add_epi16(x, _mm256_shuffle_epi32::<0b10_11_00_01>(x));
            let (positives, negatives) = (paired(positive), paired(negative));
            let crossed = |x| _mm256_add_epi16(x, _mm256_shuffle_epi32::<0b01_00_11_10>(x));
            broken.alone[word] |= bits(positive, negative) << (8 * i);
            broken.pair[word] |= bits(positives, negatives) << (8 * i);
            broken.four[word] |= bits(crossed(positives), crossed(negatives)) << (8 * i);
        }
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
            let plan = lhs.plan(row, block);
            let base = _mm256_set1_epi32(plan.base);
            let mut acc = [base; V];
            if block > 0 {
                acc = array::from_fn(|v| _mm256_add_epi32(base, load(&sums[v])));
            }
            row_block(quads, plan, &mut acc);
            for (acc, sum) in acc.into_iter().zip(sums) {
                store(acc, sum);
            }
        }
    }
}

/// Adds the products of one block of a row.
#[target_feature(enable = "avx2")]
#[inline]
fn row_block<const V: usize>(quads: &[Quad<V>], plan: &Plan, acc: &mut [__m256i; V]) {
    // A full panel has six registers.
    if let (true, Some(acc)) = (V == 6, acc.first_chunk_mut()) {
        fours_of_six(quads.as_flattened().as_chunks().0, plan, acc);
    } else {
        together::<4, 5, V>(quads, plan.fours(), acc);
    }
    together::<2, 3, V>(quads, plan.pairs(), acc);
    together::<1, 2, V>(quads, plan.ones(), acc);
    let (ones, bias) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
    for [place, codes] in plan.signed() {
        let code = _mm256_set1_epi32(codes.cast_signed());
        let magnitude = _mm256_abs_epi8(code);
        for (acc, weights) in acc.iter_mut().zip(&quads[*place as usize / STRIDE]) {
            // A weight is -127 at least, so its negative is a byte too.
            let weight = _mm256_sign_epi8(_mm256_xor_si256(load_bytes(weights), bias), code);
            let sum = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, weight), ones);
            *acc = _mm256_add_epi32(*acc, sum);
        }
    }
}

/// Adds the products of entries of `G` quads whose lanes can collect all of an entry; `N` is `G + 1`.
#[target_feature(enable = "avx2")]
#[inline]
fn together<const G: usize, const N: usize, const V: usize>(
    quads: &[Quad<V>],
    entries: &[[u32; N]],
    acc: &mut [__m256i; V],
) {
    let ones = _mm256_set1_epi16(1);
    for entry in entries {
        let first = entry[0] as usize / STRIDE;
        let weights: &[Quad<V>; G] = quads[first..].first_chunk().expect("a plan fits its block");
        let codes: [__m256i; G] = array::from_fn(|g| _mm256_set1_epi32(entry[g + 1].cast_signed()));
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

/// [`together`] for four quads and six registers, in the order that runs best.
///
/// Compilers put the additions of a sum where they wait for its products; here equal operations stand side
/// by side, which keeps both multipliers busy.
#[target_feature(enable = "avx2")]
#[inline]
fn fours_of_six(quads: &[Quad<6>], plan: &Plan, acc: &mut [__m256i; 6]) {
    assert_eq!(quads.len(), plan.quads(), "a plan is used on the block it was made for");
    let entries = plan.fours();
    if entries.is_empty() {
        return;
    }
    /// Loads and multiplies two registers of channels of one quad.
    macro_rules! multiply {
        ($low:literal, $high:literal, $code:literal, $at:literal, $next:literal) => {
            concat!(
                "vmovdqu {",
                $low,
                "}, [{weights} + {place} + ",
                $at,
                "]\n",
                "vmovdqu {",
                $high,
                "}, [{weights} + {place} + ",
                $next,
                "]\n",
                "vpmaddubsw {",
                $low,
                "}, {",
                $low,
                "}, {",
                $code,
                "}\n",
                "vpmaddubsw {",
                $high,
                "}, {",
                $high,
                "}, {",
                $code,
                "}\n",
            )
        };
    }
    /// All products of two registers of channels, summed, widened and added to their sums.
    macro_rules! columns {
        ($low:literal, $high:literal, [$a0:literal, $a1:literal, $a2:literal, $a3:literal],
         [$b0:literal, $b1:literal, $b2:literal, $b3:literal]) => {
            concat!(
                multiply!("t0", "t1", "c0", $a0, $b0),
                multiply!("t2", "t3", "c1", $a1, $b1),
                "vpaddw {t0}, {t0}, {t2}\nvpaddw {t1}, {t1}, {t3}\n",
                multiply!("t2", "t3", "c2", $a2, $b2),
                "vpaddw {t0}, {t0}, {t2}\nvpaddw {t1}, {t1}, {t3}\n",
                multiply!("t2", "t3", "c3", $a3, $b3),
                "vpaddw {t0}, {t0}, {t2}\nvpaddw {t1}, {t1}, {t3}\n",
                "vpmaddwd {t0}, {t0}, {ones}\nvpmaddwd {t1}, {t1}, {ones}\n",
                "vpaddd {",
                $low,
                "}, {",
                $low,
                "}, {t0}\n",
                "vpaddd {",
                $high,
                "}, {",
                $high,
                "}, {t1}\n",
            )
        };
    }
    let [mut s0, mut s1, mut s2, mut s3, mut s4, mut s5] = *acc;
    // SAFETY: AVX2 is enabled. Reads are the entries, from the first to the end of the slice, and 768 bytes
    // from each entry's place on: `Plan` holds no place from which four quads would reach beyond its
    // `quads`, and as many are in `quads`. Nothing is written but registers that are declared.
    unsafe {
        asm!(
            "2:",
            "mov {place:e}, dword ptr [{next}]",
            "vpbroadcastd {c0}, [{next} + 4]",
            "vpbroadcastd {c1}, [{next} + 8]",
            "vpbroadcastd {c2}, [{next} + 12]",
            "vpbroadcastd {c3}, [{next} + 16]",
            columns!("s0", "s1", ["0", "192", "384", "576"], ["32", "224", "416", "608"]),
            columns!("s2", "s3", ["64", "256", "448", "640"], ["96", "288", "480", "672"]),
            columns!("s4", "s5", ["128", "320", "512", "704"], ["160", "352", "544", "736"]),
            "add {next}, 20",
            "cmp {next}, {end}",
            "jne 2b",
            weights = in(reg) quads.as_ptr(),
            next = inout(reg) entries.as_ptr() => _,
            end = in(reg) entries.as_ptr_range().end,
            place = out(reg) _,
            ones = in(ymm_reg) _mm256_set1_epi16(1),
            s0 = inout(ymm_reg) s0, s1 = inout(ymm_reg) s1, s2 = inout(ymm_reg) s2, s3 = inout(ymm_reg) s3,
            s4 = inout(ymm_reg) s4, s5 = inout(ymm_reg) s5,
            c0 = out(ymm_reg) _, c1 = out(ymm_reg) _, c2 = out(ymm_reg) _, c3 = out(ymm_reg) _,
            t0 = out(ymm_reg) _, t1 = out(ymm_reg) _, t2 = out(ymm_reg) _, t3 = out(ymm_reg) _,
            options(pure, readonly, nostack),
        );
    }
    *acc = [s0, s1, s2, s3, s4, s5];
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

/// As [`narrow::widen`](super::narrow::widen), two bytes at once in 16 bits.
#[target_feature(enable = "avx2")]
fn widen(panel: NarrowPanel<'_>, bytes: &mut [u8]) {
    let mask = _mm256_set1_epi8(15);
    for (Group { scales, halves }, [low, high]) in panel.groups_into(bytes) {
        for (register, scales) in scales.iter().enumerate() {
            for (part, scales) in scales.as_chunks::<8>().0.iter().enumerate() {
                let scale = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(*scales)));
                let scale = _mm256_or_si256(scale, _mm256_slli_epi32::<16>(scale));
                let term = _mm256_sub_epi16(_mm256_set1_epi16(128), _mm256_slli_epi16::<3>(scale));
                let term = _mm256_mullo_epi16(term, _mm256_set1_epi16(257));
                let byte = |halves| {
                    let product = _mm256_mullo_epi16(_mm256_and_si256(halves, mask), scale);
                    _mm256_add_epi16(product, term)
                };
                let places = low.iter_mut().zip(high.iter_mut()).zip(halves).skip(register);
                for ((low, high), halves) in places.step_by(panel.width / 16) {
                    let [low, high] = [low, high].map(|out| &mut out.as_chunks_mut::<32>().0[part]);
                    // SAFETY: 32 bytes are readable by their type, at any alignment.
                    let halves = unsafe {
                        _mm256_loadu_si256(halves.as_chunks::<32>().0[part].as_ptr().cast())
                    };
                    // SAFETY: 32 bytes are writable by their type, at any alignment.
                    unsafe { _mm256_storeu_si256(low.as_mut_ptr().cast(), byte(halves)) };
                    let halves = _mm256_srli_epi16::<4>(halves);
                    // SAFETY: 32 bytes are writable by their type, at any alignment.
                    unsafe { _mm256_storeu_si256(high.as_mut_ptr().cast(), byte(halves)) };
                }
            }
        }
    }
}
