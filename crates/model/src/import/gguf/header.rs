//! The header of a GGUF file, version 2 or 3, read from a hostile source: nothing is reserved on the word of a length.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read as _, Seek as _},
    path::Path,
};

use super::{Encoding, ImportError};

/// Bytes of a name or a text at most; the longest are chat templates.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// Dimensions of a tensor at most.
const DIMENSIONS_MAX: u32 = 4;
/// Where the first tensor starts is a multiple of this, unless the file says otherwise.
const ALIGNMENT: u64 = 32;

/// What a file says of itself.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) values: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

/// A value of the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A whole number from 0 on.
    Whole(u64),
    /// Bits of a binary32.
    F32(u32),
    Text(String),
    /// A value that nothing here asks for, such as a vocabulary.
    Other,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    /// Rows first.
    pub(super) shape: Vec<usize>,
    pub(super) encoding: Encoding,
    /// From the file's start.
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// Reads a file's header; every tensor lies within the file.
pub(super) fn read(path: &Path) -> Result<(File, Header), ImportError> {
    let io = |cause| ImportError::Io { path: path.to_path_buf(), cause };
    let wrong = |what| ImportError::Format { path: path.to_path_buf(), what };
    let file = File::open(path).map_err(io)?;
    let file_bytes = file.metadata().map_err(io)?.len();
    let mut reader = Reader { file: BufReader::new(&file), at: 0, file_bytes };
    let header = header(&mut reader).map_err(wrong)?;
    drop(reader);
    (&file).rewind().map_err(io)?;
    Ok((file, header))
}

fn header(reader: &mut Reader<'_>) -> Result<Header, String> {
    if &reader.array::<4>()? != b"GGUF" {
        return Err("it does not begin with \"GGUF\"".to_owned());
    }
    let version = reader.u32()?;
    if !matches!(version, 2 | 3) {
        return Err(format!("version {version}, 2 and 3 are supported"));
    }
    let (tensor_count, value_count) = (reader.u64()?, reader.u64()?);
    let mut values = BTreeMap::new();
    for _ in 0..value_count {
        let key = reader.text()?;
        let kind = reader.u32()?;
        let value = reader.value(kind)?;
        if values.insert(key.clone(), value).is_some() {
            return Err(format!("it says `{key}` twice"));
        }
    }
    let mut tensors = BTreeMap::new();
    for _ in 0..tensor_count {
        let (name, info) = reader.tensor()?;
        if tensors.insert(name.clone(), info).is_some() {
            return Err(format!("tensor `{name}` is there twice"));
        }
    }
    let alignment = match values.get("general.alignment") {
        Some(Value::Whole(alignment)) if *alignment > 0 => *alignment,
        Some(other) => return Err(format!("general.alignment is {other:?}")),
        None => ALIGNMENT,
    };
    let data = reader.at.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    for (name, info) in &mut tensors {
        let end = data.checked_add(info.offset).and_then(|at| at.checked_add(info.bytes as u64));
        if end.is_none_or(|end| end > reader.file_bytes) {
            let bytes = reader.file_bytes;
            return Err(format!("tensor `{name}` ends beyond the file, which has {bytes} bytes"));
        }
        info.offset += data;
    }
    Ok(Header { values, tensors })
}

struct Reader<'f> {
    file: BufReader<&'f File>,
    at: u64,
    file_bytes: u64,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        let at = self.at;
        self.file.read_exact(bytes).map_err(|_| format!("its header is cut off at byte {at}"))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let len = self.u64()?;
        if len > TEXT_BYTES_MAX {
            return Err(format!("byte {}: a text of {len} bytes", self.at));
        }
        let mut bytes = vec![0; usize::try_from(len).expect("a megabyte at most")];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| format!("byte {}: a text that is no UTF-8", self.at))
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        let signed = |value: i64| u64::try_from(value).map_or(Value::Other, Value::Whole);
        Ok(match kind {
            0 | 7 => Value::Whole(self.array::<1>()?[0].into()),
            1 => signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.array()?).into()),
            3 => signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Whole(self.u32()?.into()),
            5 => signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::F32(self.u32()?),
            8 => Value::Text(self.text()?),
            9 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                if kind == 9 {
                    return Err(format!("byte {}: a list of lists", self.at));
                }
                // A count beyond the file ends where the file does.
                for _ in 0..count {
                    self.value(kind)?;
                }
                Value::Other
            }
            10 => Value::Whole(self.u64()?),
            11 => signed(i64::from_le_bytes(self.array()?)),
            12 => {
                self.u64()?;
                Value::Other
            }
            _ => return Err(format!("byte {}: a value of unknown type {kind}", self.at)),
        })
    }

    fn tensor(&mut self) -> Result<(String, TensorInfo), String> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > DIMENSIONS_MAX {
            return Err(format!("tensor `{name}` has {dimensions} dimensions"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64()?;
            shape.push(usize::try_from(size).map_err(|_| format!("tensor `{name}` is too large"))?);
        }
        shape.reverse();
        let (kind, offset) = (self.u32()?, self.u64()?);
        let encoding = Encoding::from_code(kind).ok_or_else(|| {
            format!("tensor `{name}` has type {kind}; F32, F16, BF16, Q8_0, Q4_0, Q4_K and Q6_K are supported")
        })?;
        let columns = shape.last().copied().unwrap_or(1);
        let numbers = shape.iter().try_fold(1_usize, |all, size| all.checked_mul(*size));
        let bytes = numbers.and_then(|numbers| encoding.bytes(numbers));
        let bytes = bytes.filter(|_| columns.is_multiple_of(encoding.block()));
        let bytes = bytes
            .ok_or_else(|| format!("tensor `{name}` of shape {shape:?} is no whole blocks"))?;
        Ok((name, TensorInfo { shape, encoding, offset, bytes }))
    }
}
