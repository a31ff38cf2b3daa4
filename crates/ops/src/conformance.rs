//! What every backend is compared by: cases drawn from one stream, and a hash per operator stem.
//!
//! [`check`] runs a backend through all of them; its [`Report`] prints as the text of
//! `crates/ops/conformance.toml`, which is [`PINNED`], so a machine without a tool chain is compared by a
//! diff. [`sweep`] compares backends with each other on as many cases as one likes.
//!
//! Case `i` of a stem draws its shape, weights and values from splitmix64: bit widths per row, so that
//! tiny, ordinary and saturating rows occur; ties and extremes; lengths around 1, 32, 64 and 256. Matrices
//! often lie in the middle of a buffer, and a write beside a view spoils the hash.

use alloc::{string::ToString as _, vec::Vec};
use core::fmt;

use hyperion_primitives::{B256, Keccak, tensor_root};

use crate::{Backend, BackendError, OPSET, table::tables_root};

mod cases;
mod device;
mod draw;
mod program;

use device::{Device, Matrix};
use draw::{Draw, Scale};

/// The text of `crates/ops/conformance.toml`: what every device must print.
pub const PINNED: &str = include_str!("../conformance.toml");

/// What a section of the suite exercises: an operator stem, or a whole program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stem {
    /// Codes and step of a row.
    Quantize,
    /// Exact products.
    Gemm,
    /// Accumulators to activations.
    Requantize,
    /// The three together, with every flag.
    Linear,
    /// Table rows by token.
    Embed,
    /// Table rows by position.
    Position,
    /// Both normalisations.
    Norm,
    /// Rotary positions.
    Rope,
    /// Attention.
    Attention,
    /// Table non-linearities.
    Activation,
    /// Products.
    Gate,
    /// Sums.
    Add,
    /// Copies of rows.
    Rows,
    /// Pooled rows.
    Pool,
    /// Largest places.
    Argmax,
    /// Drawn tokens; the same code on every device.
    Sample,
    /// An encoder of two blocks.
    ProgramEncoder,
    /// A generator's prefill of two blocks.
    ProgramDecoder,
    /// Attention to a cache, and the cache.
    Cache,
    /// Capped values, and attention with capped scores.
    Softcap,
    /// Linear steps on weights of four bits.
    Nibbles,
    /// Penalised logits, and tokens drawn with every setting; as [`Sample`](Self::Sample), which has the older settings.
    Repetition,
    /// Log probabilities of all tokens, and the likeliest ones; the same code on every device.
    Logprob,
}

impl Stem {
    /// Every stem, in the order of the pinned text.
    pub const ALL: [Self; 23] = [
        Self::Quantize,
        Self::Gemm,
        Self::Requantize,
        Self::Linear,
        Self::Embed,
        Self::Position,
        Self::Norm,
        Self::Rope,
        Self::Attention,
        Self::Activation,
        Self::Gate,
        Self::Add,
        Self::Rows,
        Self::Pool,
        Self::Argmax,
        Self::Sample,
        Self::ProgramEncoder,
        Self::ProgramDecoder,
        Self::Cache,
        Self::Softcap,
        Self::Nibbles,
        Self::Repetition,
        Self::Logprob,
    ];

    /// Name of its section; for an operator also that of its file in `crates/ops/src/`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quantize => "quantize",
            Self::Gemm => "gemm",
            Self::Requantize => "requantize",
            Self::Linear => "linear",
            Self::Embed => "embed",
            Self::Position => "position",
            Self::Norm => "norm",
            Self::Rope => "rope",
            Self::Attention => "attention",
            Self::Activation => "activation",
            Self::Gate => "gate",
            Self::Add => "add",
            Self::Rows => "rows",
            Self::Pool => "pool",
            Self::Argmax => "argmax",
            Self::Sample => "sample",
            Self::ProgramEncoder => "program_encoder",
            Self::ProgramDecoder => "program_decoder",
            Self::Cache => "cache",
            Self::Softcap => "softcap",
            Self::Nibbles => "nibbles",
            Self::Repetition => "repetition",
            Self::Logprob => "logprob",
        }
    }

    /// Whether a device computes it; draws always run on the CPU.
    pub const fn on_device(self) -> bool {
        !matches!(self, Self::Sample | Self::Repetition | Self::Logprob)
    }

    /// Cases that [`check`] runs.
    const fn cases(self) -> u32 {
        match self {
            Self::ProgramEncoder | Self::ProgramDecoder => 8,
            Self::Gemm => 192,
            _ => 96,
        }
    }

    /// Where the stream of [`check`] starts.
    const fn seed(self) -> u64 {
        self as u64 + 1
    }
}

/// What one device computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Commitment to the tables in this program.
    pub tables_root: B256,
    /// One per stem, in the order of [`Stem::ALL`].
    pub sections: Vec<Section>,
}

/// What one device computed for one stem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Which.
    pub stem: Stem,
    /// Cases run.
    pub n_cases: u32,
    /// Where their stream starts.
    pub seed: u64,
    /// keccak-256 over the CT1 roots of all outputs, in case order.
    pub hash: B256,
}

impl Report {
    /// Whether this is what [`PINNED`] says.
    pub fn conforms(&self) -> bool {
        self.to_string() == PINNED
    }

    /// Stems whose section differs from [`PINNED`].
    pub fn differences(&self) -> Vec<Stem> {
        let differs = |section: &&Section| !PINNED.contains(&section.to_string());
        self.sections.iter().filter(differs).map(|section| section.stem).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# What every device computes: keccak-256 over the CT1 roots of all outputs, case by case."
        )?;
        writeln!(
            f,
            "# `hyperion doctor --conformance` prints this text; a difference is a wrong device."
        )?;
        writeln!(f)?;
        writeln!(f, "opset = {OPSET}")?;
        writeln!(f, "tables_root = \"{}\"", self.tables_root)?;
        for section in &self.sections {
            write!(f, "\n{section}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[{}]", self.stem.name())?;
        writeln!(f, "n_cases = {}", self.n_cases)?;
        writeln!(f, "seed = {}", self.seed)?;
        writeln!(f, "hash = \"{}\"", self.hash)
    }
}

/// Runs a backend through the suite; its buffers are given up, packed weights of others stay.
///
/// # Errors
///
/// When the device has no memory for a case (a few megabytes), or is lost.
pub fn check(backend: &mut dyn Backend) -> Result<Report, BackendError> {
    let section = |stem: Stem| {
        let mut draw = Draw::new(stem.seed(), Scale::Pinned);
        let mut roots = Keccak::new();
        for _ in 0..stem.cases() {
            for output in case(stem, &mut draw, backend)? {
                roots.update(root(&output));
            }
        }
        Ok(Section { stem, n_cases: stem.cases(), seed: stem.seed(), hash: roots.finish() })
    };
    let sections = Stem::ALL.into_iter().map(section).collect::<Result<_, _>>()?;
    Ok(Report { tables_root: tables_root(), sections })
}

/// CT1 root of an output; no root at all when the step wrote beside its view.
fn root(output: &Matrix) -> B256 {
    let dims = [output.rows.into(), output.width.into()];
    let root = tensor_root(output.dtype, &dims, &output.bytes).filter(|_| !output.strayed);
    root.map_or(B256::ZERO, |root| root.0)
}

/// What a [`sweep`] counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows compared.
    pub cases: u64,
    /// Elements compared.
    pub elements: u64,
    /// Elements that differ, and one for each write beside a view; per backend, in the order given.
    pub differences: Vec<u64>,
}

/// Compares backends with a definition on `cases` random cases of a stem, or slightly more.
///
/// A case is a row of a result; many rows go into one call.
///
/// # Errors
///
/// When a device has no memory for a batch (a few megabytes), or is lost.
pub fn sweep(
    stem: Stem,
    cases: u64,
    seed: u64,
    definition: &mut dyn Backend,
    others: &mut [&mut dyn Backend],
) -> Result<Tally, BackendError> {
    let mut tally = Tally { differences: alloc::vec![0; others.len()], ..Tally::default() };
    let mut draw = Draw::new(seed, Scale::Sweep);
    while tally.cases < cases {
        let start = draw.clone();
        let want = case(stem, &mut draw, definition)?;
        for output in &want {
            tally.cases += u64::from(output.rows);
            tally.elements += u64::from(output.rows) * u64::from(output.width);
        }
        for (other, differences) in others.iter_mut().zip(&mut tally.differences) {
            let got = case(stem, &mut start.clone(), *other)?;
            *differences +=
                want.iter().zip(&got).map(|(want, got)| want.differences(got)).sum::<u64>();
        }
    }
    Ok(tally)
}

/// Runs the next case of a stem and gives back what it took.
fn case(
    stem: Stem,
    draw: &mut Draw,
    backend: &mut dyn Backend,
) -> Result<Vec<Matrix>, BackendError> {
    let mut device = Device::new(backend);
    let outputs = cases::run(stem, draw, &mut device);
    device.finish();
    outputs
}
