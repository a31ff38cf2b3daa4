//! A linear step on a block of rows: quantized, multiplied panel by panel, requantized, with what follows.
//!
//! Of many rows each thread takes its own through all panels ([`multiply`]). Of few, reading the weights is what takes time, so
//! that threads share the panels ([`spread`]): each weight is read once, by one of them.

use alloc::vec::Vec;
use core::ops::Range;
use std::sync::Mutex;

use super::{
    Products,
    elements::{self, saturating_sum},
    free, lock,
    matrix::{Columns, Output, Part, Place},
    region::Then,
    weights::Layer,
    worker::{PanelSums, ROWS, Room, Worker},
};
use crate::{
    Parallel,
    activation::kernel::{Activation, Nonlinearity},
    gemm::packed::{BLOCK, CodeRows, PANEL, QUAD},
    lanes::{Lanes, Work},
    quantize::{
        KMIN, KMIN_FINE,
        kernel::{Quantize, QuantizeFine},
    },
    requantize::kernel::{Ratios, Row},
};

/// Rows that threads take through a linear step together instead of each its own.
pub(super) const FEW_ROWS: usize = 16;
/// Shares a thread, so that one that is late leaves its rest to others.
const SHARES: usize = 4;
/// Weights that are worth a share: reading them takes much longer than meeting.
const SHARE_BYTES: usize = 128 << 10;

/// Quantizes the rows of a linear step.
pub(super) fn encode<K: Products>(
    k: K,
    layer: &Layer,
    part: &Part<'_>,
    input: Place,
    worker: &mut Worker,
) {
    let (codes, rows) = (&mut worker.codes, part.rows);
    codes.set_depth(layer.shape.depth() as usize);
    for row in 0..rows {
        let mut x = part.row(input, row);
        if let Some(factors) = &layer.smooth {
            let smoothed = &mut worker.row[..x.len()];
            k.vectorize(elements::Smooth { x, factors, out: &mut *smoothed });
            x = smoothed;
        }
        let scale = if layer.shape.a15 {
            let halves = codes.rows_mut(row, rows + row);
            let scale = k.vectorize(QuantizeFine { x, kmin: KMIN_FINE, halves });
            arrange(k, codes, rows + row);
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
pub(super) fn multiply<K: Products>(
    k: K,
    layer: &Layer,
    worker: &mut Worker,
    rows: usize,
    (out, then): (&mut Output<'_, '_>, Then),
) {
    let Worker { codes, sums, .. } = worker;
    let encoded = Encoded::new(layer, codes, rows);
    panels(k, layer, 0..layer.panels.count(), &encoded, sums, (out, then));
}

/// As [`multiply`], the panels shared among threads; `rooms` are theirs, and `worker`, which holds the codes, is none of them.
pub(super) fn spread<K: Products>(
    k: K,
    layer: &Layer,
    worker: &Worker,
    (parallel, rooms): (&dyn Parallel, &[Mutex<Room>]),
    (mut out, then): (Output<'_, '_>, Then),
) {
    let encoded = Encoded::new(layer, &worker.codes, out.rows());
    let panels_count = layer.panels.count();
    let worth = layer.panels.bytes_each() * panels_count / SHARE_BYTES;
    let threads = parallel.threads();
    let most = if threads > 1 { SHARES * threads } else { 1 };
    let shares = worth.clamp(1, most).min(panels_count);
    let first = |share: usize| share * panels_count / shares;
    let bounds: Vec<usize> =
        (0..=shares).map(|share| (first(share) * PANEL).min(layer.shape.n as usize)).collect();
    let other = if let Then::Add(other) = then { Some(other) } else { None };
    let columns = out.columns(other, &bounds);
    let columns: Vec<_> = columns.into_iter().map(Mutex::new).collect();
    parallel.run(shares, &|share| {
        let (mut columns, mut room) = (lock(&columns[share]), free(rooms, share));
        let range = first(share)..first(share + 1);
        panels(k, layer, range, &encoded, &mut room.worker.sums, (&mut *columns, then));
    });
}

/// The rows of a linear step as codes.
struct Encoded<'w> {
    /// Of 15-bit ones the high halves of all rows, then the low halves.
    codes: &'w CodeRows,
    /// Per row, the shift that suits every panel, if one does: most rows are far from saturation, so one look at all panels
    /// spares one at each.
    shifts: [Option<u32>; ROWS],
    rows: usize,
}

impl<'w> Encoded<'w> {
    fn new(layer: &Layer, codes: &'w CodeRows, rows: usize) -> Self {
        let mut shifts = [None; ROWS];
        for (row, shift) in shifts[..rows].iter_mut().enumerate() {
            *shift = layer.bounds.shift(codes.scale(row), layer.shape.a15);
        }
        Self { codes, shifts, rows }
    }
}

/// Multiplies rows by some panels.
fn panels<K: Products>(
    k: K,
    layer: &Layer,
    range: Range<usize>,
    encoded: &Encoded<'_>,
    sums: &mut PanelSums,
    (out, then): (&mut impl Results, Then),
) {
    let fine = layer.shape.a15;
    let rows = if fine { 2 * encoded.rows } else { encoded.rows };
    for index in range {
        let width = layer.panels.multiply(k, (index, rows), encoded.codes, sums);
        let (high, low) = sums.tile.as_slice().split_at(encoded.rows * width);
        let tiles = if fine { [high, low] } else { [high, high] };
        if fine {
            k.vectorize(Finish::<_, true> { layer, index, encoded, tiles, width, out, then });
        } else {
            k.vectorize(Finish::<_, false> { layer, index, encoded, tiles, width, out, then });
        }
    }
}

/// Where results of a linear step go.
trait Results {
    /// Some columns of a row: what is added to them, nothing if nothing is, and where they are written.
    fn at(&mut self, row: usize, columns: Range<usize>, then: Then) -> (&[i32], &mut [i32]);
}

impl Results for Output<'_, '_> {
    #[inline(always)]
    fn at(&mut self, row: usize, columns: Range<usize>, then: Then) -> (&[i32], &mut [i32]) {
        match then {
            Then::Add(other) => {
                let ([other, _], y) = self.beside([other; 2], row);
                (&other[columns.clone()], &mut y[columns])
            }
            Then::Nothing | Then::Activation(_) => (&[], &mut self.row(row)[columns]),
        }
    }
}

impl Results for Columns<'_> {
    #[inline(always)]
    fn at(&mut self, row: usize, columns: Range<usize>, then: Then) -> (&[i32], &mut [i32]) {
        let columns = columns.start - self.first..columns.end - self.first;
        let (other, y) = &mut self.rows[row];
        let other = if let Then::Add(_) = then { &other[columns.clone()] } else { &[] };
        (other, &mut y[columns])
    }
}

/// Makes results of a panel's sums; `FINE` for 15-bit codes.
struct Finish<'w, R, const FINE: bool> {
    layer: &'w Layer,
    index: usize,
    encoded: &'w Encoded<'w>,
    /// Sums of the high halves, or all, and of the low halves, which without those are not read.
    tiles: [&'w [i32]; 2],
    width: usize,
    out: &'w mut R,
    then: Then,
}

impl<L: Lanes, R: Results, const FINE: bool> Work<L> for Finish<'_, R, FINE> {
    type Output = ();

    #[inline(always)]
    fn run(self, l: L) {
        let Self { layer, index, encoded, tiles, width, out, then } = self;
        let ratios = layer.ratios(index);
        let columns = index * PANEL..((index + 1) * PANEL).min(layer.shape.n as usize);
        for (row, shift) in encoded.shifts[..encoded.rows].iter().enumerate() {
            let scale = encoded.codes.scale(row);
            let acc = tiles.map(|tile| &tile[row * width..][..width]);
            let (other, y) = out.at(row, columns.clone(), then);
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
