//! Runs the steps of a region on one block of rows.

use core::ops::Range;

use super::{
    Products, elements, linear,
    matrix::{Output, Part},
    region::RowStep,
    weights::{Layer, Packed, Table},
    worker::Worker,
};
use crate::{
    AttentionShape, Sequence, WeightId, activation::kernel::Activation, argmax::argmax,
    norm::kernel::Norm, softcap::softcap,
};

/// What all parts of a region read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared<'c> {
    pub(super) weights: &'c [Option<Packed>],
    /// Results of the last attention, sequence by sequence and head by head.
    pub(super) context: &'c [i32],
}

impl<'c> Shared<'c> {
    pub(super) fn packed(self, id: WeightId) -> &'c Packed {
        self.weights[id.0 as usize].as_ref().expect("the weights were unpacked")
    }

    pub(super) fn layer(self, id: WeightId) -> &'c Layer {
        let Packed::Linear(layer) = self.packed(id) else { panic!("`linear` needs its weights") };
        layer
    }

    fn table(self, id: WeightId) -> &'c Table {
        let Packed::Table(table) = self.packed(id) else { panic!("the step needs a table") };
        table
    }
}

/// Runs one step on the rows of a part, [`ROWS`](super::worker::ROWS) at most.
pub(super) fn run<K: Products>(
    k: K,
    shared: Shared<'_>,
    step: RowStep<'_>,
    part: &mut Part<'_>,
    worker: &mut Worker,
) {
    let (first, rows) = (part.row, part.rows);
    match step {
        RowStep::Context { shape, sequences, out } => {
            let mut out = part.output(out);
            collect(shared.context, shape, sequences, first..first + rows, &mut out);
        }
        RowStep::Embed { table, tokens, out } => {
            let (table, mut out) = (shared.table(table), part.output(out));
            for row in 0..rows {
                let ([token, _], out) = out.beside([tokens; 2], row);
                let token = token[0].cast_unsigned() as usize;
                k.vectorize(elements::Embed { row: table.row(token), out });
            }
        }
        RowStep::Position { table, sequences, input, out } => {
            let (table, mut out) = (shared.table(table), part.output(out));
            for (row, position) in positions(sequences, first..first + rows) {
                let ([x, _], out) = out.beside([input; 2], row);
                let learned = &mut worker.row[..out.len()];
                let row = table.row(position as usize);
                k.vectorize(elements::Position { row, x, learned, out });
            }
        }
        RowStep::Norm { weights, shape, input, out } => {
            let Packed::Norm(weights) = shared.packed(weights) else {
                panic!("`norm` needs its scale");
            };
            let mut out = part.output(out);
            for row in 0..rows {
                let ([x, _], out) = out.beside([input; 2], row);
                k.vectorize(Norm { shape, weights, x, out });
            }
        }
        RowStep::Linear { weights, input, out, then } => {
            let layer = shared.layer(weights);
            linear::encode(k, layer, part, input, worker);
            linear::multiply(k, layer, worker, rows, (&mut part.output(out), then));
        }
        RowStep::Rope { frequencies, shape, sequences, input, out } => {
            let Packed::Frequencies(frequencies) = shared.packed(frequencies) else {
                panic!("`rope` needs its frequencies");
            };
            let mut out = part.output(out);
            for (row, position) in positions(sequences, first..first + rows) {
                let ([x, _], out) = out.beside([input; 2], row);
                k.vectorize(elements::Rope { shape, frequencies, position, x, out });
            }
        }
        RowStep::Activation { table, input, out } => {
            let mut out = part.output(out);
            for row in 0..rows {
                let ([x, _], out) = out.beside([input; 2], row);
                k.vectorize(Activation { table, x, out });
            }
        }
        RowStep::Softcap { cap, input, out } => {
            let mut out = part.output(out);
            for row in 0..rows {
                let ([x, _], out) = out.beside([input; 2], row);
                softcap(cap, x, out);
            }
        }
        RowStep::Gate { gate, up, out } => {
            let mut out = part.output(out);
            for row in 0..rows {
                let ([gate, up], out) = out.beside([gate, up], row);
                k.vectorize(elements::Gate { gate, up, out });
            }
        }
        RowStep::Add { lhs, rhs, out } => {
            let mut out = part.output(out);
            for row in 0..rows {
                let ([lhs, rhs], out) = out.beside([lhs, rhs], row);
                k.vectorize(elements::Add { lhs, rhs, out });
            }
        }
        RowStep::Argmax { input, out } => {
            let mut out = part.output(out);
            for row in 0..rows {
                let ([x, _], out) = out.beside([input; 2], row);
                out[0] = argmax(x).cast_signed();
            }
        }
    }
}

/// Rows of a part, counted from its first, with their absolute positions.
fn positions(sequences: &[Sequence], rows: Range<usize>) -> impl Iterator<Item = (usize, u32)> {
    sequences.iter().flat_map(move |sequence| {
        let start = rows.start.max(sequence.row as usize);
        let end = rows.end.min((sequence.row + sequence.rows) as usize);
        (start..end).zip(rows.start..).map(move |(row, _)| {
            let offset =
                u32::try_from(row).expect("a batch has fewer than 2^32 rows") - sequence.row;
            (row - rows.start, sequence.position + offset)
        })
    })
}

/// Brings the heads of each row together.
fn collect(
    context: &[i32],
    shape: AttentionShape,
    sequences: &[Sequence],
    rows: Range<usize>,
    out: &mut Output<'_, '_>,
) {
    let head_dim = shape.head_dim as usize;
    let mut rest = context;
    for sequence in sequences {
        let (first, count) = (sequence.row as usize, sequence.rows as usize);
        let heads;
        (heads, rest) = rest.split_at(count * shape.heads as usize * head_dim);
        for row in rows.start.max(first)..rows.end.min(first + count) {
            let columns = out.row(row - rows.start).chunks_exact_mut(head_dim);
            for (out, head) in columns.zip(heads.chunks_exact(count * head_dim)) {
                out.copy_from_slice(&head[(row - first) * head_dim..][..head_dim]);
            }
        }
    }
}
