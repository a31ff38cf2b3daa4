//! The definitions behind the [`Backend`] seam: one thread, canonical layouts, nothing clever.
//!
//! Every step gathers its views into plain rows, calls the scalar definition of its stem and writes the
//! result back. Other backends are compared with this one.

use alloc::{borrow::ToOwned as _, vec, vec::Vec};

use hyperion_primitives::{Dtype, limits::padded_depth, w8r};

use crate::{
    AttentionShape, Backend, BackendError, BufferId, Cache, DeviceInfo, DeviceKind, LinearShape,
    LinearWeights, Sequence, Step, TableCodes, View, WeightId, Weights,
    activation::activation,
    add::add,
    argmax::argmax,
    attention::{KeyValues, attention},
    cache,
    embed::embed,
    gate::gate,
    linear::linear,
    nibbles::{GROUP, nibbles},
    norm::norm,
    pool::{pool, pool_unit},
    position::position,
    requantize::Channels,
    rope::rope,
    rows::rows,
    softcap::softcap,
};

/// The scalar definitions as a backend.
#[derive(Debug)]
pub struct Reference {
    info: DeviceInfo,
    used_bytes: u64,
    buffers: Vec<Vec<u8>>,
    weights: Vec<Option<Packed>>,
}

/// Weights as the definitions read them.
#[derive(Debug)]
enum Packed {
    Table(Table),
    Norm { gamma: Vec<i32>, beta: Option<Vec<i32>> },
    Linear(Linear),
    Frequencies(Vec<u64>),
}

#[derive(Debug)]
struct Table {
    width: usize,
    codes: Vec<i16>,
    mantissas: Vec<u8>,
    exponents: Vec<i8>,
}

#[derive(Debug)]
struct Linear {
    shape: LinearShape,
    codes: Vec<i8>,
    mantissas: Vec<u8>,
    exponents: Vec<i8>,
    bias: Option<Vec<i32>>,
    smooth: Option<Vec<u16>>,
}

impl Default for Reference {
    /// As much memory as the process gets.
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

impl Reference {
    /// A reference device whose weights and buffers take `memory_bytes` at most.
    pub fn new(memory_bytes: u64) -> Self {
        let info = DeviceInfo {
            kind: DeviceKind::Cpu,
            name: "reference".to_owned(),
            kernels: "scalar".to_owned(),
            threads: 1,
            memory_bytes,
        };
        Self { info, used_bytes: 0, buffers: Vec::new(), weights: Vec::new() }
    }

    /// Takes `bytes` of what is left.
    fn claim(&mut self, bytes: u64) -> Result<(), BackendError> {
        let free_bytes = self.info.memory_bytes - self.used_bytes;
        if bytes > free_bytes {
            return Err(BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes });
        }
        self.used_bytes += bytes;
        Ok(())
    }

    /// The bytes of a view, row after row.
    fn bytes(&self, view: View) -> Vec<u8> {
        let buffer = &self.buffers[view.buffer.0 as usize];
        let places = places(view);
        places.flat_map(|place| buffer[place].iter().copied()).collect()
    }

    fn load(&self, view: View) -> Vec<i32> {
        assert_eq!(view.dtype, Dtype::I32, "activations are i32");
        let bytes = self.bytes(view);
        bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
    }

    fn load_tokens(&self, view: View) -> Vec<u32> {
        assert_eq!(view.dtype, Dtype::U32, "token ids are u32");
        let bytes = self.bytes(view);
        bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
    }

    /// Writes little-endian elements, row after row.
    fn store<const N: usize>(&mut self, view: View, elements: impl Iterator<Item = [u8; N]>) {
        assert_eq!(view.dtype.bytes(), N, "the view has elements of this size");
        let bytes: Vec<u8> = elements.flatten().collect();
        let buffer = &mut self.buffers[view.buffer.0 as usize];
        let mut rest = &bytes[..];
        for place in places(view) {
            let (row, next) = rest.split_at(place.len());
            buffer[place].copy_from_slice(row);
            rest = next;
        }
        assert!(rest.is_empty(), "the view has as many elements as the result");
    }

    fn store_rows(&mut self, view: View, elements: Vec<i32>) {
        self.store(view, elements.into_iter().map(i32::to_le_bytes));
    }

    fn packed(&self, id: WeightId) -> &Packed {
        self.weights[id.0 as usize].as_ref().expect("the weights were unpacked")
    }

    fn table(&self, id: WeightId) -> &Table {
        let Packed::Table(table) = self.packed(id) else { panic!("the step needs a table") };
        table
    }

    /// Applies `step` to a matrix of the shape of `view`.
    fn map(&self, view: View, step: impl FnOnce(&[i32], &mut [i32])) -> Vec<i32> {
        let x = self.load(view);
        let mut out = vec![0; x.len()];
        step(&x, &mut out);
        out
    }

    fn step(&mut self, step: &Step<'_>) {
        let (out, result) = match *step {
            Step::Embed { table, tokens, out } => (out, self.embed(table, tokens)),
            Step::Position { table, sequences, input, out } => {
                (out, self.position(table, sequences, input))
            }
            Step::Norm { weights, shape, input, out } => {
                let Packed::Norm { gamma, beta } = self.packed(weights) else {
                    panic!("`norm` needs its scale");
                };
                let rows = self.map(input, |x, y| norm(shape, gamma, beta.as_deref(), x, y));
                (out, rows)
            }
            Step::Linear { weights, shape, input, out } => {
                (out, self.linear(weights, shape, input))
            }
            Step::Rope { frequencies, shape, sequences, input, out } => {
                let Packed::Frequencies(frequencies) = self.packed(frequencies) else {
                    panic!("`rope` needs its frequencies");
                };
                let width = input.width as usize;
                let rows = self.map(input, |x, y| {
                    for sequence in sequences {
                        let place = span(sequence, width);
                        let (x, y) = (&x[place.clone()], &mut y[place]);
                        rope(shape, frequencies, sequence.position, x, y);
                    }
                });
                (out, rows)
            }
            Step::Attention { shape, sequences, q, k, v, out } => {
                let (keys, values) = (self.load(k), self.load(v));
                let rows = self.map(q, |q, y| {
                    for sequence in sequences {
                        let mut cache = KeyValues::new(shape, sequence.position);
                        let place = span(sequence, k.width as usize);
                        cache.append(&keys[place.clone()], &values[place]);
                        let place = span(sequence, out.width as usize);
                        let (q, y) = (&q[place.clone()], &mut y[place]);
                        attention(shape, &cache, sequence.position, q, y);
                    }
                });
                (out, rows)
            }
            Step::CachedAttention { shape, sequences, cache, q, k, v, out } => {
                (out, self.cached_attention(shape, sequences, cache, [q, k, v]))
            }
            Step::Activation { table, input, out } => {
                (out, self.map(input, |x, y| activation(table, x, y)))
            }
            Step::Softcap { cap, input, out } => (out, self.map(input, |x, y| softcap(cap, x, y))),
            Step::Gate { gate: g, up, out } => {
                let up = self.load(up);
                (out, self.map(g, |g, y| gate(g, &up, y)))
            }
            Step::Add { lhs, rhs, out } => {
                let rhs = self.load(rhs);
                (out, self.map(lhs, |lhs, y| add(lhs, &rhs, y)))
            }
            Step::Rows { rows: chosen, input, out } => {
                assert_eq!(input.dtype, out.dtype, "a copy keeps the type");
                let x = self.bytes(input);
                let width = input.width as usize * input.dtype.bytes();
                let mut bytes = vec![0; chosen.len() * width];
                rows(chosen, width, &x, &mut bytes);
                let as_bytes = bytes_view(out);
                return self.store(as_bytes, bytes.into_iter().map(|byte| [byte]));
            }
            Step::Pool { mode, unit, sequences, input, out } => {
                let x = self.load(input);
                let width = input.width as usize;
                let parts = sequences.iter().map(|sequence| &x[span(sequence, width)]);
                if unit {
                    let mut units = vec![0; sequences.len() * width];
                    for (x, y) in parts.zip(units.chunks_exact_mut(width)) {
                        pool_unit(mode, x, y);
                    }
                    return self.store(out, units.into_iter().map(i16::to_le_bytes));
                }
                let mut means = vec![0; sequences.len() * width];
                parts.zip(means.chunks_exact_mut(width)).for_each(|(x, y)| pool(mode, x, y));
                (out, means)
            }
            Step::Argmax { input, out } => {
                let x = self.load(input);
                let places: Vec<u32> = x.chunks_exact(input.width as usize).map(argmax).collect();
                return self.store(out, places.into_iter().map(u32::to_le_bytes));
            }
        };
        self.store_rows(out, result);
    }

    fn embed(&self, table: WeightId, tokens: View) -> Vec<i32> {
        let table = self.table(table);
        let tokens = self.load_tokens(tokens);
        let mut out = vec![0; tokens.len() * table.width];
        for (row, out) in tokens.into_iter().zip(out.chunks_exact_mut(table.width)) {
            let (codes, mantissa, exponent) = table.row(row as usize);
            embed(codes, mantissa, exponent, out);
        }
        out
    }

    fn position(&self, table: WeightId, sequences: &[Sequence], input: View) -> Vec<i32> {
        let table = self.table(table);
        self.map(input, |x, out| {
            for sequence in sequences {
                let place = span(sequence, table.width);
                let rows = x[place.clone()].chunks_exact(table.width);
                let rows = rows.zip(out[place].chunks_exact_mut(table.width));
                for ((x, out), row) in rows.zip(sequence.position as usize..) {
                    let (codes, mantissa, exponent) = table.row(row);
                    position(codes, mantissa, exponent, x, out);
                }
            }
        })
    }

    fn cached_attention(
        &mut self,
        shape: AttentionShape,
        sequences: &[Sequence],
        cache: Cache<'_>,
        [q, k, v]: [View; 3],
    ) -> Vec<i32> {
        let (keys, values) = (self.load(k), self.load(v));
        let buffer = &mut self.buffers[cache.buffer.0 as usize];
        for (sequence, pages) in sequences.iter().zip(cache.pages) {
            let place = span(sequence, k.width as usize);
            let (k, v) = (&keys[place.clone()], &values[place]);
            cache::append(cache.page, buffer, pages, sequence.position, k, v);
        }
        let buffer = &self.buffers[cache.buffer.0 as usize];
        self.map(q, |x, out| {
            for (sequence, pages) in sequences.iter().zip(cache.pages) {
                let positions = 0..sequence.position + sequence.rows;
                let cached = cache::load(shape, cache.page, buffer, pages, positions);
                let place = span(sequence, q.width as usize);
                attention(shape, &cached, sequence.position, &x[place.clone()], &mut out[place]);
            }
        })
    }

    fn linear(&self, weights: WeightId, shape: LinearShape, input: View) -> Vec<i32> {
        let Packed::Linear(packed) = self.packed(weights) else {
            panic!("`linear` needs its weights");
        };
        assert_eq!(packed.shape, shape, "the step names the layer it was packed for");
        let weights = LinearWeights {
            codes: &packed.codes,
            channels: Channels {
                mantissas: &packed.mantissas,
                exponents: &packed.exponents,
                bias: packed.bias.as_deref(),
            },
            smooth: packed.smooth.as_deref(),
        };
        let mut out = vec![0; input.rows as usize * shape.n as usize];
        linear(shape, &weights, &self.load(input), &mut out);
        out
    }
}

impl Table {
    fn row(&self, row: usize) -> (&[i16], u8, i8) {
        let codes = &self.codes[row * self.width..(row + 1) * self.width];
        (codes, self.mantissas[row], self.exponents[row])
    }
}

impl Packed {
    fn new(weights: &Weights<'_>) -> Self {
        match *weights {
            Weights::Table { rows, width, codes, mantissas, exponents } => {
                let width = width as usize;
                let codes = table_codes(rows as usize, width, codes);
                let (mantissas, exponents) = (mantissas.to_vec(), exponents.to_vec());
                Self::Table(Table { width, codes, mantissas, exponents })
            }
            Weights::Norm { gamma, beta } => {
                Self::Norm { gamma: gamma.to_vec(), beta: beta.map(<[i32]>::to_vec) }
            }
            Weights::Linear { shape, codes, groups, mantissas, exponents, bias, smooth } => {
                Self::Linear(Linear {
                    shape,
                    codes: groups.map_or_else(|| plain(codes), |groups| wide(codes, groups)),
                    mantissas: mantissas.to_vec(),
                    exponents: exponents.to_vec(),
                    bias: bias.map(<[i32]>::to_vec),
                    smooth: smooth.map(<[u16]>::to_vec),
                })
            }
            Weights::Frequencies(frequencies) => Self::Frequencies(frequencies.to_vec()),
        }
    }

    fn bytes(&self) -> u64 {
        let bytes = match self {
            Self::Table(table) => 2 * table.codes.len() + 2 * table.mantissas.len(),
            Self::Norm { gamma, beta } => 4 * gamma.len() + 4 * beta.as_ref().map_or(0, Vec::len),
            Self::Linear(linear) => {
                let columns = linear.smooth.as_ref().map_or(0, Vec::len);
                let biases = linear.bias.as_ref().map_or(0, Vec::len);
                linear.codes.len() + 2 * linear.mantissas.len() + 4 * biases + 2 * columns
            }
            Self::Frequencies(frequencies) => 8 * frequencies.len(),
        };
        bytes as u64
    }
}

impl Backend for Reference {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError> {
        let packed = Packed::new(weights);
        self.claim(packed.bytes())?;
        self.weights.push(Some(packed));
        Ok(WeightId(id(self.weights.len() - 1)))
    }

    fn unpack(&mut self, weights: WeightId) {
        let packed = self.weights[weights.0 as usize].take().expect("unpacked once only");
        self.used_bytes -= packed.bytes();
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, BackendError> {
        self.claim(bytes)?;
        let mut buffer = Vec::new();
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        if buffer.try_reserve_exact(len).is_err() {
            self.used_bytes -= bytes;
            return Err(BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes: 0 });
        }
        buffer.resize(len, 0);
        self.buffers.push(buffer);
        Ok(BufferId(id(self.buffers.len() - 1)))
    }

    fn write(&mut self, to: BufferId, at: u64, bytes: &[u8]) -> Result<(), BackendError> {
        let at = usize::try_from(at).expect("inside the buffer");
        self.buffers[to.0 as usize][at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        steps.iter().for_each(|step| self.step(step));
        Ok(())
    }

    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        let at = usize::try_from(at).expect("inside the buffer");
        bytes.copy_from_slice(&self.buffers[from.0 as usize][at..at + bytes.len()]);
        Ok(())
    }

    fn reset(&mut self) {
        let bytes: usize = self.buffers.iter().map(Vec::len).sum();
        self.used_bytes -= bytes as u64;
        self.buffers.clear();
    }
}

/// Elements of a sequence's rows in a matrix of this width.
fn span(sequence: &Sequence, width: usize) -> core::ops::Range<usize> {
    let start = sequence.row as usize * width;
    start..start + sequence.rows as usize * width
}

/// Byte places of a view's rows.
fn places(view: View) -> impl Iterator<Item = core::ops::Range<usize>> {
    let size = view.dtype.bytes();
    let offset = usize::try_from(view.offset).expect("inside the buffer");
    (0..view.rows as usize).map(move |row| {
        let start = (offset + row * view.stride as usize) * size;
        start..start + view.width as usize * size
    })
}

/// The same matrix as bytes.
fn bytes_view(view: View) -> View {
    let size = u32::try_from(view.dtype.bytes()).expect("8 at most");
    View {
        dtype: Dtype::U8,
        offset: view.offset * u64::from(size),
        width: view.width * size,
        stride: view.stride * size,
        ..view
    }
}

/// Codes of weights of four bits.
fn wide(halves: &[u8], scales: &[u8]) -> Vec<i8> {
    let mut codes = vec![0; GROUP * scales.len()];
    nibbles(halves, scales, &mut codes);
    codes
}

/// Codes behind committed bytes, whole rows of a multiple of 32.
fn plain(bytes: &[u8]) -> Vec<i8> {
    let mut codes = vec![0; bytes.len()];
    w8r::decode(bytes, &mut codes).expect("the model file was checked when it was loaded");
    codes
}

/// Codes of a table without padding.
fn table_codes(rows: usize, width: usize, codes: TableCodes<'_>) -> Vec<i16> {
    match codes {
        TableCodes::W8r(bytes) => {
            let padded = padded_depth(u32::try_from(width).expect("2^14 at most")) as usize;
            assert_eq!(bytes.len(), rows * padded, "rows are padded to 32 codes");
            let codes = plain(bytes);
            codes.chunks_exact(padded).flat_map(|row| &row[..width]).map(|c| (*c).into()).collect()
        }
        TableCodes::I16(bytes) => {
            bytes.as_chunks().0.iter().map(|bytes| i16::from_le_bytes(*bytes)).collect()
        }
    }
}

fn id(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 buffers and weights")
}
