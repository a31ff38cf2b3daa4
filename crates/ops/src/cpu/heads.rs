//! Attention, in parts of one sequence and key head each.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Aligned, Products, matrix::Extent, region::AttentionStep, worker::Worker};
use crate::{
    Cache, Sequence, View,
    attention::{
        kernel::{Attend, Query},
        packed::{Cached, Pack, Rows, Unpack},
    },
    cache::step_word,
    quantize::{KMIN, KMIN_SCORE, kernel::Quantize},
};

/// The query heads that share one head of keys and values, in one sequence.
#[derive(Debug)]
pub(super) struct Group<'c> {
    /// The sequence's place in the batch.
    index: usize,
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
    for (index, sequence) in step.sequences.iter().enumerate() {
        for kv_head in 0..step.shape.kv_heads as usize {
            let (out, others) = rest.split_at_mut(sequence.rows as usize * columns);
            groups.push(Group { index, sequence: *sequence, kv_head, out });
            rest = others;
        }
    }
    groups
}

/// Quantizes the rows of every sequence into its pages, `words`.
pub(super) fn append<K: Products>(
    k: K,
    buffers: &[Aligned<i32>],
    step: AttentionStep<'_>,
    cache: Cache<'_>,
    words: &mut [i32],
) {
    let (page, head_dim) = (cache.page, step.shape.head_dim as usize);
    let mut codes = alloc::vec![0; head_dim.next_multiple_of(32)];
    for (sequence, pages) in step.sequences.iter().zip(cache.pages) {
        for kv_head in 0..step.shape.kv_heads as usize {
            let [keys, values] = [step.k, step.v]
                .map(|view| columns(buffers, view, *sequence, kv_head * head_dim, head_dim));
            for row in 0..sequence.rows {
                let places = page.places(pages, sequence.position + row, kv_head);
                for (rows, kmin, at) in [(keys, KMIN_SCORE, 0), (values, KMIN, places.half)] {
                    let x = rows.row(row as usize);
                    let scale = k.vectorize(Quantize { x, kmin, codes: &mut codes });
                    words[(places.step + at) / 4] = step_word(scale).cast_signed();
                    let place = &mut words[(places.codes + at) / 4..][..page.code_bytes() / 4];
                    for (word, codes) in place.iter_mut().zip(codes.as_chunks::<4>().0) {
                        *word = i32::from_le_bytes(codes.map(i8::cast_unsigned));
                    }
                }
            }
        }
    }
}

/// Columns of a sequence's rows, from `column` on.
fn columns(
    buffers: &[Aligned<i32>],
    view: View,
    sequence: Sequence,
    column: usize,
    width: usize,
) -> Rows<'_> {
    let stride = view.stride as usize;
    let start = Extent::new(view).start + sequence.row as usize * stride + column;
    let elements = &buffers[view.buffer.0 as usize].as_slice()[start..];
    Rows { elements, stride, width }
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
    let columns =
        |view, head: usize| columns(buffers, view, group.sequence, head * head_dim, head_dim);
    let position = group.sequence.position;
    let end = position + group.sequence.rows;
    // Of a cache, what lies behind the first row's window is not needed.
    let first =
        if step.cache.is_some() { step.shape.visible(position, 0..end).start } else { position };
    head.begin((end - first) as usize, head_dim);
    match step.cache {
        None => {
            let (keys, values) = (columns(step.k, group.kv_head), columns(step.v, group.kv_head));
            k.vectorize(Pack { head, keys, values });
        }
        Some(cache) => {
            let words = buffers[cache.buffer.0 as usize].as_slice();
            let pages = cache.pages[group.index];
            let cached = Cached { page: cache.page, pages, words, kv_head: group.kv_head, first };
            k.vectorize(Unpack { head, cached });
        }
    }

    let visible = |row: usize| -> Range<usize> {
        let row = u32::try_from(row).expect("a context has 2^16 rows at most");
        let seen = step.shape.visible(position + row, first..end);
        (seen.start - first) as usize..(seen.end - first) as usize
    };
    let (p15, cap, first) = (step.shape.p15, step.shape.cap, first as usize);
    let shared = (step.shape.heads / step.shape.kv_heads) as usize;
    for (index, out) in group.out.chunks_exact_mut(rows * head_dim).enumerate() {
        let q = columns(step.q, group.kv_head * shared + index);
        let query = |row| Query { q: q.row(row), visible: visible(row) };
        let mut pairs = out.chunks_exact_mut(2 * head_dim);
        for (pair, out) in (&mut pairs).enumerate() {
            let (low, high) = out.split_at_mut(head_dim);
            let (queries, out) = ([query(2 * pair), query(2 * pair + 1)], [low, high]);
            k.vectorize(Attend { p15, cap, first, head, scratch, queries, out });
        }
        let out = pairs.into_remainder();
        if !out.is_empty() {
            let queries = [query(rows - 1)];
            k.vectorize(Attend { p15, cap, first, head, scratch, queries, out: [out] });
        }
    }
}
