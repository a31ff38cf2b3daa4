//! Products of packed operands with AVX-512 VNNI.
//!
//! `vpdpbusd` multiplies four unsigned by four signed bytes and adds all four products to a lane of 32 bits,
//! without saturation (`vpdpbusds` would saturate). The unsigned operand is a weight with 128 added, and a
//! row's sum of codes takes that back. A tile of eight rows by three registers keeps 24 sums in flight,
//! enough for two products a cycle at a latency of five.
#![expect(unsafe_code, reason = "intrinsics; a token proves that the CPU has them")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "registers only: one demand for all")]

use core::{arch::x86_64::*, ops::Range};

use super::{
    narrow::{Group, NarrowPanel},
    packed::{BLOCK, CodeRows, Panel, QUAD},
    plan::Plan,
};
use crate::{lanes::avx512::Avx512, nibbles::GROUP};

/// Rows of a tile.
const ROWS: usize = 8;

/// One quad of `V` times 16 channels.
type Quad<const V: usize> = [[u8; 64]; V];

impl Avx512 {
    /// The sum of a block's codes, a multiple of 32, which is all that this kernel wants to know.
    pub(crate) fn sum_codes(self, codes: &[i8], plan: &mut Plan) {
        // SAFETY: `self` exists only where `detect` found the instructions.
        // |sum| <= 127 * 384.
        plan.base = -128 * unsafe { sum(codes) };
    }

    /// The bytes of a panel whose weights have four bits.
    pub(crate) fn widen_panel(self, panel: NarrowPanel<'_>, bytes: &mut [u8]) {
        // SAFETY: `self` exists only where `detect` found the instructions.
        unsafe { widen(panel, bytes) }
    }

    /// Multiplies a few rows by a panel whose weights have four bits.
    pub(crate) fn multiply_narrow(
        self,
        panel: NarrowPanel<'_>,
        lhs: &CodeRows,
        rows: Range<usize>,
        tile: &mut [i32],
    ) {
        // SAFETY: `self` exists only where `detect` found the instructions that each arm enables.
        unsafe {
            match panel.width / 16 {
                1 => narrow_rows::<1>(panel, lhs, rows, tile),
                2 => narrow_rows::<2>(panel, lhs, rows, tile),
                _ => narrow_rows::<3>(panel, lhs, rows, tile),
            }
        }
    }

    /// Multiplies rows by a panel; `tile` is `[rows, width]`.
    pub(crate) fn multiply(
        self,
        panel: Panel<'_>,
        lhs: &CodeRows,
        rows: Range<usize>,
        tile: &mut [i32],
    ) {
        // SAFETY: `self` exists only where `detect` found the instructions that each arm enables.
        unsafe {
            match panel.width / 16 {
                1 => multiply::<1>(panel, lhs, rows, tile),
                2 => multiply::<2>(panel, lhs, rows, tile),
                _ => multiply::<3>(panel, lhs, rows, tile),
            }
        }
    }
}

/// As [`narrow::widen`](super::narrow::widen), two bytes at once in 16 bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn widen(panel: NarrowPanel<'_>, bytes: &mut [u8]) {
    let mask = _mm512_set1_epi8(15);
    for (Group { scales, halves }, [low, high]) in panel.groups_into(bytes) {
        for (register, scales) in scales.iter().enumerate() {
            // SAFETY: 16 bytes are readable by their type, at any alignment.
            let scales = unsafe { _mm_loadu_si128(scales.as_ptr().cast()) };
            let scale = _mm512_cvtepu8_epi32(scales);
            let scale = _mm512_or_si512(scale, _mm512_slli_epi32::<16>(scale));
            let term = _mm512_sub_epi16(_mm512_set1_epi16(128), _mm512_slli_epi16::<3>(scale));
            let term = _mm512_mullo_epi16(term, _mm512_set1_epi16(257));
            let byte = |halves| {
                let product = _mm512_mullo_epi16(_mm512_and_si512(halves, mask), scale);
                _mm512_add_epi16(product, term)
            };
            let places = low.iter_mut().zip(high.iter_mut()).zip(halves).skip(register);
            for ((low, high), halves) in places.step_by(panel.width / 16) {
                let halves = load_bytes(halves);
                store_bytes(byte(halves), low);
                store_bytes(byte(_mm512_srli_epi16::<4>(halves)), high);
            }
        }
    }
}

/// Row by row: halves as they are go into a group's products, `s * (sum of h * q - 8 * sum of q)` into the sum.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn narrow_rows<const V: usize>(
    panel: NarrowPanel<'_>,
    lhs: &CodeRows,
    rows: Range<usize>,
    tile: &mut [i32],
) {
    let (mask, eights) = (_mm512_set1_epi8(15), _mm512_set1_epi8(8));
    let sums = tile.as_chunks_mut::<16>().0.as_chunks_mut::<V>().0;
    for (row, sums) in rows.zip(sums) {
        let mut acc = [_mm512_setzero_si512(); V];
        let codes = lhs.row(row).as_chunks::<QUAD>().0.as_chunks::<{ GROUP / QUAD }>().0;
        for (Group { scales, halves }, codes) in panel.groups().zip(codes) {
            let scales: &[_; V] = scales.first_chunk().expect("sixteen channels a register");
            let halves: &[[_; V]; GROUP / QUAD / 2] =
                halves.as_chunks().0.first_chunk().expect("half as many as quads");
            // 15 * 127 * 32 at most in magnitude.
            let (mut group, mut base) = ([_mm512_setzero_si512(); V], _mm512_setzero_si512());
            for quad in 0..GROUP / QUAD / 2 {
                let low = broadcast(&codes[quad]);
                let high = broadcast(&codes[quad + GROUP / QUAD / 2]);
                base = _mm512_dpbusd_epi32(base, eights, low);
                base = _mm512_dpbusd_epi32(base, eights, high);
                for v in 0..V {
                    let both = load_bytes(&halves[quad][v]);
                    let first = _mm512_and_si512(both, mask);
                    let second = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
                    group[v] = _mm512_dpbusd_epi32(group[v], first, low);
                    group[v] = _mm512_dpbusd_epi32(group[v], second, high);
                }
            }
            for v in 0..V {
                // SAFETY: 16 bytes are readable by their type, at any alignment.
                let scale = unsafe { _mm_loadu_si128(scales[v].as_ptr().cast()) };
                let scale = _mm512_cvtepu8_epi32(scale);
                let product = _mm512_mullo_epi32(_mm512_sub_epi32(group[v], base), scale);
                acc[v] = _mm512_add_epi32(acc[v], product);
            }
        }
        for v in 0..V {
            store(acc[v], &mut sums[v]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sum(codes: &[i8]) -> i32 {
    let (ones, mut sums) = (_mm256_set1_epi8(1), _mm256_setzero_si256());
    for codes in codes.as_chunks::<32>().0 {
        // SAFETY: 32 bytes are readable by their type, at any alignment.
        let codes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        sums = _mm256_dpbusd_epi32(sums, ones, codes);
    }
    _mm512_reduce_add_epi32(_mm512_zextsi256_si512(sums))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn multiply<const V: usize>(
    panel: Panel<'_>,
    lhs: &CodeRows,
    rows: Range<usize>,
    tile: &mut [i32],
) {
    let quads: &[Quad<V>] = panel.bytes.as_chunks().0.as_chunks().0;
    for (block, quads) in quads.chunks(BLOCK).enumerate() {
        let sums = tile.as_chunks_mut::<16>().0.as_chunks_mut::<V>().0;
        for (row, sums) in rows.clone().step_by(ROWS).zip(sums.chunks_mut(ROWS)) {
            match sums.len().min(rows.end - row) {
                1 => tile_rows::<1, V>(quads, lhs, row, block, sums),
                2 => tile_rows::<2, V>(quads, lhs, row, block, sums),
                3 => tile_rows::<3, V>(quads, lhs, row, block, sums),
                4 => tile_rows::<4, V>(quads, lhs, row, block, sums),
                5 => tile_rows::<5, V>(quads, lhs, row, block, sums),
                6 => tile_rows::<6, V>(quads, lhs, row, block, sums),
                7 => tile_rows::<7, V>(quads, lhs, row, block, sums),
                _ => tile_rows::<ROWS, V>(quads, lhs, row, block, sums),
            }
        }
    }
}

/// Adds one block's products of `R` rows from `row` on to their sums; the first block starts them.
#[expect(clippy::needless_range_loop, reason = "indices of registers, all known to the compiler")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn tile_rows<const R: usize, const V: usize>(
    quads: &[Quad<V>],
    lhs: &CodeRows,
    row: usize,
    block: usize,
    sums: &mut [[[i32; 16]; V]],
) {
    let (codes, depth) = (lhs.block_codes(row, block), lhs.depth());
    assert!(codes.len() >= (R - 1) * depth + QUAD * quads.len(), "rows are as deep as the panel");
    let mut acc = [[_mm512_setzero_si512(); V]; R];
    for r in 0..R {
        let base = _mm512_set1_epi32(lhs.plan(row + r, block).base);
        for v in 0..V {
            acc[r][v] = if block == 0 { base } else { _mm512_add_epi32(load(&sums[r][v]), base) };
        }
    }
    for (q, quad) in quads.iter().enumerate() {
        let weights = quad.each_ref().map(|bytes| {
            prefetch(bytes.as_ptr().wrapping_add(64 * V * BLOCK));
            load_bytes(bytes)
        });
        for r in 0..R {
            // SAFETY: every row has as many quads as there are here, by the assertion above.
            let code =
                unsafe { codes.as_ptr().add(r * depth + QUAD * q).cast::<i32>().read_unaligned() };
            let code = _mm512_set1_epi32(code);
            for v in 0..V {
                acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], weights[v], code);
            }
        }
    }
    for r in 0..R {
        for v in 0..V {
            store(acc[r][v], &mut sums[r][v]);
        }
    }
}

/// Asks for a line of the block that comes next, so that it is on its way while this one is multiplied.
#[inline(always)]
fn prefetch(line: *const u8) {
    // SAFETY: a prefetch reads nothing, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(x: &[i32; 16]) -> __m512i {
    // SAFETY: 64 bytes are readable by their type, at any alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_bytes(x: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes are readable by their type, at any alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(x: __m512i, out: &mut [i32; 16]) {
    // SAFETY: 64 bytes are writable by their type, at any alignment.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_bytes(x: __m512i, out: &mut [u8; 64]) {
    // SAFETY: 64 bytes are writable by their type, at any alignment.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(x: &[i8; QUAD]) -> __m512i {
    // SAFETY: four bytes are readable by their type, at any alignment.
    _mm512_set1_epi32(unsafe { x.as_ptr().cast::<i32>().read_unaligned() })
}
