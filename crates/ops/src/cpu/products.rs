//! What an instruction set offers beside [`Lanes`]: the products of packed operands.

use core::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{avx2::Avx2, avx512::Avx512};
use crate::{
    attention::{
        self,
        packed::{KEYS, KeyPair, QUAD},
    },
    gemm::{
        self,
        narrow::NarrowPanel,
        packed::{CodeRows, Panel},
        plan::Plan,
    },
    lanes::{Lanes, portable::Portable},
};

/// The kernels of one instruction set.
pub(crate) trait Products: Lanes {
    /// Plans how the codes of a block, a multiple of 32 and 384 at most, are multiplied.
    fn arrange(self, codes: &[i8], plan: &mut Plan);

    /// Multiplies rows by a panel; `tile` is `[rows, width]`.
    fn gemm(self, panel: Panel<'_>, lhs: &CodeRows, rows: Range<usize>, tile: &mut [i32]);

    /// Rows at most for which [`gemm_narrow`](Self::gemm_narrow) is worth its while: 0 where it is not there.
    const NARROW_ROWS: usize = 0;

    /// Multiplies a few rows by a panel whose weights have four bits.
    fn gemm_narrow(
        self,
        panel: NarrowPanel<'_>,
        lhs: &CodeRows,
        rows: Range<usize>,
        tile: &mut [i32],
    ) {
        let _ = (panel, lhs, rows, tile);
        unreachable!("no rows are few enough");
    }

    /// Makes the bytes of a panel whose weights have four bits.
    fn widen(self, panel: NarrowPanel<'_>, bytes: &mut [u8]);

    /// Scores of `R` queries with a panel of keys; a query is its pairs of codes, two halves of 32 bits.
    fn scores<const R: usize>(
        self,
        queries: [&[i32]; R],
        keys: &[KeyPair],
        out: &mut [[i32; KEYS]; R],
    );

    /// Adds rows of values, each times its code, 0 to 127; `acc` is `[width]`.
    fn values(self, codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]);

    /// Adds rows of values, each times its code, -127 to 127; `acc` is `[width]`.
    fn values_signed(self, codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]);
}

impl Products for Portable {
    fn arrange(self, codes: &[i8], plan: &mut Plan) {
        gemm::portable::arrange(codes, plan);
    }

    fn gemm(self, panel: Panel<'_>, lhs: &CodeRows, rows: Range<usize>, tile: &mut [i32]) {
        gemm::portable::multiply(panel, lhs, rows, tile);
    }

    fn widen(self, panel: NarrowPanel<'_>, bytes: &mut [u8]) {
        gemm::narrow::widen(panel, bytes);
    }

    fn scores<const R: usize>(
        self,
        queries: [&[i32]; R],
        keys: &[KeyPair],
        out: &mut [[i32; KEYS]; R],
    ) {
        attention::portable::scores(queries, keys, out);
    }

    fn values(self, codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]) {
        attention::portable::values(codes, values, acc);
    }

    fn values_signed(self, codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]) {
        attention::portable::values(codes, values, acc);
    }
}

#[cfg(target_arch = "x86_64")]
impl Products for Avx2 {
    #[inline(always)]
    fn arrange(self, codes: &[i8], plan: &mut Plan) {
        self.arrange_quads(codes, plan);
    }

    #[inline(always)]
    fn gemm(self, panel: Panel<'_>, lhs: &CodeRows, rows: Range<usize>, tile: &mut [i32]) {
        self.multiply(panel, lhs, rows, tile);
    }

    #[inline(always)]
    fn widen(self, panel: NarrowPanel<'_>, bytes: &mut [u8]) {
        self.widen_panel(panel, bytes);
    }

    #[inline(always)]
    fn scores<const R: usize>(
        self,
        queries: [&[i32]; R],
        keys: &[KeyPair],
        out: &mut [[i32; KEYS]; R],
    ) {
        self.attention_scores(queries, keys, out);
    }

    #[inline(always)]
    fn values(self, codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]) {
        self.attention_values(codes, values, acc);
    }

    #[inline(always)]
    fn values_signed(self, codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]) {
        self.attention_values_signed(codes, values, acc);
    }
}

#[cfg(target_arch = "x86_64")]
impl Products for Avx512 {
    const NARROW_ROWS: usize = 2;

    #[inline(always)]
    fn gemm_narrow(
        self,
        panel: NarrowPanel<'_>,
        lhs: &CodeRows,
        rows: Range<usize>,
        tile: &mut [i32],
    ) {
        self.multiply_narrow(panel, lhs, rows, tile);
    }

    #[inline(always)]
    fn arrange(self, codes: &[i8], plan: &mut Plan) {
        self.sum_codes(codes, plan);
    }

    #[inline(always)]
    fn gemm(self, panel: Panel<'_>, lhs: &CodeRows, rows: Range<usize>, tile: &mut [i32]) {
        self.multiply(panel, lhs, rows, tile);
    }

    #[inline(always)]
    fn widen(self, panel: NarrowPanel<'_>, bytes: &mut [u8]) {
        self.widen_panel(panel, bytes);
    }

    #[inline(always)]
    fn scores<const R: usize>(
        self,
        queries: [&[i32]; R],
        keys: &[KeyPair],
        out: &mut [[i32; KEYS]; R],
    ) {
        self.attention_scores(queries, keys, out);
    }

    #[inline(always)]
    fn values(self, codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]) {
        self.attention_values(codes, values, acc);
    }

    #[inline(always)]
    fn values_signed(self, codes: &[[i8; QUAD]], values: &[i8], acc: &mut [i32]) {
        self.attention_values_signed(codes, values, acc);
    }
}
