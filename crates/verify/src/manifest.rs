//! What a chain knows of a model: enough to price a run and to judge an input, and no weights.
//!
//! A manifest is computed from the program, never declared, and kept in the state under its hash. With `T` rows in the
//! trunk, `P` visible pairs and `O` tokens generated,
//!
//! ```text
//! T = in                     encoders, classifiers           P = T (T + 1) / 2   causal
//! T = in + O - 1             generators                      P = T^2             otherwise
//! cost = base + per_row * T + per_pair * P + per_out * O     all u64, checked
//! ```
//!
//! once for multiply-adds and once for the elements that operators write. The 136 bytes of the encoding stand in
//! `docs/claims.md`, "Manifest".

use hyperion_primitives::{
    B256, Dtype, ProgramId, TILE_BYTES, keccak256,
    limits::{CONTEXT_MAX, SAT, VOCABULARY_MAX, WIDTH_MAX},
};

use crate::{
    abi,
    bytes::{Fields, Writer},
};

/// Bytes of an encoded manifest.
pub const MANIFEST_BYTES: usize = 136;
const MAGIC: [u8; 4] = *b"HYMF";
const VERSION: u16 = 1;

/// A count that grows with rows, visible pairs and generated tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formula {
    /// Whatever the input.
    pub base: u64,
    /// Per row of the trunk.
    pub per_row: u64,
    /// Per pair of rows that see each other.
    pub per_pair: u64,
    /// Per generated token.
    pub per_out: u64,
}

impl Formula {
    /// The count; `None` beyond `u64`.
    pub fn at(&self, rows: u64, pairs: u64, out_tokens: u64) -> Option<u64> {
        self.base
            .checked_add(self.per_row.checked_mul(rows)?)?
            .checked_add(self.per_pair.checked_mul(pairs)?)?
            .checked_add(self.per_out.checked_mul(out_tokens)?)
    }

    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            base: fields.u64(),
            per_row: fields.u64(),
            per_pair: fields.u64(),
            per_out: fields.u64(),
        }
    }
}

/// Multiply-adds up to which the smallest run of a model makes it native: 40 ms of a core of the slowest machine that a chain
/// is meant for. What one call may ask for is the chain's to say.
pub const NATIVE_MACS_MAX: u64 = 2_000_000_000;

/// How many rows the output has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OutputRows {
    /// One per row of the input.
    Rows = 0,
    /// One, whatever the input: the model pools, or reads its last row.
    One = 1,
    /// One per generated token.
    Tokens = 2,
}

/// What a chain knows of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The program, whose text everything below was computed from.
    pub program_id: ProgramId,
    /// Whether new requests may name the model.
    pub active: bool,
    /// Whether a block may run it (tier T0): its smallest run stays within [`NATIVE_MACS_MAX`].
    pub native: bool,
    /// Whether a row sees only itself and rows before it.
    pub causal: bool,
    /// Whether it draws tokens: its last op is `sample`.
    pub generator: bool,
    /// Element type of the input: `U32` token ids or `I32` in Q16.
    pub input_dtype: Dtype,
    /// Elements of an input row; 1 for token ids.
    pub input_width: u32,
    /// Token ids are below this; 0 where the input is no token ids.
    pub vocabulary: u32,
    /// Element type of the output: `I16`, `I32` or `U32`.
    pub output_dtype: Dtype,
    /// Elements of an output row.
    pub output_width: u32,
    /// Rows of the output.
    pub output_rows: OutputRows,
    /// Most rows the trunk may see.
    pub rows_max: u32,
    /// Multiply-adds of a run.
    pub macs: Formula,
    /// Elements written by all operators of a run; an attention op also counts heads times pairs.
    pub elements: Formula,
    /// Memory of a run at `rows_max`, weights not counted.
    pub peak_bytes: u64,
}

/// Why bytes are no manifest, or a manifest describes no model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The encoding has another length.
    #[error("a manifest has {got} bytes, want {MANIFEST_BYTES}")]
    Length {
        /// The bytes given.
        got: usize,
    },
    /// It does not begin as a manifest does.
    #[error("the bytes begin with {got:02x?}, want \"HYMF\" and version {VERSION}")]
    Header {
        /// The first six bytes.
        got: [u8; 6],
    },
    /// Bits or bytes that are always zero are not.
    #[error("byte {at} of the manifest has bits set that mean nothing")]
    Reserved {
        /// Where.
        at: usize,
    },
    /// A byte names no element type or no rule for rows.
    #[error("byte {at} of the manifest is {got}, which names nothing there")]
    Code {
        /// Where.
        at: usize,
        /// The byte found.
        got: u8,
    },
    /// A number is outside its range.
    #[error("{field} is {got}, want {min} to {max}")]
    Range {
        /// The field.
        field: &'static str,
        /// Its value.
        got: u32,
        /// The least allowed here.
        min: u32,
        /// The greatest allowed here.
        max: u32,
    },
    /// Output rows count tokens exactly where tokens are generated.
    #[error("a generator's output has one row per token, and nobody else's has")]
    OutputRows,
}

/// Why an input is not one of the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Not a whole number of rows, or none.
    #[error("the input has {got_bytes} bytes, want one or more rows of {row_bytes}")]
    Shape {
        /// The input's bytes.
        got_bytes: u64,
        /// Bytes of a row.
        row_bytes: u32,
    },
    /// More rows than the model takes.
    #[error("the input has {got} rows, want {max} at most")]
    Rows {
        /// The input's rows.
        got: u64,
        /// The model's limit.
        max: u32,
    },
    /// An element that the program refuses.
    #[error("element {element} of the input is {got}, want {max} at most in magnitude")]
    Range {
        /// Its place in the tensor, row-major.
        element: u64,
        /// Its value.
        got: i64,
        /// The greatest allowed.
        max: i64,
    },
}

impl Manifest {
    /// Rows of the trunk; `None` when the run does not fit the model.
    ///
    /// A generator generates one token at least, every other model none, and the trunk sees 1 to `rows_max` rows.
    pub fn rows(&self, in_tokens: u32, out_tokens: u32) -> Option<u32> {
        if in_tokens == 0 || self.generator != (out_tokens > 0) {
            return None;
        }
        let rows = in_tokens.checked_add(out_tokens.saturating_sub(1))?;
        (rows <= self.rows_max).then_some(rows)
    }

    /// Multiply-adds of a run; `None` when it does not fit the model or the count leaves a `u64`.
    pub fn macs(&self, in_tokens: u32, out_tokens: u32) -> Option<u64> {
        self.count(&self.macs, in_tokens, out_tokens)
    }

    /// Elements that the operators of a run write; `None` as for [`macs`](Self::macs).
    pub fn elements(&self, in_tokens: u32, out_tokens: u32) -> Option<u64> {
        self.count(&self.elements, in_tokens, out_tokens)
    }

    fn count(&self, formula: &Formula, in_tokens: u32, out_tokens: u32) -> Option<u64> {
        let rows = u64::from(self.rows(in_tokens, out_tokens)?);
        let pairs = if self.causal { rows * (rows + 1) / 2 } else { rows * rows };
        formula.at(rows, pairs, out_tokens.into())
    }

    /// Bytes of one input row; 4 for token ids.
    pub const fn row_bytes(&self) -> u32 {
        self.input_width * 4
    }

    /// Dimensions of the output tensor; `None` when the run does not fit the model.
    pub fn output_dims(&self, in_tokens: u32, out_tokens: u32) -> Option<[u64; 2]> {
        let rows = self.rows(in_tokens, out_tokens)?;
        let output_rows = match self.output_rows {
            OutputRows::Rows => rows,
            OutputRows::One => 1,
            OutputRows::Tokens => out_tokens,
        };
        Some([output_rows.into(), self.output_width.into()])
    }

    /// Bytes of the output tensor; `None` when the run does not fit the model.
    pub fn output_bytes(&self, in_tokens: u32, out_tokens: u32) -> Option<u64> {
        let [rows, width] = self.output_dims(in_tokens, out_tokens)?;
        // Rows are at most 2^16, widths 2^18 and elements 4 bytes.
        Some(rows * width * self.output_dtype.bytes() as u64)
    }

    /// CT1 tiles to hash around a run: those of the input and of the largest output.
    pub fn tiles(&self, in_tokens: u32, out_tokens: u32) -> Option<u64> {
        let tile = TILE_BYTES as u64;
        let input = u64::from(in_tokens) * u64::from(self.row_bytes());
        Some(input.div_ceil(tile) + self.output_bytes(in_tokens, out_tokens)?.div_ceil(tile))
    }

    /// Rows of an input of this length; does not look at elements.
    ///
    /// # Errors
    ///
    /// When it is no whole number of rows, or more rows than the model takes.
    pub fn input_rows(&self, input_bytes: u64) -> Result<u32, InputError> {
        let row_bytes = self.row_bytes();
        if input_bytes == 0 || !input_bytes.is_multiple_of(row_bytes.into()) {
            return Err(InputError::Shape { got_bytes: input_bytes, row_bytes });
        }
        let got = input_bytes / u64::from(row_bytes);
        let max = self.rows_max;
        u32::try_from(got).ok().filter(|rows| *rows <= max).ok_or(InputError::Rows { got, max })
    }

    /// Accepts an input tensor's elements, little-endian and row-major; returns its rows.
    ///
    /// # Errors
    ///
    /// When its length does not fit ([`input_rows`](Self::input_rows)), a token id is not below the vocabulary, or a Q16
    /// element is outside `[-SAT, SAT]`.
    pub fn check_input(&self, input: &[u8]) -> Result<u32, InputError> {
        let rows = self.input_rows(input.len() as u64)?;
        let (words, _) = input.as_chunks::<4>();
        let refused = if self.input_dtype == Dtype::U32 {
            let max = i64::from(self.vocabulary) - 1;
            first(words, |word| i64::from(u32::from_le_bytes(word)), max)
        } else {
            first(words, |word| i64::from(i32::from_le_bytes(word)), SAT.into())
        };
        refused.map_or(Ok(rows), Err)
    }

    /// The canonical encoding.
    pub fn encode(&self) -> [u8; MANIFEST_BYTES] {
        let flags = [self.active, self.native, self.causal, self.generator];
        let flags = flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag));
        let mut bytes = [0; MANIFEST_BYTES];
        let mut out = Writer::new(&mut bytes);
        out.put(MAGIC)
            .put(VERSION.to_be_bytes())
            .put([flags, self.input_dtype.code(), self.output_dtype.code()])
            .put([self.output_rows as u8, 0, 0])
            .put(self.input_width.to_be_bytes())
            .put(self.vocabulary.to_be_bytes())
            .put(self.output_width.to_be_bytes())
            .put(self.rows_max.to_be_bytes())
            .put([0; 4])
            .put(self.program_id.0);
        for formula in [&self.macs, &self.elements] {
            for term in [formula.base, formula.per_row, formula.per_pair, formula.per_out] {
                out.put(term.to_be_bytes());
            }
        }
        out.put(self.peak_bytes.to_be_bytes()).done();
        bytes
    }

    /// Reads the one encoding of a manifest that describes a model.
    ///
    /// # Errors
    ///
    /// When the bytes are no manifest, or [`check`](Self::check) refuses it.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() != MANIFEST_BYTES {
            return Err(ManifestError::Length { got: bytes.len() });
        }
        let mut fields = Fields::new(bytes);
        let header = fields.array::<6>();
        if header[..4] != MAGIC || header[4..] != VERSION.to_be_bytes() {
            return Err(ManifestError::Header { got: header });
        }
        let flags = fields.u8();
        let [input_code, output_code, rows_code] = fields.array();
        let reserved = [(6, u64::from(flags >> 4)), (10, fields.u16().into())];
        let [input_width, vocabulary, output_width, rows_max] =
            core::array::from_fn(|_| fields.u32());
        let gap = (28, u64::from(fields.u32()));
        if let Some((at, _)) = reserved.into_iter().chain([gap]).find(|(_, bits)| *bits != 0) {
            return Err(ManifestError::Reserved { at });
        }
        let dtype = |at, got| Dtype::from_code(got).ok_or(ManifestError::Code { at, got });
        let manifest = Self {
            active: flags & 1 != 0,
            native: flags & 2 != 0,
            causal: flags & 4 != 0,
            generator: flags & 8 != 0,
            input_dtype: dtype(7, input_code)?,
            input_width,
            vocabulary,
            output_dtype: dtype(8, output_code)?,
            output_width,
            output_rows: match rows_code {
                0 => OutputRows::Rows,
                1 => OutputRows::One,
                2 => OutputRows::Tokens,
                got => return Err(ManifestError::Code { at: 9, got }),
            },
            rows_max,
            program_id: ProgramId(fields.b256()),
            macs: Formula::read(&mut fields),
            elements: Formula::read(&mut fields),
            peak_bytes: fields.u64(),
        };
        manifest.check().map(|()| manifest)
    }

    /// Accepts a manifest that describes a model of operator set 1.
    ///
    /// # Errors
    ///
    /// When a type, width, vocabulary or row limit is one that no program has.
    pub fn check(&self) -> Result<(), ManifestError> {
        let (input, output) = (self.input_dtype, self.output_dtype);
        let (width_max, vocabulary) = match input {
            Dtype::U32 => (1, (1, VOCABULARY_MAX)),
            Dtype::I32 => (WIDTH_MAX, (0, 0)),
            _ => return Err(ManifestError::Code { at: 7, got: input.code() }),
        };
        if !matches!(output, Dtype::I16 | Dtype::I32 | Dtype::U32) {
            return Err(ManifestError::Code { at: 8, got: output.code() });
        }
        if self.generator != (self.output_rows == OutputRows::Tokens) {
            return Err(ManifestError::OutputRows);
        }
        let ranges = [
            ("input width", self.input_width, 1, width_max),
            ("vocabulary", self.vocabulary, vocabulary.0, vocabulary.1),
            ("output width", self.output_width, 1, VOCABULARY_MAX),
            ("row limit", self.rows_max, 1, CONTEXT_MAX),
        ];
        let refused = ranges.into_iter().find(|(_, got, min, max)| !(min..=max).contains(&got));
        refused.map_or(Ok(()), |(field, got, min, max)| {
            Err(ManifestError::Range { field, got, min, max })
        })
    }

    /// What the state keeps for the model: keccak-256 of the encoding.
    pub fn hash(&self) -> B256 {
        keccak256(self.encode())
    }
}

/// The first element beyond `max` in magnitude.
fn first(words: &[[u8; 4]], value: impl Fn([u8; 4]) -> i64, max: i64) -> Option<InputError> {
    let element = words.iter().position(|word| value(*word).abs() > max)?;
    Some(InputError::Range { element: element as u64, got: value(words[element]), max })
}

impl From<&Manifest> for abi::Model {
    fn from(manifest: &Manifest) -> Self {
        Self {
            programId: manifest.program_id.0,
            active: manifest.active,
            native: manifest.native,
            causal: manifest.causal,
            generator: manifest.generator,
            rowBytes: manifest.row_bytes(),
            rowsMax: manifest.rows_max,
            macsBase: manifest.macs.base,
            macsPerRow: manifest.macs.per_row,
            macsPerPair: manifest.macs.per_pair,
            macsPerOut: manifest.macs.per_out,
            peakBytes: manifest.peak_bytes,
        }
    }
}
