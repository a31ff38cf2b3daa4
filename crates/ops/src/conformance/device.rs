//! A backend as cases use it: matrices go in and come out, at places that are themselves drawn.

use alloc::{vec, vec::Vec};

use hyperion_primitives::Dtype;

use super::draw::Draw;
use crate::{Backend, BackendError, BufferId, Step, View, WeightId, Weights};

/// What stands in a buffer wherever no element does.
const FILL: u8 = 0xa5;

/// A result, row-major and little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    pub(super) dtype: Dtype,
    pub(super) rows: u32,
    pub(super) width: u32,
    pub(super) bytes: Vec<u8>,
    /// Whether the step wrote beside its view.
    pub(super) strayed: bool,
}

impl Matrix {
    /// Elements that differ, and one more for a write beside the view.
    pub(super) fn differences(&self, other: &Self) -> u64 {
        let size = self.dtype.bytes();
        let elements = self.bytes.chunks_exact(size).zip(other.bytes.chunks_exact(size));
        let differing = elements.filter(|(lhs, rhs)| lhs != rhs).count() as u64;
        differing + u64::from(other.strayed)
    }
}

/// A backend, and what one case took from it.
pub(super) struct Device<'a> {
    backend: &'a mut dyn Backend,
    weights: Vec<WeightId>,
    lengths: Vec<(BufferId, usize)>,
}

impl<'a> Device<'a> {
    pub(super) fn new(backend: &'a mut dyn Backend) -> Self {
        Self { backend, weights: Vec::new(), lengths: Vec::new() }
    }

    /// Gives everything back.
    pub(super) fn finish(self) {
        self.weights.into_iter().for_each(|weights| self.backend.unpack(weights));
        self.backend.reset();
    }

    pub(super) fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError> {
        let id = self.backend.pack(weights)?;
        self.weights.push(id);
        Ok(id)
    }

    pub(super) fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        self.backend.run(steps)
    }

    /// A matrix of activations.
    pub(super) fn input(
        &mut self,
        draw: &mut Draw,
        width: u32,
        elements: &[i32],
    ) -> Result<View, BackendError> {
        self.place(draw, Dtype::I32, width, &le(elements, |x| x.to_le_bytes()))
    }

    /// A column of token ids.
    pub(super) fn tokens(&mut self, draw: &mut Draw, ids: &[u32]) -> Result<View, BackendError> {
        self.place(draw, Dtype::U32, 1, &le(ids, |x| x.to_le_bytes()))
    }

    /// Writes a matrix to a place of its own, often with room before and between its rows.
    pub(super) fn place(
        &mut self,
        draw: &mut Draw,
        dtype: Dtype,
        width: u32,
        elements: &[u8],
    ) -> Result<View, BackendError> {
        let row_bytes = width as usize * dtype.bytes();
        let rows = u32::try_from(elements.len() / row_bytes).expect("few rows");
        let view = self.output(draw, dtype, rows, width)?;
        let mut bytes = vec![FILL; self.length(view.buffer)];
        for (row, place) in elements.chunks_exact(row_bytes).zip(rows_of(view)) {
            bytes[place].copy_from_slice(row);
        }
        self.backend.write(view.buffer, 0, &bytes)?;
        Ok(view)
    }

    /// Room for a result.
    pub(super) fn output(
        &mut self,
        draw: &mut Draw,
        dtype: Dtype,
        rows: u32,
        width: u32,
    ) -> Result<View, BackendError> {
        let (offset, gap) = if draw.once_in(2) { (0, 0) } else { (draw.below(9), draw.below(9)) };
        let stride = width + gap;
        let elements = offset as usize + rows as usize * stride as usize;
        let bytes = vec![FILL; elements * dtype.bytes()];
        let buffer = self.backend.alloc(bytes.len() as u64)?;
        self.lengths.push((buffer, bytes.len()));
        self.backend.write(buffer, 0, &bytes)?;
        Ok(View { buffer, dtype, offset: offset.into(), rows, width, stride })
    }

    /// Rows without gaps from a buffer's start on.
    pub(super) fn plain(
        &mut self,
        dtype: Dtype,
        rows: u32,
        width: u32,
    ) -> Result<View, BackendError> {
        let bytes = vec![FILL; rows as usize * width as usize * dtype.bytes()];
        let buffer = self.backend.alloc(bytes.len() as u64)?;
        self.lengths.push((buffer, bytes.len()));
        self.backend.write(buffer, 0, &bytes)?;
        Ok(View { buffer, dtype, offset: 0, rows, width, stride: width })
    }

    /// The elements of a view, and whether anything beside it changed.
    pub(super) fn read(&mut self, view: View) -> Result<Matrix, BackendError> {
        let mut buffer = vec![0; self.length(view.buffer)];
        self.backend.read(view.buffer, 0, &mut buffer)?;
        let mut bytes = Vec::new();
        for place in rows_of(view) {
            bytes.extend_from_slice(&buffer[place.clone()]);
            buffer[place].fill(FILL);
        }
        let strayed = buffer.iter().any(|byte| *byte != FILL);
        Ok(Matrix { dtype: view.dtype, rows: view.rows, width: view.width, bytes, strayed })
    }

    fn length(&self, buffer: BufferId) -> usize {
        let found = self.lengths.iter().find(|(id, _)| *id == buffer);
        found.expect("every view of a case lies in a buffer of the case").1
    }
}

/// Little-endian bytes of elements.
pub(super) fn le<T: Copy, const N: usize>(elements: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    elements.iter().flat_map(|element| bytes(*element)).collect()
}

/// Byte places of a view's rows.
fn rows_of(view: View) -> impl Iterator<Item = core::ops::Range<usize>> {
    let size = view.dtype.bytes();
    let offset = usize::try_from(view.offset).expect("a small offset");
    (0..view.rows as usize).map(move |row| {
        let start = (offset + row * view.stride as usize) * size;
        start..start + view.width as usize * size
    })
}
