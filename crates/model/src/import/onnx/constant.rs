//! Constants of an ONNX graph: initialisers and `Constant` nodes, checked against their shapes and kept as bits.

use super::{
    OnnxError,
    proto::{self, data_type},
};
use crate::real::{Format, Real};

/// A constant, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Constant {
    /// Weights and factors: little-endian bits of `format`, as many as `dims` say.
    Floats { format: Format, dims: Vec<u64>, bits: Vec<u8> },
    /// Shapes.
    Ints(Vec<i64>),
}

/// Factors that the erf form of GELU is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factor {
    One,
    Half,
    RootTwo,
    RootHalf,
}

impl Constant {
    /// Reads a tensor.
    ///
    /// # Errors
    ///
    /// When it lies in another file, has an element type other than f32, f16, bf16 or i64, or another
    /// number of elements than its shape says.
    pub(crate) fn read(tensor: &proto::Tensor) -> Result<Self, OnnxError> {
        let refuse = |reason: String| OnnxError::Tensor { name: tensor.name.clone(), reason };
        if tensor.data_location != 0 || !tensor.external_data.is_empty() {
            return Err(refuse("its data lies in another file; save the model as one file".into()));
        }
        let dims: Vec<u64> = tensor
            .dims
            .iter()
            .map(|&dim| u64::try_from(dim).map_err(|_| refuse(format!("a dimension is {dim}"))))
            .collect::<Result<_, _>>()?;
        let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
        let raw = &tensor.raw_data;
        let halves = || low_halves(&tensor.int32_data);
        let (format, bits) = match tensor.data_type {
            data_type::INT64 => {
                let ints = if raw.is_empty() { tensor.int64_data.clone() } else { i64s(raw) };
                let whole = raw.is_empty() || raw.len().is_multiple_of(8);
                if !whole || elements != Some(ints.len() as u64) {
                    return Err(refuse(format!("{} elements do not fill {dims:?}", ints.len())));
                }
                return Ok(Self::Ints(ints));
            }
            data_type::FLOAT if raw.is_empty() => (
                Format::F32,
                tensor.float_data.iter().flat_map(|bits| bits.to_le_bytes()).collect(),
            ),
            data_type::FLOAT => (Format::F32, raw.clone()),
            data_type::FLOAT16 if raw.is_empty() => (Format::F16, halves().map_err(refuse)?),
            data_type::FLOAT16 => (Format::F16, raw.clone()),
            data_type::BFLOAT16 if raw.is_empty() => (Format::Bf16, halves().map_err(refuse)?),
            data_type::BFLOAT16 => (Format::Bf16, raw.clone()),
            other => {
                return Err(refuse(format!(
                    "element type {other} is not supported; supported are FLOAT (1), FLOAT16 (10), BFLOAT16 (16) \
                     for weights and INT64 (7) for shapes"
                )));
            }
        };
        let bytes = elements.and_then(|count| count.checked_mul(format.bytes() as u64));
        if bytes != Some(bits.len() as u64) {
            return Err(refuse(format!("{} bytes do not fill {dims:?} of {format:?}", bits.len())));
        }
        Ok(Self::Floats { format, dims, bits })
    }

    /// One f32, from its bits.
    pub(crate) fn scalar(bits: u32) -> Self {
        Self::Floats { format: Format::F32, dims: Vec::new(), bits: bits.to_le_bytes().to_vec() }
    }

    /// Rows and columns of a matrix of floats; `None` for anything else.
    pub(crate) fn matrix(&self) -> Option<[usize; 2]> {
        match self {
            Self::Floats { dims, .. } => {
                let &[rows, columns] = dims.as_slice() else { return None };
                Some([usize::try_from(rows).ok()?, usize::try_from(columns).ok()?])
            }
            Self::Ints(_) => None,
        }
    }

    /// Element `index` of floats, exactly; `None` when it is not finite, or not there.
    pub(crate) fn value(&self, index: usize) -> Option<Real> {
        let Self::Floats { format, bits, .. } = self else { return None };
        let at = index.checked_mul(format.bytes())?;
        bits.get(at..at.checked_add(format.bytes())?).and_then(|element| format.read(element))
    }

    /// A matrix with rows and columns exchanged; `None` for anything but a matrix.
    pub(crate) fn transposed(&self) -> Option<Self> {
        let [rows, columns] = self.matrix()?;
        let Self::Floats { format, dims, bits } = self else { return None };
        let size = format.bytes();
        let mut moved = Vec::with_capacity(bits.len());
        // A side of zero leaves nothing to move, and the other may then be any number.
        if !bits.is_empty() {
            for column in 0..columns {
                for row in 0..rows {
                    let at = (row * columns + column) * size;
                    moved.extend_from_slice(&bits[at..at + size]);
                }
            }
        }
        Some(Self::Floats {
            format: *format,
            dims: dims.iter().rev().copied().collect(),
            bits: moved,
        })
    }

    /// Which factor of GELU a single element is; `None` for any other value or more than one element.
    pub(crate) fn factor(&self) -> Option<Factor> {
        let Self::Floats { format, bits, .. } = self else { return None };
        let element = match (format, bits.as_slice()) {
            (Format::F32, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            (Format::F16 | Format::Bf16, &[a, b]) => u32::from(u16::from_le_bytes([a, b])),
            _ => return None,
        };
        // The nearest value of each type, which is what every exporter writes.
        match (format, element) {
            (Format::F32, 0x3f80_0000) | (Format::F16, 0x3c00) | (Format::Bf16, 0x3f80) => {
                Some(Factor::One)
            }
            (Format::F32, 0x3f00_0000) | (Format::F16, 0x3800) | (Format::Bf16, 0x3f00) => {
                Some(Factor::Half)
            }
            (Format::F32, 0x3fb5_04f3) | (Format::F16, 0x3da8) | (Format::Bf16, 0x3fb5) => {
                Some(Factor::RootTwo)
            }
            (Format::F32, 0x3f35_04f3) | (Format::F16, 0x39a8) | (Format::Bf16, 0x3f35) => {
                Some(Factor::RootHalf)
            }
            _ => None,
        }
    }
}

fn i64s(raw: &[u8]) -> Vec<i64> {
    raw.chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().expect("chunks of eight")))
        .collect()
}

/// The 16 bits that `int32_data` holds for each f16 or bf16 element.
fn low_halves(words: &[i32]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(words.len() * 2);
    for &word in words {
        let half =
            u16::try_from(word).map_err(|_| format!("{word} is not the bits of a 16-bit float"))?;
        bytes.extend_from_slice(&half.to_le_bytes());
    }
    Ok(bytes)
}
