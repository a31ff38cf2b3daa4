//! Weights of four bits as kernels read them, and their panels as bytes.
//!
//! ```text
//! panel (48 channels) | group (8 quads) | scales: channel | pair of quads | channel | 4 bytes
//! ```
//!
//! A byte holds a code of quad `q` of its group low and the same code of quad `q + 4` high. A panel is made into bytes, in
//! the caches, before its products are made: what is read from memory is half. Two bytes are made at once in 16 bits,
//! `(h0 + 256·h1)·s + 257·(128 − 8·s)`: no part leaves its byte, because `15·17` fits one and so does the result.

use super::packed::{PANEL, Panel, QUAD, padded};
use crate::{
    cpu::{Aligned, Products},
    nibbles::GROUP,
};

/// Quads of a group.
const QUADS: usize = GROUP / QUAD;
/// Half of them: what one pass over bytes makes.
const HALF: usize = QUADS / 2;

/// Weights of a linear layer.
#[derive(Debug)]
pub(crate) struct NarrowPanels {
    bytes: Aligned<u8>,
    cols: usize,
    depth: usize,
}

impl NarrowPanels {
    /// Packs halves `[cols, depth / 2]` and scales `[cols, depth / 32]`; `None` when there is no memory.
    pub(crate) fn new(halves: &[u8], scales: &[u8], cols: usize, depth: usize) -> Option<Self> {
        let mut bytes = Aligned::new(len(padded(cols), depth))?;
        // In the padding a half of 8 is code 0, whatever its scale.
        bytes.as_mut_slice().fill(0x88);
        let groups = depth / GROUP;
        let rows = halves.chunks_exact(depth / 2).zip(scales.chunks_exact(groups));
        for (col, (halves, scales)) in rows.enumerate() {
            let width = (padded(cols) - col / PANEL * PANEL).min(PANEL);
            let start = len(col / PANEL * PANEL, depth);
            let panel = &mut bytes.as_mut_slice()[start..][..len(width, depth)];
            let own = panel.chunks_exact_mut(len(width, GROUP));
            let own = own.zip(halves.as_chunks::<{ GROUP / 2 }>().0).zip(scales);
            for ((group, halves), scale) in own {
                group[col % PANEL] = *scale;
                let places = group[width..].as_chunks_mut::<QUAD>().0;
                for quad in 0..HALF {
                    // The source's low halves are the first sixteen codes, its high ones the others.
                    let from = &halves[quad * QUAD..][..QUAD];
                    places[quad * width + col % PANEL].copy_from_slice(from);
                }
            }
        }
        Some(Self { bytes, cols, depth })
    }

    /// Bytes that a layer of this size takes.
    pub(crate) fn bytes(cols: usize, depth: usize) -> u64 {
        Aligned::<u8>::bytes(len(padded(cols), depth))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.cols.div_ceil(PANEL)
    }

    /// The channels from `48 * index` on, made into bytes in `room`.
    pub(crate) fn panel<'r, K: Products>(
        &self,
        k: K,
        index: usize,
        room: &'r mut [u8],
    ) -> Panel<'r> {
        let width = (padded(self.cols) - index * PANEL).min(PANEL);
        let start = len(index * PANEL, self.depth);
        let panel = &self.bytes.as_slice()[start..][..len(width, self.depth)];
        let bytes = &mut room[..width * self.depth];
        k.widen(width, panel, bytes);
        Panel { bytes, width }
    }
}

/// Bytes of so many channels.
const fn len(cols: usize, depth: usize) -> usize {
    depth / GROUP * cols * (1 + HALF * QUAD)
}

/// Channels whose four bytes fill 64.
pub(super) const CHANNELS: usize = 16;

/// One group of a panel: 16 scales for each 64 bytes of a quad, then the quads.
pub(super) struct Group<'p> {
    pub(super) scales: &'p [[u8; CHANNELS]],
    pub(super) halves: &'p [[u8; 64]],
}

/// The groups of a panel of `width` channels, and where the bytes of each go: of quads with low halves, then of those with high
/// ones.
#[inline(always)]
pub(super) fn groups<'p>(
    width: usize,
    panel: &'p [u8],
    bytes: &'p mut [u8],
) -> impl Iterator<Item = (Group<'p>, [&'p mut [[u8; 64]]; 2])> {
    let outs = bytes.chunks_exact_mut(width * GROUP);
    panel.chunks_exact(len(width, GROUP)).zip(outs).map(move |(group, out)| {
        let (scales, halves) = group.split_at(width);
        let (low, high) = out.split_at_mut(width * GROUP / 2);
        let group = Group { scales: scales.as_chunks().0, halves: halves.as_chunks().0 };
        (group, [low, high].map(|out| out.as_chunks_mut().0))
    })
}

/// Makes bytes of a panel of `width` channels, as plain loops.
pub(crate) fn widen(width: usize, panel: &[u8], bytes: &mut [u8]) {
    for (Group { scales, halves }, [low, high]) in groups(width, panel, bytes) {
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
