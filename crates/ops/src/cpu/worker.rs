//! Room that one thread needs while it computes; sized by a list of steps before the first of them runs.

use alloc::{vec, vec::Vec};

use super::{Aligned, region::Stage, weights::Packed};
use crate::{
    Sequence, Step, WeightId,
    attention::{kernel::Scratch, packed::Head},
    gemm::packed::{CodeRows, PANEL},
};

/// Rows that go through a linear step together: their sums with one panel fill half a first-level cache.
pub(super) const ROWS: usize = 64;

/// Greatest sizes among some steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// Depth of a linear step on 8-bit codes or on the high halves of 15-bit ones, and on the low halves.
    depths: [usize; 2],
    /// Depth of a linear step on weights of four bits.
    narrow: usize,
    /// Elements of a row that is changed before it is used.
    width: usize,
    /// Words per row of what regions keep to themselves.
    private: usize,
    /// Rows of a sequence, and columns of a head.
    keys: usize,
    head_dim: usize,
}

/// One thread's room: what the steps of a part work with, beside rows that the part itself is made of.
#[derive(Debug)]
pub(super) struct Room {
    /// Rows of what the region keeps to itself.
    pub(super) private: Aligned<i32>,
    pub(super) worker: Worker,
}

impl Room {
    /// `None` when there is no memory.
    pub(super) fn new(need: Need) -> Option<Self> {
        let private = Aligned::new(ROWS * need.private)?;
        Some(Self { private, worker: Worker::new(need)? })
    }
}

/// What one thread's steps work with.
#[derive(Debug)]
pub(super) struct Worker {
    /// Codes of a linear step's rows: high halves or all, and low halves.
    pub(super) codes: [CodeRows; 2],
    pub(super) sums: PanelSums,
    pub(super) row: Vec<i32>,
    /// Sums of a row of a pool.
    pub(super) pooled: Vec<i64>,
    pub(super) head: Head,
    pub(super) scratch: Scratch,
}

/// What the product of some rows and one panel needs.
#[derive(Debug)]
pub(super) struct PanelSums {
    /// The sums, for either half of the rows' codes.
    pub(super) tiles: [Aligned<i32>; 2],
    /// A panel of weights of four bits, as bytes.
    pub(super) panel: Aligned<u8>,
}

impl Need {
    /// Grows to what a list of steps needs.
    pub(super) fn cover<'p>(
        &mut self,
        steps: &[Step<'_>],
        stages: &[Stage<'_>],
        packed: impl Fn(WeightId) -> &'p Packed,
    ) {
        for stage in stages {
            if let Stage::Rows(region) = stage {
                self.private = self.private.max(region.extents.private_words());
            }
        }
        for step in steps {
            match *step {
                Step::Linear { weights, .. } => {
                    let Packed::Linear(layer) = packed(weights) else { continue };
                    let depth = layer.shape.depth() as usize;
                    self.depths[0] = self.depths[0].max(depth);
                    if layer.shape.a15 {
                        self.depths[1] = self.depths[1].max(depth);
                    }
                    if layer.shape.w4 {
                        self.narrow = self.narrow.max(depth);
                    }
                    if layer.shape.smooth {
                        self.width = self.width.max(layer.shape.k as usize);
                    }
                }
                Step::Position { out, .. } | Step::Pool { out, .. } => {
                    self.width = self.width.max(out.width as usize);
                }
                Step::Attention { shape, sequences, .. } => {
                    let rows = sequences.iter().map(|sequence| sequence.rows as usize).max();
                    self.keys = self.keys.max(rows.unwrap_or(0));
                    self.head_dim = self.head_dim.max(shape.head_dim as usize);
                }
                Step::CachedAttention { shape, sequences, .. } => {
                    let end = |sequence: &Sequence| sequence.position + sequence.rows;
                    let rows = sequences.iter().map(end).max().unwrap_or(0) as usize;
                    // A cache grows a row at a time; room grows in few steps.
                    self.keys = self.keys.max(rows.next_power_of_two());
                    self.head_dim = self.head_dim.max(shape.head_dim as usize);
                }
                _ => {}
            }
        }
    }

    /// Bytes of one worker.
    pub(super) fn bytes(self) -> u64 {
        let codes: u64 = self.depths.iter().map(|depth| CodeRows::bytes(ROWS, *depth)).sum();
        let tiles = 2 * Aligned::<i32>::bytes(ROWS * PANEL);
        let attention = Head::bytes(self.keys, self.head_dim) + Scratch::bytes(self.keys);
        let private = Aligned::<i32>::bytes(ROWS * self.private);
        let private = private + Aligned::<u8>::bytes(PANEL * self.narrow);
        codes + tiles + private + attention + 12 * self.width as u64
    }
}

impl Worker {
    fn new(need: Need) -> Option<Self> {
        let [all, low] = need.depths.map(|depth| CodeRows::new(ROWS, depth));
        Some(Self {
            codes: [all?, low?],
            sums: PanelSums {
                tiles: [Aligned::new(ROWS * PANEL)?, Aligned::new(ROWS * PANEL)?],
                panel: Aligned::new(PANEL * need.narrow)?,
            },
            row: vec![0; need.width],
            pooled: vec![0; need.width],
            head: Head::new(need.keys, need.head_dim)?,
            scratch: Scratch::new(need.keys)?,
        })
    }
}
