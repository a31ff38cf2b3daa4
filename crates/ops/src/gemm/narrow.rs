//! Weights of four bits as kernels read them, and their panels as bytes.
//!
//! ```text
//! halves    panel (48 channels) | group (8 quads) | pair of quads | channel | 4 bytes
//! scales    panel (48 channels) | group (8 quads) | channel
//! ```
//!
//! A byte holds a code of quad `q` of its group low and the same code of quad `q + 4` high. What is read from memory is about
//! half. For a few rows kernels may multiply halves as they are and scale the sum of a group; else a panel is made into
//! bytes, in the caches, before its products are made. There two bytes are made at once in 16 bits,
//! `(h0 + 256·h1)·s + 257·(128 − 8·s)`: no part leaves its byte, because `15·17` fits one and so does the result.

use super::packed::{PANEL, Panel, QUAD, padded};
use crate::{
    cpu::{Aligned, Products},
    nibbles::GROUP,
};

/// Weights of a linear layer.
#[derive(Debug)]
pub(crate) struct NarrowPanels {
    halves: Aligned<u8>,
    scales: Aligned<u8>,
    cols: usize,
    depth: usize,
}

/// Some channels of a linear layer, at full depth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NarrowPanel<'a> {
    /// `[depth / 32, 4, width, 4]`.
    halves: &'a [u8],
    /// `[depth / 32, width]`.
    scales: &'a [u8],
    /// Channels: a multiple of 16, 48 at most.
    pub(crate) width: usize,
}

impl NarrowPanels {
    /// Packs halves `[cols, depth / 2]` and scales `[cols, depth / 32]`; `None` when there is no memory.
    pub(crate) fn new(halves: &[u8], scales: &[u8], cols: usize, depth: usize) -> Option<Self> {
        let [halves_len, groups] = [depth / 2, depth / GROUP];
        let mut all = Aligned::new(padded(cols) * halves_len)?;
        let mut all_scales = Aligned::new(padded(cols) * groups)?;
        // In the padding a half of 8 is code 0, whatever its scale.
        all.as_mut_slice().fill(0x88);
        let rows = halves.chunks_exact(halves_len).zip(scales.chunks_exact(groups));
        for (col, (halves, scales)) in rows.enumerate() {
            let (first, place) = (col / PANEL * PANEL, col % PANEL);
            let width = (padded(cols) - first).min(PANEL);
            let own = all.as_mut_slice()[first * halves_len..].as_chunks_mut::<QUAD>().0;
            // The source's low halves are a group's first sixteen codes, its high ones the others.
            let places = own.iter_mut().skip(place).step_by(width);
            places.zip(halves.as_chunks::<QUAD>().0).for_each(|(to, from)| *to = *from);
            let own = all_scales.as_mut_slice()[first * groups..].iter_mut();
            let places = own.skip(place).step_by(width);
            places.zip(scales).for_each(|(to, from)| *to = *from);
        }
        Some(Self { halves: all, scales: all_scales, cols, depth })
    }

    /// Bytes that a layer of this size takes.
    pub(crate) fn bytes(cols: usize, depth: usize) -> u64 {
        let cols = padded(cols);
        Aligned::<u8>::bytes(cols * depth / 2) + Aligned::<u8>::bytes(cols * depth / GROUP)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.cols.div_ceil(PANEL)
    }

    /// The channels from `48 * index` on.
    pub(crate) fn panel(&self, index: usize) -> NarrowPanel<'_> {
        let width = (padded(self.cols) - index * PANEL).min(PANEL);
        let part = |of: &Aligned<u8>, len: usize| {
            let (start, end) = (index * PANEL * len, (index * PANEL + width) * len);
            start..end.min(of.as_slice().len())
        };
        let halves = &self.halves.as_slice()[part(&self.halves, self.depth / 2)];
        let scales = &self.scales.as_slice()[part(&self.scales, self.depth / GROUP)];
        NarrowPanel { halves, scales, width }
    }

    /// The channels from `48 * index` on, made into bytes in `room`.
    pub(crate) fn widened<'r, K: Products>(
        &self,
        k: K,
        index: usize,
        room: &'r mut [u8],
    ) -> Panel<'r> {
        let panel = self.panel(index);
        let bytes = &mut room[..panel.width * self.depth];
        k.widen(panel, bytes);
        Panel { bytes, width: panel.width }
    }
}

/// Channels whose four bytes fill 64.
pub(super) const CHANNELS: usize = 16;

/// One group of a panel: 16 scales for each 64 bytes of a quad, then the quads.
pub(super) struct Group<'p> {
    pub(super) scales: &'p [[u8; CHANNELS]],
    pub(super) halves: &'p [[u8; 64]],
}

impl<'p> NarrowPanel<'p> {
    /// Bytes of its halves.
    pub(crate) fn bytes(self) -> usize {
        self.halves.len()
    }

    /// Its groups.
    #[inline(always)]
    pub(super) fn groups(self) -> impl Iterator<Item = Group<'p>> {
        let halves = self.halves.chunks_exact(self.width * GROUP / 2);
        self.scales.chunks_exact(self.width).zip(halves).map(|(scales, halves)| Group {
            scales: scales.as_chunks().0,
            halves: halves.as_chunks().0,
        })
    }

    /// Its groups, and where the bytes of each go: of quads with low halves, then of those with high ones.
    #[inline(always)]
    pub(super) fn groups_into(
        self,
        bytes: &'p mut [u8],
    ) -> impl Iterator<Item = (Group<'p>, [&'p mut [[u8; 64]]; 2])> {
        let outs = bytes.chunks_exact_mut(self.width * GROUP);
        self.groups().zip(outs).map(move |(group, out)| {
            let (low, high) = out.split_at_mut(self.width * GROUP / 2);
            (group, [low, high].map(|out| out.as_chunks_mut().0))
        })
    }
}

/// Makes bytes of a panel, as plain loops.
pub(crate) fn widen(panel: NarrowPanel<'_>, bytes: &mut [u8]) {
    for (Group { scales, halves }, [low, high]) in panel.groups_into(bytes) {
        let places = low.iter_mut().zip(high).zip(halves);
        for (((low, high), halves), scales) in places.zip(scales.iter().cycle()) {
            for (i, halves) in halves.iter().enumerate() {
                // A valid half and scale make -119 to 119; those of the padding make 0.
                let scale = i16::from(scales[i / QUAD]);
                let byte = |half: u8| ((i16::from(half) - 8) * scale + 128).to_le_bytes()[0];
                (low[i], high[i]) = (byte(halves & 15), byte(halves >> 4));
            }
        }
    }
}
