//! Which memory a region of steps touches, and how it is divided between its parts.
//!
//! A region is a run of steps that work row by row: row `r` of a result depends on row `r` of its inputs
//! only, so blocks of rows go through the whole run independently. That needs every matrix of the region
//! to be either apart from all others or laid out like them; [`Extents::add`] refuses what is not.
//!
//! A matrix that the region writes before it reads it, and that nobody reads afterwards, is never written to its
//! buffer: each part keeps its rows in its thread's own room, which stays in the second-level cache from one part
//! to the next.

use alloc::vec::Vec;
use core::mem;

use crate::{View, cpu::Aligned};

/// Rows of a buffer: row `r` is the elements from `start + r * stride` on, `width` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) buffer: usize,
    pub(super) start: usize,
    pub(super) stride: usize,
    pub(super) width: usize,
    pub(super) rows: usize,
}

impl Extent {
    pub(super) fn new(view: View) -> Self {
        let width = view.width as usize;
        // A single row has no next one, whatever its stride says.
        let stride = if view.rows == 1 { width } else { view.stride as usize };
        Self {
            buffer: view.buffer.0 as usize,
            start: usize::try_from(view.offset).expect("inside the buffer"),
            stride,
            width,
            rows: view.rows as usize,
        }
    }

    pub(super) fn end(self) -> usize {
        self.start + (self.rows - 1) * self.stride + self.width
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.buffer == other.buffer && self.start < other.end() && other.start < self.end()
    }

    /// The rows that hold both, if both are laid out alike.
    fn union(self, other: Self) -> Option<Self> {
        let start = self.start.min(other.start);
        let width = (self.start + self.width).max(other.start + other.width) - start;
        let stride = if self.rows == 1 { width } else { self.stride };
        let alike = self.rows == other.rows && (self.rows == 1 || self.stride == other.stride);
        (alike && width <= stride).then_some(Self { start, width, stride, ..self })
    }
}

/// The matrices of a region; no two overlap.
#[derive(Debug, Default)]
pub(super) struct Extents {
    extents: Vec<Extent>,
    /// For each, the stride of its rows in the threads' own room, if they lie there; empty until that is known.
    private: Vec<Option<usize>>,
}

/// Words that rows in a thread's own room are padded by: a stride that is no multiple of a page, so that their
/// elements do not compete for the same few lines of the cache.
const PAD: usize = 16;

impl Extents {
    /// Takes the views of one more step; `false`, and nothing taken, if one of them does not fit.
    pub(super) fn add(&mut self, views: &[View]) -> bool {
        let mut extents = self.extents.clone();
        for view in views {
            let mut extent = Extent::new(*view);
            while let Some(at) = extents.iter().position(|other| other.overlaps(extent)) {
                match extents.swap_remove(at).union(extent) {
                    Some(union) => extent = union,
                    None => return false,
                }
            }
            extents.push(extent);
        }
        self.extents = extents;
        true
    }

    /// Moves matrices to the threads' own room: those that `is_private` says may be.
    pub(super) fn set_private(&mut self, is_private: impl Fn(usize, Extent) -> bool) {
        let stride = |extent: &Extent| extent.width.next_multiple_of(2 * PAD) + PAD;
        let extents = self.extents.iter().enumerate();
        self.private = extents.map(|(i, e)| is_private(i, *e).then(|| stride(e))).collect();
    }

    /// Words of each row that a thread's own room holds.
    pub(super) fn private_words(&self) -> usize {
        self.private.iter().flatten().sum()
    }

    /// Where a view taken before is found.
    pub(super) fn place(&self, view: View) -> Place {
        let wanted = Extent::new(view);
        let matrix = self.extents.iter().position(|extent| extent.overlaps(wanted));
        let matrix = matrix.expect("the view was added");
        let Extent { start, stride, .. } = self.extents[matrix];
        let stride = self.private.get(matrix).copied().flatten().unwrap_or(stride);
        Place { matrix, stride, column: wanted.start - start, width: wanted.width }
    }

    /// Cuts the matrices into parts of `chunk` rows; those in the threads' own room stay empty.
    pub(super) fn split<'b>(&self, buffers: &'b mut [Aligned<i32>], chunk: usize) -> Vec<Part<'b>> {
        let rows = self.extents.first().map_or(0, |extent| extent.rows);
        let count = self.extents.len();
        let empty = |part: usize| {
            let row = part * chunk;
            let matrices = (0..count).map(|_| <&mut [i32]>::default()).collect();
            Part { row, rows: chunk.min(rows - row), matrices }
        };
        let mut parts: Vec<Part<'b>> = (0..rows.div_ceil(chunk)).map(empty).collect();
        let mut order: Vec<usize> =
            (0..count).filter(|matrix| self.private[*matrix].is_none()).collect();
        order.sort_by_key(|matrix| (self.extents[*matrix].buffer, self.extents[*matrix].start));
        let mut order = order.into_iter().peekable();
        for (id, buffer) in buffers.iter_mut().enumerate() {
            let (mut rest, mut at) = (buffer.as_mut_slice(), 0);
            while let Some(matrix) = order.next_if(|matrix| self.extents[*matrix].buffer == id) {
                let extent = self.extents[matrix];
                let (_, from_here) = mem::take(&mut rest).split_at_mut(extent.start - at);
                let mut rows;
                (rows, rest) = from_here.split_at_mut(extent.end() - extent.start);
                at = extent.end();
                for part in &mut parts {
                    let take = (part.rows * extent.stride).min(rows.len());
                    (part.matrices[matrix], rows) = rows.split_at_mut(take);
                }
            }
        }
        parts
    }
}

impl Extents {
    /// A part with the matrices that lie in its thread's own room.
    pub(super) fn complete<'w, 'b: 'w>(
        &self,
        part: &mut Part<'b>,
        mut room: &'w mut [i32],
    ) -> Part<'w> {
        let mut matrices: Vec<&'w mut [i32]> = Vec::with_capacity(part.matrices.len());
        matrices.extend(mem::take(&mut part.matrices));
        for (matrix, stride) in matrices.iter_mut().zip(&self.private) {
            if let Some(stride) = stride {
                (*matrix, room) = mem::take(&mut room).split_at_mut(part.rows * stride);
            }
        }
        Part { row: part.row, rows: part.rows, matrices }
    }
}

/// A view inside its matrix: columns `column .. column + width` of each row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) matrix: usize,
    stride: usize,
    pub(super) column: usize,
    pub(super) width: usize,
}

/// Some rows of all matrices of a region.
#[derive(Debug)]
pub(super) struct Part<'b> {
    /// First row.
    pub(super) row: usize,
    /// Rows.
    pub(super) rows: usize,
    matrices: Vec<&'b mut [i32]>,
}

/// The matrix that a step writes, taken out of its part; inputs are read beside it.
pub(super) struct Output<'p, 'b> {
    part: &'p mut Part<'b>,
    matrix: &'b mut [i32],
    place: Place,
}

impl<'b> Part<'b> {
    /// A row of a view; rows count from the part's first.
    pub(super) fn row(&self, place: Place, row: usize) -> &[i32] {
        &self.matrices[place.matrix][row * place.stride + place.column..][..place.width]
    }

    /// Takes a view out to write to.
    pub(super) fn output(&mut self, place: Place) -> Output<'_, 'b> {
        let matrix = mem::take(&mut self.matrices[place.matrix]);
        Output { part: self, matrix, place }
    }
}

impl Output<'_, '_> {
    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.part.rows
    }

    /// A row to write.
    #[inline]
    pub(super) fn row(&mut self, row: usize) -> &mut [i32] {
        let Place { stride, column, width, .. } = self.place;
        &mut self.matrix[row * stride + column..][..width]
    }

    /// Rows of two inputs (which may be one), and the row to write.
    #[inline]
    pub(super) fn beside(&mut self, inputs: [Place; 2], row: usize) -> ([&[i32]; 2], &mut [i32]) {
        let place = self.place;
        let (before, from) = self.matrix[row * place.stride..].split_at_mut(place.column);
        let (out, after) = from.split_at_mut(place.width);
        let sides = (&*before, &*after);
        (inputs.map(|input| input_of(self.part, row, place, sides, input)), out)
    }

    /// The rows to write, and an input of the same width, cut between columns: piece `i` has the columns from `bounds[i]` to
    /// `bounds[i + 1]`.
    pub(super) fn columns(&mut self, other: Option<Place>, bounds: &[usize]) -> Vec<Columns<'_>> {
        let (place, rows) = (self.place, self.part.rows);
        let piece = |first: &usize| Columns { first: *first, rows: Vec::with_capacity(rows) };
        let mut pieces: Vec<_> = bounds[..bounds.len() - 1].iter().map(piece).collect();
        for (row, elements) in self.matrix.chunks_mut(place.stride).take(rows).enumerate() {
            let (before, from) = elements.split_at_mut(place.column);
            let (mut out, after) = from.split_at_mut(place.width);
            let sides = (&*before, &*after);
            let other = other.map(|other| input_of(self.part, row, place, sides, other));
            for (piece, bounds) in pieces.iter_mut().zip(bounds.windows(2)) {
                let own;
                (own, out) = mem::take(&mut out).split_at_mut(bounds[1] - bounds[0]);
                piece.rows.push((other.map_or(&[], |other| &other[bounds[0]..bounds[1]]), own));
            }
        }
        pieces
    }
}

/// Some columns of the rows of an output.
#[derive(Debug)]
pub(super) struct Columns<'o> {
    /// The first of them.
    pub(super) first: usize,
    /// For each row the input's elements, none if there is no input, and those to write.
    pub(super) rows: Vec<(&'o [i32], &'o mut [i32])>,
}

/// A row of an input, while columns `out` of the same row are written; `sides` is what lies before and after them.
#[inline]
fn input_of<'o>(
    part: &'o Part<'_>,
    row: usize,
    out: Place,
    (before, after): (&'o [i32], &'o [i32]),
    input: Place,
) -> &'o [i32] {
    if input.matrix != out.matrix {
        return part.row(input, row);
    }
    match input.column.checked_sub(out.column + out.width) {
        Some(start) => &after[start..start + input.width],
        None => &before[input.column..input.column + input.width],
    }
}

impl Drop for Output<'_, '_> {
    fn drop(&mut self) {
        self.part.matrices[self.place.matrix] = mem::take(&mut self.matrix);
    }
}
