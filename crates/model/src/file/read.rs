use hyperion_primitives::{B256, Dtype, ModelId, TensorRoot, tensor_root};

use super::{
    DATA_ALIGN, HEADER_BYTES, MAGIC, RECORD_BYTES, Record, TABLE_ALIGN, TENSOR_ALIGN, VERSION,
    model_id, round_up,
};
use crate::{
    Trust,
    program::{DecodeError, Program},
    slots::{Range, slots},
};

/// A file that is no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It ends before something that its header promises.
    #[error("the file has {got} bytes, {what} ends at {want}")]
    Truncated {
        /// Bytes there are.
        got: u64,
        /// What is cut off.
        what: &'static str,
        /// Bytes it would take.
        want: u64,
    },
    /// It does not begin as a model file does.
    #[error("not a model file: it does not begin with \"HYPMODEL\", version 1")]
    Magic,
    /// A field has another value than the format allows.
    #[error("byte {at}: {what}")]
    Field {
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Bytes that are always zero are not.
    #[error("byte {at}: a gap that is not zero")]
    Gap {
        /// Where.
        at: u64,
    },
    /// The program is none.
    #[error("the program: {0}")]
    Program(#[from] DecodeError),
    /// The table lists other tensors than the program has.
    #[error(
        "record {record}: the program's tensor there is operator {op}, slot {slot}, {dtype} {dims:?}"
    )]
    Record {
        /// Which record.
        record: usize,
        /// The operator.
        op: u32,
        /// Its slot.
        slot: u16,
        /// The element type.
        dtype: Dtype,
        /// The shape.
        dims: [u64; 2],
    },
    /// An element that does not exist.
    #[error("byte {at}, operator {op}, slot {slot}: {what}")]
    Element {
        /// Where.
        at: u64,
        /// The operator.
        op: u32,
        /// Its slot.
        slot: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// A tensor's bytes are not what its root commits to.
    #[error("operator {op}, slot {slot}: the bytes have root {got}, the table says {want}")]
    Root {
        /// The operator.
        op: u32,
        /// Its slot.
        slot: u16,
        /// Root of the bytes.
        got: TensorRoot,
        /// Root in the table.
        want: TensorRoot,
    },
    /// The header's identity is not the content's.
    #[error("the content is model {got}, the header says {want}")]
    Identity {
        /// Identity of the content.
        got: ModelId,
        /// Identity in the header.
        want: ModelId,
    },
}

/// What a file says, checked.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) program: Program,
    pub(crate) records: Vec<Record>,
    pub(crate) tokenizer_hash: B256,
    pub(crate) id: ModelId,
}

/// Reads a file's bytes. Roots of tensors are computed anew unless the file is trusted.
pub(crate) fn read(bytes: &[u8], trust: Trust) -> Result<Contents, FileError> {
    let file = File(bytes);
    let header = file.slice("the header", 0, HEADER_BYTES)?;
    if !header.starts_with(MAGIC) || header[8..12] != VERSION.to_be_bytes() {
        return Err(FileError::Magic);
    }
    let count = u64::from(u32::from_be_bytes(*header[12..].first_chunk().expect("128 bytes")));
    let number = |at: usize| u64::from_be_bytes(*header[at..].first_chunk().expect("128 bytes"));
    let field =
        |at, holds: bool, what| if holds { Ok(()) } else { Err(FileError::Field { at, what }) };
    field(16, number(16) == HEADER_BYTES, "the program does not begin at 128")?;
    let program_bytes = file.slice("the program", HEADER_BYTES, number(24))?;
    let program_end = HEADER_BYTES + number(24);
    let table = round_up(program_end, TABLE_ALIGN);
    field(32, number(32) == table, "the table does not follow the program")?;
    let table_bytes = file.slice("the table", table, RECORD_BYTES * count)?;
    let table_end = table + RECORD_BYTES * count;
    let data = round_up(table_end, DATA_ALIGN);
    field(40, number(40) == data, "the data does not follow the table")?;
    field(48, number(48) == bytes.len() as u64, "the file has another length")?;
    field(56, number(56) == 0, "a reserved field is not zero")?;
    let want = ModelId::from(*header[64..].first_chunk().expect("128 bytes"));
    let tokenizer_hash = B256::new(*header[96..].first_chunk().expect("128 bytes"));
    let program = Program::decode(program_bytes)?;
    file.gap(program_end, table)?;
    file.gap(table_end, data)?;
    let records = records(&program, table_bytes, table)?;
    tensors(&file, &program, &records, data, trust)?;
    let got = model_id(program.id(), tokenizer_hash, &records);
    if got != want {
        return Err(FileError::Identity { got, want });
    }
    Ok(Contents { program, records, tokenizer_hash, id: want })
}

/// Reads the table; it lists exactly the tensors of the program, in order.
fn records(program: &Program, table: &[u8], table_at: u64) -> Result<Vec<Record>, FileError> {
    let wanted = (0_u32..)
        .zip(program.nodes())
        .flat_map(|(op, node)| slots(&node.op).into_iter().map(move |s| (op, s)));
    let (lines, _) = table.as_chunks::<{ RECORD_BYTES as usize }>();
    let mut lines = lines.iter().enumerate();
    let mut records = Vec::with_capacity(lines.len());
    for (op, slot) in wanted {
        let dims = slot.stored_dims();
        let missing =
            |record| FileError::Record { record, op, slot: slot.number, dtype: slot.dtype, dims };
        let (index, line) = lines.next().ok_or_else(|| missing(records.len()))?;
        let number = |at: usize| {
            u64::from_be_bytes(*line[at..].first_chunk().expect("a record has 128 bytes"))
        };
        let mut head = [0; 8];
        head[..4].copy_from_slice(&op.to_be_bytes());
        head[4..6].copy_from_slice(&slot.number.to_be_bytes());
        head[6..].copy_from_slice(&[slot.dtype.code(), 2]);
        let shape = [number(8), number(16), number(24), number(32)];
        if line[..8] != head || shape != [dims[0], dims[1], 0, 0] || number(48) != slot.bytes() {
            return Err(missing(index));
        }
        let at = table_at + RECORD_BYTES * index as u64;
        if let Some(gap) = line[88..].iter().position(|byte| *byte != 0) {
            return Err(FileError::Gap { at: at + 88 + gap as u64 });
        }
        records.push(Record {
            op,
            slot: slot.number,
            dtype: slot.dtype,
            dims,
            offset: number(40),
            bytes: slot.bytes(),
            root: TensorRoot::from(*line[56..].first_chunk().expect("a record has 128 bytes")),
        });
    }
    match lines.next() {
        None => Ok(records),
        Some((index, _)) => Err(FileError::Field {
            at: table_at + RECORD_BYTES * index as u64,
            what: "a record of a tensor that the program does not have",
        }),
    }
}

/// Checks places, elements and, unless trusted, roots of all tensors.
fn tensors(
    file: &File<'_>,
    program: &Program,
    records: &[Record],
    data: u64,
    trust: Trust,
) -> Result<(), FileError> {
    let mut by_offset: Vec<&Record> = records.iter().collect();
    by_offset.sort_by_key(|record| (record.offset, record.op, record.slot));
    let mut end = data;
    let mut last: Option<(&Record, Range)> = None;
    for record in by_offset {
        let (op, slot) = (record.op, record.slot);
        let of_op = slots(&program.nodes()[op as usize].op);
        let kind =
            of_op.iter().find(|kind| kind.number == slot).expect("the table is the program's");
        let check = |bytes| {
            let element =
                |(at, what)| FileError::Element { at: record.offset + at as u64, op, slot, what };
            kind.check(bytes).map_err(element)
        };
        let bad = |what| FileError::Element { at: record.offset, op, slot, what };
        if let Some((last, range)) = last.filter(|(last, _)| last.offset == record.offset) {
            if (last.dtype, last.dims, last.root) != (record.dtype, record.dims, record.root) {
                return Err(bad("shares its bytes with a tensor that is not equal"));
            }
            // Equal bytes may mean different things: a scale has a narrower range than a bias.
            if kind.range != range {
                check(file.slice("a tensor", record.offset, record.bytes)?)?;
            }
            continue;
        }
        if record.offset != round_up(end, TENSOR_ALIGN) {
            return Err(bad("does not follow the tensor before it"));
        }
        let bytes = file.slice("a tensor", record.offset, record.bytes)?;
        file.gap(end, record.offset)?;
        end = record.offset + record.bytes;
        check(bytes)?;
        if trust == Trust::Nothing {
            let got = tensor_root(record.dtype, &record.dims, bytes)
                .expect("the length is what the shape says");
            if got != record.root {
                return Err(FileError::Root { op, slot, got, want: record.root });
            }
        }
        last = Some((record, kind.range));
    }
    let file_end = round_up(end, TENSOR_ALIGN);
    file.slice("the last gap", end, file_end - end)?;
    if file.0.len() as u64 != file_end {
        return Err(FileError::Field { at: file_end, what: "bytes after the last tensor" });
    }
    file.gap(end, file_end)
}

struct File<'a>(&'a [u8]);

impl<'a> File<'a> {
    fn slice(&self, what: &'static str, at: u64, len: u64) -> Result<&'a [u8], FileError> {
        let got = self.0.len() as u64;
        let end = at.checked_add(len).filter(|end| *end <= got);
        let want = at.saturating_add(len);
        let end = end.ok_or(FileError::Truncated { got, what, want })?;
        let [from, to] = [at, end].map(|place| usize::try_from(place).expect("within a slice"));
        Ok(&self.0[from..to])
    }

    fn gap(&self, from: u64, to: u64) -> Result<(), FileError> {
        let gap = self.slice("a gap", from, to - from)?;
        gap.iter()
            .position(|byte| *byte != 0)
            .map_or(Ok(()), |at| Err(FileError::Gap { at: from + at as u64 }))
    }
}
