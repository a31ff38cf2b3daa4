use std::{fs, path::Path};

use hyperion_ops::{LinearShape, TableCodes, Weights};
use hyperion_primitives::{B256, ModelId};
use hyperion_verify::manifest::Manifest;

use crate::{
    ModelError, cost,
    file::{self, Record},
    program::{Codes, Op, Program},
};

/// What is known of a file before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nothing: every root is computed anew.
    Nothing,
    /// That this program wrote it and nobody changed it since: roots are taken from the table. Everything else is
    /// checked all the same.
    Roots,
}

/// A model: its program and its tensors, checked.
pub struct Model {
    bytes: Vec<u8>,
    program: Program,
    records: Vec<Record>,
    tokenizer_hash: B256,
    id: ModelId,
    manifest: Manifest,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("id", &self.id)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Reads a `.hyp` file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is not exactly a model file; the error names the byte.
    pub fn open(path: &Path, trust: Trust) -> Result<Self, ModelError> {
        let bytes =
            fs::read(path).map_err(|cause| ModelError::Io { path: path.to_path_buf(), cause })?;
        Self::from_bytes(bytes, trust)
    }

    /// A model from the bytes of its file.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>, trust: Trust) -> Result<Self, ModelError> {
        let contents = file::read(&bytes, trust)?;
        let manifest = cost::manifest(&contents.program);
        Ok(Self {
            bytes,
            program: contents.program,
            records: contents.records,
            tokenizer_hash: contents.tokenizer_hash,
            id: contents.id,
            manifest,
        })
    }

    /// Program, tokenizer and tensors together.
    pub const fn id(&self) -> ModelId {
        self.id
    }

    /// The program.
    pub const fn program(&self) -> &Program {
        &self.program
    }

    /// What a chain knows of the model; computed from the program, never declared.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// keccak-256 of the tokenizer's file; zero for a model that reads no text.
    pub const fn tokenizer_hash(&self) -> B256 {
        self.tokenizer_hash
    }

    /// The tensors, by operator and slot.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Bytes of the tensors, those that are tied counted once.
    pub fn weights_bytes(&self) -> u64 {
        let mut tensors: Vec<(u64, u64)> =
            self.records.iter().map(|record| (record.offset, record.bytes)).collect();
        tensors.sort_unstable();
        tensors.dedup();
        tensors.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Committed bytes of a tensor; `None` when the operator has no such slot.
    pub fn tensor(&self, op: u32, slot: u16) -> Option<&[u8]> {
        let at = self
            .records
            .binary_search_by_key(&(op, slot), |record| (record.op, record.slot))
            .ok()?;
        let record = &self.records[at];
        let [from, to] = [record.offset, record.offset + record.bytes]
            .map(|place| usize::try_from(place).expect("the file is in memory"));
        Some(&self.bytes[from..to])
    }

    /// Calls `with` with the weights of an operator; `None` for an operator that has none.
    pub(crate) fn with_weights<T>(
        &self,
        op: u32,
        with: impl FnOnce(&Weights<'_>) -> T,
    ) -> Option<T> {
        let bytes =
            |slot| self.tensor(op, slot).expect("the table lists every slot of the program");
        let signed = |slot| bytes(slot).iter().map(|byte| byte.cast_signed()).collect::<Vec<i8>>();
        match self.program.nodes()[op as usize].op {
            Op::Embed { vocab: rows, width, codes }
            | Op::Position { context: rows, width, codes } => {
                let codes = match codes {
                    Codes::W8r => TableCodes::W8r(bytes(0)),
                    Codes::I16 => TableCodes::I16(bytes(0)),
                };
                Some(with(&Weights::Table {
                    rows,
                    width,
                    codes,
                    mantissas: bytes(1),
                    exponents: &signed(2),
                }))
            }
            Op::Norm(_) => {
                let beta = self.tensor(op, 1).map(i32s);
                Some(with(&Weights::Norm { gamma: &i32s(bytes(0)), beta: beta.as_deref() }))
            }
            Op::Linear(shape) => Some(self.with_linear(op, shape, with)),
            Op::Rope(_) => {
                let (words, _) = bytes(0).as_chunks::<8>();
                let frequencies: Vec<u64> =
                    words.iter().map(|word| u64::from_le_bytes(*word)).collect();
                Some(with(&Weights::Frequencies(&frequencies)))
            }
            _ => None,
        }
    }

    fn with_linear<T>(
        &self,
        op: u32,
        shape: LinearShape,
        with: impl FnOnce(&Weights<'_>) -> T,
    ) -> T {
        let bytes =
            |slot| self.tensor(op, slot).expect("the table lists every slot of the program");
        let exponents: Vec<i8> = bytes(2).iter().map(|byte| byte.cast_signed()).collect();
        let bias = shape.bias.then(|| i32s(bytes(3)));
        let smooth = shape.smooth.then(|| {
            let (words, _) = bytes(4).as_chunks::<2>();
            words.iter().map(|word| u16::from_le_bytes(*word)).collect::<Vec<u16>>()
        });
        with(&Weights::Linear {
            shape,
            codes: bytes(0),
            groups: shape.w4.then(|| bytes(5)),
            mantissas: bytes(1),
            exponents: &exponents,
            bias: bias.as_deref(),
            smooth: smooth.as_deref(),
        })
    }
}

fn i32s(bytes: &[u8]) -> Vec<i32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| i32::from_le_bytes(*word)).collect()
}
