//! Operands of a product as kernels read them.
//!
//! ```text
//! weights      panel (48 channels) | quad (4 codes of the depth) | channel | code + 128
//! activations  row | code                and, per block of 96 quads of a row, a plan
//! ```
//!
//! Four codes of the depth stand side by side because the instructions at hand multiply and sum them in one
//! step. A block of a panel is 18 KB, so it stays in the first-level cache while all rows of a tile pass
//! (24 KB do not quite). The last panel is as narrow as a multiple of 16 channels allows. Weights are stored with 128 added, as
//! the model file has them: the instructions want one operand unsigned.

use alloc::{vec, vec::Vec};

use hyperion_primitives::w8r::GROUP_BYTES;

use super::plan::Plan;
use crate::{cpu::Aligned, quantize::RowScale};

/// Channels of a panel; the last may have fewer.
pub(crate) const PANEL: usize = 48;
/// Narrower panels are padded to a multiple of this.
const PANEL_STEP: usize = 16;
/// Codes that one instruction multiplies and sums per channel.
pub(crate) const QUAD: usize = 4;
/// Quads of a block.
pub(crate) const BLOCK: usize = 96;

/// Weights of a linear layer.
#[derive(Debug)]
pub(crate) struct Panels {
    bytes: Aligned<u8>,
    cols: usize,
    depth: usize,
}

/// Some channels of a linear layer, at full depth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel<'a> {
    /// `[depth / 4, width, 4]`, codes with 128 added.
    pub(crate) bytes: &'a [u8],
    /// Channels: a multiple of 16, 48 at most.
    pub(crate) width: usize,
}

impl Panels {
    /// Packs committed bytes `[cols, depth]`; `None` when the process has not got the memory.
    pub(crate) fn new(committed: &[u8], cols: usize, depth: usize) -> Option<Self> {
        let mut bytes = Aligned::new(padded(cols) * depth)?;
        // What stands in the padding is multiplied and thrown away; 128 is code 0.
        bytes.as_mut_slice().fill(128);
        for (col, row) in committed.chunks_exact(depth).enumerate() {
            let width = (padded(cols) - col / PANEL * PANEL).min(PANEL);
            let panel = &mut bytes.as_mut_slice()[col / PANEL * PANEL * depth..][..width * depth];
            let places = panel.as_chunks_mut::<QUAD>().0[col % PANEL..].iter_mut().step_by(width);
            // Committed bytes stand with their groups of four in reverse order, 32 by 32.
            let groups =
                row.chunks_exact(GROUP_BYTES).flat_map(|group| group.as_chunks().0.iter().rev());
            places.zip(groups).for_each(|(place, group)| *place = *group);
        }
        Some(Self { bytes, cols, depth })
    }

    /// Bytes that a layer of this size takes.
    pub(crate) fn bytes(cols: usize, depth: usize) -> u64 {
        Aligned::<u8>::bytes(padded(cols) * depth)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.cols.div_ceil(PANEL)
    }

    /// The channels from `48 * index` on.
    pub(crate) fn panel(&self, index: usize) -> Panel<'_> {
        let width = (padded(self.cols) - index * PANEL).min(PANEL);
        let bytes = &self.bytes.as_slice()[index * PANEL * self.depth..][..width * self.depth];
        Panel { bytes, width }
    }
}

/// Channels and their padding.
pub(super) fn padded(cols: usize) -> usize {
    cols.next_multiple_of(PANEL_STEP)
}

/// Quantized rows.
#[derive(Debug, Default)]
pub(crate) struct CodeRows {
    depth: usize,
    codes: Aligned<i8>,
    plans: Vec<Plan>,
    scales: Vec<RowScale>,
}

impl CodeRows {
    /// Bytes that room for each of these numbers of rows, of so many codes, takes.
    pub(crate) fn bytes(sizes: &[(usize, usize)]) -> u64 {
        let [codes, plans, rows] = Self::room(sizes);
        let rest = plans * size_of::<Plan>() + rows * size_of::<RowScale>();
        Aligned::<i8>::bytes(codes) + rest as u64
    }

    /// Room for each of some numbers of rows, of so many codes, a multiple of 32; `None` when there is no memory.
    pub(crate) fn new(sizes: &[(usize, usize)]) -> Option<Self> {
        let [codes, plans, rows] = Self::room(sizes);
        let (codes, plans) = (Aligned::new(codes)?, vec![Plan::default(); plans]);
        Some(Self { depth: 0, codes, plans, scales: vec![RowScale::default(); rows] })
    }

    /// Most codes, plans and rows.
    fn room(sizes: &[(usize, usize)]) -> [usize; 3] {
        let most = |of: fn((usize, usize)) -> usize| sizes.iter().copied().map(of).max();
        let codes = most(|(rows, depth)| rows * depth);
        [codes, most(|(rows, depth)| rows * blocks(depth)), most(|(rows, _)| rows)]
            .map(Option::unwrap_or_default)
    }

    /// Uses the same room for rows of another depth.
    pub(crate) fn set_depth(&mut self, depth: usize) {
        self.depth = depth;
    }

    /// The codes of a row, to be written.
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [i8] {
        &mut self.codes.as_mut_slice()[row * self.depth..][..self.depth]
    }

    /// The codes of two rows, the first before the second, to be written.
    pub(crate) fn rows_mut(&mut self, first: usize, second: usize) -> [&mut [i8]; 2] {
        let (before, from) = self.codes.as_mut_slice().split_at_mut(second * self.depth);
        [&mut before[first * self.depth..][..self.depth], &mut from[..self.depth]]
    }

    /// Sets the step of a row.
    pub(crate) fn set_scale(&mut self, row: usize, scale: RowScale) {
        self.scales[row] = scale;
    }

    /// The step of a row.
    #[inline]
    pub(crate) fn scale(&self, row: usize) -> RowScale {
        self.scales[row]
    }

    /// The codes of a row.
    #[inline]
    pub(crate) fn row(&self, row: usize) -> &[i8] {
        &self.codes.as_slice()[row * self.depth..][..self.depth]
    }

    /// The plans of a row, one per block, with the codes that they are about.
    pub(crate) fn plan_mut(&mut self, row: usize) -> (&[i8], &mut [Plan]) {
        let blocks = blocks(self.depth);
        let codes = &self.codes.as_slice()[row * self.depth..][..self.depth];
        (codes, &mut self.plans[row * blocks..][..blocks])
    }

    /// The quads of a block of a row.
    #[inline]
    pub(crate) fn quads(&self, row: usize, block: usize) -> &[[i8; QUAD]] {
        let quads = self.row(row).as_chunks().0;
        let end = quads.len().min((block + 1) * BLOCK);
        &quads[block * BLOCK..end]
    }

    /// The codes of block `block` of the rows from `row` on: the first row's stand at the start, each other's `depth` later.
    #[inline]
    pub(crate) fn block_codes(&self, row: usize, block: usize) -> &[i8] {
        &self.codes.as_slice()[row * self.depth + block * BLOCK * QUAD..]
    }

    /// Codes from one row to the next.
    #[inline]
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// How to multiply a block of a row.
    #[inline]
    pub(crate) fn plan(&self, row: usize, block: usize) -> &Plan {
        &self.plans[row * blocks(self.depth) + block]
    }
}

/// Blocks of a row.
pub(crate) fn blocks(depth: usize) -> usize {
    depth.div_ceil(QUAD * BLOCK)
}
