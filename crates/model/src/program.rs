//! The program of a model: its operators in order, each reading values that earlier ones defined.
//!
//! Value 0 is the input; node `i` defines value `i + 1` and reads values up to `i`. The last node is the output and
//! every other value is read by somebody. A [`Program`] exists only if all of that holds and every operator fits the
//! values it reads (`check`), so nothing after it has to ask again. Its bytes (`docs/model-format.md`, "Program") are
//! the only encoding there is, and their hash is part of the model's identity.

mod check;
mod codec;

use hyperion_ops::{
    ActivationTable, AttentionShape, Cap, LinearShape, NormShape, OPSET, PoolMode, RopeShape,
};
use hyperion_primitives::{Dtype, Keccak, ProgramId};

pub use self::{
    check::{ProgramError, Reason, Rows, Shape},
    codec::DecodeError,
};

/// Names a value: 0 is the program's input, `i + 1` what node `i` defines.
pub type ValueId = u32;

/// What a program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Token ids, u32 `[rows, 1]`.
    Tokens,
    /// Rows of this width, i32 Q16.
    Rows(u32),
}

impl Input {
    /// Element type of the input tensor.
    pub const fn dtype(self) -> Dtype {
        match self {
            Self::Tokens => Dtype::U32,
            Self::Rows(_) => Dtype::I32,
        }
    }

    /// Elements of an input row.
    pub const fn width(self) -> u32 {
        match self {
            Self::Tokens => 1,
            Self::Rows(width) => width,
        }
    }
}

/// Element type of a table's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// One committed byte a code.
    W8r,
    /// Little-endian i16.
    I16,
}

impl Codes {
    /// The element type.
    pub const fn dtype(self) -> Dtype {
        match self {
            Self::W8r => Dtype::W8r,
            Self::I16 => Dtype::I16,
        }
    }
}

/// An operator with everything but the values it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Rows of a table by token id.
    Embed {
        /// Rows of the table.
        vocab: u32,
        /// Width of a row.
        width: u32,
        /// Element type of the table.
        codes: Codes,
    },
    /// Adds a table's row of each row's position.
    Position {
        /// Rows of the table.
        context: u32,
        /// Width of a row.
        width: u32,
        /// Element type of the table.
        codes: Codes,
    },
    /// `LayerNorm` or `RMSNorm`.
    Norm(NormShape),
    /// Quantize, multiply, requantize.
    Linear(LinearShape),
    /// Rotary positions.
    Rope(RopeShape),
    /// Attention: queries, keys, values.
    Attention(AttentionShape),
    /// A slice of each row.
    Columns {
        /// First column.
        start: u32,
        /// Columns.
        len: u32,
    },
    /// A table non-linearity.
    Activation(ActivationTable),
    /// `cap * tanh(x / cap)`.
    Softcap(Cap),
    /// `gate * up`.
    Gate,
    /// Saturating sum.
    Add,
    /// The rows that produce output.
    LastRow,
    /// One row of all.
    Pool {
        /// Which rows.
        mode: PoolMode,
        /// Whether to length one, i16 Q15.
        unit: bool,
    },
    /// Lowest index of the largest element.
    Argmax,
    /// A draw.
    Sample,
}

/// One operator of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// What it reads, in the operator's order.
    pub inputs: Vec<ValueId>,
}

/// A checked program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    input: Input,
    context: u32,
    nodes: Vec<Node>,
    shapes: Vec<Shape>,
}

impl Program {
    /// A program of these nodes; `context` is the most positions a sequence may have.
    ///
    /// # Errors
    ///
    /// When a node does not fit the values it reads, a value is read by nobody, or a size exceeds the operator set's
    /// limits; the error names the node.
    pub fn new(input: Input, context: u32, nodes: Vec<Node>) -> Result<Self, ProgramError> {
        let shapes = check::check(input, context, &nodes)?;
        Ok(Self { input, context, nodes, shapes })
    }

    /// What the program reads.
    pub const fn input(&self) -> Input {
        self.input
    }

    /// The most positions a sequence may have.
    pub const fn context(&self) -> u32 {
        self.context
    }

    /// The operators, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Shape of a value.
    ///
    /// # Panics
    ///
    /// When the program has no such value.
    pub fn shape(&self, value: ValueId) -> Shape {
        self.shapes[value as usize]
    }

    /// Shape of the output.
    pub fn output(&self) -> Shape {
        *self.shapes.last().expect("a program has its input")
    }

    /// Token ids are below this; `None` where the input is no token ids.
    pub fn vocabulary(&self) -> Option<u32> {
        let tables = self.nodes.iter().filter_map(|node| match node.op {
            Op::Embed { vocab, .. } => Some(vocab),
            _ => None,
        });
        tables.min()
    }

    /// The oldest operator set that has every operator of the program.
    pub fn operator_set(&self) -> u16 {
        let newest = |node: &Node| match node.op {
            Op::Softcap(_) => true,
            Op::Attention(shape) => shape.cap.is_some(),
            Op::Linear(shape) => shape.w4,
            _ => false,
        };
        if self.nodes.iter().any(newest) { OPSET } else { 1 }
    }

    /// The program's identity: `K("P1" ‖ bytes)`.
    pub fn id(&self) -> ProgramId {
        ProgramId(Keccak::tagged(b"P1").update(self.encode()).finish())
    }
}
