//! Products of packed operands as plain loops.

use core::ops::Range;

use super::{
    packed::{BLOCK, CodeRows, PANEL, Panel, QUAD},
    plan::Plan,
};

/// The sum of a block's codes, which is all that this kernel wants to know.
pub(crate) fn arrange(codes: &[i8], plan: &mut Plan) {
    let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
    // |sum| <= 127 * 384.
    plan.base = -128 * sum;
}

/// Multiplies rows by a panel; `tile` is `[rows, width]`.
pub(crate) fn multiply(panel: Panel<'_>, lhs: &CodeRows, rows: Range<usize>, tile: &mut [i32]) {
    for (row, out) in rows.zip(tile.chunks_exact_mut(panel.width)) {
        let mut acc = [0_i32; PANEL];
        let acc = &mut acc[..panel.width];
        for (block, quads) in panel.bytes.chunks(BLOCK * panel.width * QUAD).enumerate() {
            let (codes, plan) = (lhs.quads(row, block), lhs.plan(row, block));
            // Whatever wraps on the way, the sum is the product, and that fits.
            acc.iter_mut().for_each(|acc| *acc = acc.wrapping_add(plan.base));
            for (code, weights) in codes.iter().zip(quads.chunks_exact(panel.width * QUAD)) {
                let code = code.map(i32::from);
                for (acc, weight) in acc.iter_mut().zip(weights.as_chunks::<QUAD>().0) {
                    let products = [0, 1, 2, 3].map(|i| code[i] * i32::from(weight[i]));
                    *acc = products.into_iter().fold(*acc, i32::wrapping_add);
                }
            }
        }
        out.copy_from_slice(acc);
    }
}
