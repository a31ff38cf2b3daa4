//! Which tensors an operator has, and what their elements may be.

use hyperion_ops::nibbles::{GROUP, SCALE_MAX};
use hyperion_primitives::{
    Dtype,
    limits::{SAT, padded_depth},
    w8r,
};

use crate::program::Op;

/// What the elements of a tensor may be, besides what their type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// Anything.
    Any,
    /// w8r rows of this many codes: no byte 0, which would be code -128, and code 0 beyond them.
    W8r(u32),
    /// Rows of this many codes of four bits: no half 0, and code 0 beyond them.
    Halves(u32),
    /// Scales of groups: 1 to 17.
    Scale,
    /// i16 codes: not -32768.
    Wide,
    /// `B`: at least 1.
    Mantissa,
    /// `kw`: 2 to the bound, and within 15 of each other.
    Exponent(i8),
    /// i32 of this magnitude at most.
    Magnitude(i32),
}

/// One tensor of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) number: u16,
    pub(crate) dtype: Dtype,
    pub(crate) dims: [u64; 2],
    pub(crate) range: Range,
}

/// Greatest magnitude of a `norm`'s scale: 23 bits in Q14.
pub(crate) const GAMMA_MAX: i32 = (1 << 22) - 1;

/// The tensors of an operator, in slot order.
pub(crate) fn slots(op: &Op) -> Vec<Slot> {
    let vector =
        |number, dtype, len: u32, range| Slot { number, dtype, dims: [1, len.into()], range };
    match *op {
        Op::Embed { vocab: rows, width, codes } | Op::Position { context: rows, width, codes } => {
            let dims = [rows.into(), width.into()];
            let (range, exponent_max) = match codes.dtype() {
                Dtype::W8r => (Range::W8r(width), 25),
                _ => (Range::Wide, 40),
            };
            vec![
                Slot { number: 0, dtype: codes.dtype(), dims, range },
                vector(1, Dtype::U8, rows, Range::Mantissa),
                vector(2, Dtype::I8, rows, Range::Exponent(exponent_max)),
            ]
        }
        Op::Norm(shape) => {
            let mut slots = vec![vector(0, Dtype::I32, shape.group, Range::Magnitude(GAMMA_MAX))];
            if shape.kind == hyperion_ops::NormKind::Layer {
                slots.push(vector(1, Dtype::I32, shape.group, Range::Magnitude(SAT)));
            }
            slots
        }
        Op::Linear(shape) => {
            let dims = [shape.n.into(), shape.depth().into()];
            let codes = if shape.w4 {
                let dims = [shape.n.into(), (shape.depth() / 2).into()];
                Slot { number: 0, dtype: Dtype::U8, dims, range: Range::Halves(shape.k) }
            } else {
                Slot { number: 0, dtype: Dtype::W8r, dims, range: Range::W8r(shape.k) }
            };
            let mut slots = vec![
                codes,
                vector(1, Dtype::U8, shape.n, Range::Mantissa),
                vector(2, Dtype::I8, shape.n, Range::Exponent(25)),
            ];
            if shape.bias {
                slots.push(vector(3, Dtype::I32, shape.n, Range::Magnitude(SAT)));
            }
            if shape.smooth {
                slots.push(vector(4, Dtype::U16, shape.k, Range::Any));
            }
            if shape.w4 {
                let dims = [shape.n.into(), (shape.depth() / GROUP as u32).into()];
                slots.push(Slot { number: 5, dtype: Dtype::U8, dims, range: Range::Scale });
            }
            slots
        }
        Op::Rope(shape) => vec![vector(0, Dtype::U64, shape.rot / 2, Range::Any)],
        _ => Vec::new(),
    }
}

impl Slot {
    /// Bytes of the tensor. A w8r table's rows are padded to 32 codes, as a linear step's are.
    pub(crate) fn bytes(&self) -> u64 {
        self.stored_dims().iter().product::<u64>() * self.dtype.bytes() as u64
    }

    /// Dimensions as they are committed.
    pub(crate) fn stored_dims(&self) -> [u64; 2] {
        let [rows, width] = self.dims;
        match self.dtype {
            Dtype::W8r => {
                let width = u32::try_from(width).expect("a width is checked before");
                [rows, padded_depth(width).into()]
            }
            _ => [rows, width],
        }
    }

    /// What is wrong with the elements, and the byte where.
    pub(crate) fn check(&self, data: &[u8]) -> Result<(), (usize, &'static str)> {
        let first = |bad: &dyn Fn(u8) -> bool, what| match data.iter().position(|byte| bad(*byte)) {
            Some(at) => Err((at, what)),
            None => Ok(()),
        };
        match self.range {
            Range::Any => Ok(()),
            Range::W8r(width) => {
                first(&|byte| byte == 0, "byte 0, which is no code")?;
                padding(width, data)
                    .map_or(Ok(()), |at| Err((at, "a code beyond the row's end that is not 0")))
            }
            Range::Halves(width) => {
                first(&|byte| byte & 15 == 0 || byte >> 4 == 0, "a half of 0, which is no code")?;
                half_padding(width, data)
                    .map_or(Ok(()), |at| Err((at, "a code beyond the row's end that is not 0")))
            }
            Range::Scale => {
                first(&|byte| !(1..=SCALE_MAX).contains(&byte), "a group's scale outside 1 to 17")
            }
            Range::Wide => {
                let (codes, _) = data.as_chunks::<2>();
                let bad = codes.iter().position(|code| i16::from_le_bytes(*code) == i16::MIN);
                bad.map_or(Ok(()), |index| Err((2 * index, "-32768, which is no code")))
            }
            Range::Mantissa => first(&|byte| byte == 0, "a row mantissa of 0"),
            Range::Exponent(max) => {
                let low = data.iter().map(|byte| byte.cast_signed()).min().unwrap_or(2);
                let bad = |byte: u8| {
                    let exponent = byte.cast_signed();
                    exponent < 2 || exponent > max || i32::from(exponent) > i32::from(low) + 15
                };
                first(&bad, "a row exponent outside its range, or more than 15 above another")
            }
            Range::Magnitude(max) => {
                let (elements, _) = data.as_chunks::<4>();
                let bad = elements
                    .iter()
                    .position(|e| i32::from_le_bytes(*e).unsigned_abs() > max.unsigned_abs());
                bad.map_or(Ok(()), |index| Err((4 * index, "a constant outside its range")))
            }
        }
    }
}

/// The first byte that is not code 0 among those that fill a row of `width` codes up to its padded width.
fn padding(width: u32, data: &[u8]) -> Option<usize> {
    let (depth, width) = (padded_depth(width) as usize, width as usize);
    let rows = (0..data.len()).step_by(depth);
    let mut places = rows.flat_map(|row| (width..depth).map(move |code| row + w8r::place(code)));
    places.find(|at| data[*at] != 0x80)
}

/// As [`padding`], of codes of four bits: the byte that holds such a code.
fn half_padding(width: u32, data: &[u8]) -> Option<usize> {
    let (depth, width) = (padded_depth(width) as usize, width as usize);
    let rows = (0..data.len()).step_by(depth / 2);
    // The padding lies within the last group of a row.
    let codes = rows.flat_map(|row| (width..depth).map(move |code| (row, code)));
    let place = |(row, code): (usize, usize)| {
        let (group, code) = (code / GROUP, code % GROUP);
        let at = row + group * (GROUP / 2) + code % (GROUP / 2);
        let half = if code < GROUP / 2 { data[at] & 15 } else { data[at] >> 4 };
        (half != 8).then_some(at)
    };
    codes.into_iter().find_map(place)
}
