//! Memory that steps need in between: quantized rows on their way from one kernel to the next.

use hyperion_ops::{AttentionShape, BackendError, LinearShape, Sequence, Step, WeightId};

use crate::{Address, Driver, weights::Kind};

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Codes of a linear step's input, or of queries.
    Codes,
    /// Low halves of 15-bit codes.
    LowCodes,
    /// Their steps.
    Steps,
    /// Sums of the library's products, and those of low halves.
    Sums,
    LowSums,
    Keys,
    KeySteps,
    Values,
    ValueSteps,
    /// What a run tells its kernels: positions, chosen rows, query tiles.
    Notes,
    /// Leaves of a tensor that is hashed here.
    Leaves,
}

const PIECES: usize = 11;

/// Bytes of every piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need([u64; PIECES]);

/// Columns of keys and values are padded to this, codes of heads too: what one product takes.
pub(crate) const KEYS_ALIGN: u32 = 32;
/// Absolute positions of a block of keys.
pub(crate) const BLOCK_KEYS: u32 = 256;

/// Codes of a head.
pub(crate) const fn head_depth(shape: AttentionShape) -> u32 {
    shape.head_dim.next_multiple_of(KEYS_ALIGN)
}

/// Bytes from one column of a sequence's values to the next; its first key stands at `position % 256`.
pub(crate) const fn values_stride(sequence: Sequence) -> u32 {
    (sequence.position % BLOCK_KEYS + sequence.rows).next_multiple_of(KEYS_ALIGN)
}

/// All cached rows of a sequence, its new ones included; none if it has no new ones.
pub(crate) const fn cached(sequence: &Sequence) -> Sequence {
    let rows = if sequence.rows == 0 { 0 } else { sequence.position + sequence.rows };
    Sequence { row: 0, rows, position: 0 }
}

/// Bytes of a sequence's values.
pub(crate) fn values_bytes(shape: AttentionShape, sequence: Sequence) -> u64 {
    let columns = u64::from(shape.kv_heads) * u64::from(shape.head_dim);
    columns * u64::from(values_stride(sequence))
}

impl Need {
    fn at_least(&mut self, piece: Piece, bytes: u64) {
        let place = &mut self.0[piece as usize];
        *place = bytes.max(*place);
    }

    /// What these steps need; `kind` finds weights.
    pub(crate) fn of(steps: &[Step<'_>], kind: impl Fn(WeightId) -> Kind) -> Self {
        let mut need = Self::default();
        let mut notes = 0;
        for step in steps {
            match *step {
                Step::Linear { weights, out, .. } => {
                    let Kind::Linear(layer) = kind(weights) else { continue };
                    need.linear(layer.shape, u64::from(out.rows));
                }
                Step::Attention { shape, sequences, out, .. } => {
                    need.queries(shape, u64::from(out.rows));
                    need.keys(shape, sequences, u64::from(out.rows));
                    // A tile of queries and the place of a row of values.
                    notes += u64::from(out.rows) * 40 + sequences.len() as u64 * 32;
                }
                Step::CachedAttention { shape, sequences, out, .. } => {
                    let cached = sequences.iter().map(cached);
                    let keys: Vec<Sequence> = cached.collect();
                    let positions: u64 = keys.iter().map(|keys| u64::from(keys.rows)).sum();
                    need.queries(shape, u64::from(out.rows));
                    need.keys(shape, &keys, positions);
                    // A tile of queries and the place of a row; of a position its place and that of its values.
                    notes +=
                        u64::from(out.rows) * 36 + positions * 16 + keys.len() as u64 * 32 + 64;
                }
                Step::Position { out, .. } | Step::Rope { out, .. } | Step::Rows { out, .. } => {
                    notes += 4 * u64::from(out.rows);
                }
                Step::Pool { out, .. } => notes += 8 * u64::from(out.rows),
                _ => {}
            }
            // Each note starts at a multiple of 16, and a step has two at most.
            notes += 32;
        }
        need.at_least(Piece::Notes, notes);
        need
    }

    fn linear(&mut self, shape: LinearShape, rows: u64) {
        let codes = rows * u64::from(shape.depth());
        self.at_least(Piece::Codes, codes);
        self.at_least(Piece::Steps, 4 * rows);
        if shape.a15 {
            self.at_least(Piece::LowCodes, codes);
        }
    }

    /// Bytes of all values of an attention step: kernels count them in 32 bits.
    pub(crate) const fn values(self) -> u64 {
        self.0[Piece::Values as usize]
    }

    /// Sums of a linear step that the library multiplies.
    pub(crate) fn sums(&mut self, shape: LinearShape, rows: u32) {
        let bytes = 4 * u64::from(rows) * u64::from(shape.n);
        self.at_least(Piece::Sums, bytes);
        if shape.a15 {
            self.at_least(Piece::LowSums, bytes);
        }
    }

    /// Leaves of a tensor.
    pub(crate) fn leaves(&mut self, bytes: u64) {
        self.at_least(Piece::Leaves, bytes);
    }

    fn queries(&mut self, shape: AttentionShape, rows: u64) {
        let heads = rows * u64::from(shape.heads);
        self.at_least(Piece::Codes, heads * u64::from(head_depth(shape)));
        self.at_least(Piece::Steps, 4 * heads);
    }

    /// Keys and values of so many rows in all.
    fn keys(&mut self, shape: AttentionShape, sequences: &[Sequence], rows: u64) {
        let heads = rows * u64::from(shape.kv_heads);
        self.at_least(Piece::Keys, heads * u64::from(head_depth(shape)));
        self.at_least(Piece::KeySteps, 4 * heads);
        let values = sequences.iter().map(|sequence| values_bytes(shape, *sequence)).sum();
        self.at_least(Piece::Values, values);
        self.at_least(Piece::ValueSteps, 4 * heads);
    }
}

/// The pieces as they are; they only grow.
#[derive(Debug, Default)]
pub(crate) struct Room {
    has: Need,
    at: [Address; PIECES],
}

impl Room {
    pub(crate) const fn at(&self, piece: Piece) -> Address {
        self.at[piece as usize]
    }

    /// Bytes that the pieces would take more than they do.
    pub(crate) fn growth(&self, need: Need) -> u64 {
        let missing = |(has, need): (&u64, &u64)| if need > has { need - has } else { 0 };
        self.has.0.iter().zip(&need.0).map(missing).sum()
    }

    /// Makes every piece large enough. Contents are lost.
    pub(crate) fn grow(&mut self, driver: &mut dyn Driver, need: Need) -> Result<(), BackendError> {
        for ((has, at), need) in self.has.0.iter_mut().zip(&mut self.at).zip(need.0) {
            if need > *has {
                if *has > 0 {
                    driver.free(*at);
                    *has = 0;
                }
                *at = driver.alloc(need)?;
                *has = need;
            }
        }
        Ok(())
    }

    /// Gives everything back.
    pub(crate) fn clear(&mut self, driver: &mut dyn Driver) {
        for (has, at) in self.has.0.iter_mut().zip(self.at) {
            if *has > 0 {
                driver.free(at);
                *has = 0;
            }
        }
    }
}
