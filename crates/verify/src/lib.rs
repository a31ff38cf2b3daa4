//! Checks a claim without trusting whoever made it.
//!
//! Start with [`claim`] (what is asked and what is signed) and [`receipt`] (the file that proves a claim logged). A
//! receipt stands on [`log`] (RFC 6962) and [`note`] (signed checkpoints); [`state`] and [`commit`] tie a block's
//! state to the log, [`manifest`] is what a chain knows of a model, [`tensor`] opens single tiles of a tensor,
//! [`attach`] is a worker's proof of its key.
//! Nothing here does I/O, reads a clock or runs a model; without the feature `std` it needs `alloc` only.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]
#![warn(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless
)]
#![deny(clippy::float_arithmetic)]

extern crate alloc;

pub mod abi;
pub mod attach;
mod bytes;
pub mod claim;
pub mod commit;
pub mod hostile;
pub mod log;
pub mod manifest;
pub mod note;
pub mod receipt;
pub mod sign;
pub mod state;
pub mod tensor;

pub use claim::{Claim, ClaimError, Domain, Request, Sampling, SignedClaim};
pub use manifest::{Formula, InputError, Manifest, ManifestError, OutputRows};
pub use note::{Checkpoint, KeyKind, NoteKey, NoteSigner, SignedNote};
pub use receipt::{Receipt, ReceiptError, Trust};
pub use sign::SignatureError;
