//! Attention, in parts of one sequence and key head each.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Aligned, Products, matrix::Extent, region::AttentionStep, worker::Worker};
use crate::{
    Sequence, View,
    attention::{
        kernel::{Attend, Query},
        packed::{Pack, Rows},
    },
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
    if rows == 0 {
        return;
    }
    let Worker { head, scratch, .. } = worker;
    let columns = |view: View, head: usize| {
        let stride = view.stride as usize;
        let start =
            Extent::new(view).start + group.sequence.row as usize * stride + head * head_dim;
        let elements = &buffers[view.buffer.0 as usize].as_slice()[start..];
        Rows { elements, stride, width: head_dim }
    };
    let (keys, values) = (columns(step.k, group.kv_head), columns(step.v, group.kv_head));
    head.begin(rows, head_dim);
    k.vectorize(Pack { head, keys, values });

    let position = group.sequence.position;
    let visible = |row: usize| -> Range<usize> {
        let row = u32::try_from(row).expect("a context has 2^16 rows at most");
        let all = position..position + group.sequence.rows;
        let seen = step.shape.visible(position + row, all);
        (seen.start - position) as usize..(seen.end - position) as usize
    };
    let (p15, first) = (step.shape.p15, position as usize);
    let shared = (step.shape.heads / step.shape.kv_heads) as usize;
    for (index, out) in group.out.chunks_exact_mut(rows * head_dim).enumerate() {
        let q = columns(step.q, group.kv_head * shared + index);
        let query = |row| Query { q: q.row(row), visible: visible(row) };
        let mut pairs = out.chunks_exact_mut(2 * head_dim);
        for (pair, out) in (&mut pairs).enumerate() {
            let (low, high) = out.split_at_mut(head_dim);
            let (queries, out) = ([query(2 * pair), query(2 * pair + 1)], [low, high]);
            k.vectorize(Attend { p15, first, head, scratch, queries, out });
        }
        let out = pairs.into_remainder();
        if !out.is_empty() {
            let queries = [query(rows - 1)];
            k.vectorize(Attend { p15, first, head, scratch, queries, out: [out] });
        }
    }
}
