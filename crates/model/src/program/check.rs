//! Whether operators fit together: shapes inferred node by node, limits of the operator set.

use hyperion_primitives::{
    Dtype,
    limits::{CONTEXT_MAX, VOCABULARY_MAX, WIDTH_MAX},
};

use super::{Codes, Input, Node, Op, ValueId};

/// Nodes of a program at most; the largest decoders have a few thousand.
const NODES_MAX: usize = 65_536;

/// How many rows a value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// As many as the trunk sees.
    All,
    /// Those that produce output: one a sequence, or one a token generated.
    Out,
}

/// Element type and size of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Element type.
    pub dtype: Dtype,
    /// Rows.
    pub rows: Rows,
    /// Elements of a row.
    pub width: u32,
}

/// A program that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node}: {reason}")]
pub struct ProgramError {
    /// The node that does not fit; the number of nodes when it is the whole.
    pub node: usize,
    /// Why.
    pub reason: Reason,
}

/// Why a node does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It reads another number of values.
    #[error("it reads {got} values, want {want}")]
    Inputs {
        /// Values it reads.
        got: usize,
        /// Values its operator reads.
        want: usize,
    },
    /// It reads a value that is defined later.
    #[error("it reads value {value}, which is not defined before it")]
    Order {
        /// The value.
        value: ValueId,
    },
    /// A value has another shape than the operator wants.
    #[error("value {value} is {got:?}, want {want}")]
    Shape {
        /// The value.
        value: ValueId,
        /// Its shape.
        got: Shape,
        /// What the operator wants.
        want: String,
    },
    /// A size exceeds the operator set.
    #[error("{what} is {got}, want 1 to {max}")]
    Limit {
        /// Which size.
        what: &'static str,
        /// Its value.
        got: u64,
        /// The greatest allowed.
        max: u64,
    },
    /// Columns beyond the row.
    #[error("columns {start} to {end} of a row of {width}")]
    Columns {
        /// First column.
        start: u32,
        /// One past the last.
        end: u64,
        /// The row's width.
        width: u32,
    },
    /// A value that nobody reads.
    #[error("value {value} is read by nobody")]
    Unread {
        /// The value.
        value: ValueId,
    },
    /// No nodes at all, or more than any program has.
    #[error("the program has {0} nodes, want 1 to {NODES_MAX}")]
    Count(usize),
    /// Rows that produce output were chosen already, or this operator must come last.
    #[error("{0}")]
    Place(&'static str),
}

/// Infers the shape of every value.
pub(super) fn check(
    input: Input,
    context: u32,
    nodes: &[Node],
) -> Result<Vec<Shape>, ProgramError> {
    let whole = |reason| ProgramError { node: nodes.len(), reason };
    if nodes.is_empty() || nodes.len() > NODES_MAX {
        return Err(whole(Reason::Count(nodes.len())));
    }
    limit("context", context, CONTEXT_MAX).map_err(whole)?;
    limit("input width", input.width(), WIDTH_MAX).map_err(whole)?;
    let mut shapes = Vec::with_capacity(nodes.len() + 1);
    shapes.push(Shape { dtype: input.dtype(), rows: Rows::All, width: input.width() });
    let mut is_read = vec![false; nodes.len() + 1];
    for (index, node) in nodes.iter().enumerate() {
        let is_last = index + 1 == nodes.len();
        let shape = infer(node, &shapes, context, is_last);
        shapes.push(shape.map_err(|reason| ProgramError { node: index, reason })?);
        for value in &node.inputs {
            is_read[*value as usize] = true;
        }
    }
    // The output, which is the last value, is read by the caller.
    match is_read[..nodes.len()].iter().position(|read| !read) {
        None => Ok(shapes),
        Some(value) => {
            let value = u32::try_from(value).expect("a program has few nodes");
            Err(ProgramError {
                node: (value as usize).saturating_sub(1),
                reason: Reason::Unread { value },
            })
        }
    }
}

/// What a node reads, checked as it is asked for.
struct Reads<'a> {
    inputs: &'a [ValueId],
    shapes: &'a [Shape],
}

impl Reads<'_> {
    fn get(&self, at: usize) -> (ValueId, Shape) {
        let value = self.inputs[at];
        (value, self.shapes[value as usize])
    }

    /// Input `at` as activations of this width.
    fn activations(&self, at: usize, width: Option<u32>) -> Result<Shape, Reason> {
        let (value, got) = self.get(at);
        if got.dtype == Dtype::I32 && width.is_none_or(|width| width == got.width) {
            return Ok(got);
        }
        let want = width.map_or_else(|| "i32".to_owned(), |width| format!("i32, {width} wide"));
        Err(Reason::Shape { value, got, want })
    }

    /// Input `at` as activations with every row of the trunk.
    fn trunk(&self, at: usize, width: Option<u32>) -> Result<Shape, Reason> {
        let got = self.activations(at, width)?;
        if got.rows == Rows::All {
            return Ok(got);
        }
        let want = "every row, before last_row or pool".to_owned();
        Err(Reason::Shape { value: self.inputs[at], got, want })
    }

    /// Two inputs of one shape.
    fn pair(&self) -> Result<Shape, Reason> {
        let first = self.activations(0, None)?;
        let (value, got) = self.get(1);
        if got == first {
            Ok(first)
        } else {
            Err(Reason::Shape { value, got, want: format!("{first:?}") })
        }
    }
}

fn infer(node: &Node, shapes: &[Shape], context: u32, is_last: bool) -> Result<Shape, Reason> {
    let want = node.op.inputs();
    if node.inputs.len() != want {
        return Err(Reason::Inputs { got: node.inputs.len(), want });
    }
    if let Some(value) = node.inputs.iter().find(|value| **value as usize >= shapes.len()) {
        return Err(Reason::Order { value: *value });
    }
    let reads = Reads { inputs: &node.inputs, shapes };
    let rows_of = |dtype, rows, width| Shape { dtype, rows, width };
    match node.op {
        Op::Embed { vocab, width, .. } => {
            limit("vocabulary", vocab, VOCABULARY_MAX)?;
            limit("width", width, WIDTH_MAX)?;
            let (value, got) = reads.get(0);
            if value != 0 || got.dtype != Dtype::U32 {
                return Err(Reason::Shape {
                    value,
                    got,
                    want: "the program's token ids".to_owned(),
                });
            }
            Ok(rows_of(Dtype::I32, Rows::All, width))
        }
        Op::Position { context: positions, width, .. } => {
            limit("positions", positions, CONTEXT_MAX)?;
            if positions < context {
                return Err(Reason::Place(
                    "its table has fewer positions than the program's context",
                ));
            }
            reads.trunk(0, Some(width))
        }
        Op::Norm(shape) => {
            let got = reads.activations(0, None)?;
            if got.width % shape.group != 0 {
                let want = format!("a multiple of {} wide", shape.group);
                return Err(Reason::Shape { value: node.inputs[0], got, want });
            }
            Ok(got)
        }
        Op::Linear(shape) => {
            let got = reads.activations(0, Some(shape.k))?;
            // A head's output is as wide as the vocabulary; nothing reads it but argmax and sample.
            limit("output width", shape.n, VOCABULARY_MAX)?;
            Ok(Shape { width: shape.n, ..got })
        }
        Op::Rope(shape) => reads.trunk(0, Some(shape.heads * shape.head_dim)),
        Op::Attention(shape) => {
            let keys = Some(shape.kv_heads * shape.head_dim);
            reads.trunk(1, keys)?;
            reads.trunk(2, keys)?;
            reads.trunk(0, Some(shape.heads * shape.head_dim))
        }
        Op::Columns { start, len } => {
            let got = reads.activations(0, None)?;
            let end = u64::from(start) + u64::from(len);
            if len == 0 || end > u64::from(got.width) {
                return Err(Reason::Columns { start, end, width: got.width });
            }
            Ok(Shape { width: len, ..got })
        }
        Op::Activation(_) | Op::Softcap(_) => reads.activations(0, None),
        Op::Gate | Op::Add => reads.pair(),
        Op::LastRow => Ok(Shape { rows: Rows::Out, ..reads.trunk(0, None)? }),
        Op::Pool { unit, .. } => {
            let got = reads.trunk(0, None)?;
            limit("width", got.width, WIDTH_MAX)?;
            Ok(rows_of(if unit { Dtype::I16 } else { Dtype::I32 }, Rows::Out, got.width))
        }
        Op::Argmax => {
            let got = reads.activations(0, None)?;
            Ok(rows_of(Dtype::U32, got.rows, 1))
        }
        Op::Sample => {
            let got = reads.activations(0, None)?;
            if !is_last || got.rows != Rows::Out {
                return Err(Reason::Place(
                    "sample is the last operator and reads the rows that produce output",
                ));
            }
            Ok(rows_of(Dtype::U32, Rows::Out, 1))
        }
    }
}

fn limit(what: &'static str, got: u32, max: u32) -> Result<(), Reason> {
    if (1..=max).contains(&got) {
        Ok(())
    } else {
        Err(Reason::Limit { what, got: got.into(), max: max.into() })
    }
}

impl Op {
    /// Values the operator reads.
    pub const fn inputs(&self) -> usize {
        match self {
            Self::Attention(_) => 3,
            Self::Gate | Self::Add => 2,
            _ => 1,
        }
    }
}

impl Codes {
    /// The element type with this CT1 code.
    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            17 => Some(Self::W8r),
            3 => Some(Self::I16),
            _ => None,
        }
    }
}
