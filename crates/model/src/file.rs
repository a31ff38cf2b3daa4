//! The model file (`.hyp`): header, program, tensor table, tensors.
//!
//! Layout (`docs/model-format.md`, "Model file"), header integers big-endian, every gap zero:
//!
//! | part | at |
//! |---|---|
//! | header, 128 B | 0 |
//! | program | 128 |
//! | records of 128 B, sorted by (op, slot) | program end, rounded up to 64 |
//! | tensors, each at a multiple of 64 | table end, rounded up to 4,096 |
//!
//! Two records may name the same bytes only if type, shape and root are equal (tied weights). The bytes are what the
//! roots commit to; a backend repacks them when it loads the model.

mod read;
mod write;

use hyperion_primitives::{B256, Dtype, Keccak, ModelId, ProgramId, TensorRoot, merkle};

pub use self::{
    read::FileError,
    write::{Parts, TensorPart},
};
pub(crate) use self::{
    read::read,
    write::{Kept, Writer},
};

const MAGIC: &[u8; 8] = b"HYPMODEL";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 128;
const RECORD_BYTES: u64 = 128;
const TABLE_ALIGN: u64 = 64;
const DATA_ALIGN: u64 = 4096;
const TENSOR_ALIGN: u64 = 64;

/// One tensor of a model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The operator, by its place in the program.
    pub op: u32,
    /// Which of its tensors.
    pub slot: u16,
    /// Element type.
    pub dtype: Dtype,
    /// Rows and columns.
    pub dims: [u64; 2],
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// CT1 root.
    pub root: TensorRoot,
}

/// Root of the tensor table: leaves `K(0x00 ‖ "TT1" ‖ u32 op ‖ u16 slot ‖ root)` in order,
/// `K(0x02 ‖ "TT1" ‖ u32 count ‖ merkle)` over them.
pub(crate) fn table_root(records: &[Record]) -> B256 {
    let leaf = |record: &Record| {
        let mut leaf = Keccak::tagged(b"\0TT1");
        leaf.u32(record.op).u16(record.slot).update(record.root.0).finish()
    };
    let merkle = merkle::root(records.iter().map(leaf)).unwrap_or_default();
    let count = u32::try_from(records.len()).expect("a program has few tensors");
    Keccak::tagged(b"\x02TT1").u32(count).update(merkle).finish()
}

/// Identity of a model: `K("M1" ‖ programId ‖ tokenizerHash ‖ tensorTableRoot)`.
pub(crate) fn model_id(program: ProgramId, tokenizer_hash: B256, records: &[Record]) -> ModelId {
    let mut id = Keccak::tagged(b"M1");
    ModelId(id.update(program.0).update(tokenizer_hash).update(table_root(records)).finish())
}

const fn round_up(number: u64, to: u64) -> u64 {
    number.div_ceil(to) * to
}
