use std::{collections::HashMap, io, sync::Arc};

use hyperion_primitives::{B256, Dtype, ModelId, tensor_root};

use super::{
    DATA_ALIGN, HEADER_BYTES, MAGIC, RECORD_BYTES, Record, TABLE_ALIGN, TENSOR_ALIGN, VERSION,
    model_id, round_up,
};
use crate::{program::Program, slots::slots};

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
        let program = self.program.encode();
        let (records, ends_at) = self.records(program.len() as u64);
        let table = round_up(HEADER_BYTES + program.len() as u64, TABLE_ALIGN);
        let data = round_up(table + RECORD_BYTES * records.len() as u64, DATA_ALIGN);
        let id = model_id(self.program.id(), self.tokenizer_hash, &records);

        let mut out = Counted { out, at: 0 };
        out.put(MAGIC)?;
        out.put(&VERSION.to_be_bytes())?;
        out.put(&u32::try_from(records.len()).expect("a program has few tensors").to_be_bytes())?;
        for number in [HEADER_BYTES, program.len() as u64, table, data, ends_at, 0] {
            out.put(&number.to_be_bytes())?;
        }
        out.put(id.as_bytes())?;
        out.put(self.tokenizer_hash.as_slice())?;
        out.put(&program)?;
        out.pad_to(table)?;
        for record in &records {
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
        out.pad_to(data)?;
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
    fn records(&self, program_bytes: u64) -> (Vec<Record>, u64) {
        let wanted = (0_u32..)
            .zip(self.program.nodes())
            .flat_map(|(op, node)| slots(&node.op).into_iter().map(move |slot| (op, slot)));
        let wanted: Vec<_> = wanted.collect();
        let parts = self.sorted();
        assert_eq!(parts.len(), wanted.len(), "tensors given, tensors of the program");
        let table = round_up(HEADER_BYTES + program_bytes, TABLE_ALIGN);
        let mut at = round_up(table + RECORD_BYTES * wanted.len() as u64, DATA_ALIGN);
        // Only looked up, never walked, so its order reaches nothing.
        let mut placed: HashMap<(*const u8, Dtype, [u64; 2]), Record> = HashMap::new();
        let mut records = Vec::new();
        for ((op, slot), part) in wanted.into_iter().zip(parts) {
            assert_eq!(
                (part.op, part.slot),
                (op, slot.number),
                "tensor given, tensor of the program"
            );
            assert_eq!(
                part.data.len() as u64,
                slot.bytes(),
                "bytes of tensor {op}.{}",
                slot.number
            );
            let dims = slot.stored_dims();
            let key = (part.data.as_ptr(), slot.dtype, dims);
            let record = placed.get(&key).copied().unwrap_or_else(|| {
                let bytes = part.data.len() as u64;
                let offset = at;
                at = round_up(at + bytes, TENSOR_ALIGN);
                let root =
                    tensor_root(slot.dtype, &dims, &part.data).expect("the length was checked");
                Record { op, slot: slot.number, dtype: slot.dtype, dims, offset, bytes, root }
            });
            placed.insert(key, record);
            records.push(Record { op, slot: slot.number, ..record });
        }
        (records, at)
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
