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
    /// Depth of a linear step, and of one on 15-bit codes.
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
    /// Codes of a linear step's rows; of 15-bit ones the high halves of all rows, then the low halves.
    pub(super) codes: CodeRows,
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
    /// The sums, those of low halves behind those of high ones.
    pub(super) tile: Aligned<i32>,
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

    /// Rows of codes: of 15-bit ones two halves.
    fn code_rows(self) -> [(usize, usize); 2] {
        [(ROWS, self.depths[0]), (2 * ROWS, self.depths[1])]
    }

    /// Bytes of one worker.
    pub(super) fn bytes(self) -> u64 {
        let codes = CodeRows::bytes(&self.code_rows());
        let tile = Aligned::<i32>::bytes(2 * ROWS * PANEL);
        let attention = Head::bytes(self.keys, self.head_dim) + Scratch::bytes(self.keys);
        let private = Aligned::<i32>::bytes(ROWS * self.private);
        let private = private + Aligned::<u8>::bytes(PANEL * self.narrow);
        codes + tile + private + attention + 12 * self.width as u64
    }
}

impl Worker {
    fn new(need: Need) -> Option<Self> {
        Some(Self {
            codes: CodeRows::new(&need.code_rows())?,
            sums: PanelSums {
                tile: Aligned::new(2 * ROWS * PANEL)?,
                panel: Aligned::new(PANEL * need.narrow)?,
            },
            row: vec![0; need.width],
            pooled: vec![0; need.width],
            head: Head::new(need.keys, need.head_dim)?,
            scratch: Scratch::new(need.keys)?,
        })
    }
}
