//! Weights in the device's own layout, cut to what one binding may hold.

use hyperion_ops::{BackendError, LinearShape, TableCodes, Weights, nibbles::widened};
use hyperion_primitives::{limits::padded_depth, w8r};

use crate::gpu::Gpu;

/// Weights of one step.
#[derive(Debug)]
pub(crate) enum Packed {
    Table(Table),
    /// Scale and shift of each column.
    Norm(wgpu::Buffer),
    Linear(Linear),
    Frequencies(wgpu::Buffer),
}

/// A table of `embed` or `position`.
#[derive(Debug)]
pub(crate) struct Table {
    /// Whether codes have 16 bits.
    pub(crate) halves: bool,
    /// Words of a row.
    pub(crate) words: u32,
    pub(crate) shards: Vec<Shard>,
}

/// A linear layer.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) shape: LinearShape,
    /// Q14 factors of the input's columns.
    pub(crate) smooth: Option<wgpu::Buffer>,
    /// Channels, by fours.
    pub(crate) shards: Vec<Shard>,
}

/// Rows of a table, or channels of a layer, that one binding holds.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) codes: wgpu::Buffer,
    /// Steps of a table's rows; step and bias of a layer's channels.
    pub(crate) scales: wgpu::Buffer,
}

/// A mantissa and an exponent in one word, as `pack_step` of common.wgsl has them.
fn step(mantissa: u8, exponent: i8) -> u32 {
    u32::from(mantissa) | (u32::try_from(i32::from(exponent) + 128).expect("0 to 255") << 8)
}

fn words(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

impl Packed {
    /// Bytes that these weights take on the device.
    pub(crate) fn bytes(weights: &Weights<'_>) -> u64 {
        match *weights {
            Weights::Table { rows, width, codes, .. } => {
                let size = if matches!(codes, TableCodes::W8r(_)) { 1 } else { 2 };
                u64::from(rows) * ((u64::from(width) * size).next_multiple_of(4) + 4)
            }
            Weights::Norm { gamma, .. } => 8 * gamma.len() as u64,
            Weights::Linear { shape, .. } => {
                let channels = u64::from(shape.n).next_multiple_of(4);
                let smooth = if shape.smooth { 4 * u64::from(shape.k) } else { 0 };
                channels * (u64::from(shape.depth()) + 8) + smooth
            }
            Weights::Frequencies(frequencies) => 8 * frequencies.len() as u64,
        }
    }

    pub(crate) fn new(gpu: &Gpu, weights: &Weights<'_>) -> Result<Self, BackendError> {
        Ok(match *weights {
            Weights::Table { rows, width, codes, mantissas, exponents } => {
                Self::Table(Table::new(gpu, (rows, width), codes, mantissas, exponents)?)
            }
            Weights::Norm { gamma, beta } => {
                let shift = |column: usize| beta.map_or(0, |beta| beta[column]);
                let pairs = gamma.iter().enumerate().flat_map(|(i, gamma)| [*gamma, shift(i)]);
                Self::Norm(gpu.upload(&words(pairs.map(i32::cast_unsigned)))?)
            }
            Weights::Linear { shape, codes, groups, mantissas, exponents, bias, smooth } => {
                let wide = groups.map(|groups| widened(codes, groups));
                let codes = wide.as_deref().unwrap_or(codes);
                let steps: Vec<u32> =
                    mantissas.iter().zip(exponents).map(|(m, e)| step(*m, *e)).collect();
                Self::Linear(Linear::new(gpu, shape, codes, &steps, bias, smooth)?)
            }
            Weights::Frequencies(frequencies) => {
                let bytes: Vec<u8> = frequencies.iter().flat_map(|f| f.to_le_bytes()).collect();
                Self::Frequencies(gpu.upload(&bytes)?)
            }
        })
    }
}

impl Table {
    fn new(
        gpu: &Gpu,
        (rows, width): (u32, u32),
        codes: TableCodes<'_>,
        mantissas: &[u8],
        exponents: &[i8],
    ) -> Result<Self, BackendError> {
        let (halves, stored, row_bytes) = match codes {
            TableCodes::W8r(bytes) => {
                let padded = padded_depth(width) as usize;
                let mut codes = vec![0; bytes.len()];
                w8r::decode(bytes, &mut codes).expect("the model file was checked");
                let rows = codes.chunks_exact(padded).map(|row| {
                    row[..width as usize].iter().map(|code| code.cast_unsigned()).collect()
                });
                (false, rows.collect::<Vec<Vec<u8>>>(), width as usize)
            }
            TableCodes::I16(bytes) => {
                let rows = bytes.chunks_exact(2 * width as usize).map(<[u8]>::to_vec);
                (true, rows.collect(), 2 * width as usize)
            }
        };
        let row_bytes = row_bytes.next_multiple_of(4);
        let per_shard = (gpu.binding_bytes_max / row_bytes as u64).max(1);
        let per_shard = usize::try_from(per_shard).unwrap_or(usize::MAX).min(rows as usize);
        let mut shards = Vec::new();
        for (index, rows) in stored.chunks(per_shard).enumerate() {
            let first = index * per_shard;
            let mut bytes = vec![0; rows.len() * row_bytes];
            for (place, row) in bytes.chunks_exact_mut(row_bytes).zip(rows) {
                place[..row.len()].copy_from_slice(row);
            }
            let steps = (first..first + rows.len()).map(|row| step(mantissas[row], exponents[row]));
            shards.push(Shard {
                first: small(first),
                count: small(rows.len()),
                codes: gpu.upload(&bytes)?,
                scales: gpu.upload(&words(steps))?,
            });
        }
        Ok(Self { halves, words: small(row_bytes / 4), shards })
    }
}

impl Linear {
    fn new(
        gpu: &Gpu,
        shape: LinearShape,
        committed: &[u8],
        steps: &[u32],
        bias: Option<&[i32]>,
        smooth: Option<&[u16]>,
    ) -> Result<Self, BackendError> {
        let (n, depth) = (shape.n as usize, shape.depth() as usize);
        // Four channels of one place of the depth are one vector.
        let per_shard = gpu.binding_bytes_max / depth as u64 / 4 * 4;
        let per_shard = usize::try_from(per_shard).unwrap_or(usize::MAX).clamp(4, n.max(4));
        let per_shard = per_shard.next_multiple_of(4);
        let mut shards = Vec::new();
        let mut row = vec![0; depth];
        for (index, rows) in committed.chunks(per_shard * depth).enumerate() {
            let (first, count) = (index * per_shard, rows.len() / depth);
            let padded = count.next_multiple_of(4);
            let mut bytes = vec![0; padded * depth];
            for (channel, committed) in rows.chunks_exact(depth).enumerate() {
                w8r::decode(committed, &mut row).expect("the model file was checked");
                let places = bytes.as_chunks_mut::<4>().0[channel..].iter_mut().step_by(padded);
                for (place, codes) in places.zip(row.as_chunks::<4>().0) {
                    *place = codes.map(i8::cast_unsigned);
                }
            }
            let channels = first..first + count;
            let scales = channels.flat_map(|channel| {
                [steps[channel], bias.map_or(0, |bias| bias[channel].cast_unsigned())]
            });
            shards.push(Shard {
                first: small(first),
                count: small(count),
                codes: gpu.upload(&bytes)?,
                scales: gpu.upload(&words(scales))?,
            });
        }
        let smooth = match smooth {
            Some(factors) => Some(gpu.upload(&words(factors.iter().map(|f| u32::from(*f))))?),
            None => None,
        };
        Ok(Self { shape, smooth, shards })
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).expect("a model's sizes are below 2^32")
}
