//! Runs the steps of a region on one block of rows.

use core::ops::Range;

use super::{
    Products,
    elements::{self, saturating_sum},
    matrix::{Output, Part, Place},
    region::{RowStep, Then},
    weights::{Layer, Packed, Table},
    worker::{ROWS, Worker},
};
use crate::{
    AttentionShape, Sequence, WeightId,
    activation::kernel::{Activation, Nonlinearity},
    argmax::argmax,
    gemm::packed::{BLOCK, CodeRows, PANEL, QUAD},
    lanes::{Lanes, Work},
    norm::kernel::Norm,
    quantize::{
        KMIN, KMIN_FINE,
        kernel::{Quantize, QuantizeFine},
    },
    requantize::kernel::{Ratios, Row},
    softcap::softcap,
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

/// Runs one step on the rows of a part, [`ROWS`] at most.
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
            k.vectorize(elements::Smooth { x, factors, out: &mut *smoothed });
            x = smoothed;
        }
        let scale = if layer.shape.a15 {
            let halves = [codes.row_mut(row), low.row_mut(row)];
            let scale = k.vectorize(QuantizeFine { x, kmin: KMIN_FINE, halves });
            arrange(k, low, row);
            scale
        } else {
            k.vectorize(Quantize { x, kmin: KMIN, codes: codes.row_mut(row) })
        };
        codes.set_scale(row, scale);
        arrange(k, codes, row);
    }
}

fn arrange<K: Products>(k: K, codes: &mut CodeRows, row: usize) {
    let (codes, plans) = codes.plan_mut(row);
    for (codes, plan) in codes.chunks(QUAD * BLOCK).zip(plans) {
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
    // Most rows are far from saturation, so one look at all panels spares one at each.
    let mut shifts = [None; ROWS];
    for (row, shift) in shifts[..rows].iter_mut().enumerate() {
        *shift = layer.bounds.shift(codes.scale(row), fine);
    }
    for index in 0..layer.panels.count() {
        let mut operands = [(codes, tile.as_mut_slice()), (low, low_tile.as_mut_slice())];
        let operands = &mut operands[..if fine { 2 } else { 1 }];
        let room = worker.panel.as_mut_slice();
        let width = layer.panels.multiply(k, (index, rows), operands, room);
        let tiles = [tile.as_slice(), low_tile.as_slice()];
        let shifts = &shifts[..rows];
        if fine {
            k.vectorize(Finish::<true> { layer, index, codes, shifts, tiles, width, out, then });
        } else {
            k.vectorize(Finish::<false> { layer, index, codes, shifts, tiles, width, out, then });
        }
    }
}

/// Makes results of a panel's sums; `FINE` for 15-bit codes.
struct Finish<'w, 'p, 'b, const FINE: bool> {
    layer: &'w Layer,
    index: usize,
    codes: &'w CodeRows,
    /// Per row, the shift that suits every panel, if one does.
    shifts: &'w [Option<u32>],
    tiles: [&'w [i32]; 2],
    width: usize,
    out: &'w mut Output<'p, 'b>,
    then: Then,
}

impl<L: Lanes, const FINE: bool> Work<L> for Finish<'_, '_, '_, FINE> {
    type Output = ();

    #[inline(always)]
    fn run(self, l: L) {
        let Self { layer, index, codes, shifts, tiles, width, out, then } = self;
        let ratios = layer.ratios(index);
        let columns = index * PANEL..((index + 1) * PANEL).min(layer.shape.n as usize);
        for (row, shift) in shifts.iter().enumerate() {
            let scale = codes.scale(row);
            let acc = tiles.map(|tile| &tile[row * width..][..width]);
            let place = columns.clone();
            let (other, y) = match then {
                Then::Add(other) => {
                    let ([other, _], y) = out.beside([other; 2], row);
                    (&other[place.clone()], &mut y[place])
                }
                Then::Nothing | Then::Activation(_) => (&[][..], &mut out.row(row)[place]),
            };
            match shift.or_else(|| ratios.bounds.shift(scale, FINE)) {
                Some(shift) => {
                    let row = Row::new(l, scale.mantissa, shift);
                    if y.len() == PANEL && PANEL.is_multiple_of(L::WIDTH) {
                        finish_panel::<L, FINE>(l, row, &ratios, acc, (then, other), y);
                    } else {
                        finish_row::<L, FINE>(l, row, &ratios, acc, (then, other), y);
                    }
                }
                None => {
                    layer.requantize(index, scale, acc, y);
                    finish_slowly(l, (then, other), y);
                }
            }
        }
    }
}

/// As [`finish_row`] for a whole panel, whose words the compiler can count.
#[inline(always)]
fn finish_panel<L: Lanes, const FINE: bool>(
    l: L,
    row: Row<L>,
    ratios: &Ratios<'_>,
    [hi, lo]: [&[i32]; 2],
    (then, other): (Then, &[i32]),
    y: &mut [i32],
) {
    let channels = (&ratios.multipliers[..PANEL], &ratios.bias[..PANEL]);
    let (hi, lo, y) = (&hi[..PANEL], &lo[..PANEL], &mut y[..PANEL]);
    let sums = |at: usize| {
        let word = at..at + L::WIDTH;
        ((&hi[word.clone()], &lo[word.clone()]), (&channels.0[word.clone()], &channels.1[word]))
    };
    match then {
        Then::Nothing => {
            for at in (0..PANEL).step_by(L::WIDTH) {
                l.store(row_word::<L, FINE>(l, row, sums(at)), &mut y[at..at + L::WIDTH]);
            }
        }
        Then::Activation(table) => {
            let nonlinearity = Nonlinearity::new(l, table);
            for at in (0..PANEL).step_by(L::WIDTH) {
                let word = nonlinearity.word(l, row_word::<L, FINE>(l, row, sums(at)));
                l.store(word, &mut y[at..at + L::WIDTH]);
            }
        }
        Then::Add(_) => {
            let other = &other[..PANEL];
            for at in (0..PANEL).step_by(L::WIDTH) {
                let word = row_word::<L, FINE>(l, row, sums(at));
                let word = saturating_sum(l, word, l.load(&other[at..at + L::WIDTH]));
                l.store(word, &mut y[at..at + L::WIDTH]);
            }
        }
    }
}

/// Requantizes a row and does what comes after, a word at a time.
#[inline(always)]
fn finish_row<L: Lanes, const FINE: bool>(
    l: L,
    row: Row<L>,
    ratios: &Ratios<'_>,
    [hi, lo]: [&[i32]; 2],
    (then, other): (Then, &[i32]),
    y: &mut [i32],
) {
    let channels =
        ratios.multipliers.chunks_exact(L::WIDTH).zip(ratios.bias.chunks_exact(L::WIDTH));
    let words = hi.chunks_exact(L::WIDTH).zip(lo.chunks_exact(L::WIDTH)).zip(channels);
    let words = words.zip(y.chunks_mut(L::WIDTH));
    match then {
        Then::Nothing => {
            for (sums, y) in words {
                l.store_some(row_word::<L, FINE>(l, row, sums), y);
            }
        }
        Then::Activation(table) => {
            let nonlinearity = Nonlinearity::new(l, table);
            for (sums, y) in words {
                l.store_some(nonlinearity.word(l, row_word::<L, FINE>(l, row, sums)), y);
            }
        }
        Then::Add(_) => {
            for ((sums, y), other) in words.zip(other.chunks(L::WIDTH)) {
                l.store_some(
                    saturating_sum(l, row_word::<L, FINE>(l, row, sums), l.load_some(other)),
                    y,
                );
            }
        }
    }
}

/// Sums of a word of channels (all, or high and low halves), and the channels' multipliers and biases.
type Word<'a> = ((&'a [i32], &'a [i32]), (&'a [i32], &'a [i32]));

#[inline(always)]
fn row_word<L: Lanes, const FINE: bool>(
    l: L,
    row: Row<L>,
    ((hi, lo), (m, bias)): Word<'_>,
) -> L::Word {
    if FINE { row.word_fine(l, [hi, lo], m, bias) } else { row.word(l, hi, m, bias) }
}

/// What comes after, for a row that the definition requantized.
#[cold]
#[inline(never)]
fn finish_slowly<L: Lanes>(l: L, (then, other): (Then, &[i32]), y: &mut [i32]) {
    match then {
        Then::Nothing => {}
        Then::Activation(table) => {
            let x = y.to_vec();
            l.vectorize(Activation { table, x: &x, out: y });
        }
        Then::Add(_) => l.vectorize(elements::AddTo { out: y, rhs: other }),
    }
}
