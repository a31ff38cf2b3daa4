//! What the precompiles mean and cost: calldata to a [`Plan`], as a pure function of calldata and the parent block.
//!
//! Start with [`plan`]. A plan says what a call returns, why it is refused, or which model must run; it never runs one.
//! Everything is priced before it is done, "no" is a typed revert, and there is no way to say that a block is lost.
#![forbid(unsafe_code)]

pub mod address;
mod claims;
mod gas;
mod inference;
mod plan;
mod refusal;
mod verify;
mod view;
mod words;

pub use gas::GasSchedule;
pub use plan::{CALLDATA_BYTES_MAX, InferCall, Plan, plan};
pub use view::{LogHead, View};
