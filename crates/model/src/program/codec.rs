//! The bytes of a program: big-endian, one encoding a program.

use hyperion_ops::{
    ActivationTable, AttentionShape, Cap, LinearShape, NormKind, NormShape, OPSET, Pairing,
    PoolMode, RopeShape, table::TABLES_ROOT,
};
use hyperion_primitives::{B256, Dtype};

use super::{Codes, Input, Node, Op, Program, ProgramError};

const MAGIC: &[u8; 4] = b"HYPP";
const FORMAT: u16 = 1;

/// Bytes that are no program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early or too late.
    #[error("the program ends at byte {at}, {}", if *.more { "and there are more" } else { "in the middle of something" })]
    Length {
        /// Where.
        at: usize,
        /// Whether bytes follow.
        more: bool,
    },
    /// They begin otherwise.
    #[error("the bytes do not begin with \"HYPP\", format 1, operator set 1 or {OPSET}")]
    Header,
    /// The operator set is not the oldest that has the operators.
    #[error("the program names operator set {got}, its operators are those of set {want}")]
    OperatorSet {
        /// The set it names.
        got: u16,
        /// The set it needs.
        want: u16,
    },
    /// Another version of the tables.
    #[error("the program was made for tables {got}, this program has {TABLES_ROOT}")]
    Tables {
        /// The root it names.
        got: B256,
    },
    /// A field holds no value that exists.
    #[error("byte {at}: {what} {got}")]
    Field {
        /// Where.
        at: usize,
        /// Which field.
        what: &'static str,
        /// Its value.
        got: u64,
    },
    /// The operators do not fit together.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

impl Program {
    /// The program's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_be_bytes());
        bytes.extend_from_slice(&self.operator_set().to_be_bytes());
        bytes.extend_from_slice(TABLES_ROOT.as_slice());
        bytes.push(self.input.dtype().code());
        for number in [self.input.width(), self.context, len(&self.nodes)] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        for node in &self.nodes {
            let attributes = node.op.attributes();
            let inputs =
                u8::try_from(node.inputs.len()).expect("an operator reads three values at most");
            let size = u16::try_from(attributes.len()).expect("attributes are a few bytes");
            bytes.extend_from_slice(&[node.op.code(), inputs]);
            bytes.extend_from_slice(&size.to_be_bytes());
            node.inputs.iter().for_each(|value| bytes.extend_from_slice(&value.to_be_bytes()));
            bytes.extend_from_slice(&attributes);
        }
        bytes
    }

    /// Reads a program's bytes.
    ///
    /// # Errors
    ///
    /// When they are not exactly what [`encode`](Self::encode) writes for some program.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.array::<4>()? != *MAGIC || reader.u16()? != FORMAT {
            return Err(DecodeError::Header);
        }
        let got = reader.u16()?;
        if !(1..=OPSET).contains(&got) {
            return Err(DecodeError::Header);
        }
        let tables = B256::new(reader.array()?);
        if tables != TABLES_ROOT {
            return Err(DecodeError::Tables { got: tables });
        }
        let dtype = reader.u8()?;
        let width = reader.u32()?;
        let input = match Dtype::from_code(dtype) {
            Some(Dtype::U32) if width == 1 => Input::Tokens,
            Some(Dtype::I32) => Input::Rows(width),
            _ => return Err(reader.field("input type", dtype.into())),
        };
        let context = reader.u32()?;
        let count = reader.u32()?;
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(node(&mut reader)?);
        }
        if reader.at != bytes.len() {
            return Err(DecodeError::Length { at: reader.at, more: true });
        }
        let program = Self::new(input, context, nodes)?;
        let want = program.operator_set();
        if got != want {
            return Err(DecodeError::OperatorSet { got, want });
        }
        Ok(program)
    }
}

fn len(nodes: &[Node]) -> u32 {
    u32::try_from(nodes.len()).expect("a program has few nodes")
}

fn node(reader: &mut Reader<'_>) -> Result<Node, DecodeError> {
    let code = reader.u8()?;
    let inputs = reader.u8()?;
    let size = reader.u16()?;
    let inputs = (0..inputs).map(|_| reader.u32()).collect::<Result<_, _>>()?;
    let start = reader.at;
    let op = op(code, reader)?;
    if reader.at - start != usize::from(size) {
        return Err(reader.field("attribute bytes", size.into()));
    }
    Ok(Node { op, inputs })
}

fn op(code: u8, r: &mut Reader<'_>) -> Result<Op, DecodeError> {
    Ok(match code {
        1 => Op::Embed { vocab: r.u32()?, width: r.u32()?, codes: r.codes()? },
        2 => Op::Position { context: r.u32()?, width: r.u32()?, codes: r.codes()? },
        3 => {
            let kind = r.choice("norm kind", NormKind::from_code)?;
            let (eps_q32, group) = (r.u32()?, r.u32()?);
            Op::Norm(r.shape("norm group", group, NormShape::new(kind, eps_q32, group))?)
        }
        4 => {
            let (k, n, flags) = (r.u32()?, r.u32()?, r.flags(15)?);
            let mut shape = r.shape("linear depth", k, LinearShape::new(k, n))?;
            (shape.bias, shape.a15, shape.smooth) =
                (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            shape.w4 = flags & 8 != 0;
            Op::Linear(shape)
        }
        5 => {
            let (heads, head_dim, rot) = (r.u32()?, r.u32()?, r.u32()?);
            let pairing = r.choice("pairing", Pairing::from_code)?;
            Op::Rope(r.shape("rope heads", heads, RopeShape::new(heads, head_dim, rot, pairing))?)
        }
        6 => {
            let (heads, kv_heads, head_dim) = (r.u32()?, r.u32()?, r.u32()?);
            let (flags, window) = (r.flags(7)?, r.u32()?);
            let mut shape =
                r.shape("attention heads", heads, AttentionShape::new(heads, kv_heads, head_dim))?;
            // Without causality there is no window: what is before a row is as visible as what is after.
            if flags & 1 != 0 {
                shape = shape.with_causal(window);
            } else if window != 0 {
                return Err(r.field("window without causality", window.into()));
            }
            let shape = if flags & 2 != 0 { shape.with_p15() } else { shape };
            Op::Attention(if flags & 4 != 0 { shape.with_cap(r.cap()?) } else { shape })
        }
        7 => Op::Columns { start: r.u32()?, len: r.u32()? },
        8 => Op::Activation(r.choice("activation table", ActivationTable::from_code)?),
        9 => Op::Gate,
        10 => Op::Add,
        11 => Op::LastRow,
        12 => {
            Op::Pool { mode: r.choice("pool mode", PoolMode::from_code)?, unit: r.flags(1)? == 1 }
        }
        13 => Op::Argmax,
        14 => Op::Sample,
        15 => Op::Softcap(r.cap()?),
        _ => return Err(r.field("operator", code.into())),
    })
}

impl Op {
    /// The operator's code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Embed { .. } => 1,
            Self::Position { .. } => 2,
            Self::Norm(_) => 3,
            Self::Linear(_) => 4,
            Self::Rope(_) => 5,
            Self::Attention(_) => 6,
            Self::Columns { .. } => 7,
            Self::Activation(_) => 8,
            Self::Gate => 9,
            Self::Add => 10,
            Self::LastRow => 11,
            Self::Pool { .. } => 12,
            Self::Argmax => 13,
            Self::Sample => 14,
            Self::Softcap(_) => 15,
        }
    }

    fn attributes(&self) -> Vec<u8> {
        let numbers = |numbers: &[u32]| {
            numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>()
        };
        let flag = |bit: u8, set: bool| if set { bit } else { 0 };
        match self {
            Self::Embed { vocab: rows, width, codes }
            | Self::Position { context: rows, width, codes } => {
                [numbers(&[*rows, *width]), vec![codes.dtype().code()]].concat()
            }
            Self::Norm(shape) => {
                [vec![shape.kind.code()], numbers(&[shape.eps_q32, shape.group])].concat()
            }
            Self::Linear(shape) => {
                let flags = flag(1, shape.bias) | flag(2, shape.a15) | flag(4, shape.smooth);
                let flags = flags | flag(8, shape.w4);
                [numbers(&[shape.k, shape.n]), vec![flags]].concat()
            }
            Self::Rope(shape) => {
                [numbers(&[shape.heads, shape.head_dim, shape.rot]), vec![shape.pairing.code()]]
                    .concat()
            }
            Self::Attention(shape) => {
                let flags = flag(1, shape.causal) | flag(2, shape.p15);
                let flags = flags | flag(4, shape.cap.is_some());
                let cap = shape.cap.map_or_else(Vec::new, |cap| numbers(&[cap.q16()]));
                let sizes = numbers(&[shape.heads, shape.kv_heads, shape.head_dim]);
                [sizes, vec![flags], numbers(&[shape.window]), cap].concat()
            }
            Self::Columns { start, len } => numbers(&[*start, *len]),
            Self::Activation(table) => vec![table.code()],
            Self::Softcap(cap) => numbers(&[cap.q16()]),
            Self::Pool { mode, unit } => vec![mode.code(), u8::from(*unit)],
            Self::Gate | Self::Add | Self::LastRow | Self::Argmax | Self::Sample => Vec::new(),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let rest = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        let array = rest.ok_or(DecodeError::Length { at: self.bytes.len(), more: false })?;
        self.at += N;
        Ok(*array)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A byte that names one of a few things.
    fn choice<T>(
        &mut self,
        what: &'static str,
        of: impl Fn(u8) -> Option<T>,
    ) -> Result<T, DecodeError> {
        let code = self.u8()?;
        of(code).ok_or_else(|| self.field(what, code.into()))
    }

    fn cap(&mut self) -> Result<Cap, DecodeError> {
        let q16 = self.u32()?;
        self.shape("cap", q16, Cap::new(q16))
    }

    fn codes(&mut self) -> Result<Codes, DecodeError> {
        self.choice("code type", Codes::from_code)
    }

    fn flags(&mut self, mask: u8) -> Result<u8, DecodeError> {
        self.choice("flags", |flags| (flags & !mask == 0).then_some(flags))
    }

    fn shape<T>(&self, what: &'static str, got: u32, shape: Option<T>) -> Result<T, DecodeError> {
        shape.ok_or_else(|| self.field(what, got.into()))
    }

    const fn field(&self, what: &'static str, got: u64) -> DecodeError {
        DecodeError::Field { at: self.at, what, got }
    }
}
