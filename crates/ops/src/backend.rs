//! The seam between a model's program and a device.
//!
//! A [`Backend`] owns one device's memory and kernels. It is given weights once ([`Backend::pack`]), buffers
//! sized by the model's plan ([`Backend::alloc`]), and then lists of [`Step`]s: one variant per operator, so
//! a new operator does not compile until every backend has answered. What a step means is defined by the
//! scalar loop in the file of its stem; how it is tiled, fused or scheduled is the backend's own matter.

use alloc::{string::String, vec::Vec};
use core::fmt;

use hyperion_primitives::{B256, Dtype};

use crate::{
    ActivationTable, AttentionShape, Cap, LinearShape, NormShape, PoolMode, RopeShape,
    cache::PageShape,
};

/// Names memory that [`Backend::alloc`] reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub u32);

/// Names weights that [`Backend::pack`] took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WeightId(pub u32);

/// A matrix inside a buffer: row `r` is `width` elements from element `offset + r * stride` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The buffer.
    pub buffer: BufferId,
    /// Element type; offsets count in its elements.
    pub dtype: Dtype,
    /// First element.
    pub offset: u64,
    /// Rows: the tokens of all sequences of a batch, one after another.
    pub rows: u32,
    /// Elements of a row.
    pub width: u32,
    /// Elements from one row to the next; at least `width`.
    pub stride: u32,
}

impl View {
    /// The columns `start .. start + len` of the same rows.
    pub const fn columns(self, start: u32, len: u32) -> Self {
        Self { offset: self.offset + start as u64, width: len, ..self }
    }
}

/// One sequence of a batch: `rows` rows from row `row` on, the first at absolute position `position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// First row of the sequence in every view of the batch.
    pub row: u32,
    /// Rows of the sequence in this call.
    pub rows: u32,
    /// Absolute position of the first of them.
    pub position: u32,
}

/// Keys and values of the sequences of a batch, quantized, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache<'a> {
    /// Page `i` begins at byte `i * page.bytes()`.
    pub buffer: BufferId,
    /// Sizes of a page.
    pub page: PageShape,
    /// Of each sequence, in order, the pages of its positions from 0 on. Sequences may share pages that are read;
    /// one that is written is its own.
    pub pages: &'a [&'a [u32]],
}

/// Codes of an embedding table, row-major.
#[derive(Clone, Copy, Debug)]
pub enum TableCodes<'a> {
    /// One committed byte a code ([`hyperion_primitives::w8r`]), each row padded to 32 codes.
    W8r(&'a [u8]),
    /// Little-endian `i16`.
    I16(&'a [u8]),
}

/// Weights as the model file holds them; ranges were checked when the file was loaded.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// Table of `embed` or `position`, `[rows, width]`.
    Table {
        /// Rows: vocabulary or context.
        rows: u32,
        /// Width of a row.
        width: u32,
        /// The codes.
        codes: TableCodes<'a>,
        /// `B` of each row.
        mantissas: &'a [u8],
        /// `kw` of each row.
        exponents: &'a [i8],
    },
    /// Scale and shift of `norm`, one per column of a group.
    Norm {
        /// Q14.
        gamma: &'a [i32],
        /// Q16; `LayerNorm` only.
        beta: Option<&'a [i32]>,
    },
    /// A linear step, `[n, K]` with `K` the padded depth.
    Linear {
        /// Sizes and flags.
        shape: LinearShape,
        /// Committed bytes ([`hyperion_primitives::w8r`]), one output channel per row; of weights of four bits their halves
        /// ([`nibbles`](mod@crate::nibbles)).
        codes: &'a [u8],
        /// Scales of groups, there exactly for weights of four bits.
        groups: Option<&'a [u8]>,
        /// `B` of each output channel.
        mantissas: &'a [u8],
        /// `kw` of each output channel.
        exponents: &'a [i8],
        /// Q16, one per output channel.
        bias: Option<&'a [i32]>,
        /// Q14 factors of the inputs, one per column of the input.
        smooth: Option<&'a [u16]>,
    },
    /// Turns per position of `rope`, in units of `2^-64`.
    Frequencies(&'a [u64]),
}

/// One operator applied to views. `out` overlaps no input.
///
/// Shapes are stated by the views and checked by whoever builds the step; a backend may rely on them.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Rows of a table by token id. `tokens` u32 `[rows, 1]`, every id below the vocabulary.
    Embed {
        /// A [`Weights::Table`].
        table: WeightId,
        /// u32.
        tokens: View,
        /// i32 Q16.
        out: View,
    },
    /// Adds the table's row of each row's absolute position.
    Position {
        /// A [`Weights::Table`].
        table: WeightId,
        /// Where positions start.
        sequences: &'a [Sequence],
        /// i32 Q16.
        input: View,
        /// i32 Q16.
        out: View,
    },
    /// `LayerNorm` or `RMSNorm`, per group of columns.
    Norm {
        /// A [`Weights::Norm`].
        weights: WeightId,
        /// Kind, epsilon and group.
        shape: NormShape,
        /// i32 Q16.
        input: View,
        /// i32 Q16.
        out: View,
    },
    /// Quantize, multiply, requantize.
    Linear {
        /// A [`Weights::Linear`].
        weights: WeightId,
        /// Sizes and flags.
        shape: LinearShape,
        /// i32 Q16 `[rows, k]`.
        input: View,
        /// i32 Q16 `[rows, n]`.
        out: View,
    },
    /// Rotary positions.
    Rope {
        /// [`Weights::Frequencies`].
        frequencies: WeightId,
        /// Heads and pairing.
        shape: RopeShape,
        /// Where positions start.
        sequences: &'a [Sequence],
        /// i32 Q16 `[rows, heads * head_dim]`.
        input: View,
        /// i32 Q16, the same shape.
        out: View,
    },
    /// Attention of each sequence's rows to its own visible rows.
    Attention {
        /// Heads and flags.
        shape: AttentionShape,
        /// Which rows belong together.
        sequences: &'a [Sequence],
        /// i32 Q16 `[rows, heads * head_dim]`.
        q: View,
        /// i32 Q16 `[rows, kv_heads * head_dim]`.
        k: View,
        /// i32 Q16 `[rows, kv_heads * head_dim]`.
        v: View,
        /// i32 Q16 `[rows, heads * head_dim]`.
        out: View,
    },
    /// Adds each sequence's rows to its cache, then attends from them to its cached rows that they see.
    CachedAttention {
        /// Heads and flags; causal.
        shape: AttentionShape,
        /// Which rows belong together; every position before them is cached.
        sequences: &'a [Sequence],
        /// Where each sequence's keys and values are; a buffer of no other view.
        cache: Cache<'a>,
        /// i32 Q16 `[rows, heads * head_dim]`.
        q: View,
        /// i32 Q16 `[rows, kv_heads * head_dim]`.
        k: View,
        /// i32 Q16 `[rows, kv_heads * head_dim]`.
        v: View,
        /// i32 Q16 `[rows, heads * head_dim]`.
        out: View,
    },
    /// A table non-linearity, element by element.
    Activation {
        /// Which.
        table: ActivationTable,
        /// i32 Q16.
        input: View,
        /// i32 Q16.
        out: View,
    },
    /// `cap * tanh(x / cap)`, element by element.
    Softcap {
        /// What results stay within.
        cap: Cap,
        /// i32 Q16.
        input: View,
        /// i32 Q16.
        out: View,
    },
    /// `gate * up`, element by element.
    Gate {
        /// i32 Q16.
        gate: View,
        /// i32 Q16.
        up: View,
        /// i32 Q16.
        out: View,
    },
    /// Saturating sum, element by element.
    Add {
        /// i32 Q16.
        lhs: View,
        /// i32 Q16.
        rhs: View,
        /// i32 Q16.
        out: View,
    },
    /// Copies chosen rows: `out[i] = input[rows[i]]` (`last_row` of a batch).
    Rows {
        /// Rows of `input`.
        rows: &'a [u32],
        /// Any type.
        input: View,
        /// The same type, `rows.len()` rows.
        out: View,
    },
    /// One row per sequence.
    Pool {
        /// Which rows are summed.
        mode: PoolMode,
        /// Whether the row is scaled to length one: `out` is then i16 Q15, else i32 Q16.
        unit: bool,
        /// Which rows belong together.
        sequences: &'a [Sequence],
        /// i32 Q16.
        input: View,
        /// One row per sequence.
        out: View,
    },
    /// Lowest index among the largest elements of each row.
    Argmax {
        /// i32.
        input: View,
        /// u32 `[rows, 1]`.
        out: View,
    },
}

/// What kind of device a backend drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// This process's own threads.
    Cpu,
    /// A GPU through wgpu.
    Wgpu,
    /// An NVIDIA GPU through CUDA.
    Cuda,
}

/// A device as `hyperion doctor` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What drives it.
    pub kind: DeviceKind,
    /// Name that a person recognises, such as `cpu` or the adapter's name.
    pub name: String,
    /// Kernel set in use, such as `avx512-vnni`.
    pub kernels: String,
    /// Threads that run kernels; 1 for a GPU.
    pub threads: usize,
    /// Bytes that models and their buffers may use.
    pub memory_bytes: u64,
}

/// Why a device did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendError {
    /// The device has not got that much memory left.
    OutOfMemory {
        /// Bytes asked for.
        wanted_bytes: u64,
        /// Bytes left.
        free_bytes: u64,
    },
    /// The device no longer answers; whoever holds it takes it out of service.
    Lost(String),
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { wanted_bytes, free_bytes } => {
                write!(f, "{wanted_bytes} bytes of device memory are needed, {free_bytes} are free")
            }
            Self::Lost(cause) => write!(f, "the device was lost: {cause}"),
        }
    }
}

impl core::error::Error for BackendError {}

/// One device's kernels and memory, used by the one thread that owns the value.
///
/// Every implementation promises the bits of the scalar definitions, for any batch and any schedule.
/// Ids are valid until [`reset`](Self::reset) (buffers) or [`unpack`](Self::unpack) (weights); an id from
/// elsewhere is a mistake of the caller's and panics.
pub trait Backend: Send {
    /// Name, memory, kernel set.
    fn info(&self) -> &DeviceInfo;

    /// Packs canonical weights into this device's own layout, once per model.
    ///
    /// # Errors
    ///
    /// When the device has no memory left, or is lost.
    fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError>;

    /// Gives packed weights up.
    fn unpack(&mut self, weights: WeightId);

    /// Reserves `bytes`; contents are undefined until written.
    ///
    /// # Errors
    ///
    /// When the device has no memory left, or is lost.
    fn alloc(&mut self, bytes: u64) -> Result<BufferId, BackendError>;

    /// Copies canonical tensor bytes (little-endian) to byte `at` of a buffer.
    ///
    /// # Errors
    ///
    /// When the device is lost.
    fn write(&mut self, to: BufferId, at: u64, bytes: &[u8]) -> Result<(), BackendError>;

    /// Runs steps in the order given. The result is the same for any cut of one list into several calls;
    /// within a call the backend may fuse, so a traced run gives its steps one by one.
    ///
    /// # Errors
    ///
    /// When the device is lost.
    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError>;

    /// Waits for everything before, then copies canonical tensor bytes from byte `at` of a buffer.
    ///
    /// # Errors
    ///
    /// When the device is lost.
    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError>;

    /// Waits for everything before, then hashes bytes `at .. at + bytes` of a buffer where they are: the leaves of
    /// [`hyperion_primitives::tensor_leaf`] of a tensor that these are the elements of.
    ///
    /// `None` from a device that does not hash; whoever asks then reads the bytes and hashes them.
    ///
    /// # Errors
    ///
    /// When the device is lost.
    fn leaves(
        &mut self,
        from: BufferId,
        at: u64,
        bytes: u64,
    ) -> Result<Option<Vec<B256>>, BackendError> {
        let _ = (from, at, bytes); // nothing is hashed here
        Ok(None)
    }

    /// Gives up every buffer; packed weights stay.
    fn reset(&mut self);
}

/// Runs the parts of one operator, on however many threads there are.
pub trait Parallel: Send + Sync {
    /// Threads that take part.
    fn threads(&self) -> usize;

    /// Calls `part` with 0 to `parts - 1`, each exactly once, and returns when all have returned.
    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync));
}

/// One thread: a plain loop.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        (0..parts).for_each(part);
    }
}
