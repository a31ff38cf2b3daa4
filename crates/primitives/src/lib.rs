//! What everything else is named by: identities, element types, hashes and the tensor root.
//!
//! Start with [`tensor_root`] (CT1, the commitment to a tensor) and [`merkle`], the tree it shares with
//! the tensor table. Nothing here allocates beyond a Merkle level, reads a clock or knows a float.
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

mod dtype;
mod hash;
mod id;
pub mod keccak;
pub mod limits;
pub mod merkle;
mod mix;
mod tensor;
pub mod w8r;

pub use alloy_primitives::{Address, B256, U256, U512};
pub use dtype::Dtype;
pub use hash::{Keccak, input_hash, keccak256, output_hash, sha256};
pub use id::{ClaimDigest, ModelId, ProgramId, RequestId, TensorRoot};
pub use mix::Mix;
pub use tensor::{
    TILE_BYTES, TensorHasher, tensor_bytes, tensor_leaf, tensor_root, tensor_root_of,
    tensor_root_of_leaves, tensor_root_over,
};
