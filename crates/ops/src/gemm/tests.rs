//! Packed products against the definition, for codes at the edge of what a lane can collect.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use std::vec::Vec;

use hyperion_primitives::{Mix, w8r};

use super::packed::{BLOCK, CodeRows, PANEL, Panels, QUAD};
use crate::{
    cpu::Products,
    gemm::{GemmShape, gemm},
    lanes::portable::Portable,
};

/// A way to fill a row with codes.
type Fill = (&'static str, fn(&mut Mix, &mut [i8]));

/// Rows that meet every condition on a group of codes just so, or just not.
const FILLS: [Fill; 9] = [
    ("evenly spread", |mix, row| row.fill_with(|| code(mix.i32(7)))),
    ("small", |mix, row| row.fill_with(|| code(mix.i32(3)))),
    ("zero", |_, row| row.fill(0)),
    ("largest", |_, row| row.fill(127)),
    ("least", |_, row| row.fill(-127)),
    ("largest of either sign", |mix, row| {
        row.fill_with(|| if mix.below(2) == 0 { 127 } else { -127 });
    }),
    // A lane collects two neighbours of each quad: 16 * 8 = 128 in four quads.
    ("four quads at the edge", |_, row| row.fill(16)),
    ("four quads over the edge, pairs at it", |_, row| row.fill(32)),
    ("any sums around the edge", |mix, row| {
        for group in row.chunks_mut(16) {
            let scale =
                [4, 15, 16, 17, 31, 32, 33, 63, 64, 65][usize::try_from(mix.below(10)).unwrap()];
            let sign = if mix.below(2) == 0 { 1 } else { -1 };
            group.fill_with(|| code(sign * scale + mix.i32(1)));
        }
    }),
];

fn code(x: i32) -> i8 {
    i8::try_from(x.clamp(-127, 127)).unwrap()
}

fn check(k: impl Products) {
    let mut mix = Mix::new(11);
    let depths = [32, 64, 352, QUAD * BLOCK, QUAD * BLOCK + 32, 2 * QUAD * BLOCK, 1536];
    for (depth, cols, rows) in
        depths.into_iter().flat_map(|d| [(d, 1, 1), (d, 70, 7), (d, 176, 13)])
    {
        for (name, weights) in FILLS {
            let mut codes = vec![0; cols * depth];
            weights(&mut mix, &mut codes);
            let mut committed = vec![0; codes.len()];
            for (bytes, codes) in committed.chunks_mut(depth).zip(codes.chunks(depth)) {
                w8r::encode(codes, bytes);
            }
            let panels = Panels::new(&committed, cols, depth).unwrap();
            let mut packed = CodeRows::new(&[(rows, depth)]).unwrap();
            packed.set_depth(depth);
            packed.set_depth(depth);
            let mut lhs = Vec::new();
            for row in 0..rows {
                let fill = usize::try_from(mix.below(FILLS.len() as u64)).unwrap();
                FILLS[fill].1(&mut mix, packed.row_mut(row));
                lhs.extend_from_slice(packed.row(row));
                let (codes, plans) = packed.plan_mut(row);
                codes
                    .chunks(QUAD * BLOCK)
                    .zip(plans)
                    .for_each(|(codes, plan)| k.arrange(codes, plan));
            }
            let mut want = vec![0; rows * cols];
            gemm(GemmShape::new(rows, cols, depth).unwrap(), &lhs, &codes, &mut want);
            for index in 0..panels.count() {
                let panel = panels.panel(index);
                // What stood in the tile must not matter.
                let mut tile = vec![0x55; rows * panel.width];
                k.gemm(panel, &packed, 0..rows, &mut tile);
                for row in 0..rows {
                    let columns = index * PANEL..cols.min((index + 1) * PANEL);
                    let want = &want[row * cols..][columns.clone()];
                    let got = &tile[row * panel.width..][..columns.len()];
                    assert_eq!(got, want, "{name} weights, depth {depth}, row {row}, {columns:?}");
                }
            }
        }
    }
}

#[test]
fn portable_products_equal_the_definition() {
    check(Portable);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx2_products_equal_the_definition() {
    match crate::Avx2::detect() {
        Some(avx2) => check(avx2),
        None => println!("skipped: no AVX2"),
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx512_products_equal_the_definition() {
    match crate::Avx512::detect() {
        Some(avx512) => check(avx512),
        None => println!("skipped: no AVX-512 VNNI"),
    }
}
