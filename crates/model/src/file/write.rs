use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Seek as _},
    sync::Arc,
};

use hyperion_primitives::{B256, Dtype, ModelId, ProgramId, tensor_root};

use super::{
    DATA_ALIGN, HEADER_BYTES, MAGIC, RECORD_BYTES, Record, TABLE_ALIGN, TENSOR_ALIGN, VERSION,
    model_id, round_up,
};
use crate::{
    program::Program,
    slots::{Slot, slots},
};

/// One tensor on its way into a file.
#[derive(Clone, Debug)]
pub struct TensorPart {
    /// The operator, by its place in the program.
    pub op: u32,
    /// Which of its tensors.
    pub slot: u16,
    /// Elements, row-major, little-endian. Two parts that share one allocation share its bytes in the file.
    pub data: Arc<[u8]>,
}

/// Everything a model file is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The program.
    pub program: Program,
    /// keccak-256 of the tokenizer's file; zero without one.
    pub tokenizer_hash: B256,
    /// Every tensor of every operator.
    pub tensors: Vec<TensorPart>,
}

impl Parts {
    /// Writes the file and returns the model's identity.
    ///
    /// # Errors
    ///
    /// When writing fails.
    ///
    /// # Panics
    ///
    /// When a tensor is missing, unknown, twice there, or not as long as its operator says.
    pub fn write(&self, out: &mut impl io::Write) -> io::Result<ModelId> {
        let layout = Layout::new(&self.program);
        let (records, ends_at) = self.records(&layout);
        let id = model_id(self.program.id(), self.tokenizer_hash, &records);
        let mut out = Counted { out, at: 0 };
        layout.put_head(&mut out, &records, ends_at, id, self.tokenizer_hash)?;
        for (record, part) in records.iter().zip(self.sorted()) {
            if record.offset >= out.at {
                out.pad_to(record.offset)?;
                out.put(&part.data)?;
            }
        }
        out.pad_to(ends_at)?;
        Ok(id)
    }

    fn sorted(&self) -> Vec<&TensorPart> {
        let mut sorted: Vec<_> = self.tensors.iter().collect();
        sorted.sort_by_key(|part| (part.op, part.slot));
        sorted
    }

    /// Records with their places, and where the file ends.
    fn records(&self, layout: &Layout) -> (Vec<Record>, u64) {
        let parts = self.sorted();
        assert_eq!(parts.len(), layout.wanted.len(), "tensors given, tensors of the program");
        let mut at = layout.data;
        // Only looked up, never walked, so its order reaches nothing.
        let mut placed: HashMap<(*const u8, Dtype, [u64; 2]), Record> = HashMap::new();
        let mut records = Vec::new();
        for (wanted, part) in layout.wanted.iter().zip(parts) {
            let (op, slot) = *wanted;
            assert_eq!(
                (part.op, part.slot),
                (op, slot.number),
                "tensor given, tensor of the program"
            );
            let key = (part.data.as_ptr(), slot.dtype, slot.stored_dims());
            let record = placed.get(&key).copied().unwrap_or_else(|| {
                let record = record(*wanted, &part.data, at);
                at = round_up(at + record.bytes, TENSOR_ALIGN);
                record
            });
            placed.insert(key, record);
            records.push(Record { op, slot: slot.number, ..record });
        }
        (records, at)
    }
}

/// The record of a tensor whose bytes lie at `offset`.
fn record((op, slot): (u32, Slot), data: &[u8], offset: u64) -> Record {
    assert_eq!(data.len() as u64, slot.bytes(), "bytes of tensor {op}.{}", slot.number);
    let dims = slot.stored_dims();
    let root = tensor_root(slot.dtype, &dims, data).expect("the length was checked");
    let bytes = data.len() as u64;
    Record { op, slot: slot.number, dtype: slot.dtype, dims, offset, bytes, root }
}

/// Where the parts of a file lie; the program alone decides it.
struct Layout {
    program: Vec<u8>,
    /// The tensors of the program, in order.
    wanted: Vec<(u32, Slot)>,
    table: u64,
    data: u64,
}

impl Layout {
    fn new(program: &Program) -> Self {
        let wanted = (0_u32..)
            .zip(program.nodes())
            .flat_map(|(op, node)| slots(&node.op).into_iter().map(move |slot| (op, slot)));
        let wanted: Vec<_> = wanted.collect();
        let program = program.encode();
        let table = round_up(HEADER_BYTES + program.len() as u64, TABLE_ALIGN);
        let data = round_up(table + RECORD_BYTES * wanted.len() as u64, DATA_ALIGN);
        Self { program, wanted, table, data }
    }

    /// Writes everything before the tensors.
    fn put_head<W: io::Write>(
        &self,
        out: &mut Counted<'_, W>,
        records: &[Record],
        ends_at: u64,
        id: ModelId,
        tokenizer_hash: B256,
    ) -> io::Result<()> {
        out.put(MAGIC)?;
        out.put(&VERSION.to_be_bytes())?;
        out.put(&u32::try_from(records.len()).expect("a program has few tensors").to_be_bytes())?;
        let program_bytes = self.program.len() as u64;
        for number in [HEADER_BYTES, program_bytes, self.table, self.data, ends_at, 0] {
            out.put(&number.to_be_bytes())?;
        }
        out.put(id.as_bytes())?;
        out.put(tokenizer_hash.as_slice())?;
        out.put(&self.program)?;
        out.pad_to(self.table)?;
        for record in records {
            let start = out.at;
            out.put(&record.op.to_be_bytes())?;
            out.put(&record.slot.to_be_bytes())?;
            out.put(&[record.dtype.code(), 2])?;
            for number in [record.dims[0], record.dims[1], 0, 0, record.offset, record.bytes] {
                out.put(&number.to_be_bytes())?;
            }
            out.put(record.root.as_bytes())?;
            out.pad_to(start + RECORD_BYTES)?;
        }
        out.pad_to(self.data)
    }
}

/// What is known of tensors that an earlier try has written to the same file.
#[derive(Default)]
pub(crate) struct Kept<'k> {
    /// Operator, slot and root of each, in order.
    pub(crate) known: Vec<(u32, u16, B256)>,
    /// The file, opened for itself, to compare them with.
    pub(crate) file: Option<File>,
    /// Hears of each tensor that is in the file.
    pub(crate) note: Option<Note<'k>>,
}

/// Notes operator, slot and root of a tensor.
type Note<'k> = &'k mut dyn FnMut(u32, u16, B256) -> io::Result<()>;

/// Writes a file tensor by tensor, for a model that is larger than memory: the same bytes as [`Parts::write`] makes.
///
/// Tensors come in the order of their operators and slots. What stands before them is written last, so a file that was
/// not finished is no model.
pub(crate) struct Writer<'w, 'k, W> {
    out: &'w mut W,
    layout: Layout,
    program: ProgramId,
    tokenizer_hash: B256,
    records: Vec<Record>,
    kept: Kept<'k>,
    /// Where the next tensor goes.
    at: u64,
}

impl<'w, 'k, W: io::Write + io::Seek> Writer<'w, 'k, W> {
    /// Begins a file at the start of `out`.
    ///
    /// # Errors
    ///
    /// When writing fails.
    pub(crate) fn new(
        program: &Program,
        tokenizer_hash: B256,
        kept: Kept<'k>,
        out: &'w mut W,
    ) -> io::Result<Self> {
        let layout = Layout::new(program);
        out.seek(io::SeekFrom::Start(layout.data))?;
        let (records, at) = (Vec::new(), layout.data);
        Ok(Self { out, layout, program: program.id(), tokenizer_hash, records, kept, at })
    }

    /// Takes the tensors of an operator as they stand in the file, if an earlier try has written them all; once one is
    /// not as it was noted, no later one is taken either.
    ///
    /// # Errors
    ///
    /// When a place in the file cannot be found.
    pub(crate) fn keeps(&mut self, op: u32) -> io::Result<bool> {
        let (first, known) = (self.records.len(), &self.kept.known);
        let Some(file) = self.kept.file.as_mut().filter(|_| known.len() > first) else {
            return Ok(false);
        };
        let of_op = |wanted: &&(u32, Slot)| wanted.0 == op;
        let wanted: Vec<_> = self.layout.wanted[first..].iter().take_while(of_op).collect();
        let mut records: Vec<Record> = Vec::new();
        let mut at = self.at;
        for (wanted, known) in wanted.iter().zip(&known[first..]) {
            let mut data = vec![0; usize::try_from(wanted.1.bytes()).map_err(io::Error::other)?];
            file.seek(io::SeekFrom::Start(at))?;
            let is_there = file.read_exact(&mut data).is_ok();
            let own = is_there.then(|| record(**wanted, &data, at));
            let noted = |own: &Record| *known == (own.op, own.slot, own.root.0);
            let Some(own) = own.filter(noted) else { break };
            at = round_up(at + own.bytes, TENSOR_ALIGN);
            records.push(own);
        }
        if records.len() < wanted.len() {
            self.kept.known.clear();
            return Ok(false);
        }
        for record in records {
            self.note(&record)?;
            self.records.push(record);
        }
        self.at = at;
        self.out.seek(io::SeekFrom::Start(at))?;
        Ok(true)
    }

    fn note(&mut self, record: &Record) -> io::Result<()> {
        let note = self.kept.note.as_mut();
        note.map_or(Ok(()), |note| note(record.op, record.slot, record.root.0))
    }

    /// Writes the next tensor.
    ///
    /// # Errors
    ///
    /// When writing fails.
    ///
    /// # Panics
    ///
    /// When the program's next tensor is another, or not as long as this.
    pub(crate) fn put(&mut self, op: u32, slot: u16, data: &[u8]) -> io::Result<()> {
        let wanted = self.next(op, slot);
        let record = record(wanted, data, self.at);
        let end = round_up(self.at + record.bytes, TENSOR_ALIGN);
        let mut out = Counted { out: &mut *self.out, at: self.at };
        out.put(data)?;
        out.pad_to(end)?;
        self.at = end;
        self.note(&record)?;
        self.records.push(record);
        Ok(())
    }

    /// Makes the next tensor the bytes of another operator's.
    ///
    /// # Errors
    ///
    /// When it cannot be noted.
    ///
    /// # Panics
    ///
    /// When the program's next tensor is another, or the other one was not written, or has another type or shape.
    pub(crate) fn share(&mut self, op: u32, slot: u16, from: u32) -> io::Result<()> {
        let (_, kind) = self.next(op, slot);
        let other = self.records.iter().find(|record| (record.op, record.slot) == (from, slot));
        let other = *other.expect("the other operator was written before");
        assert_eq!((other.dtype, other.dims), (kind.dtype, kind.stored_dims()), "equal tensors");
        let record = Record { op, ..other };
        self.note(&record)?;
        self.records.push(record);
        Ok(())
    }

    fn next(&self, op: u32, slot: u16) -> (u32, Slot) {
        let wanted = self.layout.wanted[self.records.len()];
        assert_eq!((op, slot), (wanted.0, wanted.1.number), "tensor given, tensor of the program");
        wanted
    }

    /// Writes what stands before the tensors and returns the model's identity.
    ///
    /// # Errors
    ///
    /// When writing fails.
    ///
    /// # Panics
    ///
    /// When a tensor is missing.
    pub(crate) fn finish(self) -> io::Result<ModelId> {
        let Self { out, layout, program, tokenizer_hash, records, kept: _, at } = self;
        assert_eq!(records.len(), layout.wanted.len(), "tensors given, tensors of the program");
        let id = model_id(program, tokenizer_hash, &records);
        out.seek(io::SeekFrom::Start(0))?;
        layout.put_head(&mut Counted { out, at: 0 }, &records, at, id, tokenizer_hash)?;
        Ok(id)
    }
}

struct Counted<'w, W> {
    out: &'w mut W,
    at: u64,
}

impl<W: io::Write> Counted<'_, W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        let gap = usize::try_from(offset - self.at).expect("a gap is less than a page");
        self.put(&vec![0; gap])
    }
}
