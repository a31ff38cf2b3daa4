//! Attention, in parts of one sequence and key head each.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Aligned, Products, matrix::Extent, region::AttentionStep, worker::Worker};
use crate::{
    Sequence, View,
    attention::kernel::{Query, attend},
};

/// The query heads that share one head of keys and values, in one sequence.
#[derive(Debug)]
pub(super) struct Group<'c> {
    sequence: Sequence,
    kv_head: usize,
    /// `[query heads of the group, rows, head_dim]`.
    out: &'c mut [i32],
}

/// Elements that the results of an attention step take.
pub(super) fn context_len(step: AttentionStep<'_>) -> usize {
    let rows: usize = step.sequences.iter().map(|sequence| sequence.rows as usize).sum();
    rows * (step.shape.heads * step.shape.head_dim) as usize
}

/// The groups of a step, sequence by sequence and head by head, with their results' places.
pub(super) fn groups<'c>(step: AttentionStep<'_>, context: &'c mut [i32]) -> Vec<Group<'c>> {
    let columns = (step.shape.heads / step.shape.kv_heads * step.shape.head_dim) as usize;
    let mut rest = context;
    let mut groups = Vec::with_capacity(step.sequences.len() * step.shape.kv_heads as usize);
    for sequence in step.sequences {
        for kv_head in 0..step.shape.kv_heads as usize {
            let (out, others) = rest.split_at_mut(sequence.rows as usize * columns);
            groups.push(Group { sequence: *sequence, kv_head, out });
            rest = others;
        }
    }
    groups
}

/// Attends from every row of a group.
pub(super) fn run<K: Products>(
    k: K,
    buffers: &[Aligned<i32>],
    step: AttentionStep<'_>,
    group: &mut Group<'_>,
    worker: &mut Worker,
) {
    let (rows, head_dim) = (group.sequence.rows as usize, step.shape.head_dim as usize);
    let first = group.sequence.row as usize;
    let Worker { head, scratch, .. } = worker;
    let columns = |view: View, head: usize| {
        let extent = Extent { stride: view.stride as usize, ..Extent::new(view) };
        let words = buffers[extent.buffer].as_slice();
        move |row: usize| {
            &words[extent.start + (first + row) * extent.stride + head * head_dim..][..head_dim]
        }
    };
    let (keys, values) = (columns(step.k, group.kv_head), columns(step.v, group.kv_head));
    head.begin(rows, head_dim);
    k.vectorize(|| {
        for row in 0..rows {
            head.set(k, row, keys(row), values(row));
        }
    });
    head.finish();

    let position = group.sequence.position;
    let visible = |row: usize| -> Range<usize> {
        let row = u32::try_from(row).expect("a context has 2^16 rows at most");
        let all = position..position + group.sequence.rows;
        let seen = step.shape.visible(position + row, all);
        (seen.start - position) as usize..(seen.end - position) as usize
    };
    let options = (step.shape.p15, position as usize);
    let shared = (step.shape.heads / step.shape.kv_heads) as usize;
    for (index, out) in group.out.chunks_exact_mut(rows * head_dim).enumerate() {
        let query = columns(step.q, group.kv_head * shared + index);
        let query = |row| Query { q: query(row), visible: visible(row) };
        let mut pairs = out.chunks_exact_mut(2 * head_dim);
        for (pair, out) in (&mut pairs).enumerate() {
            let row = 2 * pair;
            let (low, high) = out.split_at_mut(head_dim);
            let queries = [query(row), query(row + 1)];
            k.vectorize(|| attend(k, options, head, scratch, &queries, [low, high]));
        }
        let out = pairs.into_remainder();
        if !out.is_empty() {
            k.vectorize(|| attend(k, options, head, scratch, &[query(rows - 1)], [out]));
        }
    }
}
