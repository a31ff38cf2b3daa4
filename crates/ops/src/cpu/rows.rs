//! Runs the steps of a region on one block of rows.

use core::ops::Range;

use super::{
    Products, elements,
    matrix::{Output, Part, Place},
    region::{RowStep, Then},
    weights::{Layer, Packed, Table, TableRow},
    worker::Worker,
};
use crate::{
    AttentionShape, Sequence, WeightId,
    activation::kernel::activation,
    argmax::argmax,
    gemm::packed::PANEL,
    norm::kernel::norm,
    quantize::{
        KMIN, KMIN_FINE,
        kernel::{quantize, quantize_fine},
    },
    requantize::kernel::{requantize, requantize_fine},
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
                k.vectorize(|| embed(table.row(token), out));
            }
        }
        RowStep::Position { table, sequences, input, out } => {
            let (table, mut out) = (shared.table(table), part.output(out));
            for (row, position) in positions(sequences, first..first + rows) {
                let ([x, _], out) = out.beside([input; 2], row);
                let learned = &mut worker.row[..out.len()];
                k.vectorize(|| {
                    embed(table.row(position as usize), learned);
                    elements::add(x, learned, out);
                });
            }
        }
        RowStep::Norm { weights, shape, input, out } => {
            let Packed::Norm(weights) = shared.packed(weights) else {
                panic!("`norm` needs its scale");
            };
            let (group, mut out) = (shape.group as usize, part.output(out));
            for row in 0..rows {
                let ([x, _], out) = out.beside([input; 2], row);
                k.vectorize(|| {
                    for (x, out) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
                        norm(k, shape, weights, x, out);
                    }
                });
            }
        }
        RowStep::Linear { weights, input, out, then } => {
            let Packed::Linear(layer) = shared.packed(weights) else {
                panic!("`linear` needs its weights");
            };
            encode(k, layer, part, input, worker);
            multiply(k, layer, worker, rows, &mut part.output(out), then);
        }
        RowStep::Rope { frequencies, shape, sequences, input, out } => {
            let Packed::Frequencies(frequencies) = shared.packed(frequencies) else {
                panic!("`rope` needs its frequencies");
            };
            let mut out = part.output(out);
            for (row, position) in positions(sequences, first..first + rows) {
                let ([x, _], out) = out.beside([input; 2], row);
                k.vectorize(|| elements::rope(shape, frequencies, position, x, out));
            }
        }
        RowStep::Activation { table, input, out } => {
            let mut out = part.output(out);
            for row in 0..rows {
                let ([x, _], out) = out.beside([input; 2], row);
                out.copy_from_slice(x);
                k.vectorize(|| activation(k, table, out));
            }
        }
        RowStep::Gate { gate, up, out } => {
            let mut out = part.output(out);
            for row in 0..rows {
                let ([gate, up], out) = out.beside([gate, up], row);
                k.vectorize(|| elements::gate(gate, up, out));
            }
        }
        RowStep::Add { lhs, rhs, out } => {
            let mut out = part.output(out);
            for row in 0..rows {
                let ([lhs, rhs], out) = out.beside([lhs, rhs], row);
                k.vectorize(|| elements::add(lhs, rhs, out));
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

#[inline(always)]
fn embed(row: TableRow<'_>, out: &mut [i32]) {
    match row {
        TableRow::Bytes(codes, step) => elements::embed(codes, step, out),
        TableRow::Halves(codes, step) => elements::embed(codes, step, out),
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

/// Quantizes the rows of a linear step.
fn encode<K: Products>(k: K, layer: &Layer, part: &Part<'_>, input: Place, worker: &mut Worker) {
    let depth = layer.shape.depth() as usize;
    let [codes, low] = &mut worker.codes;
    codes.set_depth(depth);
    if layer.shape.a15 {
        low.set_depth(depth);
    }
    for row in 0..part.rows {
        let mut x = part.row(input, row);
        if let Some(factors) = &layer.smooth {
            let smoothed = &mut worker.row[..x.len()];
            k.vectorize(|| elements::smooth(x, factors, smoothed));
            x = smoothed;
        }
        let scale = if layer.shape.a15 {
            let (hi, lo) = (codes.row_mut(row), low.row_mut(row));
            let scale = k.vectorize(|| quantize_fine(k, x, KMIN_FINE, hi, lo));
            arrange(k, low, row);
            scale
        } else {
            let codes = codes.row_mut(row);
            k.vectorize(|| quantize(k, x, KMIN, codes))
        };
        codes.set_scale(row, scale);
        arrange(k, codes, row);
    }
}

fn arrange<K: Products>(k: K, codes: &mut crate::gemm::packed::CodeRows, row: usize) {
    let (codes, plans) = codes.plan_mut(row);
    for (codes, plan) in codes.chunks(4 * crate::gemm::packed::BLOCK).zip(plans) {
        k.arrange(codes, plan);
    }
}

/// Multiplies quantized rows by every panel and writes what follows from the sums.
fn multiply<K: Products>(
    k: K,
    layer: &Layer,
    worker: &mut Worker,
    rows: usize,
    out: &mut Output<'_, '_>,
    then: Then,
) {
    let [codes, low] = &worker.codes;
    let [tile, low_tile] = &mut worker.tiles;
    let fine = layer.shape.a15;
    for index in 0..layer.panels.count() {
        let panel = layer.panels.panel(index);
        k.gemm(panel, codes, 0..rows, tile.as_mut_slice());
        if fine {
            k.gemm(panel, low, 0..rows, low_tile.as_mut_slice());
        }
        let ratios = layer.ratios(index);
        let start = index * PANEL;
        let columns = start..(start + PANEL).min(layer.shape.n as usize);
        k.vectorize(|| {
            for row in 0..rows {
                let scale = codes.scale(row);
                let acc = &tile.as_slice()[row * panel.width..][..panel.width];
                let acc = [acc, &low_tile.as_slice()[row * panel.width..][..panel.width]];
                let place = columns.clone();
                let y = &mut out.row(row)[place.clone()];
                match ratios.shift(scale, fine) {
                    Some(shift) if fine => {
                        requantize_fine(k, &ratios, (scale.mantissa, shift), acc, y);
                    }
                    Some(shift) => requantize(k, &ratios, (scale.mantissa, shift), acc[0], y),
                    None => layer.requantize(index, scale, acc, y),
                }
                match then {
                    Then::Nothing => {}
                    Then::Activation(table) => activation(k, table, y),
                    Then::Add(other) => {
                        let ([other, _], y) = out.beside([other; 2], row);
                        elements::add_to(&mut y[place.clone()], &other[place]);
                    }
                }
            }
        });
    }
}
