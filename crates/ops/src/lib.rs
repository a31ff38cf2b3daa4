//! The integer operators: what every device must compute, to the bit.
//!
//! Start with [`round`] (the five ways a number is rounded), then any stem: the file of an operator opens
//! with its mathematics, holds its shape type and ends in a scalar loop that *is* the definition
//! (`docs/exact-inference.md`). [`Backend`] is the seam to devices, [`Reference`] the definitions behind
//! it, [`conformance`] the suite that every other backend is compared by.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]
#![warn(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless
)]
#![deny(clippy::float_arithmetic)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod activation;
pub mod add;
pub mod argmax;
pub mod attention;
mod backend;
pub mod cache;
pub mod conformance;
pub mod constant;
#[cfg(feature = "std")]
mod cpu;
pub mod embed;
pub mod gate;
pub mod gemm;
#[cfg(feature = "std")]
mod lanes;
pub mod linear;
pub mod logprob;
pub mod nibbles;
pub mod norm;
pub mod pool;
pub mod position;
pub mod quantize;
mod reference;
pub mod repetition;
pub mod requantize;
pub mod rope;
pub mod round;
pub mod rows;
pub mod sample;
pub mod softcap;
pub mod table;

pub use activation::ActivationTable;
pub use attention::AttentionShape;
pub use backend::{
    Backend, BackendError, BufferId, Cache, DeviceInfo, DeviceKind, Parallel, Sequence, Serial,
    Step, TableCodes, View, WeightId, Weights,
};
#[cfg(feature = "std")]
pub use cpu::{Cpu, KernelSet};
pub use gemm::GemmShape;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
pub use lanes::{avx2::Avx2, avx512::Avx512};
pub use linear::{LinearShape, LinearWeights};
pub use norm::{NormKind, NormShape};
pub use pool::PoolMode;
pub use quantize::RowScale;
pub use reference::Reference;
pub use rope::{Pairing, RopeShape};
pub use sample::Sampling;
pub use softcap::Cap;

/// The newest operator set that this crate defines. Each holds all that the one before it holds; a program names the oldest
/// that has all of its operators.
pub const OPSET: u16 = 2;
