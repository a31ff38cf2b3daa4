//! What the precompiles mean and cost.
//!
//! A precompile is a function of calldata and of the parent block's state ([`View`]). [`plan()`] decodes, prices and checks
//! a call and says what becomes of it ([`Plan`]): bytes, a typed refusal, too little gas, or a model to run. Nothing here
//! runs a model, and there is no plan that loses a block. Order of checks and schedule stand in `docs/precompiles.md`;
//! the Solidity side is `contracts/src/IInference.sol`.
//!
//! Start with `plan.rs`, then one file per precompile: `inference.rs`, `claims.rs`, `verify.rs`.
#![forbid(unsafe_code)]

pub mod address;
mod calldata;
mod claims;
mod gas;
mod inference;
mod plan;
mod refusal;
mod verify;
mod view;

pub use address::Precompile;
pub use gas::GasSchedule;
pub use hyperion_verify::{Claim, Domain, Manifest, Sampling, abi, state::ClaimWord};
pub use inference::{Form, InferCall, Run, WrongOutput};
pub use plan::{CALLDATA_BYTES_MAX, Call, Plan, Rules, plan};
pub use refusal::Refusal;
pub use view::{Checkpoint, Logged, View};
