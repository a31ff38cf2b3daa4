//! Weights in the device's own layout.

use hyperion_ops::{BackendError, LinearShape, TableCodes, Weights, nibbles::widened};
use hyperion_primitives::{limits::padded_depth, w8r};

use crate::{Address, Driver};

/// Weights of one step: one piece of memory, and where its parts stand.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) memory: Address,
    pub(crate) bytes: u64,
    pub(crate) kind: Kind,
}

/// What they are weights of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Table(Table),
    /// Scale and shift of each column.
    Norm(Address),
    Linear(Linear),
    Frequencies(Address),
}

/// `CodeTable` of embed.cu.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) codes: Address,
    pub(crate) steps: Address,
    pub(crate) width: u32,
    /// Whether codes have 16 bits.
    pub(crate) wide: bool,
}

/// A linear layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub(crate) shape: LinearShape,
    /// i8 `[n, depth]`.
    pub(crate) codes: Address,
    /// Step and bias of each channel.
    pub(crate) scales: Address,
    /// Q14 factors of the input's columns.
    pub(crate) smooth: Option<Address>,
}

/// Parts start at multiples of this, because kernels read 16 bytes at a time.
const ALIGN: usize = 256;

/// The bytes of one piece of memory as they come together.
#[derive(Debug, Default)]
struct Parts(Vec<u8>);

impl Parts {
    /// Appends a part; where it starts.
    fn push(&mut self, bytes: &[u8]) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
        let at = self.0.len() as u64;
        self.0.extend_from_slice(bytes);
        at
    }

    fn words(&mut self, words: impl IntoIterator<Item = u32>) -> u64 {
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        self.push(&bytes)
    }
}

/// A mantissa and an exponent in one word, as `pack_step` of common.cu has them.
fn step(mantissa: u8, exponent: i8) -> u32 {
    u32::from(mantissa) | (u32::try_from(i32::from(exponent) + 128).expect("0 to 255") << 8)
}

fn steps<'w>(mantissas: &'w [u8], exponents: &'w [i8]) -> impl Iterator<Item = u32> + 'w {
    mantissas.iter().zip(exponents).map(|(mantissa, exponent)| step(*mantissa, *exponent))
}

impl Packed {
    /// Packs them and brings them to the device; `room` says whether it may take so many bytes.
    pub(crate) fn new(
        driver: &mut dyn Driver,
        weights: &Weights<'_>,
        room: impl FnOnce(u64) -> Result<(), BackendError>,
    ) -> Result<Self, BackendError> {
        let mut parts = Parts::default();
        let kind = Kind::new(&mut parts, weights);
        let bytes = parts.0.len().max(1) as u64;
        room(bytes)?;
        let memory = driver.alloc(bytes)?;
        if let Err(error) = driver.upload(memory, &parts.0) {
            driver.free(memory);
            return Err(error);
        }
        Ok(Self { memory, bytes, kind: kind.at(memory) })
    }
}

impl Kind {
    /// Lays the weights out; addresses count from the start of the parts.
    fn new(parts: &mut Parts, weights: &Weights<'_>) -> Self {
        match *weights {
            Weights::Table { width, codes, mantissas, exponents, .. } => {
                let (codes, wide) = match codes {
                    TableCodes::W8r(bytes) => (parts.push(&rows(bytes, width)), false),
                    TableCodes::I16(bytes) => (parts.push(bytes), true),
                };
                let steps = parts.words(steps(mantissas, exponents));
                Self::Table(Table { codes: Address(codes), steps: Address(steps), width, wide })
            }
            Weights::Norm { gamma, beta } => {
                let shift = |column: usize| beta.map_or(0, |beta| beta[column]);
                let pairs = gamma.iter().enumerate().flat_map(|(i, gamma)| [*gamma, shift(i)]);
                Self::Norm(Address(parts.words(pairs.map(i32::cast_unsigned))))
            }
            Weights::Linear { shape, codes, groups, mantissas, exponents, bias, smooth } => {
                let wide = groups.map(|groups| widened(codes, groups));
                let codes = wide.as_deref().unwrap_or(codes);
                let codes = parts.push(&plain(codes));
                let shift = |channel: usize| bias.map_or(0, |bias| bias[channel].cast_unsigned());
                let pairs = steps(mantissas, exponents).enumerate();
                let scales = parts.words(pairs.flat_map(|(i, step)| [step, shift(i)]));
                let factors = |factors: &[u16]| {
                    Address(parts.words(factors.iter().map(|factor| u32::from(*factor))))
                };
                Self::Linear(Linear {
                    shape,
                    codes: Address(codes),
                    scales: Address(scales),
                    smooth: smooth.map(factors),
                })
            }
            Weights::Frequencies(frequencies) => {
                let bytes: Vec<u8> = frequencies.iter().flat_map(|f| f.to_le_bytes()).collect();
                Self::Frequencies(Address(parts.push(&bytes)))
            }
        }
    }

    /// The same in memory that starts at `base`.
    fn at(self, base: Address) -> Self {
        let there = |part: Address| base.plus(part.0);
        match self {
            Self::Table(table) => {
                Self::Table(Table { codes: there(table.codes), steps: there(table.steps), ..table })
            }
            Self::Norm(weights) => Self::Norm(there(weights)),
            Self::Linear(layer) => Self::Linear(Linear {
                codes: there(layer.codes),
                scales: there(layer.scales),
                smooth: layer.smooth.map(there),
                ..layer
            }),
            Self::Frequencies(frequencies) => Self::Frequencies(there(frequencies)),
        }
    }
}

/// Plain codes of committed ones.
fn plain(committed: &[u8]) -> Vec<u8> {
    let mut codes = vec![0; committed.len()];
    w8r::decode(committed, &mut codes).expect("the model file was checked");
    codes.into_iter().map(i8::cast_unsigned).collect()
}

/// Plain codes of a table's rows without their padding.
fn rows(committed: &[u8], width: u32) -> Vec<u8> {
    let padded = padded_depth(width) as usize;
    let rows = plain(committed);
    rows.chunks_exact(padded).flat_map(|row| row[..width as usize].iter().copied()).collect()
}
